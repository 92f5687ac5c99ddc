import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import rulepatch
from rulepatch.core.changes import Gate, LowRank
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import BaseMismatchError, FolderError, ModelError, RulepatchWarning, SettingError, SiteError
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess

NAMES = ["a", "b", "c", "d", "e"]


same_pictures = pytest.mark.filterwarnings("ignore:.*in the reference set as well")
"""Of tests in which the images that are tested on and the reference set are the same, for brevity."""


@pytest.fixture
def model(net):
    """A network whose predictions differ from image to image."""
    model = Classifier(net, Preprocess((16, 16)), NAMES, "the net")
    with torch.no_grad():
        inputs = model.inputs(torch.stack([model.preprocess.pixels(frame) for frame, _ in pictures()]))
        net[6].bias -= net(inputs).mean(0)
        net[6].weight *= 50
        net[6].bias *= 50
        assert len(set(net(inputs).argmax(1).tolist())) >= 4
    return model


def pictures(count=37, labels=5):
    rng = np.random.default_rng(7)
    colours = rng.integers(0, 200, (count, 1, 1, 3))
    frames = [Image.fromarray((colour + rng.integers(0, 56, (16, 16, 3))).astype(np.uint8)) for colour in colours]
    return [(frame, int(rng.integers(labels))) for frame in frames]


def random_part(model, site, rank=2, scale=1.0, gate=None):
    weight = model.module.get_submodule(site).weight
    c_out, c_in, y, x = (*weight.shape, 1, 1)[:4]
    directions = torch.linalg.qr(torch.randn(c_in, rank))[0].T.contiguous()
    return LowRank(site, site, directions, scale * torch.randn(c_out, rank, y, x), gate=gate)


SITES = [["0.0"], ["1.conv1"], ["1.conv2"], ["3.conv"], ["6"], ["6", "1.conv2", "2.0"], ["1.conv2", "1.conv2"], []]


def edit_at(model, sites, **options):
    return Edit(tuple(random_part(model, site, **options) for site in sites), base_digest(model.module))


@torch.no_grad()
def naive(model, edit, labelled):
    """Predictions and confidences by two whole passes, image by image."""
    edited, found = edit.apply(copy.deepcopy(model)), []
    for frame, _ in labelled:
        inputs = model.inputs(model.preprocess.pixels(frame)[None])
        shares = [each.logits(inputs).softmax(1)[0] for each in (model, edited)]
        found.append([(int(share.argmax()), float(share.max())) for share in shares])
    return found


def same_as_naive(outcomes, expected):
    for outcome, ((before, sure), (after, surer)) in zip(outcomes, expected, strict=True):
        assert (outcome.before, outcome.after) == (before, after)
        assert outcome.confidence == pytest.approx((sure, surer), abs=1e-5)


@same_pictures
@pytest.mark.parametrize("sites", SITES, ids="+".join)
def test_predictions_are_those_of_two_whole_passes(sites, model):
    edit, labelled = edit_at(model, sites), pictures()
    found = evaluate(model, edit, tests=labelled, reference=labelled[:9], batch_size=8, progress=False)
    same_as_naive(found.tests, naive(model, edit, labelled))
    same_as_naive(found.reference, naive(model, edit, labelled[:9]))
    assert bool(len(found.tests.flips)) == bool(sites)  # an edit that changed nothing would prove nothing


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_gated_edits_are_evaluated_as_they_are_applied(kind, model):
    gate = Gate(kind, 0.5, torch.full((1 if kind == "hard" else 2,), 0.2), torch.randn(8) if kind == "hard" else None)
    edit, labelled = edit_at(model, ["1.conv2"], gate=gate, scale=3), pictures()
    found = evaluate(model, edit, tests=labelled, progress=False)
    same_as_naive(found.tests, naive(model, edit, labelled))
    assert len(found.tests.flips)


def test_the_size_of_batches_does_not_matter(model):
    edit, labelled = edit_at(model, ["1.conv2"]), pictures()
    one, other = (evaluate(model, edit, tests=labelled, batch_size=size, progress=False) for size in (1, 16))
    assert [o.after for o in one.tests] == [o.after for o in other.tests]


