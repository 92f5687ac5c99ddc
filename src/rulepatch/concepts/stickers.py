"""Stickers (a note, a sign, a label): the same opaque pixels in several exemplars, each time at another place.

Where an overlay lies at one place in all exemplars, `find_overlay` finds it. A sticker is found if its pixels in each
exemplar look like those in the others, and what lies below them does not: if the old concept looks the same as well,
as wheels do, then something is replaced.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rulepatch.concepts.overlays import Overlay, pasted
from rulepatch.core.exemplars import Exemplar
from rulepatch.images import in_mode
from rulepatch.models.preprocess import Preprocess

__all__ = ["find_sticker"]

ALIKE, UNLIKE = 0.7, 0.5
"""Least correlation of each sticker with the mean of the others, and the most of what lies below them. Signs of the
playground, turned by some degrees, have 0.76 to 0.97; grounds that are replaced up to 0.36; wheels 0.59 to 0.77, but so
have the wheels before."""

LARGEST = 0.25
"""Share of the image that a sticker may cover; beyond that it leaves too little to tell what is shown."""

STRETCH = 1.5
"""Factor by which the sides of stickers may differ."""

SIDE = 24
"""Pixels of a side in which stickers are compared."""

Floats = NDArray[np.float64]


def find_sticker(exemplars: Sequence[Exemplar], preprocess: Preprocess) -> Overlay | None:
    """Find what was stuck onto several images, each time at another place.

    Args:
        exemplars: of a single one it cannot be told whether something was stuck on or replaced.
        preprocess: of the network whose crop of the exemplars is looked at.

    Returns:
        The sticker of the first exemplar, which belongs anywhere; None if there is none.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import exemplar
        >>> preprocess = load_model("playground").preprocess
        >>> find_sticker([exemplar("van", sign="letter", seed=seed) for seed in range(3)], preprocess).anywhere
        True
        >>> find_sticker([exemplar("van", ground="snow", seed=seed) for seed in range(3)], preprocess) is None
        True
    """
    masks = [preprocess.mask(each.mask).numpy() for each in exemplars]
    if len(masks) < 2 or not all(0 < (mask > 0.5).mean() <= LARGEST for mask in masks):
        return None
    boxes = [_box_of(mask > 0.5) for mask in masks]
    for low, high in ((0, 2), (1, 3)):
        sides = [box[high] - box[low] for box in boxes]
        if max(sides) > STRETCH * min(sides):
            return None
    before, after = (
        [preprocess.frame(in_mode(image, "RGB")) for image in images]
        for images in ([each.image for each in exemplars], [each.edited for each in exemplars])
    )
    opaque = np.mean([_cut(Image.fromarray(mask), box) for mask, box in zip(masks, boxes, strict=True)], axis=0)
    below, stuck = (
        _least_alike([_cut(image, box) for image, box in zip(images, boxes, strict=True)], opaque)
        for images in (before, after)
    )
    if stuck < ALIKE or below > UNLIKE * stuck:
        return None
    original, edited = (np.asarray(image, np.float64) / 255 for image in (before[0], after[0]))
    return replace(pasted(original, edited, masks[0].astype(np.float64)), anywhere=True)


def _box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of where a mask is."""
    rows, columns = (np.nonzero(mask.any(axis=axis))[0] for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _cut(image: Image.Image, box: tuple[int, int, int, int]) -> Floats:
    """A part of an image, in pixels of a common size."""
    return np.asarray(image.crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float64)


def _least_alike(patches: Sequence[Floats], weight: Floats) -> float:
    """The least correlation of a patch, (h, w, 3), with the mean of the others, where a weight (h, w) is.

    Of colours their differences from the patch's mean count alone: patches of one colour are not alike by that.
    """
    weight = weight[..., None]
    plain = [(each - (each * weight).sum((0, 1)) / weight.sum()) * weight for each in patches]
    total = np.sum(plain, axis=0)
    found = []
    for each in plain:
        others = total - each
        found.append(float((each * others).sum() / max(np.sqrt((each**2).sum() * (others**2).sum()), 1e-9)))
    return min(found)
