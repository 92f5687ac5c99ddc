"""A texture pasted over a region, in the light that was there: `paste`, the default. It needs no weights."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from rulepatch.concepts.stylize import Style, finished, picture_of_style, stylizer
from rulepatch.errors import SettingError
from rulepatch.images import blurred
from rulepatch.settings import Settings

__all__ = ["Paste", "PasteSettings", "feathered", "laid", "load", "shading"]

_GAIN = (0.4, 1.8)
"""Least and largest factor by which light changes a texture."""

_COARSE = 8
"""Pixels on a side that are averaged before the light is read."""


class PasteSettings(Settings):
    """Settings of `paste`."""

    title: ClassVar[str] = "settings of the stylizer paste"

    illumination: float = Field(
        default=0.5, ge=0, le=1, description="How far the texture takes over the region's light: 0 not at all, 1 fully."
    )
    feather: float = Field(
        default=0.015,
        ge=0,
        le=0.5,
        description="Width of the edge over which it fades in, as a share of the image's shorter side; it lies within "
        "the mask, so that nothing outside changes.",
    )


@dataclass(frozen=True)
class Paste:
    """Lays a texture over a region at its own scale, darkens and lightens it as the region was, and feathers its edge.

    Attributes:
        blend: share of the texture in the result, in 0..1.
        how: the settings.
        name: of the stylizer.
    """

    blend: float
    how: PasteSettings
    name: str = "paste"

    def describe(self) -> dict[str, Any]:
        """Name and settings."""
        return {"name": self.name, "blend": self.blend, **self.how.describe()}

    def __call__(self, image: Image.Image, mask: NDArray[np.float32], style: Style, *, seed: int = 0) -> Image.Image:
        """Paste the style's image; the seed says which part of it.

        Returns:
            The image with the texture in it.
        """
        texture = picture_of_style(image, mask, style)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return image.copy()
        # Only the part around the region is worked on; it is as if all of the image were.
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        inside = mask[box[1] : box[3], box[0] : box[2]]
        under = image.crop(box)
        over = laid(texture, under.size, seed)
        if self.how.illumination:
            gain = shading(under, inside) ** np.float32(self.how.illumination)
            lit = np.asarray(over, dtype=np.float32) * gain.clip(*_GAIN)[..., None] + np.float32(0.5)
            over = Image.fromarray(lit.clip(0, 255).astype(np.uint8))
        alpha = _feathered_in(mask, box, self.how.feather * min(image.size))
        result = image.copy()
        result.paste(finished(under, over, alpha, self.blend), box[:2])
        return result


@stylizer("paste", PasteSettings)
def load(rest: str, how: PasteSettings, *, blend: float, device: str | None = None) -> Paste:
    """The stylizer `paste`; it has no weights and runs on the CPU whatever the device.

    Raises:
        SettingError: something behind the name.
    """
    if rest:
        raise SettingError(f"expected the stylizer paste but got paste/{rest}; it takes nothing behind its name")
    return Paste(blend, how)


def laid(texture: Image.Image, size: tuple[int, int], seed: int) -> Image.Image:
    """A part of a texture, at its own scale; where it is too small it goes on as in a mirror.

    Args:
        texture: RGB.
        size: (width, height) of the part.
        seed: says which part.

    Returns:
        An image of that size.

    Examples:
        >>> laid(Image.new("RGB", (8, 8), "red"), (20, 5), seed=3).size
        (20, 5)
    """
    rng = np.random.default_rng(abs(seed))
    sides = list(zip(texture.size, size, strict=True))
    left, top = (int(rng.integers(have - need + 1 if have >= need else 2 * have)) for have, need in sides)
    if all(have >= need for have, need in sides):
        return texture.crop((left, top, left + size[0], top + size[1]))
    places = [(np.arange(need) + shift) % (2 * have) for (have, need), shift in zip(sides, (left, top), strict=True)]
    columns, rows = (np.minimum(at, 2 * have - 1 - at) for at, have in zip(places, texture.size, strict=True))
    return Image.fromarray(np.asarray(texture)[rows[:, None], columns])


def feathered(mask: NDArray[np.float32], width: float) -> NDArray[np.float32]:
    """Let a mask fade in from its edge inwards.

    Args:
        mask: array (h, w), 0..1.
        width: of the edge in pixels; less where the region is too thin for it.

    Returns:
        Array (h, w), float32, at most the mask, so 0 where it is 0.

    Examples:
        >>> alpha = feathered(np.array([[0, 0, 1, 1, 1, 1, 1, 1]], np.float32), 4.0)
        >>> [round(float(value), 1) for value in alpha[0, :4]]
        [0.0, 0.0, 0.2, 0.5]
    """
    while width >= 1:
        faded = mask * (2 * blurred(mask, width / 2) - 1).clip(0, 1)
        if faded.sum() >= 0.5 * mask.sum():
            return faded
        width /= 2
    return mask


def _feathered_in(mask: NDArray[np.float32], box: tuple[int, int, int, int], width: float) -> NDArray[np.float32]:
    """A feathered mask in the box (left, top, right, bottom) that holds all of it, from as much around as matters."""
    margin = math.ceil(3 * width)
    left, top = max(0, box[0] - margin), max(0, box[1] - margin)
    faded = feathered(mask[top : box[3] + margin, left : box[2] + margin], width)
    return faded[box[1] - top : box[3] - top, box[0] - left : box[2] - left]


def shading(image: Image.Image, mask: NDArray[np.float32]) -> NDArray[np.float32]:
    """How light each place of a region is compared with the whole of it, without its texture.

    Args:
        image: RGB.
        mask: array (h, w), 0..1, of the region; what is outside does not count.

    Returns:
        Array (h, w), float32, about 1 on average over the region.
    """
    height, width = mask.shape
    side = (max(1, width // _COARSE), max(1, height // _COARSE))
    weight = np.asarray(Image.fromarray(mask).resize(side, Image.Resampling.BOX))
    grey = Image.fromarray(np.asarray(image.convert("L"), dtype=np.float32) * mask)
    light = np.asarray(grey.resize(side, Image.Resampling.BOX))
    radius = max(1.0, max(side) / 10)
    smooth = [_smoothed(each, radius) for each in (light, weight)]
    average = float(light.sum() / weight.sum())
    low = (smooth[0] + np.float32(4e-3 * average + 1e-3)) / (smooth[1] + np.float32(4e-3))
    relative = low / np.float32(max(average, 1.0))
    return np.asarray(Image.fromarray(relative).resize((width, height), Image.Resampling.BILINEAR)).clip(0.05, 20)


def _smoothed(field: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """A field (h, w) after a Gaussian blur, borders repeated."""
    reach = int(3 * radius)
    steps = np.arange(-reach, reach + 1, dtype=np.float32)
    kernel = np.exp(-0.5 * (steps / radius) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        index = np.clip(np.arange(field.shape[axis])[:, None] + steps.astype(int), 0, field.shape[axis] - 1)
        matrix = np.zeros((field.shape[axis],) * 2, np.float32)
        np.add.at(matrix, (np.arange(field.shape[axis])[:, None], index), kernel)
        field = matrix @ field if axis == 0 else field @ matrix.T
    return field