@same_pictures
def test_counts_are_those_counted_by_hand(dominant, red_as_green, paint, tmp_path):
    # red is taken for green as soon as there is any more of twice it than of green and blue
    for name, colour in {
        "green/0": (200, 10, 20),  # said red, right after: repaired
        "green/1": (90, 100, 20),  # right, stays right
        "red/0": (200, 10, 20),  # right, said green after: broken
        "blue/0": (10, 20, 200),  # right, stays right
        "blue/1": (200, 10, 20),  # said red, then green: changed and wrong both times
        "blue/2": (10, 200, 20),  # wrong, stays wrong
        "red/1": (120, 20, 110),  # right, said green after: broken
    }.items():
        paint(tmp_path / f"{name}.png", colour=colour)
    found = evaluate(dominant, red_as_green, tests=tmp_path, reference=tmp_path, progress=False)
    numbers = found.to_json()["tests"]
    flips = [(flip["label"], flip["from"], flip["to"]) for flip in numbers.pop("flip_list")]
    assert flips == [("blue", "red", "green"), ("green", "red", "green"), *[("red", "red", "green")] * 2]
    assert numbers.pop("mcnemar_p") == 1 and set(numbers.pop("calibration_error")) == {"before", "after"}
    low, high = numbers.pop("intervals")["difference"]
    assert low < -1 / 7 < high
    extra = {name: (own.pop("confidence"), own.pop("drawn")) for name, own in numbers["classes"].items()}
    assert extra["red"][1] == [4, 0] and extra["green"][1] == [2, 6] and extra["red"][0][1] < extra["red"][0][0]
    assert numbers == {
        "n": 7,
        "before": pytest.approx(4 / 7),
        "after": pytest.approx(3 / 7),
        "repaired": 1,
        "broken": 2,
        "flips": pytest.approx(4 / 7),
        "flipped": 4,
        "classes": {
            "red": {"n": 2, "before": 1, "after": 0, "repaired": 0, "broken": 2, "flips": 1, "flipped": 2},
            "green": {"n": 2, "before": 0.5, "after": 1, "repaired": 1, "broken": 0, "flips": 0.5, "flipped": 1},
            "blue": {
                "n": 3,
                "before": pytest.approx(1 / 3),
                "after": pytest.approx(1 / 3),
                "repaired": 0,
                "broken": 0,
                "flips": pytest.approx(1 / 3),
                "flipped": 1,
            },
        },
        "skipped": [],
    }
    assert found.to_json()["reference"] == found.to_json()["tests"]
    names = [[found.tests[i].picture.name[-9:] for i in some] for some in (found.tests.repaired, found.tests.broken)]
    assert names == [["een/0.png"], ["red/0.png", "red/1.png"]]
    text = found.to_text()
    assert "57.1 %" in text
    assert "42.9 %" in text


def test_a_reference_set_needs_no_labels(dominant, red_as_green, paint, tmp_path):
    for i, colour in enumerate([(200, 0, 0), (0, 200, 0), (0, 0, 200), (201, 0, 0)]):
        paint(tmp_path / f"{i}.png", colour=colour)
    found = evaluate(dominant, red_as_green, reference=tmp_path, progress=False)
    assert found.tests is None
    numbers = found.to_json()
    assert set(numbers) == {"reference", "predicted_damage", "suppressed", "verdict"}
    assert numbers["predicted_damage"] is None
    assert [(flip["label"], flip["to"]) for flip in numbers["reference"].pop("flip_list")] == [(None, "green")] * 2
    assert numbers["reference"] == {
        "n": 4,
        "before": None,
        "after": None,
        "repaired": 0,
        "broken": 0,
        "flips": 0.5,
        "flipped": 2,
        "intervals": None,
        "mcnemar_p": None,
        "calibration_error": None,
        "classes": {},
        "skipped": [],
    }
    assert "n/a" in found.to_text()


def test_classes_of_the_same_name_are_told_apart(dominant, red_as_green, paint, tmp_path):
    model = Classifier(dominant.module, dominant.preprocess, ["crane", "crane, derrick", "blue"])
    for label in range(3):
        paint(tmp_path / str(label) / "a.png", label)
    found = evaluate(model, red_as_green, tests=tmp_path, progress=False)
    classes = found.to_json()["tests"]["classes"]
    assert len(classes) == 3
    assert sum(own["n"] for own in classes.values()) == 3
    assert "blue" in classes


def test_tests_need_labels(dominant, red_as_green, paint, tmp_path):
    paint(tmp_path / "red" / "a.png")
    paint(tmp_path / "loose.png")
    with (
        pytest.warns(RulepatchWarning, match="counts as a set without labels"),
        pytest.raises(FolderError, match="a folder for each class"),
    ):
        evaluate(dominant, red_as_green, tests=tmp_path, progress=False)


def test_there_must_be_something_to_look_at(dominant, red_as_green):
    with pytest.raises(SettingError, match="reference"):
        evaluate(dominant, red_as_green, progress=False)


@same_pictures
def test_classes_are_left_out_of_the_reference_set_alone(dominant, red_as_green):
    both = [(Image.new("RGB", (16, 16)), name) for name in ("red", "green", "blue")]
    found = evaluate(dominant, red_as_green, tests=both, reference=both, leave_out=["green", 2], progress=False)
    assert [outcome.picture.label for outcome in found.reference] == [0]
    assert len(found.tests) == 3
    with pytest.raises(SettingError, match="gren"):
        evaluate(dominant, red_as_green, reference=both, leave_out=["gren"], progress=False)


