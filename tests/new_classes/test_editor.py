"""What every way to add a class promises."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch
from torch import nn

from rulepatch.core.changes import NewClass
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import BaseMismatchError, ExemplarError, SettingError, SiteError
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.evaluation.report import write_report
from rulepatch.models.classifier import Classifier
from rulepatch.new_classes.calibration import collect_logits
from rulepatch.new_classes.editor import new_class
from rulepatch.new_classes.evaluate import evaluate_new_class
from rulepatch.new_classes.settings import METHODS
from tests.fixtures.noise import CLASSES, PREPROCESS, concept_mask, noise

every_method = pytest.mark.parametrize("method", METHODS)
pytestmark = pytest.mark.filterwarnings(
    "ignore:all .* of labelled are of one class",  # that of the random network
    "ignore:24 of the 24 images of the tests are in the reference set",
)


def make(model, exemplars, reference, method="filter", **settings):
    return new_class(model, exemplars, "fox", reference=reference, method=method, progress=False, **settings)


@pytest.fixture
def labelled(model):
    """Noise with the labels that the model itself gives, so that half of them are right by chance of the draw alone."""
    pictures = [noise(2000 + i) for i in range(24)]
    with torch.no_grad():
        said = model.logits(model.inputs(torch.stack([PREPROCESS.pixels(each) for each in pictures]))).argmax(1)
    return ImageSet(tuple(Picture(each, int(label)) for each, label in zip(pictures, said, strict=True)), "labelled")


@every_method
def test_it_applies_reverts_saves_and_loads_like_any_edit(
    method, model, exemplars, reference, labelled, untouched, tmp_path
):
    untouched(model.module)
    edit = make(model, exemplars, reference, method)
    images = model.inputs(torch.rand(3, 3, 16, 16))
    with torch.no_grad():
        before, extended = model.logits(images), edit.apply(model)
        after = extended.logits(images)
        assert torch.equal(after[:, :-1], before) and after.shape == (3, 6)
        assert extended.classes.index("fox") == 5 and len(model.classes) == 5
        edit.save(tmp_path / "fox.safetensors")
        assert torch.equal(Edit.load(tmp_path / "fox.safetensors").apply(model).logits(images), after)
        with edit.applied(model) as within:
            assert torch.equal(within.logits(images), after)
        assert torch.equal(model.logits(images), before)
    (change,) = edit.changes
    assert isinstance(change, NewClass) and change.weight.dtype == torch.float32
    assert change.head == "6" and change.site == ("3.conv" if method == "filter" else "6")
    with pytest.raises(BaseMismatchError):
        dataclasses.replace(edit, base="0" * 64).apply(model)
    found = evaluate(model, edit, reference=labelled, tests=labelled, progress=False)
    write_report(found, tmp_path / "report.html")
    assert "fox" in (tmp_path / "report.html").read_text("utf-8")
    assert found.reference.before == 1 and found.reference.after == pytest.approx(1 - found.reference.drop)


@every_method
def test_same_seed_same_bits(method, model, exemplars, reference, tmp_path):
    for name in ("one", "two"):
        make(model, exemplars, reference, method, seed=3).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@every_method
@pytest.mark.parametrize("max_drop", [0.0, 0.25, 1.0])
def test_the_budget_holds_where_it_was_set_and_is_used(method, model, exemplars, labelled, max_drop):
    edit = make(model, exemplars, labelled, method, max_drop=max_drop)
    _, choose = labelled.split(0.5, seed=0)
    drop = evaluate(model, edit, reference=choose, progress=False).reference.drop
    assert drop == edit.provenance["calibration"]["drop"] <= max_drop
    assert drop == pytest.approx(min(max_drop, 11 / 12), abs=0.09)  # but for one image, the budget is used


@every_method
def test_the_logit_is_as_loud_as_an_old_one(method, model, exemplars, reference):
    (change,) = make(model, exemplars, reference, method).changes
    heard = collect_logits(model, change, reference.split(0.5, seed=0)[1])
    assert float((change.scale * heard.responses).std()) == pytest.approx(heard.spread, rel=1e-3)


@every_method
def test_how_it_was_made_is_kept(method, model, exemplars, reference):
    about = make(model, exemplars, reference, method, seed=5).provenance
    assert about["method"] == f"new-class {method}" and about["class"] == "fox" and about["settings"]["seed"] == 5
    assert [entry["digest"] for entry in about["exemplars"]] == [exemplar.digest() for exemplar in exemplars]
    assert about["calibration"]["pictures"] == 12


def planted(seed, *, shows):
    """An image of noise, with a bright square where the class is."""
    picture = np.asarray(noise(seed)).copy() // 2
    mask = np.zeros((16, 16), np.float32)
    if shows:
        y, x = np.random.default_rng(seed).integers(0, 9, 2)
        mask[y : y + 8, x : x + 8] = 1
        picture[mask > 0] = (250, 30, 30)
    from PIL import Image

    image = Image.fromarray(picture)
    return Exemplar(image, image, mask, name=f"planted {seed}") if shows else image


@pytest.mark.parametrize("negatives", ["mined", "random", "none"])
@pytest.mark.parametrize("site", [None, "1.conv2"])
def test_a_planted_class_is_found_by_the_filter(model, negatives, site):
    others = ImageSet(tuple(Picture(planted(500 + i, shows=False), i % 5) for i in range(40)), "others")
    edit = make(model, [planted(0, shows=True)], others, negatives=negatives, site=site, balance=0.2)
    positives = ImageSet(tuple(Picture(planted(100 + i, shows=True).image) for i in range(20)), "positives")
    found = evaluate_new_class(model, edit, positives=positives, others=others, progress=False)
    assert found.roc.area > 0.9
    # The control: on images that do not show it, there is nothing to find.
    blank = ImageSet(tuple(Picture(planted(900 + i, shows=False)) for i in range(40)), "blank")
    chance = evaluate_new_class(model, edit, positives=blank, others=others, progress=False)
    assert 0.25 < chance.roc.area < 0.75


def test_the_filter_draws_the_silhouette(model, reference):
    """Its map on its own exemplar is bright within the mask and dark outside."""
    example = planted(0, shows=True)
    (change,) = make(model, [example], reference, site="1.conv2", negatives="none", ridge=1e-3).changes
    keys = {}
    with torch.no_grad():
        handle = model.module[1].conv2.register_forward_pre_hook(lambda module, args: keys.update(seen=args[0]))
        model.module(model.inputs(PREPROCESS.pixels(example.image)[None]))
        handle.remove()
        drawn = torch.sigmoid(nn.functional.conv2d(keys["seen"], change.weight, change.offset, padding=1))[0, 0]
    share = nn.functional.avg_pool2d(torch.from_numpy(example.mask)[None, None], 2)[0, 0]
    assert float(drawn[share == 1].mean()) > 0.8 and float(drawn[share == 0].mean()) < 0.2


def test_given_negatives_and_parts_are_used(model, exemplars, reference):
    given = [
        make(model, exemplars, reference, negatives=each, balance=1.0) for each in ("none", [noise(7)], [noise(8)])
    ]
    assert not torch.equal(given[0].changes[0].weight, given[1].changes[0].weight)
    assert not torch.equal(given[1].changes[0].weight, given[2].changes[0].weight)
    part = [Exemplar(noise(9), noise(9), concept_mask())]
    rows = [make(model, exemplars, reference, "compositional", parts=each).changes[0].weight for each in ((), part)]
    assert not torch.equal(*rows)
    alone = make(model, part, reference, "class-feature").changes[0].weight
    assert torch.equal(rows[1], alone)  # of one part, the composition is its feature


class Hidden(nn.Sequential):
    """Two layers after the pool, as VGG's head has."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(32, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5),
        )  # fmt: skip


