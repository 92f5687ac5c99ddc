from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rulepatch.core.changes import LowRank
from rulepatch.core.edit import Edit, base_digest
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess


@pytest.fixture
def paint():
    """Write an image of noise, or of one colour, and return its path."""

    def write(path: Path, seed: int = 0, *, colour: tuple[int, int, int] | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 18, 3), dtype=np.uint8)
        Image.fromarray(pixels if colour is None else np.full_like(pixels, colour)).save(path)
        return path

    return write


@pytest.fixture
def dominant():
    """A classifier that says which of red, green and blue there is most of."""
    layer = nn.Conv2d(3, 3, 1, bias=False)
    layer.weight.data = torch.eye(3)[:, :, None, None]
    net = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return Classifier(net, Preprocess((16, 16), mean=(0, 0, 0), std=(1, 1, 1)), ["red", "green", "blue"], "dominant")


@pytest.fixture
def red_as_green(dominant):
    """An edit of it: what is red counts twice as green."""
    part = LowRank("0", "0", torch.tensor([[1.0, 0, 0]]), torch.tensor([0.0, 2, 0]).reshape(3, 1, 1, 1))
    return Edit((part,), base_digest(dominant.module), {"method": "by hand"})
