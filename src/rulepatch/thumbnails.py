"""Thumbnails for pages, with masks outlined."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rulepatch.images import as_image, composite

__all__ = ["THUMBNAIL", "inline", "marked"]

THUMBNAIL = 128
"""Longer side of a thumbnail, in pixels."""

MARK = (230, 40, 120)
"""Colour of a mask that is laid over an image."""


def marked(image: Image.Image, mask: NDArray[np.float32]) -> Image.Image:
    """Lay a mask over an image in a colour through which the image shows.

    Args:
        image: the image.
        mask: array (h, w), 0..1, of the image's size.
    """
    return composite(as_image(image), Image.new("RGB", image.size, MARK), np.float32(0.65) * mask)


def inline(picture: Image.Image, side: int = THUMBNAIL) -> str:
    """An image as the address of itself, reduced to a longer side; small ones are enlarged pixel by pixel.

    Returns:
        A `data:` address.
    """
    small = as_image(picture).copy()
    if max(small.size) < side:
        factor = side // max(small.size)
        small = small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
