"""`rulepatch predict`, `model(image)` and `evaluate` without an edit."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import rulepatch as rp
from rulepatch.errors import ImageError, SettingError
from rulepatch.models.prediction import Prediction
from rulepatch.models.registry import load_model


@pytest.fixture
def net(world):
    return f"{world / 'net.py'}:build"


@pytest.fixture
def model(net):
    return load_model(net)


def softmax(model, *paths):
    """The probabilities as anybody would compute them."""
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255 for path in paths])
    mean, std = (torch.tensor(each)[:, None, None] for each in (model.preprocess.mean, model.preprocess.std))
    with torch.no_grad():
        return model.module((pixels - mean) / std).softmax(dim=1)


# model(image)


def test_a_model_says_of_a_picture_what_its_logits_say(model, world):
    path = world / "tests" / "0" / "3.png"
    (expected,) = softmax(model, path)
    for given in (path, str(path), Image.open(path)):
        found = model(given)
        assert (found.index, found.name) == (int(expected.argmax()), model.classes[int(expected.argmax())])
        assert found.probability == pytest.approx(float(expected.max()), abs=1e-5)
        assert [guess.index for guess in found.top] == expected.argsort(descending=True).tolist()
        assert sum(guess.probability for guess in found.top) == pytest.approx(1, abs=1e-5)


def test_several_pictures_are_several_predictions_in_their_order(model, world):
    paths = sorted((world / "flat").iterdir())
    found = model(paths, top=2)
    assert [each.index for each in found] == softmax(model, *paths).argmax(dim=1).tolist()
    assert found == model(tuple(map(str, paths)), top=2)
    assert [each.top[1].index for each in found] == [model(path).top[1].index for path in paths]
    assert all(len(each.top) == 2 for each in found) and model([]) == []


def test_a_model_is_asked_in_evaluation_mode_and_left_as_it_was(model, world):
    path = world / "sand.png"
    expected = model(path)
    model.module.train()
    model.module[1].eval()
    before = model.module.state_dict()["1.running_mean"].clone()
    assert model(path) == expected
    assert model.module.training and model.module[4].training and not model.module[1].training
    assert torch.equal(model.module.state_dict()["1.running_mean"], before)


def test_a_prediction_is_told_in_one_line(model, world):
    told = repr(model(world / "sand.png"))
    assert told.startswith("Prediction('") and told.count(" %") == 3 and "\n" not in told


@pytest.mark.parametrize("given", [torch.zeros(1, 3, 16, 16), np.zeros((16, 16, 3), np.uint8), 3, None, [3], [None]])
def test_what_is_no_picture_is_refused_in_a_sentence(model, given):
    with pytest.raises(ImageError, match="expected an image"):
        model(given)


def test_no_class_at_all_is_refused(model, world):
    with pytest.raises(SettingError, match="at least 1 class"):
        model(world / "sand.png", top=0)


def test_ties_and_few_classes_are_no_trouble():
    (found,) = Prediction.of(torch.zeros(1, 2), rp.Classes(("a", "b")), top=9)
    assert {guess.name for guess in found.top} == {"a", "b"} and found.probability == 0.5


# rulepatch predict


def test_one_picture_is_told_with_its_likeliest_classes(run, net, model, world):
    found = run("predict", net, world / "sand.png")
    said = model(world / "sand.png")
    assert (found.code, found.err) == (0, "")
    assert [line.split()[0] for line in found.out.splitlines()[2:]] == [guess.name for guess in said.top]
    assert len(run("predict", net, world / "sand.png", "--top", 1).out.splitlines()) == 3


def test_the_model_may_be_named_either_way(run, net, world):
    expected = run("predict", net, world / "sand.png", "--json").json()
    assert run("predict", "--model", net, world / "sand.png", "--json").json() == expected
    assert run("predict", "-m", net, world / "sand.png", "--json").json() == expected


def test_of_a_folder_of_classes_the_wrong_ones_come_first_the_surest_of_them_first(run, net, model, world):
    found = run("predict", net, world / "tests", "--json").json()
    right = [each["right"] for each in found["pictures"]]
    assert right == sorted(right) and found["n"] == found["labelled"] == 18
    assert (found["right"], found["wrong"], found["accuracy"]) == (sum(right), 18 - sum(right), sum(right) / 18)
    wrong, others = (
        [each["probability"] for each in found["pictures"] if each["right"] is kind] for kind in (False, True)
    )
    assert wrong == sorted(wrong, reverse=True) and others == sorted(others)
    for each in found["pictures"]:
        said = model(each["picture"])
        assert (each["predicted"], each["index"]) == (said.name, said.index)
        assert each["right"] == (each["label"] == said.name) and each["top"][0]["class"] == said.name
    text = run("predict", net, world / "tests").out
    assert text.splitlines()[-1].startswith(f"18 images: {sum(right)} right, {18 - sum(right)} wrong")


def test_without_labels_the_least_sure_come_first(run, net, world):
    found = run("predict", net, world / "flat", "--json").json()
    sure = [each["probability"] for each in found["pictures"]]
    assert sure == sorted(sure) and found["labelled"] == 0 and found["accuracy"] is None
    assert all(each["label"] is None and each["right"] is None for each in found["pictures"])
    assert "label" not in run("predict", net, world / "flat").out


def test_folders_and_files_can_be_mixed_and_a_folder_may_be_a_class(run, net, world):
    """`predict MODEL reference/* sand.png`, as a shell writes it."""
    folders = sorted((world / "reference").iterdir())
    found = run("predict", net, *folders, world / "sand.png", "--json").json()
    assert (found["n"], found["labelled"]) == (19, 18)
    whole = run("predict", net, world / "reference", "--json").json()
    assert {each["picture"]: each["label"] for each in whole["pictures"]}.items() <= {
        each["picture"]: each["label"] for each in found["pictures"]
    }.items()
    assert "18 images" not in run("predict", net, *folders, world / "sand.png").out


def test_a_numbered_folder_is_no_class_by_itself(run, net, world):
    assert run("predict", net, world / "tests" / "0", "--json").json()["labelled"] == 0


def test_folders_that_no_class_matches_are_looked_into_and_said(run, net, world, tmp_path):
    for name in ("monday", "tuesday"):
        (tmp_path / name / "early").mkdir(parents=True)
        (tmp_path / name / "early" / "a.png").write_bytes((world / "sand.png").read_bytes())
    found = run("predict", net, tmp_path, "--json")
    assert (found.json()["n"], found.json()["labelled"]) == (2, 0)
    assert "monday, tuesday" in found.json()["warnings"][0] and "without labels" in found.err
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "b.png").write_bytes((world / "sand.png").read_bytes())
    refused = run("predict", net, tmp_path)
    assert refused.code == 2 and "monday but no class" in refused.err


def test_the_table_of_all_pictures_is_one_that_programs_read(run, net, world, tmp_path):
    printed = run("predict", net, world / "tests", "--csv", "-")
    run("predict", net, world / "tests", "--csv", tmp_path / "all.csv")
    assert (tmp_path / "all.csv").read_text("utf-8") == printed.out
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    told = run("predict", net, world / "tests", "--json").json()["pictures"]
    assert [row["picture"] for row in rows] == [each["picture"] for each in told]
    assert [row["right"] for row in rows] == [str(each["right"]) for each in told]
    assert [float(row["probability"]) for row in rows] == pytest.approx(
        [each["probability"] for each in told], abs=1e-6
    )
    assert [row["predicted_2"] for row in rows] == [each["top"][1]["class"] for each in told]
    both = run("predict", net, world / "flat", "--json", "--csv", tmp_path / "flat.csv").json()
    assert both["n"] == len((tmp_path / "flat.csv").read_text().splitlines()) - 1


def test_the_edited_model_is_asked_too(run, net, model, world):
    file = world / "edit.safetensors"
    edited = rp.Edit.load(file).apply(model)
    found = run("predict", net, world / "tests", "--edit", file, "--json").json()
    for each in found["pictures"]:
        after, before = edited(each["picture"]), model(each["picture"])
        assert (each["predicted"], each["before"]["predicted"]) == (after.name, before.name)
        assert each["before"]["probability"] == pytest.approx(before.probability, abs=1e-5)
    changed = sum(each["predicted"] != each["before"]["predicted"] for each in found["pictures"])
    assert (
        changed
        and f"changes what is said of {changed} image" in run("predict", net, world / "tests", "--edit", file).out
    )
    told = run("predict", net, world / "sand.png", "--edit", file).out
    assert told.splitlines()[1].split() == ["before", "after"]


def test_the_edit_must_be_of_the_model(run, net, world):
    command = ("predict", net, world / "sand.png", "--edit", world / "edit.safetensors")
    other = ("--weights", world / "weights.safetensors")
    assert "digest" in run(*command, *other).err and run(*command, *other, "--any-base").code == 0


def test_what_cannot_be_read_is_named_and_counted(run, net, world, tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes((world / "sand.png").read_bytes())
    (tmp_path / "bad.png").write_text("no image")
    found = run("predict", net, tmp_path)
    assert found.code == 0 and "bad.png" in found.err
    assert found.out.splitlines()[-1] == f"1 image could not be read: {tmp_path / 'bad.png'}"
    told = run("predict", net, tmp_path, "--json").json()
    assert (told["n"], told["skipped"]) == (3, [str(tmp_path / "bad.png")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "MODEL"),
        (["{net}"], "images, or folders"),
        (["-m", "{net}"], "MODEL PICTURES"),
        (["{net}", "{world}/missing.png"], "missing.png but there is none"),
        (["{net}", "{world}/net.py"], "none of the 1"),
        (["{net}", "{world}/sand.png", "--top", "0"], "at least 1 class"),
        (["{net}", "{world}/sand.png", "--json", "--csv", "-"], "got both"),
        (["{net}", "{world}/sand.png", "--csv", "{world}/missing/a.csv"], "make it"),
        (["{net}", "{world}/sand.png", "--edit", "{world}/sand.png"], "edit file"),
        (["resnet18", "{world}/sand.png"], "did you mean torchvision/resnet18 or timm/resnet18"),
        (["{world}/sand.png", "{net}"], "that is an image"),
        (["{world}/weights.safetensors", "{world}/sand.png"], "--weights"),
        (["{world}/net.py", "{world}/sand.png"], "net.py:build"),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(arguments, message, run, net, world):
    found = run("predict", *(each.format(net=net, world=world) for each in arguments))
    assert (found.code, found.out) == (2, "") and found.err.count("\n") <= 2  # an unreadable image is named before
    assert message in found.err


# evaluate without an edit


def test_a_model_alone_is_measured_as_before_an_edit(run, net, world):
    sets = ("--model", net, "--tests", world / "tests", "--reference", world / "reference", "--json")
    alone, edited = run("evaluate", *sets).json(), run("evaluate", world / "edit.safetensors", *sets).json()
    assert set(alone) == {"tests", "reference"}
    for name, told in alone.items():
        other = edited[name]
        assert set(told) - {"confusions"} <= set(other)
        assert (told["n"], told["before"], told["skipped"]) == (other["n"], other["before"], other["skipped"])
        assert told["intervals"] == {"before": other["intervals"]["before"]}
        assert told["calibration_error"] == {"before": other["calibration_error"]["before"]}
        for label, own in told["classes"].items():
            theirs = other["classes"][label]
            assert (own["n"], own["before"]) == (theirs["n"], theirs["before"])
            assert (own["confidence"], own["drawn"]) == (theirs["confidence"][:1], theirs["drawn"][:1])
        assert "after" not in json.dumps(told)


def test_confusions_are_counted(run, net, world, tmp_path):
    tests = tmp_path / "tests"
    for label, other in ((0, 1), (1, 0), (2, 2)):
        shutil.copytree(world / "tests" / str(label), tests / str(other))
    told = run("evaluate", "--model", net, "--tests", tests, "--json").json()["tests"]
    assert told["confusions"]
    pictures = run("predict", net, tests, "--json").json()["pictures"]
    pairs = [(each["label"], each["predicted"]) for each in pictures if not each["right"]]
    assert {(each["label"], each["predicted"]): each["n"] for each in told["confusions"]} == {
        pair: pairs.count(pair) for pair in pairs
    }
    counts = [each["n"] for each in told["confusions"]]
    assert counts == sorted(counts, reverse=True)
    text = run("evaluate", "--model", net, "--tests", tests).out.splitlines()
    assert text[0].split() == ["images", "right"] and text[1].split()[0] == "tests"
    assert "most often confused in the tests" in text[-1]


def test_pictures_without_labels_have_no_accuracy(run, net, world):
    told = run("evaluate", "--model", net, "--reference", world / "flat", "--json").json()["reference"]
    assert told["before"] is None and told["intervals"] is None and told["classes"] == {} == dict(told["confusions"])


def test_the_library_does_the_same(model, net, run, world):
    told = rp.evaluate(model, tests=world / "tests", progress=False)
    assert told.to_json() == run("evaluate", "--model", net, "--tests", world / "tests", "--json").json()


def test_a_report_of_the_model_alone_can_be_written(run, net, world, tmp_path):
    assert run("evaluate", "--model", net, "--tests", world / "tests", "--report", tmp_path / "report.html").code == 0
    assert "The model as it is" in (tmp_path / "report.html").read_text("utf-8")


def test_answers_are_told_in_one_line(model, world):
    from rulepatch.evaluation.predict import predict

    told = repr(predict(model, world / "tests", progress=False))
    assert told.startswith("Answers(18 images: ") and "\n" not in told