def test_unreadable_pictures_are_counted_apart(dominant, red_as_green, paint, tmp_path, caplog):
    for i in range(120):
        paint(tmp_path / "red" / f"{i:03}.png", colour=(200, 0, 0))
    (tmp_path / "red" / "077.png").write_bytes(b"no picture")
    found = evaluate(dominant, red_as_green, tests=tmp_path, progress=False)
    numbers = found.to_json()["tests"]
    assert (numbers["n"], numbers["flipped"], numbers["before"], numbers["broken"]) == (119, 119, 1, 119)
    assert numbers["skipped"] == [str(tmp_path / "red" / "077.png")]
    assert "077.png" in caplog.text


def test_the_public_name_is_this_function_whatever_was_imported():
    assert rulepatch.evaluate is evaluate


# The model


def test_the_model_is_left_as_it_was(model, untouched):
    model.module.train()
    model.module[1].eval()
    model.module[0][0].requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.module.parameters()]
    check = untouched(model.module)
    evaluate(model, edit_at(model, ["1.conv2", "6"]), tests=pictures(), reference=pictures(5), progress=False)
    check()
    assert [parameter.requires_grad for parameter in model.module.parameters()] == flags


class Fragile(nn.Module):
    """Passes everything on, until it has been called so many times."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, x):
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError("out of memory")
        return x


@pytest.mark.parametrize("calls", range(8))
def test_the_model_is_left_as_it_was_when_a_pass_fails(calls, net, untouched):
    fragile = nn.Sequential(*net[:5], Fragile(calls), *net[5:])
    model = Classifier(fragile.train(), Preprocess((16, 16)), NAMES)
    untouched(model.module)
    with pytest.raises(ModelError, match="out of memory"):
        evaluate(model, edit_at(model, ["1.conv2"]), tests=pictures(), batch_size=4, progress=False)


def test_the_model_is_left_as_it_was_when_the_pictures_fail(model, paint, tmp_path, untouched):
    untouched(model.module)
    for i in range(150):
        paint(tmp_path / "a" / f"{i:03}.png", i)
    for i in range(100, 110):
        (tmp_path / "a" / f"{i:03}.png").write_bytes(b"no picture")
    with pytest.raises(FolderError, match="at most 1 unreadable"):
        evaluate(model, edit_at(model, ["1.conv2"]), tests=tmp_path, batch_size=8, progress=False)


def test_what_does_not_fit_is_refused_before_any_picture_is_read(model, net, untouched):
    untouched(model.module)

    def never():
        raise AssertionError("read")
        yield

    other = Edit((random_part(model, "1.conv2"),), "0" * 64)
    with pytest.raises(BaseMismatchError, match="000000000000"):
        evaluate(model, other, tests=never())
    assert evaluate(model, other, tests=pictures(3), any_base=True, progress=False).tests
    elsewhere = Edit((LowRank("1.conv3", "1", torch.ones(1, 8), torch.ones(8, 1, 3, 3)),), base_digest(net))
    with pytest.raises(SiteError, match=r"1\.conv3"):
        evaluate(model, elsewhere, tests=never())


def test_as_many_class_names_as_logits(net, untouched):
    untouched(net)
    model = Classifier(net, Preprocess((16, 16)), NAMES[:4])
    with pytest.raises(ModelError, match="check the class names"):
        evaluate(model, edit_at(model, ["6"]), tests=pictures(3, labels=4), progress=False)


def test_half_precision_and_outputs_with_names_are_evaluated(net):
    class Named(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return type("Output", (), {"logits": self.inner(x)})()

    model = Classifier(Named(net).to(torch.bfloat16), Preprocess((16, 16)), NAMES)
    found = evaluate(model, edit_at(model, ["inner.1.conv2"], scale=2), tests=pictures(8), progress=False)
    assert len(found.tests) == 8
    assert all(0 < share <= 1 for outcome in found.tests for share in outcome.confidence)


def test_the_evaluation_keeps_what_it_was_made_of(model):
    picture = pictures(1)[0][0]
    exemplar = Exemplar(picture, picture, np.ones((16, 16), np.float32))
    edit = edit_at(model, ["6"])
    found = evaluate(model, edit, reference=[picture], exemplars=[exemplar], progress=False)
    assert found.edit is edit
    assert found.exemplars == (exemplar,)
    assert (found.model_name, found.classes) == ("the net", Classes(tuple(NAMES)))
    same = ImageSet((Picture(picture),), "mine")
    assert evaluate(model, edit, reference=same, progress=False).reference.name == "mine"
