"""Vocabulary of preprocessing: resize modes and channel orders."""

from typing import Literal

__all__ = ["MODES", "Affine", "Interpolation", "Mode", "OddMargins"]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Mode = Literal["L", "LA", "RGB", "RGBA"]
OddMargins = Literal["even", "floor"]

MODES: dict[int, Mode] = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's mode of an image for each number of channels."""

Affine = tuple[tuple[float, ...], tuple[float, ...]]
"""A mean and a std for each channel."""
