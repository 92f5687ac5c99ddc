"""Reading images and masks in display orientation, and compositing.

An image is a PIL image in mode RGB, or RGBA where a network sees its transparency, too; a mask is a float32 array
(h, w) in 0..1, 1 where the concept is.
"""

import io
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFilter, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from rulepatch.errors import ImageError
from rulepatch.files import write_file
from rulepatch.pixels import eight_bits, image_of_array, white_of
from rulepatch.reading import read_bytes

__all__ = [
    "FORMATS",
    "NOTE",
    "SUFFIXES",
    "as_image",
    "blurred",
    "composite",
    "cover",
    "decoded",
    "has_alpha",
    "image_bytes",
    "in_mode",
    "read_image",
    "write_image",
]

Decoded = TypeVar("Decoded")

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "SGI", "PCX", "TGA")
"""Supported formats by Pillow's names; none that starts another program, as EPS does."""

SUFFIXES = frozenset(
    suffix
    for suffix, kind in Image.registered_extensions().items()
    if (kind in FORMATS and kind in Image.OPEN) or kind == "MPO"
)
"""Endings of the files that count as images in a folder: those of the formats that this Pillow reads."""

NOTE = "rulepatch:"
"""Prefix of our entries in an image's `info`, which PNG files keep."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition for each EXIF orientation."""

_ORIENTING = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
"""Metadata that is invalid after an image is transposed."""

MOST_BYTES = 400_000_000
"""Most memory for what an image is decoded and converted in: 89 million pixels in RGB, 50 with transparency."""

MOST_OF_A_FILE = 2**29
"""Bytes of an image's file."""

STRIP = 2**20
"""Pixels that are converted at a time."""

_FILTERS = threading.Lock()


def read_image(source: Path | str | bytes, *, under: str = "white", alpha: bool = False) -> Image.Image:
    """Read an image in display orientation, in RGB.

    The camera's rotation (EXIF) is applied, 16-bit grey is scaled to 8 bits, palettes and CMYK are converted,
    transparency is laid on white, and of an animation the first frame is taken.

    Args:
        source: a file, or the bytes of one.
        under: colour that shows through where the image is transparent.
        alpha: keep the transparency of an image that has any, as a fourth channel: RGBA.

    Raises:
        ImageError: the file is missing, is no image, is cut short, or is dangerously large.
    """
    name = "the image" if isinstance(source, bytes) else str(source)
    with _in_sentences(name):
        return _in_kept_mode(_upright(_opened(source)), under, alpha)


def image_bytes(path: Path) -> bytes:
    """The bytes of an image's file, unread.

    Args:
        path: a regular file of at most `MOST_OF_A_FILE` bytes; links are followed.

    Raises:
        ImageError: there is none, or it cannot be read.
    """
    if not path.exists() and not path.is_symlink():
        raise ImageError(f"expected an image at {path} but there is no such file; check the path")
    return read_bytes(path, ImageError, what="an image", most=MOST_OF_A_FILE)


def as_image(source: Any, *, under: str = "white", alpha: bool = False, name: str = "the image") -> Image.Image:
    """An image in memory in display orientation, as `read_image` reads its file.

    Args:
        source: a PIL image of any mode, an array (h, w), (h, w, c) or (c, h, w), or a tensor (c, h, w); bool, integers,
            or floats in 0..1 or 0..255.
        under: colour that shows through where the image is transparent.
        alpha: keep the transparency of an image that has any, as a fourth channel: RGBA.
        name: of the image, for messages.

    Returns:
        The image; the same object if there is nothing to do.

    Raises:
        ImageError: it is no image, or its file turns out to be damaged.

    Examples:
        >>> as_image(np.full((4, 6), 1.0)).getpixel((0, 0))
        (255, 255, 255)
    """
    with _in_sentences(name):
        if isinstance(source, Image.Image):
            return _in_kept_mode(_upright(source), under, alpha)
        is_tensor = hasattr(source, "detach") and hasattr(source, "cpu")
        if is_tensor:
            source = source.detach().cpu()
            source = np.asarray(source.float() if source.is_floating_point() else source)
        if not isinstance(source, np.ndarray):
            raise ImageError(f"expected an image but got {type(source).__name__}; give a PIL image or an array")
        return _in_kept_mode(image_of_array(source, channels_first=is_tensor), under, alpha)


def decoded(source: Path | str | bytes | Image.Image, convert: Callable[[Image.Image], Decoded]) -> Decoded:
    """Convert an image of any mode, in display orientation.

    Args:
        source: a file, the bytes of one, or an open image.
        convert: takes the image; its `format` is that of the file.

    Raises:
        ImageError: the file is missing, is no image, is cut short, or is dangerously large.
    """
    with _in_sentences(str(source) if isinstance(source, Path | str) else "the image"):
        image = source if isinstance(source, Image.Image) else _opened(source)
        return convert(_upright(image))


def has_alpha(image: Image.Image) -> bool:
    """Whether an image has transparency."""
    return image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info


