"""Whether damage keeps to a budget, as far as some hundred images can tell.

On so few images neither accuracy lost nor flips tell much of others. The mean change of the label's probability
does: every image counts, not only those on the edge. How many flips come with it depends on the network, and is
learnt from all edits that a search has measured. For 80 edits of MobileNetV2, measured on 399 images, its rank
correlation with flips on 598 others is 0.89 (that of flips 0.74) and with accuracy lost 0.56 (that of accuracy lost
0.34); `python -m benchmarks.budget` says how often the budget is kept.
"""

from collections.abc import Iterable

__all__ = ["SLACK", "USUAL", "expected_flips", "flips_by_shift", "is_within"]

FLIPS = 2
"""Flips allowed for each image that may be lost."""

SLACK = 2.0
"""Factor by which damage on part of the images may be beyond the budget."""

USUAL = 1.2
"""Flips for each unit of changed probability: the median of 80 edits of MobileNetV2, and of EfficientNet-Lite0."""


def flips_by_shift(measured: Iterable[tuple[float, float | None]]) -> float:
    """Flips for each unit of changed probability: half way from what is usual to what many edits say.

    All edits are measured on the same images, of which few are on the edge, so that even many tell little: by what they
    say of 64 images alone the budget is kept less often, and the gain of what is chosen varies twice as much
    (`python -m benchmarks.budget`).

    Args:
        measured: of each edit the number of flips, and the sum of the changes of the label's probability.

    Examples:
        >>> flips_by_shift([]), flips_by_shift([(30, 99.0), (20, None), (3, 1.0)])
        (1.2, 0.765)
    """
    known = [(flips, shift) for flips, shift in measured if shift is not None]
    changed = sum(shift for _, shift in known)
    return (USUAL + sum(flips for flips, _ in known) / changed) / 2 if changed else USUAL


def expected_flips(flips: float, shift: float | None, pictures: int, by_shift: float) -> float:
    """Share of other images of which an edit can be expected to change the prediction, 0..1.

    Args:
        flips: share of the measured images.
        shift: mean change of the probability of their labels, 0..1; None without labels, where flips are all there is
            to go by, and one is let pass.
        pictures: number of measured images.
        by_shift: flips for each unit of changed probability.

    Examples:
        >>> expected_flips(0.02, 0.01, 200, 1.5), expected_flips(0.02, None, 200, 1.5)
        (0.015, 0.015)
    """
    return max(0.0, flips - 1 / pictures) if shift is None else by_shift * shift


def is_within(drop: float, flips: float, pictures: int, max_drop: float, *, slack: float = 1.0) -> bool:
    """Whether damage is within a budget.

    Args:
        drop: accuracy lost, −1..1.
        flips: share of the predictions that changed, or that are expected to change, 0..1.
        pictures: number of images on which it was measured. The loss of one image more is always allowed.
        max_drop: the budget, 0..1.
        slack: factor by which it is widened.

    Examples:
        >>> [is_within(drop, flips, 400, 0.0025) for drop, flips in [(0.005, 0.004), (0.01, 0.004), (0.0, 0.01)]]
        [True, False, False]
    """
    return drop <= slack * (max_drop + 1 / pictures) + 1e-12 and flips <= slack * FLIPS * max_drop
