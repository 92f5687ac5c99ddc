"""Agreement between an exemplar's mask and the difference of its two images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from rulepatch.core.exemplars import WHOLE, Exemplar
from rulepatch.errors import ExemplarError, warn

__all__ = ["Agreement", "Change", "agreement", "check_agreement"]

Map = NDArray[np.float32]

CELLS = 32
"""Cells along the short side in which images are compared: compression hardly changes the mean of a cell."""

NOISE = 20.0
"""Change of a pixel's channels (of 255) by strong JPEG compression; proportionally less in larger cells."""

SLIGHT = 0.5
"""Largest change of a cell's mean by rounding, without compression."""

UNTOUCHED = 0.3
"""Share of bit-identical cells above which the images are taken as uncompressed."""

OTHER = "it may be the edited counterpart of another image: give its own, and the mask of what was edited"

TINY = 0.1
"""Share of the mask that must have changed."""

OVERLAP = 0.3
"""Overlap above which a rotated or inverted mask is suggested."""

TOUCHED = 0.02
"""Share of a cell under the mask above which the cell may change."""

MOST = 0.6
"""Share of a mask of the whole image that must have changed."""

TURNS: Mapping[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "mirrored": lambda map_: map_[:, ::-1],
    "turned upside down": lambda map_: map_[::-1],
    "turned by 180 degrees": lambda map_: map_[::-1, ::-1],
    "turned by 90 degrees to the left": lambda map_: np.rot90(map_),
    "turned by 90 degrees to the right": lambda map_: np.rot90(map_, -1),
    "transposed": lambda map_: map_.swapaxes(0, 1),
    "turned by 180 degrees and transposed": lambda map_: map_[::-1, ::-1].swapaxes(0, 1),
}
"""Transforms of EXIF orientations 2 to 8."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of a change and a mask. A cell counts as changed above a quarter of the typical change in the mask.

    Attributes:
        share: of the change that lies in the mask or at its edge, 0..1.
        beside: share of the area outside the mask that changed, 0..1.
        covered: share of the mask that changed, 0..1.
    """

    share: float
    beside: float
    covered: float

    @property
    def holds(self) -> bool:
        """Whether the mask is plausible: most of the change is inside it, and most of the outside did not change."""
        return self.share >= 0.5 and self.beside <= 0.5

    @property
    def is_close(self) -> bool:
        """Whether the mask clearly fits."""
        return self.share >= 0.8 and self.beside <= 0.25

    @property
    def overlap(self) -> float:
        """Overlap of change and mask, 0..1."""
        return self.share * self.covered


def agreement(change: Map, mask: Map) -> Agreement:
    """Compare a change with a mask.

    Args:
        change: how much changed, (h, w), 0 or more.
        mask: of the same shape, 0..1. Adjacent cells count as its edge, neither inside nor outside.

    Examples:
        >>> change, mask = np.zeros((8, 8), np.float32), np.zeros((8, 8), np.float32)
        >>> change[4:], mask[4:] = 9, 1
        >>> agreement(change, mask)
        Agreement(share=1.0, beside=0.0, covered=1.0)
        >>> agreement(change, mask[::-1]).holds
        False
    """
    widened = Image.fromarray(np.ascontiguousarray(mask * 255, np.uint8)).filter(ImageFilter.MaxFilter(3))
    edged = np.asarray(widened, np.float64) / 255 > TOUCHED  # strokes may be thinner than a cell
    changed = change > _mean(change, mask) / 4
    return Agreement(_mean(edged, change * changed), _mean(changed, 1 - edged), _mean(changed, mask))


def _mean(values: NDArray[Any], weights: NDArray[Any]) -> float:
    """The weighted mean, 0 where there is no weight."""
    whole = float(weights.sum(dtype=np.float64))
    return float((values * weights).sum(dtype=np.float64)) / whole if whole else 0.0


