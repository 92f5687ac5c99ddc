"""Variants of exemplars: other crops of the same image, brighter or darker, before and after it was edited alike."""

from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance

from rulepatch.core.exemplars import Exemplar

__all__ = ["variants_of"]

SMALLEST_CROP = 0.6
"""Least share of the image's sides that a variant shows."""

LEAST_SHOWN = 0.5
"""Least area of the mask in a variant, relative to that in the exemplar."""

BRIGHTNESS = (0.8, 1.2)

MOST_TRIES = 20
"""Crops tried for one that shows the concept; then the whole image is taken."""


def variants_of(exemplar: Exemplar, count: int, *, seed: int = 0) -> list[Exemplar]:
    """Variants of an exemplar, in which the concept is still to be seen.

    Nothing is mirrored: what is written would not stay what it is.

    Args:
        exemplar: the exemplar.
        count: how many.
        seed: of the crops.

    Returns:
        Exemplars of the same size, label and name.

    Examples:
        >>> from rulepatch.playground.pictures import exemplar
        >>> given = exemplar("van", ground="snow", seed=1)
        >>> [each.image.size == given.image.size for each in variants_of(given, 2)]
        [True, True]
    """
    rng = np.random.default_rng(seed)
    return [_variant(exemplar, rng) for _ in range(count)]


def _variant(exemplar: Exemplar, rng: np.random.Generator) -> Exemplar:
    box = _crop(exemplar, rng)
    light = float(rng.uniform(*BRIGHTNESS))

    def seen(image: Image.Image) -> Image.Image:
        cropped = image.resize(image.size, Image.Resampling.BILINEAR, box)
        return ImageEnhance.Brightness(cropped).enhance(light)

    mask = Image.fromarray(exemplar.mask).resize(exemplar.image.size, Image.Resampling.BILINEAR, box)
    return replace(exemplar, image=seen(exemplar.image), edited=seen(exemplar.edited), mask=np.asarray(mask).clip(0, 1))


def _crop(exemplar: Exemplar, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A random part of the image, (left, top, right, bottom), of its own proportions."""
    width, height = exemplar.image.size
    for _ in range(MOST_TRIES):
        share = rng.uniform(SMALLEST_CROP, 1)
        left, top = rng.uniform(0, (1 - share) * width), rng.uniform(0, (1 - share) * height)
        box = (left, top, left + share * width, top + share * height)
        inside = exemplar.mask[round(box[1]) : round(box[3]), round(box[0]) : round(box[2])]
        if inside.size and inside.max() > 0.5 and inside.sum() >= LEAST_SHOWN * exemplar.mask.sum():
            return box
    return (0, 0, width, height)
