"""The examples run, and do what they say."""

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import rulepatch as rp
from rulepatch.concepts.typographic import note
from rulepatch.images import read_image
from rulepatch.models.registry import sources
from rulepatch.playground.pictures import training_images
from rulepatch.playground.scenes import render

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def attack():
    return example("typographic_attack").main


@pytest.fixture
def folder(tmp_path):
    """An image of an object, a reference set, and other images, with folders for classes and without."""
    classes = rp.load_model("playground").classes
    Image.fromarray(render("van", seed=1).image).save(tmp_path / "van.png")
    training_images(40, seed=1).write(tmp_path / "reference", classes)
    training_images(12, seed=2).write(tmp_path / "tests", classes)
    (tmp_path / "flat").mkdir()
    for seed in range(3):
        Image.fromarray(render("bus", seed=seed).image).save(tmp_path / "flat" / f"{seed}.png")
    return tmp_path


def distance(model, attacked, target):
    """How far the logits of an image are from some others."""
    with torch.no_grad():
        return float((model.logits(model.inputs(model.preprocess.pixels(attacked)[None])) - target).norm())


def drawn_together(model, edit, made):
    """By what factor an edit brings the image with the word to what was said of the blank note."""
    with torch.no_grad():
        target = model.logits(model.inputs(model.preprocess.pixels(made.blank)[None]))
    return distance(edit.apply(model), made.written, target) / distance(model, made.written, target)


@pytest.mark.parametrize("tests", ["tests", "flat", None])
def test_a_typographic_attack_without_a_network_that_reads(attack, folder, capsys, tests):
    out = folder / "edit.safetensors"
    arguments = ["--model", "playground", "--image", folder / "van.png", "--label", "van", "--word", "taxi"]
    arguments += ["--share", "0.6", "--reference", folder / "reference", "--site", "blocks.4.conv", "--out", out]
    attack([str(each) for each in [*arguments, *(["--tests", folder / tests] if tests else [])]])
    told = capsys.readouterr().out
    assert "with the word 'taxi'" in told and "with a blank note" in told and "blocks.4.conv" in told
    assert ("repaired" in told) == (tests is not None)
    made = note(read_image(folder / "van.png"), "taxi", share=0.6)
    assert drawn_together(rp.load_model("playground"), rp.Edit.load(out), made) < 0.7


def test_the_last_convolution_is_found(attack, folder, capsys):
    arguments = ["--model", "playground", "--image", folder / "van.png", "--reference", folder / "reference"]
    attack([str(each) for each in [*arguments, "--share", "0.6", "--out", folder / "edit.safetensors"]])
    assert "blocks.6.conv" in capsys.readouterr().out


@pytest.mark.parametrize("bad", [["--word", ""], ["--site", "nowhere"], ["--share", "0.1"], ["--label", "vna"]])
def test_bad_input_ends_it_with_a_sentence(attack, folder, capsys, bad):
    arguments = ["--model", "playground", "--image", folder / "van.png", "--reference", folder / "reference", *bad]
    with pytest.raises(SystemExit) as end:
        attack([str(each) for each in arguments])
    assert end.value.code == 2 and "expected" in capsys.readouterr().err
    assert not (folder / "edit.safetensors").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the edit repairs 0 of 1 failing exemplar")
def test_a_typographic_attack_on_clip(attack, folder, capsys):
    """With weights at random: no reader, but every step of the way."""
    if "open_clip" not in sources():
        pytest.skip("needs the source open_clip, which is not registered")
    open_clip = pytest.importorskip("open_clip")
    state = open_clip.create_model("RN50", pretrained=None).state_dict()
    for name, tensor in state.items():
        if name.endswith("bn3.weight"):
            tensor.fill_(0.5)  # they start at 0, and a site whose output is multiplied by 0 cannot be edited
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, folder / "rn50.safetensors")
    (folder / "rn50.toml").write_text(
        'architecture = "open_clip/RN50"\nweights = "rn50.safetensors"\nclasses = ["teapot", "iPod", "van"]\n'
        '[kwargs]\ntemplates = ["a photo of a {}."]\n'
    )
    arguments = ["--model", folder / "rn50.toml", "--image", folder / "van.png", "--label", "van", "--share", "0.6"]
    arguments += ["--reference", folder / "flat", "--out", folder / "edit.safetensors"]
    attack([str(each) for each in arguments])
    assert "layer4.2.conv3" in capsys.readouterr().out
    model, made = rp.load_model(str(folder / "rn50.toml")), note(read_image(folder / "van.png"), "iPod", share=0.6)
    assert drawn_together(model, rp.Edit.load(folder / "edit.safetensors"), made) < 1


@pytest.mark.slow
def test_a_discovered_rule_is_edited_and_discovered_no_more(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["discover_and_edit.py", "--out", str(tmp_path)])
    example("discover_and_edit").main()
    told = capsys.readouterr().out.splitlines()
    found, lost, left = (
        next(line for line in told if line.startswith(begin)) for begin in ("the rule", "the edit", "snow")
    )
    before, after = (int(line.split(" costs ")[1].split()[0]) for line in (found, left))
    assert before > 40 and after < 10 and float(lost.split()[3]) < 1
    assert (tmp_path / "before" / "report.html").is_file() and (tmp_path / "edit.safetensors").is_file()
