import pytest

NET = """
import torch
from torch import nn

import rulepatch as rp


def module(classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(4, classes))


def build(classes=3):
    return rp.Classifier(module(classes), rp.Preprocess((16, 16)), [f"class {i}" for i in range(classes)])
"""


@pytest.fixture
def net_file(tmp_path):
    """A Python file with a function `module` that returns a network and `build` that returns a classifier."""
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path
