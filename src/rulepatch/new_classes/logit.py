r"""The equations of a new class: the filter that finds it, rows that would do instead, and how loud its logit may be.

Axes: n pictures, p positions, q = c_in·y·x numbers of an unfolded patch (c_in for a row of the head). The new logit is
ℓ = s·r + b: r the response to the picture, s its scale, b its bias (thesis chapter 4).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["bias_within", "fit_filter", "lost", "matched_scale", "ridge_row", "silhouette_loss"]


def silhouette_loss(maps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    r"""Σ_p m_p BCE(σ(a_p), y_p), the objective of a class-specific filter (thesis eq. 4.4).

    Args:
        maps: a, the filter's output at each position, (p,).
        targets: y, the share of the silhouette there, (p,), 0..1; 0 everywhere in pictures that do not show the class.
        weights: m, (p,): one over its positions for the picture of the class, λ times that for each negative.

    Examples:
        >>> round(float(silhouette_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.full((2,), 0.5))), 3)
        0.693
    """
    return weights @ F.binary_cross_entropy_with_logits(maps, targets, reduction="none")


def fit_filter(
    patches: Tensor, targets: Tensor, weights: Tensor, *, ridge: float, steps: int = 50
) -> tuple[Tensor, Tensor]:
    r"""The filter w and its bias c that minimise thesis eq. 4.4 with a ridge, by Newton's method.

    Minimises Σ_p m_p BCE(σ(x_p·w + c), y_p) + ½·ρ·(Σ_p m_p ‖x_p‖²/q)·‖w‖². The problem is convex, and its solution lies
    in the span of the patches, so that there is one answer, whatever one starts from.

    Args:
        patches: x, (p, q), float64.
        targets: y, (p,), 0..1.
        weights: m, (p,), at least 0.
        ridge: ρ, above 0: a single picture can be separated.
        steps: of Newton's method at most; it stops when nothing is left to gain.

    Returns:
        w, (q,), and c, ().
    """
    wide = patches.shape[1] > len(patches)
    span, reduced = torch.linalg.qr(patches.T) if wide else (None, patches.T)
    columns = torch.cat([reduced.T, reduced.new_ones(reduced.shape[1], 1)], dim=1)
    scale = (weights @ patches.square().mean(dim=1)).clamp(min=torch.finfo(patches.dtype).tiny)
    penalty = torch.full_like(columns[0], float(ridge * scale))
    penalty[-1] = 0

    def loss(found: Tensor) -> Tensor:
        return silhouette_loss(columns @ found, targets, weights) + penalty @ found.square() / 2

    found = torch.zeros_like(penalty)
    for _ in range(steps):
        odds = torch.sigmoid(columns @ found)
        gradient = columns.T @ (weights * (odds - targets)) + penalty * found
        curved = columns.T @ ((weights * odds * (1 - odds))[:, None] * columns) + torch.diag(penalty + 1e-12)
        step = torch.linalg.solve(curved, gradient)
        slope, size = float(gradient @ step), 1.0
        before = loss(found)
        while size > 1e-6 and loss(found - size * step) > before - 0.1 * size * slope:
            size /= 2
        if slope < 1e-14 or size <= 1e-6:
            break
        found = found - size * step
    return (found[:-1] if span is None else span @ found[:-1]), found[-1]


def ridge_row(positives: Tensor, negatives: Tensor, *, ridge: float) -> Tensor:
    r"""The row of a ridge regression of 1 for the class and 0 for all else, each group of the same weight.

    w = (Σ + ρ·mean(diag Σ)·I)⁻¹ (f̄₊ − f̄₋) up to scale, Σ the mean of the two groups' second moments around the middle
    of their means; the intercept is left to the calibration.

    Args:
        positives: features of pictures of the class, (n, c), float64.
        negatives: features of others, (m, c), float64.
        ridge: ρ, above 0.

    Returns:
        w, (c,).

    Examples:
        >>> ridge_row(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]]), ridge=1e-6).sign().tolist()
        [1.0, 0.0]
    """
    middle = (positives.mean(dim=0) + negatives.mean(dim=0)) / 2
    both = [group - middle for group in (positives, negatives)]
    moment = sum((group.T @ group / len(group) for group in both), torch.zeros_like(middle)) / 2
    shift = ridge * moment.diagonal().mean() * torch.eye(len(middle)).to(moment)
    return torch.linalg.solve(moment + shift, positives.mean(dim=0) - negatives.mean(dim=0))


def matched_scale(responses: Tensor, spread: float) -> float:
    r"""The s that gives the new logit the spread of an old one: σ(old logits) / σ(r), over pictures that show neither.

    Args:
        responses: r, (n,).
        spread: standard deviation of an old logit over the same pictures.

    Returns:
        s > 0; 1 if the responses are all the same.

    Examples:
        >>> matched_scale(torch.tensor([0.0, 1.0, 2.0]), 3.0)
        3.0
    """
    deviation = float(responses.double().std()) if len(responses) > 1 else 0.0
    return spread / deviation if deviation > 0 and math.isfinite(spread) and spread > 0 else 1.0


def bias_within(responses: Tensor, rivals: Tensor, right: Tensor, *, scale: float, budget: float) -> float:
    r"""The largest b with which ℓ = s·r + b takes no more right pictures than a budget allows, of unseen ones.

    A picture is taken if s·r + b exceeds its best old logit m, that is from b = m − s·r on. If b stays below the
    (k+1)-th smallest of these over the right pictures, another picture of the same kind is right and taken with a
    probability of at most (k+1)/(n+1), as all orders of n + 1 pictures are equally likely; k is the largest for which
    that is within the budget. Of few pictures none is taken (k = 0), and the budget cannot be promised.

    Args:
        responses: r, (n,).
        rivals: m, the largest old logit, (n,).
        right: whether what the model says now is right, (n,), bool.
        scale: s.
        budget: probability with which another picture may be right and taken, 0..1.

    Examples:
        >>> r, m = torch.zeros(4), torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> round(bias_within(r, m, torch.ones(4, dtype=torch.bool), scale=1.0, budget=0.4), 2)
        2.0
    """
    from_here = (rivals.double() - scale * responses.double())[right].sort().values
    if not len(from_here):
        from_here = (rivals.double() - scale * responses.double()).max()[None]
    allowed = min(max(int(budget * (len(responses) + 1) + 1e-9) - 1, 0), len(from_here) - 1)
    edge = float(from_here[allowed])
    return edge - 1e-4 * (1 + abs(edge))  # a tie in float64 may be none in the network's own type


def lost(responses: Tensor, rivals: Tensor, right: Tensor, *, scale: float, bias: float) -> float:
    r"""Accuracy that a new logit costs: the share of pictures that were right and that it takes.

    Args:
        responses: r, (n,).
        rivals: m, (n,).
        right: (n,), bool.
        scale: s.
        bias: b.

    Returns:
        0..1.

    Examples:
        >>> r, m = torch.zeros(4), torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> lost(r, m, torch.ones(4, dtype=torch.bool), scale=1.0, bias=2.5)
        0.5
    """
    taken = scale * responses.double() + bias > rivals.double()
    return float((taken & right).double().mean())
