"""Comparing methods and matching contexts on a real network and real photographs, with numeric floors."""

import numpy as np
import pytest

from rulepatch.concepts.match import key_of_concept, match
from rulepatch.concepts.test_sets import make_test_sets
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.editors.edit import rewrite
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.images import read_image
from rulepatch.models.registry import load_model

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the (edit|exemplars|model is wrong)"),
]

LEFT_OUT = [word for name in ("limousine", "minivan", "tow truck") for word in ("--leave-out", name)]


def test_a_comparison_of_methods_at_one_site(run, data, tmp_path):
    methods = [word for name in ("rewrite", "finetune-local", "last-layer", "nothing") for word in ("--method", name)]
    found = run(
        "compare", "--model", data / "models" / "mobilenet_v2.toml", "--exemplar", data / "snow" / "exemplar",
        "--tests", data / "snow" / "test", "--reference", data / "imagenet_sample" / "val", *LEFT_OUT,
        "--site", "conv_head", *methods, "--out", tmp_path / "compared", "--json",
    ).json()  # fmt: skip
    of = {result["method"]: result for result in found["results"]}
    before = of["nothing"]["tests"]["before"]
    assert of["nothing"]["tests"]["flips"] == of["nothing"]["reference"]["flips"] == 0
    assert of["rewrite"]["tests"]["after"] >= before + 0.15
    assert of["rewrite"]["reference"]["drop"] <= 0.0125  # the budget of 0.0025 holds where it was chosen, not here
    assert of["rewrite"]["tests"]["after"] > max(
        of[name]["tests"]["after"] for name in ("finetune-local", "last-layer")
    )
    assert {path.suffix for path in (tmp_path / "compared").iterdir()} == {".json", ".csv", ".md", ".svg"}


@pytest.fixture(scope="module")
def wheels(data):
    """The network, exemplars of wooden wheels, and the sample without their classes."""
    model = load_model(str(data / "models" / "mobilenet_v2.toml"))
    exemplars = read_exemplars([data / "wheels"])
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    return model, exemplars, ImageSet.of(data / "imagenet_sample" / "val", model.classes).without(own)


def test_the_key_of_a_wheel_finds_wheels(wheels):
    model, exemplars, sample = wheels
    site = "blocks.6.0.conv_pw"
    key = key_of_concept(model, exemplars, site=site, reference=sample)
    best = match(model, key, sample, reference=sample).matches[:10]
    wheeled = ["wheel", "car", "cab", "truck", "wagon", "racer", "pickup", "jeep", "limo", "van", "tractor", "model t",
               "bus", "convertible", "tricycle", "kart", "plow", "harvester", "thresher", "golfcart"]  # fmt: skip
    names = [model.classes.names[each.picture.label].lower() for each in best]
    assert sum(any(word in name for word in wheeled) for name in names) >= 6, names


def test_wood_on_wheels_confuses_and_an_edit_helps(wheels, data):
    model, exemplars, sample = wheels
    site = "blocks.6.0.conv_pw"
    matches = match(model, key_of_concept(model, exemplars, site=site, reference=sample), sample, reference=sample)
    texture = read_image(data / "wheels" / "texture.jpg")
    made = make_test_sets(model, matches, texture, target=[model.classes.index("racer")], share=0.05)["confusing"]
    edit = rewrite(model, exemplars, reference=sample, site="conv_head", rank=3, gate=None)
    (normal,), (manipulated,) = (outcomes_of(model, [edit], images) for images in (made.normal, made.manipulated))
    assert normal.before is not None and manipulated.before is not None and manipulated.after is not None
    assert manipulated.before <= normal.before - 0.15
    assert manipulated.after >= manipulated.before
    assert np.mean(manipulated.second.of_label) > np.mean(manipulated.first.of_label)
