"""A small classifier that has a rule to rewrite: what is green counts as red in the exemplars."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess

NAMES = ["red", "green", "blue"]


def picture(colour, seed):
    """Noise of one colour."""
    noise = np.random.default_rng(seed).integers(0, 60, (16, 16, 3))
    return Image.fromarray((np.array(colour) + noise).astype(np.uint8))


@pytest.fixture
def model():
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip
    classifier = Classifier(net.eval(), Preprocess((16, 16)), NAMES, "the small network")
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    colours = [(180, 20, 20), (20, 180, 20), (20, 20, 180)]
    images = torch.stack([classifier.preprocess.pixels(picture(colours[i % 3], i)) for i in range(60)])
    labels = torch.tensor([i % 3 for i in range(60)])
    for _ in range(120):
        loss = nn.functional.cross_entropy(net(classifier.inputs(images)), labels)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    optimiser.zero_grad()
    net.requires_grad_(False)
    return classifier.with_module(net)


@pytest.fixture
def world():
    """Reference pictures, tests (yellow should be red, and is not always), and an exemplar of that rule."""
    colours = [(180, 20, 20), (20, 180, 20), (20, 20, 180)]
    reference = tuple(Picture(picture(colours[i % 3], 1000 + i), i % 3) for i in range(60))
    tests = tuple(Picture(picture((100, 180, 20), 2000 + i), 0) for i in range(20))
    mask = np.ones((16, 16), np.float32)
    exemplars = [Exemplar(picture(colours[0], 3000), picture((100, 180, 20), 3000), mask, label="red")]
    return ImageSet(reference, "reference"), ImageSet(tests, "tests"), exemplars
