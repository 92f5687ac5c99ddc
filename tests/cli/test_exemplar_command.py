"""`rulepatch exemplar`: what it writes works as --exemplar of the other commands."""

import json

import numpy as np
import pytest
from PIL import Image

import rulepatch as rp
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar as playground_exemplar


@pytest.fixture
def net(world):
    return f"{world / 'net.py'}:build"


@pytest.fixture
def parts(world):
    return {name: world / "exemplar" / f"{name}.png" for name in ("image", "mask", "edited")}


def test_a_texture_is_painted_over_what_the_mask_marks(run, world, parts, tmp_path):
    out = tmp_path / "sandy"
    command = ("exemplar", parts["image"], "--mask", parts["mask"], "--replacement", world / "sand.png")
    found = run(*command, "--label", "red", "--concept", "road", "-o", out, "--json").json()
    assert found == {
        "exemplar": str(out), "label": "red", "concept": "road", "replacement": "sand", "share": 0.5, "look": None,
    }  # fmt: skip
    (made,) = rp.read_exemplars([out])
    same = rp.Exemplar.from_files(parts["image"], mask=parts["mask"], replacement=world / "sand.png", label="red")
    assert made.digest() == same.digest()
    assert (made.label, made.concept, made.replacement, made.name) == ("red", "road", "sand", "sandy")
    top, below = np.asarray(made.edited)[:8], np.asarray(made.edited)[8:]
    assert (top == np.asarray(made.image)[:8]).all() and (below == np.asarray(Image.open(world / "sand.png"))[8:]).all()
    assert (
        "sand for road, 50.0 % of the image, label red"
        in run(*command, "--label", "red", "--concept", "road", "-o", out).out
    )


def test_three_files_are_packed_as_they_are(run, parts, tmp_path):
    assert (
        run("exemplar", parts["image"], "--mask", parts["mask"], "--edited", parts["edited"], "-o", tmp_path / "a").code
        == 0
    )
    (made,) = rp.read_exemplars([tmp_path / "a"])
    for name in ("image", "edited"):
        assert (np.asarray(getattr(made, name)) == np.asarray(Image.open(parts[name]))).all()
    assert (made.mask * 255 == np.asarray(Image.open(parts["mask"]))).all()


def test_a_note_is_pasted_and_its_blank_twin_is_the_original(run, tmp_path):
    picture = playground_exemplar("van", ground="road", seed=3).image.resize((128, 128))
    picture.save(tmp_path / "van.png")
    command = ("exemplar", tmp_path / "van.png", "--note", "iPod", "--label", "van", "--box", "20,30,100,90")
    found = run(*command, "-o", tmp_path / "a", "--json").json()
    assert (found["concept"], found["replacement"]) == ("blank note", "iPod")
    (made,) = rp.read_exemplars([tmp_path / "a"])
    inside = np.zeros((128, 128), bool)
    inside[30:90, 20:100] = True
    assert not (made.mask > 0)[~inside].any() and made.mask[60, 60] == 1
    given, blank, written = (np.asarray(each).astype(int) for each in (picture, made.image, made.edited))
    assert (given == blank)[~inside].all() and (blank != written).any() and (blank[55:65, 25:30] > 180).all()
    seeds = []
    for seed in (1, 1, 2):
        run(*command[:-2], "-o", tmp_path / "b", "--seed", seed)
        seeds.append(rp.read_exemplars([tmp_path / "b"])[0].digest())
    assert seeds[0] == seeds[1] != seeds[2]


def test_the_model_is_asked_about_both_pictures(run, tmp_path):
    shown = playground_exemplar("van", ground="snow", seed=0)
    shown.image.save(tmp_path / "van.png")
    shown.edited.save(tmp_path / "snow.png")
    Image.fromarray((shown.mask * 255).round().astype(np.uint8)).save(tmp_path / "mask.png")
    command = (
        "exemplar",
        tmp_path / "van.png",
        "--mask",
        tmp_path / "mask.png",
        "-m",
        "playground",
        "-o",
        tmp_path / "a",
    )
    model = load_model("playground")
    found = run(*command, "--edited", tmp_path / "snow.png", "--label", "van", "--json").json()["look"]
    assert (found["original"]["predicted"], found["edited"]["predicted"]) == (
        model(shown.image).name,
        model(shown.edited).name,
    )
    assert found["shows_failure"] and found["target"] == "van"
    assert "shows a failure: what is van is called" in run(*command, "--edited", tmp_path / "snow.png").out
    shade = 1 - 0.1 * shown.mask[..., None]
    Image.fromarray((np.asarray(shown.image) * shade).astype(np.uint8)).save(tmp_path / "shade.png")
    nothing = run(*command, "--edited", tmp_path / "shade.png", "--json").json()["look"]
    assert not nothing["shows_failure"] and nothing["target"] == "van"
    assert "shows no failure" in run(*command, "--edited", tmp_path / "shade.png").out
    assert "check the label" in run(*command, "--edited", tmp_path / "snow.png", "--label", "sleigh").out


