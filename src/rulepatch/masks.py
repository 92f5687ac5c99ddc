"""Reading of concept masks from files, arrays, tensors and images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rulepatch.errors import ImageError, MaskError
from rulepatch.images import NOTE, decoded, write_image
from rulepatch.mask_values import Drawing, MaskValue, weights_of
from rulepatch.reading import read_bytes

__all__ = ["MaskValue", "read_mask", "write_mask"]

SHARES = f"{NOTE}mask"
"""Says in a file of ours that its greys are shares, whatever they look like."""

LOSSY = frozenset({"JPEG", "MPO", "JPEG2000", "AVIF", "WEBP"})
"""Formats whose compression may have changed colours."""

MOST_BYTES = 1 << 30
"""Of an array in a file."""

CHANNELS = (3, 4)
"""Of colours, without and with opacity."""


def read_mask(
    source: Any, *, value: MaskValue | None = None, size: tuple[int, int] | None = None, name: str | None = None
) -> NDArray[np.float32]:
    """Read a mask: 1 where the concept is, 0 elsewhere, in between where its edge is soft.

    White is the concept, black or transparent the background, whether white is 1, 255, 65535 or true. Of other colours
    the one that is not the background is the concept, if there is one only: red on black, a label map with one class,
    a Pascal VOC mask with one object, whose void border is left out. Paint on a transparent layer is the concept.
    What can be read in several ways is refused, with the colours found; `value` then says which is meant.

    Args:
        source: a file (an image or `.npy`), the bytes of one, a PIL image of any mode, or an array or tensor of any
            type, (h, w), (1, h, w), (h, w, 1), or with 3 or 4 channels first or last.
        value: what of it is the concept: a level or entry of the palette (15), a colour ("#800000", "red"), "opaque",
            "transparent", or several of them ("1,15").
        size: (width, height) of the image that it belongs to.
        name: of the mask, for messages.

    Returns:
        Array (h, w), float32, 0..1.

    Raises:
        ImageError: the file cannot be read.
        MaskError: the mask has several readings or none, or another size than the image.

    Examples:
        >>> read_mask(np.array([[0, 255], [0, 0]])).tolist()
        [[0.0, 1.0], [0.0, 0.0]]
        >>> labels = np.array([[0, 1], [2, 0]], np.uint8)
        >>> read_mask(labels, value=2).tolist()
        [[0.0, 0.0], [1.0, 0.0]]
    """
    name = name or (f"the mask {source}" if isinstance(source, Path | str) else "the mask")
    drawing = _drawing(source, name)
    height, width = drawing.pixels.shape[:2]
    if size is None or size == (width, height):
        return np.ascontiguousarray(weights_of(drawing, value))
    if size == (height, width):
        advice = "it looks turned, as if drawn on the image as a camera stores it (EXIF): turn it upright"
    elif size[0] * height == size[1] * width:
        advice = f"resize it to {size[0]}x{size[1]}"
    else:
        advice = "paint it on the image itself"
    raise MaskError(f"expected {name} to have the image's size {size[0]}x{size[1]} but got {width}x{height}; {advice}")


def write_mask(mask: NDArray[np.float32], path: Path) -> None:
    """Write a mask as a PNG file, as `read_mask` reads it, rounded to 255 steps.

    Args:
        mask: array (h, w), 0..1.
        path: the file; one that is there is replaced.
    """
    picture = Image.fromarray((mask * 255).round().astype(np.uint8))
    picture.info[SHARES] = "shares of 255"
    write_image(picture, path)


def _drawing(source: Any, name: str) -> Drawing:
    if isinstance(source, Path | str) and Path(source).suffix.lower() == ".npy":
        content = read_bytes(Path(source), ImageError, what="an array", most=MOST_BYTES)
        try:
            return _of_array(np.load(io.BytesIO(content), allow_pickle=False), name)
        except MaskError:
            raise
        except Exception as error:  # of whatever a header says
            raise ImageError(
                f"expected an array in {source} but it cannot be read ({error}); replace the file"
            ) from None
    if isinstance(source, Path | str | bytes | Image.Image):
        return decoded(source, lambda image: _of_picture(image, name))
    if hasattr(source, "detach"):  # a tensor; torch is not loaded for it
        source = source.detach().cpu()
        source = (source.double() if source.is_floating_point() else source).numpy()
    try:
        return _of_array(np.asarray(source), name)
    except MaskError:
        raise
    except (ValueError, TypeError) as error:
        raise MaskError(f"expected {name} to be a file, image, array or tensor but got {error}; give one") from None


def _of_picture(image: Image.Image, name: str) -> Drawing:
    if SHARES in image.info and image.mode == "L":
        return Drawing(np.asarray(image, np.float32) / np.float32(255), shares=True, name=name)
    lossy = image.format in LOSSY
    index = np.asarray(image) if image.mode == "P" else None
    if image.mode in {"LA", "La", "PA", "RGBA", "RGBa"} or "transparency" in image.info:
        pixels = np.asarray(image.convert("RGBA"))
    elif image.mode in {"1", "L", "F"} or image.mode.startswith("I"):
        pixels = np.asarray(image)
    else:
        pixels = np.asarray(image.convert("RGB"))
    return Drawing(pixels, index, lossy=lossy, name=name)


def _of_array(array: NDArray[Any], name: str) -> Drawing:
    shape = array.shape
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim == 3 and array.shape[2] not in CHANNELS and array.shape[0] in CHANNELS:
        array = np.moveaxis(array, 0, 2)
    coloured = array.ndim == 3 and array.shape[2] in CHANNELS
    if array.dtype.kind not in "buif" or not array.size or not (array.ndim == 2 or coloured):
        raise MaskError(
            f"expected {name} to be numbers of shape (h, w), or colours of shape (h, w, 3), but got {array.dtype} of "
            f"shape {shape}; give one mask"
        )
    if array.dtype.kind == "f" and array.dtype != np.float32:
        array = array.astype(np.float64)
    return Drawing(_as_bytes(array, name) if coloured else array, is_array=not coloured, name=name)


def _as_bytes(colours: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Colours of any range in 0..255."""
    low, high = float(colours.min()), float(colours.max())
    white = next((white for white in (1, 255, 65535) if white >= high), None)
    if not low >= 0 or white is None:
        raise MaskError(
            f"expected {name} to lie in 0..1 or 0..255 but it has values from {low:g} to {high:g}; scale it"
        )
    if white == 255 and colours.dtype.kind in "iu":
        return colours.astype(np.uint8, copy=False)
    return (colours * (255 / white)).round().astype(np.uint8)
