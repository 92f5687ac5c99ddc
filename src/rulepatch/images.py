"""Pictures and masks as a person sees them, and what is painted over what.

A picture is a PIL image in mode RGB; a mask is a float32 array (h, w) in 0..1, 1 where the concept is.
"""

import base64
import io
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFilter, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from rulepatch.errors import ImageError

__all__ = [
    "NOTE",
    "SUFFIXES",
    "THUMBNAIL",
    "blurred",
    "composite",
    "cover",
    "inline",
    "marked",
    "read_image",
    "write_image",
]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Endings of the files that count as pictures in a folder."""

NOTE = "rulepatch:"
"""What the names of texts begin with that a picture carries for us in its `info`, and takes along into a PNG file."""

THUMBNAIL = 128
"""Longer side of a thumbnail, in pixels."""

MARK = (230, 40, 120)
"""Colour of a mask that is laid over a picture."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a picture of each EXIF orientation."""

_FILTERS = threading.Lock()


def read_image(source: Path | str | bytes, *, under: str = "white") -> Image.Image:
    """Read a picture as a person sees it, in RGB.

    The camera's rotation (EXIF) is applied, 16-bit grey is scaled to 8 bits, palettes and CMYK are converted,
    transparency is laid on white, and of an animation the first frame is taken.

    Args:
        source: a file, or the bytes of one.
        under: colour that shows through where the picture is transparent.

    Returns:
        The picture.

    Raises:
        ImageError: the file is missing, is no picture, is cut short, or is dangerously large.
    """
    name = "the picture" if isinstance(source, bytes) else str(source)
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        with _strict_of_size_alone():
            image = Image.open(io.BytesIO(content))
        image.load()
        with _strict_of_size_alone():
            turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        return _to_rgb(image if turn is None else image.transpose(turn), under)
    except FileNotFoundError:
        raise ImageError(f"expected a picture at {name} but there is no such file; check the path") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            f"expected a picture of at most {Image.MAX_IMAGE_PIXELS} pixels but {name} has more; make it smaller"
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Warning) as error:
        reason = "it is no picture" if isinstance(error, UnidentifiedImageError) else str(error).rstrip(".")
        raise ImageError(f"expected a readable picture but got {name} ({reason}); replace the file") from None


def write_image(image: Image.Image, path: Path) -> None:
    """Write a picture as a PNG file, with the texts that it carries for us.

    Args:
        image: the picture.
        path: the file; one that is there is replaced.

    Examples:
        >>> import tempfile
        >>> picture = Image.new("RGB", (4, 4))
        >>> picture.info["rulepatch:scene"] = "a van"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_image(picture, Path(folder) / "van.png")
        ...     read_image(Path(folder) / "van.png").info["rulepatch:scene"]
        'a van'
    """
    texts = PngInfo()
    for name, text in image.info.items():
        if isinstance(name, str) and name.startswith(NOTE) and isinstance(text, str):
            texts.add_itxt(name, text)
    image.save(path, pnginfo=texts)


def cover(texture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Lay a texture over a picture: its centre at its own scale, enlarged only as far as it is too small.

    Args:
        texture: of any size.
        size: (width, height) of the picture.

    Returns:
        A picture of that size.

    Examples:
        >>> cover(Image.new("RGB", (300, 100)), (50, 150)).size
        (50, 150)
    """
    scale = max(1, size[0] / texture.width, size[1] / texture.height)
    if scale > 1:
        enlarged = (math.ceil(texture.width * scale), math.ceil(texture.height * scale))
        texture = texture.resize(enlarged, Image.Resampling.BICUBIC)
    left, top = (texture.width - size[0]) // 2, (texture.height - size[1]) // 2
    return texture.crop((left, top, left + size[0], top + size[1]))


def composite(image: Image.Image, replacement: Image.Image, mask: NDArray[np.float32]) -> Image.Image:
    """Paint a replacement over a picture where a mask is 1, mixing both where it is between 0 and 1.

    Args:
        image: the picture, RGB.
        replacement: a texture of any size, laid over the picture by `cover`.
        mask: array (h, w), 0..1, of the picture's size.

    Returns:
        An RGB picture, equal to `image` where the mask is 0.
    """
    share = mask[..., None]
    mixed = np.asarray(image) * (1 - share) + np.asarray(cover(replacement, image.size)) * share
    return Image.fromarray(mixed.round().astype(np.uint8))


def marked(image: Image.Image, mask: NDArray[np.float32]) -> Image.Image:
    """Lay a mask over a picture in a colour through which the picture shows.

    Args:
        image: the picture.
        mask: array (h, w), 0..1, of the picture's size.

    Returns:
        An RGB picture.
    """
    return composite(image.convert("RGB"), Image.new("RGB", image.size, MARK), np.float32(0.65) * mask)


def inline(picture: Image.Image, side: int = THUMBNAIL) -> str:
    """A picture as the address of itself, reduced to a longer side; small ones are enlarged pixel by pixel.

    Returns:
        A `data:` address.
    """
    small = picture.convert("RGB")
    if max(small.size) < side:
        factor = side // max(small.size)
        small = small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def blurred(mask: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """Soften the edges of a mask, inwards and outwards alike.

    Args:
        mask: array (h, w), 0..1.
        radius: standard deviation of the blur in pixels.

    Returns:
        Array (h, w), float32, 0..1 in steps of 1/255.

    Examples:
        >>> edge = blurred(np.repeat([[0, 1]], 8, axis=1).astype(np.float32).repeat(9, axis=0), 2.0)
        >>> bool((np.diff(edge[4]) >= 0).all()), bool(edge[4, 0] < 0.1 < 0.9 < edge[4, -1])
        (True, True)
    """
    picture = Image.fromarray((mask * np.float32(255)).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


@contextmanager
def _strict_of_size_alone() -> Iterator[None]:
    """Make an error of the warning of too many pixels, silence others; one thread at a time, as they share filters."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _to_rgb(image: Image.Image, under: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16-bit and wider grey: PIL's own conversion would clip, not scale
        grey = np.asarray(image, dtype=np.float64)
        grey = np.nan_to_num(grey, posinf=np.max(grey, where=np.isfinite(grey), initial=0))
        white = 65535 if image.mode.startswith("I") else 1 if grey.max() <= 1 else 255
        return Image.fromarray((np.clip(grey / white, 0, 1) * 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, under), layer).convert("RGB")
    return image.convert("RGB")