class Squeezed(nn.Sequential):
    """A 1×1 convolution that gives the logits, rectified and pooled, as SqueezeNet's."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Dropout(), nn.Conv2d(8, 5, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip


class Twice(nn.Module):
    """Logits that are no outputs of the last layer: a sum of two heads."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x):
        pooled = self.conv(x).mean((2, 3))
        return self.one(pooled) + self.two(pooled)


@pytest.mark.parametrize("network", [Hidden, Squeezed])
@every_method
def test_heads_with_hidden_layers_and_convolutional_heads(network, method, exemplars, reference):
    model = Classifier(network().eval(), PREPROCESS, CLASSES)
    images = model.inputs(torch.rand(3, 3, 16, 16))
    if network is Hidden and method in {"class-feature", "compositional"}:
        with pytest.raises(SettingError, match="hidden layers"):
            make(model, exemplars, reference, method)
        return
    edit = make(model, exemplars, reference, method)
    with torch.no_grad():
        after = edit.apply(model).logits(images)
        before = model.logits(images)
        same = torch.equal if network is Hidden else torch.allclose  # pools may sum one more channel in another order
        assert same(after[:, :-1], before) and after.shape == (3, 6)


def test_heads_whose_outputs_are_not_the_logits_are_refused(exemplars, reference, untouched):
    model = Classifier(Twice().eval(), PREPROCESS, CLASSES)
    untouched(model.module)
    with pytest.raises(SiteError, match="last layer"):
        make(model, exemplars, reference)


bad = {
    "no exemplars": ({"exemplars": []}, ExemplarError, "at least one image"),
    "a name that is taken": ({"name": "Bee"}, SettingError, "class 1"),
    "no name": ({"name": " "}, SettingError, "name"),
    "an unknown method": ({"method": "magic"}, SettingError, "imprinted"),
    "an unknown site": ({"site": "1.conv9"}, SiteError, "nearest"),
    "a site without positions": ({"site": "6"}, SiteError, "positions"),
    "no negatives": ({"count": 0}, SettingError, "count to be a whole number ≥ 1"),
    "a negative balance": ({"balance": -1.0}, SettingError, "balance"),
    "no ridge": ({"ridge": 0.0}, SettingError, "ridge"),
    "a budget out of range": ({"max_drop": 1.5}, SettingError, "max_drop to be a finite number ≥ 0 and ≤ 1"),
    "a silent logit": ({"logit_scale": 0.0}, SettingError, "logit_scale"),
    "an unknown pool": ({"pool": "sum"}, SettingError, "pool"),
}


@pytest.mark.parametrize("case", bad)
def test_bad_settings_are_refused(model, exemplars, reference, untouched, case):
    settings, error, words = bad[case]
    settings = {"exemplars": exemplars, "name": "fox", "negatives": "none"} | settings
    untouched(model.module)
    with pytest.raises(error, match=words):
        new_class(
            model, settings.pop("exemplars"), settings.pop("name"), reference=reference, progress=False, **settings
        )


def test_settings_are_by_name():
    parameters = inspect.signature(new_class).parameters
    assert list(parameters)[:3] == ["model", "exemplars", "name"]
    kinds = {each.kind for each in list(parameters.values())[3:]}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
