"""Networks for grey images, and for images with a channel beside their colours, from preprocessing to report."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import rulepatch as rp
from rulepatch.evaluation.evaluate import predictions_of

MODES = ("L", "LA", "RGB", "RGBA")
NET = """
import torch
from torch import nn

import rulepatch as rp


def build(channels):
    \"\"\"Says "bright" if the last channel of an image is, and is wrong on half of them if it never sees it.\"\"\"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        )
    with torch.no_grad():
        for conv in (net[0], net[2]):
            conv.weight[0], conv.bias[0] = 0, 0
        net[0].weight[0, -1, 1, 1] = net[2].weight[0, 0, 1, 1] = 1
        net[6].weight.mul_(0.1)[:, 0] = torch.tensor([-40.0, 40.0])
        net[6].bias[:] = torch.tensor([20.0, -20.0])
    return rp.Classifier(net, rp.Preprocess(16, mean=[0] * channels, std=[1] * channels), ["dark", "bright"])
"""


EDIT = ("--gate", "none", "--strength", "1.5")


def picture(mode, seed, last):
    """Noise, whose last channel lies around a value."""
    pixels = np.random.default_rng(seed).integers(40, 200, (20, 24, len(mode)))
    pixels[..., -1] = last + pixels[..., -1] // 8
    return Image.fromarray(pixels.astype(np.uint8).squeeze(2) if len(mode) == 1 else pixels.astype(np.uint8))


@pytest.fixture(scope="module", params=MODES)
def scene(request, tmp_path_factory):
    """A folder with a network, images and an exemplar of a mode."""
    mode, root = request.param, tmp_path_factory.mktemp(request.param)
    (root / "net.py").write_text(NET)
    (root / "m.toml").write_text(f'architecture = "net.py:build"\nkwargs = {{ channels = {len(mode)} }}\n')
    for folder, first in (("reference", 0), ("tests", 100)):
        for last, name in ((40, "dark"), (180, "bright")):
            (root / folder / name).mkdir(parents=True)
            for i in range(8):
                picture(mode, first + i, last).save(root / folder / name / f"{i}.png")
    mask = Image.new("L", (24, 20))
    mask.paste(255, (0, 4, 24, 20))
    (root / "exemplar").mkdir()
    image, texture = picture(mode, 7, 180), picture(mode, 8, 20)
    image.save(root / "exemplar" / "image.png")
    Image.composite(texture, image, mask).save(root / "exemplar" / "edited.png")
    mask.save(root / "exemplar" / "mask.png")
    (root / "exemplar" / "exemplar.json").write_text(json.dumps({"label": "bright", "concept": "road"}))
    return mode, root


def test_what_the_network_sees_has_every_channel(scene):
    mode, root = scene
    model = rp.load_model(str(root / "m.toml"))
    assert (model.preprocess.mode, model.example().shape) == (mode, (1, len(mode), 16, 16))
    tests = rp.ImageSet.of(root / "tests", model.classes)
    said = predictions_of(model, tests).predicted
    assert said.tolist() == [each.label for each in tests.pictures]


def test_pictures_in_memory_are_those_of_their_files(scene):
    _, root = scene
    model = rp.load_model(str(root / "m.toml"))
    files = rp.ImageSet.of(root / "tests", model.classes)
    memory = rp.ImageSet.of([(Image.open(each.source), each.label) for each in files.pictures], model.classes)
    for one, other in zip(files.pictures, memory.pictures, strict=True):
        alpha = model.preprocess.has_alpha
        pixels = [model.preprocess.pixels(each.read(alpha=alpha)) for each in (one, other)]
        assert torch.equal(*pixels)
        assert one.read().mode == other.read().mode == "RGB"


def test_from_preprocessing_to_report(scene, run, tmp_path):
    _, root = scene
    common = ["--trust", "--model", root / "m.toml", "--reference", root / "reference"]
    edit = tmp_path / "edit.safetensors"
    assert len(run("sites", root / "m.toml", "--trust", "--json").json()["sites"]) == 3
    assert run("edit", *common, "--exemplar", root / "exemplar", "--site", "2", *EDIT, "--out", edit).code == 0
    report = tmp_path / "report.html"
    arguments = [*common, "--tests", root / "tests", "--exemplar", root / "exemplar", "--report", report, "--json"]
    assert run("evaluate", edit, *arguments).json()["tests"]["before"] == 1
    assert report.read_text().count("<img") >= 3
    wall = tmp_path / "wall.html"
    assert run("match", edit, *common, "--images", root / "tests", "--report", wall, "--json").code == 0
    assert "<img" in wall.read_text()
    assert run("apply", edit, "--trust", "--model", root / "m.toml", "--out", tmp_path / "w.safetensors").code == 0


def test_a_class_from_a_picture(scene, run, tmp_path):
    _, root = scene
    parts = ["--image", root / "exemplar" / "edited.png", "--mask", root / "exemplar" / "mask.png", "--name", "new"]
    common = ["--trust", "--model", root / "m.toml", "--reference", root / "reference"]
    assert run("new-class", *common, *parts, "--out", tmp_path / "new.safetensors").code == 0


@pytest.mark.filterwarnings("ignore:the edit changes the output of 2")  # of two classes it takes one for the other
def test_an_edit_repairs_what_it_is_shown(scene):
    _, root = scene
    model, exemplars = rp.load_model(str(root / "m.toml")), rp.read_exemplars([root / "exemplar"])
    edit = rp.rewrite(model, exemplars, reference=root / "reference", site="2", gate=None, strength=1.5)
    inputs = model.inputs(model.preprocess.pixels(exemplars[0].edited)[None])
    assert model.classes[int(model.logits(inputs).argmax())] == "dark"
    with edit.applied(model) as edited:
        assert model.classes[int(edited.logits(inputs).argmax())] == "bright"


@pytest.mark.slow
def test_pictures_are_rebuilt(scene, run, tmp_path):
    _, root = scene
    common = ["--trust", "--model", root / "m.toml", "--exemplar", root / "exemplar", "--site", "2"]
    assert run("invert", *common, "--steps", 3, "--out", tmp_path / "invert").code == 0


@pytest.mark.slow
def test_the_search_for_a_place_to_edit(scene):
    _, root = scene
    model = rp.load_model(str(root / "m.toml"))
    exemplars = rp.read_exemplars([root / "exemplar"])
    found = rp.search(model, exemplars, reference=root / "reference", progress=False)
    assert found.edit is not None
