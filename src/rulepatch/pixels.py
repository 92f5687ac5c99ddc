"""Numbers of any type, range and order of axes as pixels of 8 bits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rulepatch.errors import ImageError

__all__ = ["eight_bits", "image_of_array", "white_of"]

OVERSHOOT = 0.1
"""Overshoot beyond 0..1 that resizing with a sharp filter may cause."""

FILLED = 0.98
"""Share of a depth's white that data reach if they have that depth: photographs of it are bright somewhere."""

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def white_of(values: NDArray[Any]) -> float:
    """The number that stands for white, found from the data, as a file of 16 bits may hold 8, 10, 12 or 14.

    Numbers up to 1 that are no integers have white at 1, others up to 255 at 255. Up to 4095 they are taken for 12 bits
    as cameras, scanners and microscopes give them (all that true 16 bits would show is black), and for 10 or 14 bits
    only if they fill these. Multiples of 257 are 8 bits that were scaled up to 16, however dark.

    Args:
        values: of any shape, finite, not negative.

    Raises:
        ImageError: numbers beyond 1 of which only a small part of 0..255 is used, as after a normalisation.

    Examples:
        >>> [white_of(np.array([0, top])) for top in (200, 1023, 3000, 4095, 9000, 16383, 60000)]
        [255, 1023, 4095, 4095, 65535, 16383, 65535]
        >>> white_of(np.array([0.2, 0.9])), white_of(np.array([0, 257 * 60]))
        (1, 65535)
    """
    top = float(values.max(initial=0))
    if values.dtype.kind == "f" and top <= 8:
        if top <= 1 + OVERSHOOT:
            return 1
        if (values != np.floor(values)).any():
            raise ImageError(f"expected numbers in 0..1 or 0..255 but got up to {top:.3g}; leave out the normalisation")
    if top <= 255:
        return 255
    if top > 65535:
        return 2**31 - 1 if top < 2**31 else 2**32 - 1
    if top <= 16383 and not (values % 257).any():
        return 65535
    for white in (1023, 16383):
        if FILLED * white <= top <= white:
            return white
    return 4095 if top <= 4095 else 65535


def eight_bits(values: NDArray[Any], white: float | None = None) -> NDArray[np.uint8]:
    """Scale numbers of any type to 0..255.

    Args:
        values: of any shape; what is not a number is black.
        white: the number that stands for white; found from the data if None.

    Returns:
        An array of the same shape.

    Raises:
        ImageError: the numbers are no pixels.
    """
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        values = np.nan_to_num(values.astype(np.float64), posinf=np.max(values, where=finite, initial=0), neginf=0)
    values = np.clip(values, 0, None)
    share = np.minimum(values / (white_of(values) if white is None else white), 1)
    return np.asarray((share * 255).round(), np.uint8)


def image_of_array(array: NDArray[Any], *, channels_first: bool = False) -> Image.Image:
    """An image from an array, read as a file with the same numbers would be.

    Args:
        array: (h, w), (h, w, c) or (c, h, w) with 1 to 4 channels (grey, grey and opacity, RGB, RGBA); bool, integers,
            or floats in 0..1 or 0..255.
        channels_first: what three axes mean where both orders would do, as that of tensors.

    Returns:
        The image, with as many channels.

    Raises:
        ImageError: another shape or type, or numbers that are no pixels, as after a normalisation.

    Examples:
        >>> image_of_array(np.full((3, 20, 30), 0.5)).size
        (30, 20)
    """
    if array.ndim == 3 and array.shape[0] in _MODES and (channels_first or array.shape[2] not in _MODES):
        array = np.moveaxis(array, 0, -1)
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in {2, 3} or channels not in _MODES or not array.size or array.dtype.kind not in "buif":
        shape = "×".join(map(str, array.shape))
        raise ImageError(f"expected an array (h, w), (h, w, c) or (c, h, w) of numbers but got {shape} {array.dtype}")
    if array.dtype.kind == "f" or array.dtype.kind == "i":
        low, high = np.nanmin(array), np.nanmax(array)
        if low < (-OVERSHOOT if high <= 1 + OVERSHOOT else 0):
            got = f"{low:.3g}..{high:.3g}"
            raise ImageError(f"expected numbers in 0..1 or 0..255 but got {got}; leave out the normalisation")
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    if array.dtype != np.uint8:
        deep = array.dtype == np.uint16 and channels > 2 and white_of(array) == 65535
        array = (array >> 8).astype(np.uint8) if deep else eight_bits(array)  # Pillow reads 16-bit colours so
    return Image.fromarray(np.ascontiguousarray(array.reshape(*array.shape[:2]) if channels == 1 else array))
