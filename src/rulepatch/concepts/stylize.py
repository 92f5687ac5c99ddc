"""Styles, and stylizers that give them to a region of an image (paper 3 and 4): what test cases are made with.

A style is one image (of snow, say) and words for it. A stylizer takes an image, a mask and a style, and returns the
image with the masked region in that style and all else untouched, to the bit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rulepatch.digests import digest_of_bytes, digest_of_json
from rulepatch.errors import FolderError, ImageError, SettingError, nearest
from rulepatch.images import SUFFIXES, composite, read_image
from rulepatch.registry import Registry
from rulepatch.settings import Settings

__all__ = [
    "BLEND",
    "COUNT",
    "PICTURES",
    "STYLES",
    "NoSettings",
    "Style",
    "Stylizer",
    "check_parts",
    "file_name",
    "finished",
    "load_stylizer",
    "picture_of_style",
    "styles",
    "stylizer",
    "stylizers",
]

BLEND = 0.8
"""Share of the style in the result by default, the rest being the original (paper, appendix)."""

STYLES = ("black and white", "floral", "fall colours", "furry", "graffiti", "gravel", "snow", "wood")
"""The eight styles of the paper, by name."""

COUNT = 5
"""Images of each style."""

PICTURES = Path(__file__).parent / "style_pictures"
"""Where the images are that come with rulepatch; `tools/textures.py` rendered them."""


def file_name(style: str, index: int) -> str:
    """Return the name of the file that holds an image.

    Examples:
        >>> file_name("fall colours", 2)
        'fall-colours-2.jpg'
    """
    return f"{style.replace(' ', '-')}-{index}.jpg"


@dataclass(frozen=True, eq=False)
class Style:
    """One instance of a style.

    Attributes:
        name: of the style, "snow".
        index: which of its images.
        picture: a texture or an example of the style, RGB; None for a style that is only words.
        prompt: words for stylizers that work by words; the name if empty.
    """

    name: str
    index: int = 0
    picture: Image.Image | None = field(default=None, repr=False)
    prompt: str = ""

    def __post_init__(self) -> None:
        if self.picture is not None and self.picture.mode != "RGB":
            raise ImageError(f"expected a style's image in RGB but got one in {self.picture.mode}; convert it")
        if not self.prompt:
            object.__setattr__(self, "prompt", self.name)

    def digest(self) -> str:
        """Digest of all that the style is: name, index, words, and the pixels of the image.

        Returns:
            SHA-256, in hexadecimal.
        """
        pixels = None if self.picture is None else [self.picture.size, digest_of_bytes(self.picture.tobytes())]
        return digest_of_json([self.name, self.index, self.prompt, pixels])


class Stylizer(Protocol):
    """A way to give a region of an image a style."""

    @property
    def name(self) -> str:
        """The name that it is loaded by, without what follows a slash."""

    def describe(self) -> dict[str, Any]:
        """A JSON object of the name, the digest of the weights and every setting: equal for equal behaviour."""

    def __call__(self, image: Image.Image, mask: NDArray[np.float32], style: Style, *, seed: int = 0) -> Image.Image:
        """The image, RGB and of the same size, with the style where the mask is not 0, and bit-identical where it is.

        It is determined by the arguments alone.
        """


class NoSettings(Settings):
    """The settings of a stylizer that has none of its own."""

    title: ClassVar[str] = "settings of this stylizer"


Factory = TypeVar("Factory", bound=Callable[..., Stylizer])


@dataclass(frozen=True)
class _Kind:
    """A kind of stylizer: the function that loads one, and the class of its settings."""

    load: Callable[..., Stylizer]
    settings: type[Settings]


_STYLIZERS = Registry[_Kind](
    "stylizer",
    {
        "playground": "rulepatch.concepts.stylizers.playground",
        "paste": "rulepatch.concepts.stylizers.paste",
        "gatys": "rulepatch.concepts.stylizers.gatys",
        "adain": "rulepatch.concepts.stylizers.adain",
        "ghiasi": "rulepatch.concepts.stylizers.ghiasi",
        "inpainting": "rulepatch.concepts.stylizers.inpainting",
    },
    group="rulepatch.stylizers",
)


def stylizer(name: str, settings: type[Settings] = NoSettings) -> Callable[[Factory], Factory]:
    """Register a function that loads a stylizer: `load(rest, how, *, blend, device)`.

    `rest` is what follows the name and a slash, and `how` the settings.

    Args:
        name: of the stylizer.
        settings: the class of the settings that it alone has, each with a default.

    Returns:
        A decorator.
    """
    return _STYLIZERS.register(name, lambda load: _Kind(load, settings))


def stylizers() -> list[str]:
    """Names of all stylizers, sorted."""
    return _STYLIZERS.names()


def load_stylizer(
    name: str, *, blend: float = BLEND, device: str | None = None, settings: Mapping[str, Any] | None = None
) -> Stylizer:
    """Load a stylizer by name.

    Args:
        name: `paste`, `gatys` or `gatys/WEIGHTS`, `adain/ENCODER+DECODER`, `ghiasi/FOLDER`, `inpainting/ID-or-FOLDER`,
            or a name that another package registers.
        blend: share of the style in the result, in 0..1; the rest is the original.
        device: where to run; the CPU if None.
        settings: of that stylizer alone, such as `steps` of `gatys`.

    Raises:
        MissingExtraError: a library is not installed.
        SettingError: no such stylizer, a setting that it does not take, or a value out of range.
        WeightsError: weights that are missing, damaged or of another architecture.

    Examples:
        >>> paste, (snow, *_) = load_stylizer("paste"), styles(["snow"])
        >>> picture = Image.new("RGB", (96, 64), "dimgrey")
        >>> mask = np.zeros((64, 96), np.float32)
        >>> mask[32:] = 1
        >>> snowy = paste(picture, mask, snow)
        >>> snowy.getpixel((40, 10)), snowy.getpixel((40, 60)) > (120, 120, 120)
        ((105, 105, 105), True)
    """
    _, _, rest = name.partition("/")
    found = _STYLIZERS[name]
    if not 0 <= blend <= 1:
        raise SettingError(f"expected a blend in 0..1 but got {blend}; choose within")
    return found.load(rest, found.settings.of(settings or {}), blend=blend, device=device)


def styles(names: Sequence[str] | None = None, *, folder: Path | None = None) -> list[Style]:
    """The styles that come with rulepatch, or a user's own.

    Args:
        names: of styles; all there are if None.
        folder: holds a folder of images for each style, FOLDER/STYLE/*.jpg; the eight styles of `STYLES` if None.

    Returns:
        Every instance of each style, in the order of the names and their images.

    Raises:
        FolderError: the folder is missing or holds no images.
        ImageError: an image that cannot be read.
        SettingError: no style of a name.

    Examples:
        >>> [(style.name, style.index) for style in styles(["snow"])]
        [('snow', 0), ('snow', 1), ('snow', 2), ('snow', 3), ('snow', 4)]
    """
    if folder is None:
        files = {name: [PICTURES / file_name(name, index) for index in range(COUNT)] for name in STYLES}
    else:
        files = _style_folders(Path(folder))
    for name in names or ():
        if name not in files:
            raise SettingError(f"expected a style but got {name!r}; the nearest are {nearest(name, files)}")
    return [
        Style(name, index, read_image(path))
        for name in (files if names is None else names)
        for index, path in enumerate(files[name])
    ]


def _style_folders(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise FolderError(f"expected a folder of styles at {folder} but there is none; check the path")
    found = {
        each.name: sorted(path for path in each.iterdir() if path.suffix.lower() in SUFFIXES)
        for each in sorted(folder.iterdir())
        if each.is_dir()
    }
    found = {name: paths for name, paths in found.items() if paths}
    if not found:
        raise FolderError(f"expected images in {folder}/STYLE/ but found none; make a folder for each style")
    return found


def picture_of_style(image: Image.Image, mask: NDArray[np.float32], style: Style) -> Image.Image:
    """The image of a style, for a stylizer that cannot do without, after checking that all parts fit together.

    Args:
        image: the image, RGB.
        mask: array (h, w), 0..1, of its size.
        style: the style.

    Returns:
        The style's image, RGB.

    Raises:
        ImageError: an image that is not in RGB, or a mask that does not fit it.
        SettingError: a style that is only words.
    """
    check_parts(image, mask)
    if style.picture is None:
        raise SettingError(
            f"expected a style with an image but {style.name!r} is only words; give it one, or use inpainting"
        )
    return style.picture


def check_parts(image: Image.Image, mask: NDArray[np.float32]) -> None:
    """Make sure that an image and a mask can be worked with.

    Raises:
        ImageError: the image is not in RGB, or the mask is of another size or not in 0..1.
    """
    if image.mode != "RGB":
        raise ImageError(f"expected an image in RGB but got one in {image.mode}; convert it")
    if mask.shape != (image.height, image.width):
        raise ImageError(
            f"expected a mask (h, w) of {(image.height, image.width)} but got {mask.shape}; resize it to the image"
        )
    if not (mask.min() >= 0 and mask.max() <= 1):  # NaN, too
        raise ImageError(f"expected a mask in 0..1 but got {mask.min()}..{mask.max()}; divide it by its white")


def finished(image: Image.Image, stylized: Image.Image, mask: NDArray[np.float32], blend: float) -> Image.Image:
    """What every stylizer ends with: blend its result with the image, inside the mask alone.

    Args:
        image: the image, RGB.
        stylized: all of it in the style; resized to the image's size if it is of another.
        mask: array (h, w), 0..1.
        blend: share of the result, in 0..1.

    Returns:
        An RGB image of the same size, bit-identical where the mask is 0.

    Examples:
        >>> black, white = Image.new("RGB", (2, 1)), Image.new("RGB", (2, 1), "white")
        >>> list(finished(black, white, np.array([[0, 1]], np.float32), 0.8).tobytes())
        [0, 0, 0, 204, 204, 204]
    """
    if stylized.size != image.size:
        stylized = stylized.resize(image.size, Image.Resampling.BICUBIC)
    return composite(image, stylized, mask * np.float32(blend))
