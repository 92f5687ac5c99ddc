r"""Metrics of edits, as pure functions of labels and predictions.

Axes: n images. Labels and predictions are class indices; confidences and scores lie in 0..1. A number that is not
defined (no errors to correct, no image of a class) is None, never 0.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Corrected",
    "Roc",
    "balanced_weights",
    "calibration_error",
    "errors_corrected",
    "false_discovery_rates",
    "mcnemar",
    "paired_bootstrap",
    "roc",
    "wilson",
]


def wilson(count: int, total: int, *, level: float = 0.95) -> tuple[float, float] | None:
    """Wilson score interval of a proportion (Wilson 1927).

    Args:
        count: number of successes.
        total: number of trials.
        level: confidence level, 0..1.

    Returns:
        The bounds, 0..1; None without trials.

    Examples:
        >>> low, high = wilson(52, 75)
        >>> round(low, 3), round(high, 3)
        (0.582, 0.786)
    """
    if total == 0:
        return None
    z = NormalDist().inv_cdf(0.5 + level / 2)
    share, spread = count / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return (0.0 if count == 0 else middle - half, 1.0 if count == total else middle + half)


def mcnemar(repaired: int, broken: int) -> float:
    """Exact McNemar test of repaired against broken predictions.

    Args:
        repaired: images that were wrong and are right.
        broken: images that were right and are wrong.

    Returns:
        The two-sided p-value, 0..1; 1 of no flips.

    Examples:
        >>> mcnemar(5, 0)
        0.0625
    """
    flips, fewer = repaired + broken, min(repaired, broken)
    tail = sum(math.comb(flips, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**flips)


def paired_bootstrap(
    repaired: int, broken: int, total: int, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float] | None:
    """Bootstrap interval of a difference of accuracies, after − before, on the same images.

    Every image contributes 1, −1 or 0, so resampling images amounts to drawing the three counts.

    Args:
        repaired: images that were wrong and are right.
        broken: images that were right and are wrong.
        total: all images.
        level: of confidence, 0..1.
        resamples: how many.
        seed: of the resampling.

    Returns:
        The bounds, −1..1; None if no prediction changed.
    """
    if repaired + broken == 0:
        return None
    shares = np.array([repaired, broken, total - repaired - broken]) / total
    drawn = np.random.default_rng(seed).multinomial(total, shares, size=resamples)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / total, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Corrected:
    """Errors caused by replacing a concept, and their correction by an edit (paper 4).

    Attributes:
        errors: N_pre: images that were right before the concept was replaced and wrong after.
        left: N_post: those of them that are wrong after the edit.
        caused: images that were right before and after the concept was replaced, and are wrong after the edit.
    """

    errors: int
    left: int
    caused: int

    @property
    def share(self) -> float | None:
        """(N_pre − N_post) / N_pre, 0..1; None if there were no errors to correct."""
        return (self.errors - self.left) / self.errors if self.errors else None

    @property
    def net(self) -> float | None:
        """(N_pre − N_post − caused) / N_pre, −∞..1; None if there were no errors to correct."""
        return (self.errors - self.left - self.caused) / self.errors if self.errors else None


def errors_corrected(labels: ArrayLike, original: ArrayLike, before: ArrayLike, after: ArrayLike) -> Corrected:
    """Count corrected errors among images that were right before the concept was replaced and wrong after (paper 4).

    Args:
        labels: (n,).
        original: predictions for the original images before the edit, (n,).
        before: predictions for the images with the concept replaced, before the edit, (n,).
        after: predictions for the images with the concept replaced, after the edit, (n,).

    Examples:
        >>> errors_corrected([1, 1, 1, 1], original=[1, 1, 1, 0], before=[0, 0, 1, 0], after=[1, 0, 0, 1])
        Corrected(errors=2, left=1, caused=1)
    """
    labels, original, before, after = (np.asarray(each) for each in (labels, original, before, after))
    eligible = original == labels
    errors = eligible & (before != labels)
    caused = eligible & (before == labels) & (after != labels)
    return Corrected(int(errors.sum()), int((errors & (after != labels)).sum()), int(caused.sum()))


def calibration_error(confidences: ArrayLike, right: ArrayLike, *, bins: int = 15) -> float | None:
    """Expected calibration error with bins of equal width.

    Args:
        confidences: of the predictions, (n,), 0..1.
        right: whether they are right, (n,).
        bins: how many.

    Returns:
        0..1; None of no images.

    Examples:
        >>> calibration_error([0.9, 0.9], [True, False], bins=10)
        0.4
    """
    confidences, right = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    if not len(confidences):
        return None
    bin_of = np.minimum((confidences * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=right - confidences, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))


def balanced_weights(labels: ArrayLike) -> NDArray[np.float64]:
    """Weights that give each class the same total.

    Args:
        labels: (n,).

    Returns:
        (n,), of mean 1.

    Examples:
        >>> balanced_weights([0, 0, 0, 1]).round(2).tolist()
        [0.67, 0.67, 0.67, 2.0]
    """
    _, where, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
    return np.asarray(len(where) / (len(counts) * counts[where]))


@dataclass(frozen=True, eq=False)
class Roc:
    """A receiver operating characteristic.

    Attributes:
        false_positives: share of the negatives at or above each threshold, rising, (k,).
        true_positives: share of the positives, (k,).
        thresholds: of the score, falling, (k,); the first is infinite.
    """

    false_positives: NDArray[np.float64]
    true_positives: NDArray[np.float64]
    thresholds: NDArray[np.float64]

    @property
    def area(self) -> float:
        """Area under the curve, 0..1."""
        return float(np.trapezoid(self.true_positives, self.false_positives))

    def true_positives_at(self, false_positives: float) -> float:
        """The largest true positive rate at a bounded false positive rate.

        Returns:
            0..1.
        """
        return float(self.true_positives[self.false_positives <= false_positives + 1e-12].max())


def roc(scores: ArrayLike, positive: ArrayLike, weights: ArrayLike | None = None) -> Roc | None:
    """ROC curve of a score.

    Args:
        scores: (n,).
        positive: whether each sample is positive, (n,).
        weights: sample weights, (n,); equal if None.

    Returns:
        The curve; None without positives or without negatives of nonzero weight.

    Examples:
        >>> roc([0.9, 0.8, 0.3], [True, False, True]).area
        0.5
    """
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive, bool)
    weights = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(-scores, kind="stable")
    scores, positive, weights = scores[order], positive[order], weights[order]
    true, false = np.cumsum(weights * positive), np.cumsum(weights * ~positive)
    if not len(scores) or true[-1] == 0 or false[-1] == 0:
        return None
    last = np.append(np.diff(scores) != 0, True)  # ties share one threshold
    return Roc(
        np.append(0, false[last] / false[-1]),
        np.append(0, true[last] / true[-1]),
        np.append(np.inf, scores[last]),
    )


def false_discovery_rates(p_values: ArrayLike) -> NDArray[np.float64]:
    """Benjamini-Hochberg q-values: the false discovery rate among a test and all that are at least as significant.

    Reporting the tests with q at most 0.05 controls the false discovery rate at 5 % for independent or positively
    dependent tests (Benjamini and Hochberg 1995).

    Args:
        p_values: p-values of all tests, (n,), 0..1.

    Returns:
        q-values, (n,), 0..1, at least as large as the p-values.

    Examples:
        >>> false_discovery_rates([0.01, 0.5, 0.02]).round(3).tolist()
        [0.03, 0.5, 0.03]
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    rates = np.empty_like(p)
    rates[order] = np.minimum(1, np.minimum.accumulate(scaled[::-1])[::-1])
    return rates
