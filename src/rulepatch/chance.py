"""What chance alone explains."""

import math

import numpy as np

__all__ = ["SIGNIFICANT", "binomial_tail"]

SIGNIFICANT = 0.05
"""p-value below which something counts as beyond chance."""


def binomial_tail(count: int, total: int, share: float) -> float:
    """Binomial probability of at least this many successes.

    Args:
        count: successes.
        total: trials.
        share: probability of a success, 0..1.

    Returns:
        The probability, 0..1.

    Examples:
        >>> round(2**10 * binomial_tail(9, 10, 0.5))
        11
    """
    if count <= 0 or share in {0, 1}:
        return float(count <= 0 or share == 1)
    k = np.arange(count, total + 1)
    ways = math.lgamma(total + 1) - np.array([math.lgamma(i + 1) + math.lgamma(total - i + 1) for i in k.tolist()])
    return float(min(1, np.exp(ways + k * math.log(share) + (total - k) * math.log1p(-share)).sum()))
