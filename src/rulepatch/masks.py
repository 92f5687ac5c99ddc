"""Masks: which pixels of a picture show the concept."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rulepatch.images import read_image

__all__ = ["read_mask"]


def read_mask(source: Path | str | bytes) -> NDArray[np.float32]:
    """Read a mask: white where the concept is, black or transparent elsewhere, grey in between.

    Args:
        source: a file, or the bytes of one.

    Returns:
        Array (h, w), float32, 0..1.

    Raises:
        ImageError: the file is missing, is no picture, is cut short, or is dangerously large.
    """
    return np.asarray(read_image(source, under="black").convert("L"), dtype=np.float32) / np.float32(255)
