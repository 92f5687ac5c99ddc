"""A classifier around the small network, exemplars and a reference set of random pictures."""

import numpy as np
import pytest
from PIL import Image

from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess

SAYS_WHAT_IT_IS_WORTH = pytest.mark.filterwarnings("ignore:the (edit|exemplars) (repairs|breaks|changes|show) ")


def pytest_itemcollected(item):
    """Noise and random networks show no failure that is repaired; test_judging.py is about what is said of that."""
    if item.path.name != "test_judging.py":
        item.add_marker(SAYS_WHAT_IT_IS_WORTH)


PREPROCESS = Preprocess((16, 16), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CLASSES = ["ant", "bee", "cat", "dog", "eel"]


def noise(seed: int) -> Image.Image:
    """A picture with structure at two scales."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 160, (4, 4, 3)), np.ones((4, 4, 1)))
    return Image.fromarray((coarse + rng.integers(0, 90, (16, 16, 3))).astype(np.uint8))


def concept_mask() -> np.ndarray:
    mask = np.zeros((16, 16), np.float32)
    mask[8:, 2:14] = 1
    return mask


@pytest.fixture
def model(net):
    return Classifier(net, PREPROCESS, CLASSES, "the small network")


@pytest.fixture
def exemplars():
    return [Exemplar.painted(noise(i), concept_mask(), noise(100 + i), label=CLASSES[i]) for i in range(2)]


@pytest.fixture
def reference():
    return ImageSet(tuple(Picture(noise(1000 + i)) for i in range(24)), "noise")
