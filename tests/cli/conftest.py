import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from rulepatch.cli import main

NET = """
import torch
from torch import nn

import rulepatch as rp


def module():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        )
        labels = torch.arange(60) % 3
        images = 0.6 * torch.rand(60, 3, 16, 16) + 0.4 * torch.eye(3)[labels, :, None, None]
        with torch.no_grad():  # the head tells what tint an image has
            features = net.eval()[:8](rp.Preprocess((16, 16)).normalise(images))
            wanted = 12 * torch.eye(3)[labels] - 4
            found = torch.linalg.lstsq(torch.cat([features, torch.ones(60, 1)], dim=1), wanted).solution
            net[8].weight.copy_(found[:-1].T)
            net[8].bias.copy_(found[-1])
        return net


def build():
    return rp.Classifier(module(), rp.Preprocess((16, 16)), ["red", "green", "blue"])


def wide():
    return rp.Classifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 9, 3), nn.ReLU(),
                                       nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 3)),
                         rp.Preprocess((16, 16)), ["red", "green", "blue"])
"""


def noise(path: Path, seed: int, tint: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 150, (16, 16, 3), dtype=np.uint8)
    if tint is not None:
        pixels[..., tint] += 100
    Image.fromarray(pixels).save(path)


def greened(picture: Path, out: Path) -> None:
    """The image with its lower half replaced, as the exemplar's mask has it: the network then calls it green."""
    pixels = Image.open(picture).copy()
    pixels.paste((0, 250, 0), (0, 8, 16, 16))
    out.parent.mkdir(parents=True, exist_ok=True)
    pixels.save(out)


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A folder with a model, its images, an exemplar and edits; nobody may change it."""
    root = tmp_path_factory.mktemp("world")
    (root / "net.py").write_text(NET)
    for label, name in enumerate(("red", "green", "blue")):
        for i in range(6):
            noise(root / "reference" / name / f"{i}.png", 10 * label + i, label)
            noise(root / "flat" / f"{name}{i}.png", 10 * label + i, label)
            noise(root / "tests" / str(label) / f"{i}.png", 100 + 10 * label + i, label)
    noise(root / "exemplar" / "image.png", 1000, 0)
    greened(root / "exemplar" / "image.png", root / "exemplar" / "edited.png")
    for i in range(4):
        greened(root / "tests" / "0" / f"{i}.png", root / "failures" / "red" / f"{i}.png")
    noise(root / "sand.png", 1002, 2)
    mask = Image.new("L", (16, 16))
    mask.paste(255, (0, 8, 16, 16))
    mask.save(root / "exemplar" / "mask.png")
    about = {"label": "red", "concept": "road", "replacement": "snow"}
    (root / "exemplar" / "exemplar.json").write_text(json.dumps(about))
    (root / "model.toml").write_text('name = "small"\narchitecture = "net.py:build"\nmean = [0.4, 0.5, 0.6]\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RULEPATCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name, options in {"edit": [], "gated": ["--gate", "0.5"]}.items():
            with pytest.raises(SystemExit, match=r"^0$"):
                main(list(map(str, [*edit_command(root, root / f"{name}.safetensors"), *options])))
    from rulepatch import load_model

    state = load_model(f"{root / 'net.py'}:build").module.state_dict()
    save_file({name: tensor + (name == "8.bias") for name, tensor in state.items()}, root / "weights.safetensors")
    return root


def edit_command(world: Path, out: Path) -> list[object]:
    return [
        *("edit", "--model", f"{world / 'net.py'}:build", "--exemplar", world / "exemplar", "--site", "3"),
        *("--reference", world / "reference", "--rank", "2", "--strength", "3", "--gate", "none", "--out", out),
    ]


@pytest.fixture
def editing(world):
    """The arguments of an `edit` that succeeds, as a function of where to write."""
    return lambda out: edit_command(world, out)