def in_mode(image: Image.Image, mode: str, *, under: str = "white") -> Image.Image:
    """An image in display orientation in a mode of Pillow.

    Wide grey is scaled to 8 bits, and transparency laid on a colour unless the mode keeps it.

    Args:
        image: in any mode.
        mode: L, LA, RGB or RGBA.
        under: colour that shows through where the image is transparent.

    Returns:
        The image itself if it has that mode.

    Examples:
        >>> in_mode(Image.new("RGBA", (1, 1), (9, 9, 9, 0)), "L").getpixel((0, 0))
        255
    """
    if image.mode == mode and (mode.endswith("A") or not has_alpha(image)):
        return image
    if mode.endswith("A") and has_alpha(image):
        return image.convert("RGBA").convert(mode)
    return _to_rgb(image, under).convert(mode)


def write_image(image: Image.Image, path: Path) -> None:
    """Write an image as a PNG file, with the texts that it carries for us.

    Args:
        image: the image.
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
    with io.BytesIO() as made:
        image.save(made, "PNG", pnginfo=texts)
        write_file(path, made.getvalue())


def cover(texture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Lay a texture over an image: its centre at its own scale, enlarged only as far as it is too small.

    Args:
        texture: of any size.
        size: (width, height) of the image.

    Returns:
        An image of that size.

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
    """Paint a replacement over an image where a mask is 1, mixing both where it is between 0 and 1.

    Args:
        image: the image.
        replacement: a texture of any size, laid over the image by `cover`.
        mask: array (h, w), 0..1, of the image's size.

    Returns:
        An image in RGB, or RGBA if `image` is transparent, equal to it where the mask is 0.
    """
    image, share = as_image(image, alpha=True), mask[..., None]
    texture = cover(in_mode(replacement, image.mode), image.size)
    mixed = np.asarray(image) * (1 - share) + np.asarray(texture) * share
    return Image.fromarray(mixed.round().astype(np.uint8))


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
def _in_sentences(name: str) -> Iterator[None]:
    """Say in a sentence why an image cannot be read."""
    try:
        yield
    except ImageError as error:
        raise (error if name in str(error) else ImageError(f"{error} ({name})")) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            f"expected an image of at most {Image.MAX_IMAGE_PIXELS} pixels but {name} has more; make it smaller"
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, Warning) as error:
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else str(error).rstrip(".")
        raise ImageError(f"expected a readable image but got {name} ({reason}); replace the file") from None


@contextmanager
def _strict_of_size_alone() -> Iterator[None]:
    """Make an error of the warning of too many pixels, silence others; one thread at a time, as they share filters."""
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _opened(source: Path | str | bytes) -> Image.Image:
    content = source if isinstance(source, bytes) else image_bytes(Path(source))
    with _strict_of_size_alone():
        return Image.open(io.BytesIO(content), formats=[kind for kind in FORMATS if kind in Image.OPEN])


def _upright(image: Image.Image) -> Image.Image:
    """Transpose by the EXIF orientation and drop the tag, so that it is not applied twice."""
    halved = any(";16" in str(tile) for tile in getattr(image, "tile", ()))  # Pillow reads half the bits of a colour
    _check_room(image)
    image.load()
    if halved and image.mode.startswith("RGB") and 0 < np.max(image.getextrema()[:3]) < 16:
        raise ImageError("expected colours of 16 bits but got 12 at most, too dark to be read; save it with 8 bits")
    with _strict_of_size_alone():
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if turn is None:
        return image
    _check_room(image, turned=True)
    turned = image.transpose(turn)
    turned.format = image.format
    turned.info = {key: value for key, value in image.info.items() if key not in _ORIENTING}
    return turned


def _check_room(image: Image.Image, *, turned: bool = False) -> None:
    """Make sure that there is room for an image, and for what it is converted to if it is not in RGB."""
    each = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}.get(image.mode, 4)
    each += max(4 if has_alpha(image) or image.mode not in {"RGB", "L"} else 0, each if turned else 0)
    if image.width * image.height * each > MOST_BYTES:
        raise ImageError(
            f"expected an image of at most {MOST_BYTES // each // 10**6} million pixels of mode {image.mode} but got "
            f"{image.width}×{image.height}; make it smaller"
        )


def _in_kept_mode(image: Image.Image, under: str, alpha: bool) -> Image.Image:
    return in_mode(image, "RGBA" if alpha and has_alpha(image) else "RGB", under=under)


def _white(image: Image.Image) -> float:
    """The white level: of the header if that is reliable, or else by the data."""
    if image.format == "PPM" and image.mode.startswith("I"):  # Pillow has scaled it by the header
        return 65535
    bits = getattr(image, "tag_v2", {}).get(258, (16,))
    if bits == (12,):
        return 4095
    values = np.asarray(image)
    return white_of(np.clip(values[np.isfinite(values)], 0, None) if values.dtype.kind in "if" else values)


def _to_rgb(image: Image.Image, under: str) -> Image.Image:
    """An image in RGB, made in strips, as what lies between takes several times its memory."""
    if image.mode.startswith(("I", "F")):  # 16-bit and wider grey: PIL's own conversion would clip, not scale
        white = _white(image)
        return _in_strips(image, lambda strip: Image.fromarray(eight_bits(np.asarray(strip), white)).convert("RGB"))
    if not has_alpha(image):
        return image.convert("RGB")

    def laid(strip: Image.Image) -> Image.Image:
        layer = strip.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, under), layer).convert("RGB")

    return _in_strips(image, laid)


def _in_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    done = Image.new("RGB", image.size)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        strip.info = image.info  # with the colour that is transparent
        done.paste(convert(strip), (0, top))
    return done