@dataclass(frozen=True, eq=False)
class Change:
    """How much of an image changed, cell by cell.

    Attributes:
        cells: change of each cell's mean, (h, w), 0..255, after subtraction of the change by compression.
        raw: the change before the subtraction.
        noise: average difference of a cell's mean by compression alone.
        worst: largest such difference.
    """

    cells: Map
    raw: Map
    noise: float
    worst: float

    @classmethod
    def between(cls, image: Image.Image, edited: Image.Image) -> Self:
        """Compare two images of one size.

        Examples:
            >>> grey, red = Image.new("RGB", (64, 64), "grey"), Image.new("RGB", (64, 64), "red")
            >>> float(Change.between(grey, red).cells.mean().round())
            118.0
        """
        side = _side(image.size)
        before, after = (np.asarray(each.convert("RGB").reduce(side), np.float32) for each in (image, edited))
        raw = np.abs(after - before).mean(axis=2)
        usual = NOISE / side
        if (raw == 0).mean() >= UNTOUCHED:
            return cls(raw, raw, SLIGHT, worst=usual)
        everywhere = min(3 * float(np.quantile(raw, 0.25)), usual)
        return cls(np.maximum(raw - everywhere, 0), raw, usual, worst=6 * usual)

    def is_nothing(self, mask: Map) -> bool:
        """Whether the whole change can be explained by compression.

        Args:
            mask: cell by cell, 0..1.

        Returns:
            Whether the two images may be copies of one image.
        """
        inside, beside = _mean(self.raw, mask), _mean(self.raw, 1 - mask)
        most = self.worst if inside <= 4 * (beside + SLIGHT) else self.worst / 2
        return bool(self.raw.mean() <= self.noise and inside <= 1.5 * self.noise and self.raw.max() <= most)


def check_agreement(exemplar: Exemplar, *, whole_image: bool = False) -> None:
    """Check that the image, edited image and mask of an exemplar are consistent.

    Args:
        exemplar: an exemplar in whose edited image the concept is replaced.
        whole_image: whether to take the whole image instead of the mask.

    Raises:
        ExemplarError: the images are identical, or the edited region lies outside the mask.
    """
    name, change = exemplar.name, Change.between(exemplar.image, exemplar.edited)
    mask = np.asarray(Image.fromarray(exemplar.mask, mode="F").reduce(_side(exemplar.image.size)))
    if change.is_nothing(np.ones_like(mask) if whole_image else mask):
        raise ExemplarError(
            f"expected the edited image of {name} to show something in the concept's place but it is the image "
            "itself; give the edited one, or a texture as the replacement"
        )
    if whole_image:
        return
    found = agreement(change.cells, mask)
    if not found.is_close:
        fitting = _what_fits(exemplar, change.cells, mask)
        told = f"{name} to be edited where its mask is but {_told(found)}"
        if not found.holds:
            raise ExemplarError(f"expected {told}; {fitting or OTHER}")
        if fitting or found.beside > 0.25:
            warn(f"expected {told}; {fitting or OTHER}")
    elif exemplar.mask.mean() >= WHOLE and found.covered < MOST:
        warn(
            f"the mask of {name} covers the whole image, of which {found.covered:.0%} was edited; mark the concept "
            "alone, or say whole_image=True if everything is meant"
        )
    elif found.covered < TINY:
        warn(
            f"only {found.covered:.0%} of what the mask of {name} covers was edited, yet all of it counts as the "
            "concept; mark the concept alone"
        )


def _told(found: Agreement) -> str:
    if found.share < 0.8:
        return f"{1 - found.share:.0%} of what changed lies beside it"
    return f"{found.beside:.0%} of what is beside it changed as well"


def _what_fits(exemplar: Exemplar, change: Map, mask: Map) -> str:
    """Advice for making the mask and the edited image fit; empty if there is none."""
    trials = {"inverted": 1 - mask} | {how: turn(mask) for how, turn in TURNS.items()}
    found = {how: agreement(change, trial) for how, trial in trials.items() if trial.shape == change.shape}
    found = {how: each for how, each in found.items() if each.is_close and each.overlap >= OVERLAP}
    best = max((each.overlap for each in found.values()), default=0.0)
    fitting = [how for how, each in found.items() if each.overlap >= best - 0.05]
    if fitting:
        why = ""
        if set(fitting) & set(TURNS):
            why = ": was it drawn on the image as the camera stored it, before its EXIF orientation turned it?"
        return f"the mask fits if it is {' or '.join(fitting)}{why}"
    for how, turn in TURNS.items():
        edited = Image.fromarray(np.ascontiguousarray(turn(np.asarray(exemplar.edited.convert("RGB")))))
        if edited.size == exemplar.image.size:
            again = agreement(Change.between(exemplar.image, edited).cells, mask)
            if again.is_close:
                return f"the edited image fits if it is {how}: was its EXIF orientation lost?"
    return ""


def _side(size: tuple[int, int]) -> int:
    return max(1, min(size) // CELLS)
