"""Which colours a drawing has, though its edges may be soft and compression may have changed some of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALIKE", "BESIDE", "FEW", "Colours", "chroma", "distances", "grid", "nearest", "ring"]

GRID = 128
"""Which colours a mask has is found out on a grid of at most so many pixels a side: there soft edges are thin."""

FEW = 32
"""With at most so many colours each was drawn as it is; with more, edges are soft or compression made some of them."""

ALIKE = 24
"""Colours whose channels differ by no more, of 255, are one where compression blurs them."""

BESIDE = 48
"""A colour this near to the line between two others, of 255, is a mixture of them."""

SOLID = 0.003
"""Share of the pixels that a colour covers at least to count as one, where edges are soft."""

SOFT = 0.3
"""Share of the pixels that may be neither of a mask's two colours."""


@dataclass(frozen=True, eq=False)
class Colours:
    """The colours of a mask.

    Attributes:
        values: one for each colour, (k, c), those that cover most first.
        mixed: share of the pixels that are near none of them.
        strange: share of the pixels that are no mixture of two of them either.
    """

    values: NDArray[np.float64]
    mixed: float
    strange: float

    @classmethod
    def of(cls, small: NDArray[Any], *, lossy: bool, where: NDArray[np.bool_] | None = None) -> "Colours":
        """Find them.

        Args:
            small: grid of pixels, (h, w, c), 0..255.
            lossy: whether compression may have changed colours.
            where: which pixels count, (h, w).

        Examples:
            >>> rows = np.array([0, 0, 0, 128, 255, 255, 255, 255])[:, None, None]
            >>> Colours.of(rows.repeat(7, axis=1), lossy=False).values.ravel().tolist()
            [255.0, 0.0]
        """
        chosen = np.ones(small.shape[:2], bool) if where is None else where
        found, codes = np.unique(small.reshape(-1, small.shape[2]), axis=0, return_inverse=True)
        codes = codes.reshape(small.shape[:2])
        counts = np.bincount(codes[chosen], minlength=len(found))
        few = np.count_nonzero(counts) <= FEW and not lossy
        kept = found[_drawn(found, codes, counts, chosen) if few else _standing_alone(found, codes, counts, chosen)]
        shares = counts / max(1, chosen.sum())
        near = distances(found, kept).min(axis=1, initial=np.inf) <= ALIKE
        strange = _from_lines(found, kept) > BESIDE
        return cls(kept.astype(np.float64), float(shares[~near].sum()), float(shares[strange].sum()))

    @property
    def is_photograph(self) -> bool:
        """Whether these are no colours of a mask but of a photograph."""
        return self.mixed > SOFT or self.strange > 0.02


def _drawn(found: NDArray[Any], codes: NDArray[Any], counts: NDArray[Any], chosen: NDArray[Any]) -> list[int]:
    """Which of a few colours are not mixtures, that is on a line between two others and located between others."""
    there = np.flatnonzero(counts)
    between = np.bincount(codes[_touches_two(codes) & chosen], minlength=len(found)) >= counts / 4
    rare = counts < SOLID / 3 * chosen.sum()
    kept = []
    for i in there:
        others = found[there[there != i]]
        if not ((between[i] or rare[i]) and _from_lines(found[[i]], others, ends=False)[0] <= BESIDE):
            kept.append(int(i))
    return sorted(kept, key=lambda i: -counts[i])


def _standing_alone(found: NDArray[Any], codes: NDArray[Any], counts: NDArray[Any], chosen: NDArray[Any]) -> list[int]:
    """Which of many colours have none but themselves around somewhere, and if that is one, the farthest from it."""
    flat = np.bincount(codes[_is_flat(codes) & chosen], minlength=len(found))
    kept: list[int] = []
    for i in np.argsort(-flat):
        alone = not kept or distances(found[[i]], found[kept]).min() > ALIKE
        if flat[i] >= max(1, SOLID * chosen.sum()) and alone and len(kept) < FEW:
            kept.append(int(i))
    if len(kept) == 1:
        far = distances(found, found[kept])[:, 0] * (counts > 0)
        kept += [int(far.argmax())] if far.max() > BESIDE else []
    return kept


def chroma(rgb: NDArray[np.uint8]) -> int:
    """Largest difference between two channels of a pixel, 0 if all is grey."""
    red, green, blue = (rgb[..., channel] for channel in range(3))
    highest, lowest = (extreme(extreme(red, green), blue) for extreme in (np.maximum, np.minimum))
    return int((highest - lowest).max())


def grid(pixels: NDArray[Any]) -> NDArray[Any]:
    """Every so many a pixel, (h, w, …)."""
    step = -(-max(pixels.shape[:2]) // GRID)
    return pixels[::step, ::step]


def ring(pixels: NDArray[Any]) -> NDArray[Any]:
    """The outermost pixels in a row."""
    return np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])


def _is_flat(codes: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether a pixel's four neighbours are as it is; beyond the border all are."""
    padded = np.pad(codes, 1, mode="edge")
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.logical_and.reduce([codes == each for each in around])


def _touches_two(codes: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether there are two other colours within two pixels of a pixel."""
    height, width = codes.shape
    padded = np.pad(codes, 2, mode="edge")
    lowest, highest = np.full(codes.shape, np.iinfo(np.int64).max), np.full(codes.shape, -1)
    for i, j in np.ndindex(5, 5):
        other = padded[i : i + height, j : j + width]
        lowest = np.where(other == codes, lowest, np.minimum(lowest, other))
        highest = np.where(other == codes, highest, np.maximum(highest, other))
    return lowest < highest


def distances(points: NDArray[Any], colours: NDArray[Any]) -> NDArray[np.float64]:
    """Largest difference of a channel between each of two lists of colours, (n, k)."""
    return np.abs(points[:, None].astype(np.float64) - colours[None]).max(axis=2, initial=0)


def nearest(pixels: NDArray[Any], colours: NDArray[np.float64]) -> NDArray[np.intp]:
    """Which colour each pixel is nearest to, (h, w)."""
    best, least = np.zeros(pixels.shape[:2], np.intp), np.full(pixels.shape[:2], np.inf)
    for i, colour in enumerate(colours):
        distance = np.square(pixels - colour).sum(axis=-1)
        best, least = np.where(distance < least, i, best), np.minimum(distance, least)
    return best


def _from_lines(points: NDArray[Any], colours: NDArray[Any], *, ends: bool = True) -> NDArray[np.float64]:
    """Distance of each point from the nearest line between two of some colours, or from one of them, (n,).

    Args:
        points: (n, c).
        colours: (k, c).
        ends: whether being beyond the end of a line, or at it, counts as being near.

    Returns:
        Distances, infinite where a point is near no line.
    """
    least = np.full(len(points), np.inf)
    if ends and len(colours):
        least = np.linalg.norm(points[:, None] - colours[None].astype(np.float64), axis=2).min(axis=1)
    for i, start in enumerate(colours.astype(np.float64)):
        for end in colours[:i].astype(np.float64):
            along = end - start
            share = (points - start) @ along / max(along @ along, 1e-9)
            distance = np.linalg.norm(points - start - share.clip(0, 1)[:, None] * along, axis=1)
            least = np.minimum(least, distance if ends else np.where((share > 0) & (share < 1), distance, np.inf))
    return least
