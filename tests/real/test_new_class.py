"""A class is taken out of a real network's head and added back from one image."""

import numpy as np
import pytest
import torch
from torch import nn

from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.images import read_image
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.new_classes.editor import new_class
from rulepatch.new_classes.evaluate import evaluate_new_classes

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_automobiles_come_back_to_a_network_that_lost_them(data):
    model = load_model(str(data / "models" / "resnet20_cifar10.toml"))
    label = model.classes.index("automobile")
    images = ImageSet.of(data / "cifar10" / "test", model.classes)
    kept = [i for i in range(10) if i != label]
    head = nn.Linear(64, 9)
    head.weight.data, head.bias.data = model.module.fc.weight.data[kept], model.module.fc.bias.data[kept]
    model.module.fc = head
    smaller = Classifier(model.module, model.preprocess, Classes(tuple(model.classes.names[i] for i in kept)))
    own, *positives = [each for each in images.pictures if each.label == label]
    others = [Picture(each.source, kept.index(each.label)) for each in images.pictures if each.label != label]
    reference, tests = ImageSet(tuple(others), "others").split(0.5, seed=0)
    picture = read_image(own.source)
    y, x = np.mgrid[:32, :32]
    exemplar = Exemplar(picture, picture, ((y - 15.5) ** 2 + (x - 15.5) ** 2 < 169).astype(np.float32))
    edits = [
        new_class(smaller, [exemplar], "automobile", reference=reference, method=method, progress=False)
        for method in ("filter", "ridge", "random")
    ]
    found = evaluate_new_classes(
        smaller, edits, positives=ImageSet(tuple(positives), "automobiles"), others=tests, progress=False
    )
    told = dict(zip(("filter", "ridge", "random"), (each.to_json() for each in found), strict=True))
    assert told["filter"]["auc"]["logit"] > 0.8 and told["ridge"]["auc"]["logit"] > 0.8
    assert max(each["drop"] for each in told.values()) < 0.02
    assert told["random"]["auc"]["logit"] < told["filter"]["auc"]["logit"]
    with torch.no_grad(), edits[0].applied(smaller) as extended:
        inputs = smaller.inputs(smaller.preprocess.pixels(picture)[None])
        after = extended.logits(inputs)
    assert torch.equal(after[:, :-1], smaller.logits(inputs))
