from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def paint():
    """Write an image of noise and return its path."""

    def write(path: Path, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write
