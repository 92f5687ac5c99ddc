r"""Equations of a new class: its filter, alternative rows of the head, and scale and bias of its logit.

Axes: n images, p positions, q = c_in·y·x numbers of an unfolded patch (c_in for a row of the head). The new logit is
ℓ = s·r + b: r the response to the image, s its scale, b its bias (thesis chapter 4).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["accuracy_drop", "bias_for_budget", "fit_filter", "matched_scale", "ridge_row", "silhouette_loss"]


def silhouette_loss(maps: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    r"""Σ_p m_p BCE(σ(a_p), y_p), the objective of a class-specific filter (thesis eq. 4.4).

    Args:
        maps: a, the filter's output at each position, (p,).
        targets: y, the share of the silhouette there, (p,), 0..1; 0 everywhere in images that do not show the class.
        weights: m, (p,): one over its positions for the image of the class, λ times that for each negative.

    Examples:
        >>> round(float(silhouette_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), torch.full((2,), 0.5))), 3)
        0.693
    """
    return weights @ F.binary_cross_entropy_with_logits(maps, targets, reduction="none")


def fit_filter(
    patches: Tensor, targets: Tensor, weights: Tensor, *, ridge: float, steps: int = 50
) -> tuple[Tensor, Tensor]:
    r"""The filter w and its bias c that minimise thesis eq. 4.4 with a ridge, by Newton's method.

    Minimises Σ_p m_p BCE(σ(x_p·w + c), y_p) + ½·ρ·(Σ_p m_p ‖x_p‖²/q)·‖w‖². The problem is strictly convex and its
    solution is in the span of the patches, so it does not depend on the starting point.

    Args:
        patches: x, (p, q), float64.
        targets: y, (p,), 0..1.
        weights: m, (p,), at least 0.
        ridge: ρ, above 0: a single image can be separated.
        steps: most steps of Newton's method; it stops earlier at convergence.

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
    r"""Weights of a ridge regression with targets 1 (the class) and 0, and equal total weight of both groups.

    w = (Σ + ρ·mean(diag Σ)·I)⁻¹ (f̄₊ − f̄₋) up to scale, Σ the mean of the two groups' second moments around the middle
    of their means; the intercept is left to the calibration.

    Args:
        positives: features of images of the class, (n, c), float64.
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
    r"""Scale s that gives the new logit the standard deviation of an existing one: σ(old logits) / σ(r).

    Args:
        responses: r, (n,).
        spread: standard deviation of an old logit over the same images.

    Returns:
        s > 0; 1 if the responses are all the same.

    Examples:
        >>> matched_scale(torch.tensor([0.0, 1.0, 2.0]), 3.0)
        3.0
    """
    deviation = float(responses.double().std()) if len(responses) > 1 else 0.0
    return spread / deviation if deviation > 0 and math.isfinite(spread) and spread > 0 else 1.0


def bias_for_budget(responses: Tensor, rivals: Tensor, right: Tensor, *, scale: float, budget: float) -> float:
    r"""The largest bias b of ℓ = s·r + b within a budget of correct predictions lost on unseen images.

    An image is lost if s·r + b exceeds its largest existing logit m, that is from b = m − s·r on. If b is below the
    (k+1)-th smallest of these over the correctly classified images, an exchangeable new image is lost with a
    probability of at most (k+1)/(n+1), as all orders of n + 1 images are equally likely; k is the largest for which
    that is within the budget. With few images none is lost (k = 0), and the budget cannot be guaranteed.

    Args:
        responses: r, (n,).
        rivals: m, the largest old logit, (n,).
        right: whether the current prediction is right, (n,), bool.
        scale: s.
        budget: largest probability of losing a new image, 0..1.

    Examples:
        >>> r, m = torch.zeros(4), torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> round(bias_for_budget(r, m, torch.ones(4, dtype=torch.bool), scale=1.0, budget=0.4), 2)
        2.0
    """
    from_here = (rivals.double() - scale * responses.double())[right].sort().values
    if not len(from_here):
        from_here = (rivals.double() - scale * responses.double()).max()[None]
    allowed = min(max(int(budget * (len(responses) + 1) + 1e-9) - 1, 0), len(from_here) - 1)
    edge = float(from_here[allowed])
    return edge - 1e-4 * (1 + abs(edge))  # ties in float64 may be broken in the network's dtype


def accuracy_drop(responses: Tensor, rivals: Tensor, right: Tensor, *, scale: float, bias: float) -> float:
    r"""Drop in accuracy by a new logit: the share of correctly classified images that it wins.

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
        >>> accuracy_drop(r, m, torch.ones(4, dtype=torch.bool), scale=1.0, bias=2.5)
        0.5
    """
    taken = scale * responses.double() + bias > rivals.double()
    return float((taken & right).double().mean())
