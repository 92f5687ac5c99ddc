import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn

from rulepatch.core.changes import NewClass
from rulepatch.core.edit import Edit, base_digest
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import FolderError, SettingError
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.new_classes.evaluate import NewClassEvaluation, evaluate_new_class, evaluate_new_classes


def by_hand(n=60, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1, 2], [30, 10, 20])
    before = np.where(rng.random(n) < 0.8, labels, labels + 1) % 2  # none of the new class before it is there
    return NewClassEvaluation("fox", 2, labels, rng.normal(size=n) + (labels == 2), rng.normal(size=n), before)


def test_the_curve_is_class_balanced_as_scikit_learn_has_it():
    found = by_hand()
    weights = np.where(found.labels == 0, 1 / 30, np.where(found.labels == 1, 1 / 10, 1 / 20))
    shows = found.labels == 2
    assert found.roc.area == pytest.approx(roc_auc_score(shows, found.logits, sample_weight=weights))
    margin = found.logits - found.rivals
    assert found.roc_of_margin.area == pytest.approx(roc_auc_score(shows, margin, sample_weight=weights))
    assert found.roc.area != pytest.approx(roc_auc_score(shows, found.logits))  # the control: weights matter here


def test_damage_and_recognition_are_counted_picture_by_picture():
    found = by_hand()
    lost = flipped = recognised = 0
    for label, logit, rival, before in zip(found.labels, found.logits, found.rivals, found.before, strict=True):
        after = 2 if logit > rival else before
        recognised += label == 2 and after == 2
        if label != 2:
            lost += before == label and after != label
            flipped += before != after
    told = found.to_json()
    assert told["recognised"] == recognised / 20 and told["drop"] == lost / 40 and told["flips"] == flipped / 40
    assert told["pictures"] == 20 and told["others"] == 40
    assert "recognised" in found.to_text()


def test_no_score_depends_on_a_scale_but_the_margin():
    found = by_hand()
    louder = NewClassEvaluation("fox", 2, found.labels, 9 * found.logits + 4, found.rivals, found.before)
    assert louder.roc.area == found.roc.area
    assert louder.roc_of_margin.area != found.roc_of_margin.area


def grey(value):
    return Image.new("RGB", (8, 8), (value,) * 3)


@pytest.fixture
def model():
    """Dark or bright, by the mean of the pixels."""
    net = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    net[0].weight.data.fill_(1 / 3)
    net[3].weight.data[:, 0] = torch.tensor([-1.0, 1.0])
    net[3].bias.data = torch.tensor([0.5, -0.5])
    return Classifier(net.eval(), Preprocess((8, 8), mean=(0.0,) * 3, std=(1.0,) * 3), ["dark", "bright"])


def class_of(model, scale, bias, name="middle"):
    change = NewClass(name, "0", "3", torch.full((1, 3, 1, 1), 1 / 3), torch.zeros(1), scale, bias)
    return Edit((change,), base_digest(model.module))


def test_a_network_that_can_be_read_off(model, untouched):
    untouched(model.module)
    others = ImageSet(tuple(Picture(grey(v), int(v > 127)) for v in (10, 30, 220, 240)), "others")
    positives = [grey(v) for v in (100, 150)]
    never, always = (class_of(model, 0.0, bias) for bias in (-9.0, 9.0))
    first, second = evaluate_new_classes(model, [never, always], positives=positives, others=others, progress=False)
    assert (first.recognised, first.drop, first.flips) == (0, 0, 0)
    assert (second.recognised, second.drop, second.flips) == (1, 1, 1)
    alone = evaluate_new_class(model, always, positives=positives, others=others, progress=False)
    assert np.array_equal(alone.logits, second.logits) and np.array_equal(alone.before, second.before)
    # Brighter is later: the two positives lie in the middle of the others.
    ranked = evaluate_new_class(model, class_of(model, 1.0, 0.0), positives=positives, others=others, progress=False)
    assert ranked.roc.area == 0.5


def test_what_cannot_be_evaluated_is_refused(model):
    edit = class_of(model, 1.0, 0.0)
    with pytest.raises(FolderError, match="folder for each"):
        evaluate_new_class(model, edit, positives=[grey(1)], others=[grey(2)], progress=False)
    for other in (Edit((), edit.base), Edit.compose(edit, edit)):
        with pytest.raises(SettingError, match="adds one class"):
            evaluate_new_class(model, other, positives=[grey(1)], others=[(grey(2), 0)], progress=False)
