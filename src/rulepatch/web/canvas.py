"""Between images and the painter: small images are shown large, and strokes come back at the image's own size."""

import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

__all__ = ["BRUSH", "CANVAS", "OPACITY", "canvas_of", "fresh", "mask_of"]

CANVAS = 512
"""Longer side of the canvas, in pixels."""

BRUSH = "#ff40a0"
"""Colour of the brush, and of what is marked."""

OPACITY = 160
"""Of what is marked, 0..255."""


def fresh(image: Image.Image) -> Image.Image:
    """A copy with unique file content.

    Gradio names files by their content, and would overwrite a file while a browser reads it.
    """
    copy, mark = image.copy(), uuid.uuid4().hex
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = mark
    copy.info |= {"shown": mark, "exif": exif.tobytes()}  # of PNG files the one, of others the other is kept
    return copy


def canvas_of(image: Image.Image, mask: NDArray[np.float32] | None) -> dict[str, Any]:
    """Value of the painter for an image and a mask.

    Args:
        image: the image, RGB.
        mask: (h, w), 0..1, of the image's size; nothing is marked if None.

    Returns:
        A value of the painter: the image below, and the mark as a layer above.
    """
    factor = CANVAS / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    below = image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)
    layers = []
    if mask is not None and mask.max() > 0:
        marked = Image.fromarray((mask * OPACITY).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)
        layer = Image.new("RGBA", size, BRUSH)
        layer.putalpha(marked)
        layers.append(fresh(layer))
    return {"background": fresh(below), "layers": layers, "composite": None}


def mask_of(painted: Mapping[str, Any] | None, size: tuple[int, int]) -> NDArray[np.float32] | None:
    """Mask from the value of the painter.

    Args:
        painted: its value, layers as RGBA images.
        size: (width, height) of the image itself.

    Returns:
        The mask, (h, w), 0 or 1; None if nothing is painted.
    """
    marked = np.zeros(size[::-1], bool)
    for layer in (painted or {}).get("layers") or []:
        alpha = layer.convert("RGBA").getchannel("A").point(lambda value: 255 if value > OPACITY // 8 else 0)
        marked |= np.asarray(alpha.resize(size, Image.Resampling.BOX)) >= 128  # half of the pixel is covered
    return marked.astype(np.float32) if marked.any() else None
