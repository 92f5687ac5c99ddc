"""`rulepatch new-class`, and what other commands make of its file."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from rulepatch.playground.pictures import picture_of, training_images
from rulepatch.playground.scenes import CLASSES, render, silhouette


@pytest.fixture
def world(tmp_path):
    """An image of a van with its mask, and a reference set; the class is called truck, for lack of another."""
    scene = render("van", seed=1)
    picture_of(scene).save(tmp_path / "image.png")
    Image.fromarray((silhouette(scene) * 255).astype(np.uint8)).save(tmp_path / "mask.png")
    from rulepatch.models.registry import load_model

    training_images(40, seed=3).write(tmp_path / "reference", load_model("playground").classes)
    return tmp_path


def command(world, *further):
    return (
        "new-class", "--model", "playground", "--image", world / "image.png", "--mask", world / "mask.png",
        "--name", "lorry", "--reference", world / "reference", "--out", world / "lorry.safetensors", *further,
    )  # fmt: skip


@pytest.mark.slow
def test_a_class_is_added_shown_evaluated_and_exported(run, world):
    told = run(*command(world, "--json")).json()
    assert told["class"] == "lorry" and told["method"] == "filter" and told["calibration"]["budget"] == 0.0025
    shown = run("show", world / "lorry.safetensors", "--json").json()
    assert shown["changes"][0]["name"] == "lorry"
    assert "class lorry" in run("show", world / "lorry.safetensors").out
    (world / "tests" / "lorry").mkdir(parents=True)
    (world / "image.png").rename(world / "tests" / "lorry" / "image.png")
    found = run(
        "evaluate", world / "lorry.safetensors", "--model", "playground", "--tests", world / "tests", "--json",
        "--report", world / "report.html",
    ).json()  # fmt: skip
    assert "A new class: lorry" in (world / "report.html").read_text("utf-8")
    assert found["tests"]["classes"]["lorry"]["n"] == 1 and found["tests"]["before"] == 0
    refused = run("apply", world / "lorry.safetensors", "--model", "playground", "--out", world / "out.safetensors")
    assert refused.code == 2 and "adds the class lorry" in refused.err
    run("apply", world / "lorry.safetensors", "--model", "playground", "--out", world / "out.pt2", "--json").json()
    assert (world / "out.pt2").stat().st_size > 0


@pytest.mark.slow
def test_its_curve_is_measured_on_tests(run, world):
    shutil.copytree(world / "reference", world / "tests")
    (world / "tests" / "lorry").mkdir()
    for seed in range(5):
        picture_of(render("van", seed=10 + seed)).save(world / "tests" / "lorry" / f"{seed}.png")
    found = run(*command(world, "--tests", world / "tests", "--json")).json()["tests"]
    assert found["pictures"] == 5 and found["others"] == 40 and 0.5 < found["auc"]["logit"] <= 1
    assert "recognised" in run(*command(world, "--tests", world / "tests")).out
    (world / "lorry.safetensors").unlink()
    refused = run(*command(world, "--tests", world / "reference"))
    assert refused.code == 2 and "0 of it and 40 others" in refused.err and refused.err.count("\n") == 1
    assert not (world / "lorry.safetensors").exists()


@pytest.mark.parametrize("method", ["imprinted", "ridge", "class-feature", "compositional", "random"])
def test_every_method_and_the_text(run, world, method):
    done = run(*command(world, "--method", method, "--max-drop", "1%"))
    assert done.code == 0 and f"class lorry: {method} at head" in done.out


@pytest.mark.parametrize(
    ("further", "words"),
    [
        (("--method", "magic"), "expected method to be filter, random"),
        (("--name", "van"), f"class {CLASSES.index('van')}"),
        (("--negatives", "nowhere"), "nowhere"),
        (("--max-drop", "much"), "a share"),
        (("--part", "part.png"), "part.png"),
    ],
)
def test_bad_input_is_one_sentence(run, world, further, words):
    done = run(*command(world, *further))
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1
    assert not (world / "lorry.safetensors").exists()


def test_the_file_is_json_and_tensors(run, world):
    from safetensors import safe_open

    assert run(*command(world, "--method", "imprinted")).code == 0
    with safe_open(world / "lorry.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["rulepatch"])["changes"][0]["kind"] == "new-class"


def test_the_name_that_an_option_had_before_is_read_still(run):
    assert run("new-class", "--loudness=2", "--help").code == 0
    assert run("new-class", "--quietness=2", "--help").code == 2