@pytest.mark.slow
def test_every_command_takes_what_was_made_and_the_same_three_files(run, world, net, parts, tmp_path):
    """The same arguments for edit, evaluate, match and compare: a folder, or image, mask and texture."""
    folder = tmp_path / "made"
    texture = ("--replacement", world / "sand.png", "--label", "red")
    run("exemplar", parts["image"], "--mask", parts["mask"], *texture, "-o", folder)
    model, reference = ("--model", net), ("--reference", world / "reference")
    told = []
    for given in (("--exemplar", folder), ("--exemplar", parts["image"], "--mask", parts["mask"], *texture)):
        out = tmp_path / f"{len(told)}"
        edit = run(
            "edit", *model, *given, *reference, "--site", "3", "--gate", "none", "-o", f"{out}.safetensors", "--json"
        )
        evaluated = run(
            "evaluate", f"{out}.safetensors", *model, *given, *reference, "--report", f"{out}.html", "--json"
        )
        matches = [
            run("match", *file, *model, *given, "--images", world / "tests", *reference, "--site", "3", "--json").json()
            for file in ((), (f"{out}.safetensors",))
        ]
        compared = run(
            "compare", *model, *given, *reference, "--tests", world / "tests", "--site", "3", "--method", "nothing",
            "--max-drop", "100%", "-o", out, "--json",
        )  # fmt: skip
        alike = [[(each["picture"], each["share"]) for each in found["matches"]] for found in matches]
        assert alike[0] == alike[1]  # what exemplars look for is what their edit does
        told.append([edit.json()["loss"], evaluated.json(), matches, compared.json()["results"][0]["method"]])
    assert json.dumps(told[0]) == json.dumps(told[1])


def test_exemplars_alone_are_matched_at_the_last_site_with_positions(run, world, net):
    command = ("match", "-m", net, "--exemplar", world / "exemplar", "--images", world / "tests")
    assert run(*command, "--reference", world / "reference", "--json").json()["site"] == "3"
    found = run("match", "-m", net, "--images", world / "tests", "--reference", world / "reference")
    assert found.code == 2 and "exemplar" in found.err and found.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --replacement, --edited and --note"),
        (["--mask", "{mask}"], "give one of"),
        (["--mask", "{mask}", "--edited", "{edited}", "--note", "a"], "an edited image and a note"),
        (["--edited", "{edited}"], "a mask for an edited image"),
        (["--replacement", "{edited}"], "a mask for a replacement"),
        (["--note", "a", "--mask", "{mask}"], "no mask for a note"),
        (["--note", "\n"], "a word on one line"),
        (["--note", "a", "--box", "1,2,3"], "LEFT,TOP,RIGHT,BOTTOM"),
        (["--note", "a", "--box", "0,0,99,99"], "within the image's 16x16"),
        (["--note", "a long word"], "too small"),
        (["--mask", "{missing}", "--edited", "{edited}"], "missing.png"),
        (["--mask", "{mask}", "--edited", "{missing}"], "missing.png"),
        (["--mask", "{mask}", "--edited", "{edited}", "--model", "{net}", "--label", "vann"], "'vann'"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_written(arguments, message, run, parts, net, tmp_path):
    filled = [each.format(net=net, missing=tmp_path / "missing.png", **parts) for each in arguments]
    found = run("exemplar", parts["image"], *filled, "-o", tmp_path / "a")
    assert (found.code, found.out) == (2, "") and found.err.count("\n") == 1 and message in found.err
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_else_in_it_is_left_alone(run, parts, tmp_path):
    command = ("exemplar", parts["image"], "--mask", parts["mask"], "--edited", parts["edited"], "-o")
    assert run(*command, tmp_path / "a").code == run(*command, tmp_path / "a").code == 0
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "image.jpg").touch()  # would be read in place of image.png
    (tmp_path / "file").touch()
    for out, message in (("b", "image.jpg"), ("file", "is a file"), ("missing/c", "make it")):
        found = run(*command, tmp_path / out)
        assert found.code == 2 and message in found.err
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["image.jpg"]
