r"""Every equation of the method, each once, as a pure function of tensors.

Axes: n images, c_in and c_out channels, h w positions of a feature map, y x taps of a kernel, r rank, p positions
(those the mask keeps, or all), q = r·y·x unknowns for each output channel. A linear layer is the case y = x = 1.

Symbols: k key, v value, C second moment of the keys, Z = C^(-1/2), D directions (r, c_in), Λ coefficients, m mask
weights of positions, X features (p, q), R residuals (p, c_out).

Two architectures of thesis fig. 2-3: in the first the key of a position is its c_in channels and each tap of the kernel
gets its own coefficients, ΔW[o,i,y,x] = Σ_r Λ[o,r,y,x] D[r,i]; in the second the key is the whole unfolded patch,
ΔW[o,i,y,x] = Σ_r Λ[o,r] D[r,i,y,x].
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Error",
    "change_bound",
    "coefficients_of",
    "damage",
    "dense_least_squares",
    "directions",
    "gated",
    "interference",
    "low_rank",
    "masked_error",
    "output_power",
    "project",
    "project_out",
    "ridge_path",
    "second_moment",
    "whitening",
]

Error = Literal["squared", "absolute"]


def second_moment(keys: Tensor, *, products: torch.dtype = torch.float64) -> Tensor:
    r"""Σ_p k_p k_pᵀ, uncentred (thesis eq. 2.18, C up to its count).

    Args:
        keys: (p, c_in), any floating type.
        products: type in which the products are taken.

    Returns:
        (c_in, c_in), of that type.
    """
    return _gram(keys.to(products))


def _gram(keys: Tensor) -> Tensor:
    """KᵀK; for wide matrices one of the two equal off-diagonal blocks is copied instead of computed."""
    half = keys.shape[1] // 2
    if half < 256:
        return keys.T @ keys
    left, right = keys[:, :half], keys[:, half:]
    product = keys.new_empty(keys.shape[1], keys.shape[1])
    product[:half, half:] = across = left.T @ right
    product[half:, :half] = across.T
    product[:half, :half], product[half:, half:] = _gram(left), _gram(right)
    return product


def whitening(moment: Tensor, *, floor: float) -> Tensor:
    r"""Z = C^(-1/2), with the eigenvalues of C floored at a share of the largest (Bau et al. 2020; paper 2.2).

    Args:
        moment: C, (c_in, c_in), float64, symmetric, not zero.
        floor: smallest eigenvalue, relative to the largest, 0..1; smaller ones are raised to it. Without it, channels
            that are never active on the reference set could be used at no cost.

    Returns:
        Z, (c_in, c_in), float64, symmetric.

    Examples:
        >>> whitening(torch.diag(torch.tensor([4.0, 1.0]).double()), floor=0).diagonal().tolist()
        [0.5, 1.0]
    """
    values, vectors = torch.linalg.eigh(moment)
    return (vectors * values.clamp(min=floor * values[-1]).rsqrt()) @ vectors.T


def directions(keys: Tensor, weights: Tensor, whitener: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    r"""The directions that an edit may use, and the direction of the concept (Bau et al. 2020; paper 2.2).

    The rows m_p·(Z k_p) have right-singular vectors; U is the top r of them, and D an orthonormal basis of the rows of
    U Z. For one key, D is C⁻¹k up to scale (thesis eq. 2.19).

    Args:
        keys: the edited images' keys, (p, c_in), float64.
        weights: m, (p,), 0..1.
        whitener: Z, (c_in, c_in).
        rank: r, at most min(p, c_in).

    Returns:
        D, (r, c_in), orthonormal rows; and d, (c_in,), the leading row of U Z. Signs are chosen so that the mean score
        of the keys is positive.
    """
    _, _, right = torch.linalg.svd(weights[:, None] * (keys @ whitener), full_matrices=False)
    rows = right[:rank] @ whitener
    basis = torch.cat([torch.linalg.qr(rows.T).Q.T, rows[:1]])
    signed = torch.where((weights @ keys @ basis.T)[:, None] < 0, -basis, basis)
    return signed[:-1], signed[-1]


def low_rank(coefficients: Tensor, basis: Tensor) -> Tensor:
    r"""ΔW from its factors: Σ_r Λ[o,r,y,x]·D[r,i], or Σ_r Λ[o,r]·D[r,i,y,x] (thesis 2.1; paper 2.2).

    Args:
        coefficients: Λ, (c_out, r, y, x), or (c_out, r) for the second architecture.
        basis: D, (r, c_in), or (r, c_in, y, x) for the second architecture.

    Returns:
        ΔW, (c_out, c_in, y, x).

    Examples:
        >>> low_rank(torch.ones(4, 1, 3, 3), torch.ones(1, 2)).shape
        torch.Size([4, 2, 3, 3])
        >>> low_rank(torch.ones(4, 1), torch.ones(1, 2, 3, 3)).shape
        torch.Size([4, 2, 3, 3])
    """
    if coefficients.ndim == 4:
        return torch.einsum("oryx,ri->oiyx", coefficients, basis)
    return torch.einsum("or,riyx->oiyx", coefficients, basis)


def project(delta: Tensor, basis: Tensor) -> Tensor:
    r"""The nearest change of weights that has the form of `low_rank` with the given directions: ΔW Dᵀ D.

    Args:
        delta: ΔW, (c_out, c_in, y, x).
        basis: D with orthonormal rows, (r, c_in), or (r, c_in, y, x) for the second architecture.

    Returns:
        (c_out, c_in, y, x).
    """
    return low_rank(coefficients_of(delta, basis), basis)


def coefficients_of(delta: Tensor, basis: Tensor) -> Tensor:
    r"""The coefficients of a change of weights along orthonormal directions: Λ = ΔW Dᵀ, tap by tap or whole.

    Args:
        delta: ΔW, (c_out, c_in, y, x).
        basis: D with orthonormal rows, (r, c_in), or (r, c_in, y, x) for the second architecture.

    Returns:
        Λ, (c_out, r, y, x), or (c_out, r) for the second architecture.
    """
    if basis.ndim == 2:
        return torch.einsum("oiyx,ri->oryx", delta, basis)
    return torch.einsum("oiyx,riyx->or", delta, basis)


def ridge_path(features: Tensor, residuals: Tensor, weights: Tensor, ridges: Sequence[float]) -> Tensor:
    r"""The reduced solve for several ridges from one eigendecomposition (docs/method.md).

    Minimises Σ_p m_p ‖R_p − X_p Λ‖² + ρ·mean(diag XᵀMX)·‖Λ‖² for each ρ. Every output channel is its own regression
    and all of them share one normal matrix.

    Args:
        features: X, (p, q), float64.
        residuals: R, (p, c_out): the required change of the layer's output at each position.
        weights: m, (p,), 0..1.
        ridges: ρ, each ≥ 0, relative to the mean diagonal of the normal matrix.

    Returns:
        Λ for each ridge, (ridges, q, c_out). With ρ = 0, the minimum-norm solution.

    Examples:
        >>> ridge_path(torch.tensor([[2.0]]), torch.tensor([[6.0, 4.0]]), torch.ones(1), [0]).tolist()
        [[[3.0, 2.0]]]
    """
    weighted = features * weights[:, None]
    normal = weighted.T @ features
    values, vectors = torch.linalg.eigh(normal)
    right = vectors.T @ (weighted.T @ residuals)
    scale = normal.diagonal().mean()
    tiny = values[-1] * len(values) * torch.finfo(values.dtype).eps
    paths = []
    for ridge in ridges:
        shifted = values + ridge * scale
        inverse = torch.where(shifted > tiny, 1 / shifted, 0)
        paths.append(vectors @ (inverse[:, None] * right))
    return torch.stack(paths)


def dense_least_squares(
    keys: Tensor, residuals: Tensor, weights: Tensor, moment: Tensor, *, balance: float
) -> tuple[Tensor, Tensor]:
    r"""MEMIT's form: ΔW = R K*ᵀ (λC + K* K*ᵀ)⁻¹, the least squares of new values against old ones (Meng et al. 2023).

    Minimises Σ_p m_p ‖R_p − ΔW k_p‖² + λ·E‖ΔW k‖² with λ = balance·Σ_p m_p.

    Args:
        keys: K*, (p, c_in), float64.
        residuals: R, (p, c_out).
        weights: m, (p,), above 0.
        moment: C, (c_in, c_in), float64.
        balance: weight of the reference set's keys relative to the new ones, above 0.

    Returns:
        The change in factors: an orthonormal basis of what it reads, (r, c_in) with r ≤ min(p, c_in), and its
        coefficients, (r, c_out).
    """
    weighted = keys * weights[:, None]
    tiny = moment.diagonal().mean() * torch.finfo(moment.dtype).eps * len(moment)  # C may be singular
    both = balance * weights.sum() * moment + weighted.T @ keys
    readers = torch.linalg.solve(both + tiny * torch.eye(len(moment)).to(moment), weighted.T)
    basis, upper = torch.linalg.qr(readers)
    return basis.T, upper @ residuals


def gated(maps: Tensor, scores: Tensor | None, thresholds: Tensor | None) -> Tensor:
    r"""The gate (docs/method.md#the-gate): hard, g·⟨D, k⟩ with g = [⟨d, k⟩ > τ], or soft, relu(⟨D, k⟩ − τ).

    Args:
        maps: ⟨D_r, k⟩, (n, r, …).
        scores: ⟨d, k⟩ of a hard gate, (n, 1, …); None for a soft one, r new neurons beside the layer.
        thresholds: τ, a number, or of a soft gate one for each direction, (r, 1, …); None without a gate.

    Returns:
        (n, r, …), zero where the gate is closed.
    """
    if thresholds is None:
        return maps
    return F.relu(maps - thresholds) if scores is None else maps * (scores > thresholds).to(maps.dtype)


def damage(delta: Tensor, weight: Tensor, moment: Tensor) -> float:
    r"""Damage predicted without images: E‖ΔW k‖² / E‖W k‖² = tr(ΔW C ΔWᵀ) / tr(W C Wᵀ).

    Args:
        delta: ΔW, (c_out, c_in, y, x).
        weight: W, (c_out, c_in, y, x).
        moment: C of keys, (c_in, c_in), which assumes independent keys at the taps of a kernel; or of unfolded
            patches, (c_in·y·x, c_in·y·x), which assumes nothing.

    Returns:
        A ratio ≥ 0; 0.04 means that the layer's output changes by 4 % of its power on the reference set.
    """
    return output_power(delta, moment) / output_power(weight, moment)


def output_power(weight: Tensor, moment: Tensor) -> float:
    r"""E‖W k‖² = tr(W C Wᵀ), summed over the taps of a kernel.

    Args:
        weight: W, (c_out, c_in, y, x).
        moment: C, of keys or of unfolded patches, as for `damage`.

    Returns:
        A number ≥ 0.
    """
    rows = weight.double()
    rows = rows.movedim(1, -1).flatten(0, -2) if len(moment) == rows.shape[1] else rows.flatten(1)
    return float(torch.einsum("ai,ij,aj->", rows, moment, rows))


def change_bound(maps: Tensor, coefficients: Tensor) -> Tensor:
    r"""‖ΔW k‖ ≤ Σ_r |⟨d_r, k⟩|·‖Λ_r‖ (triangle inequality); for a kernel whose every tap sees the key.

    Args:
        maps: ⟨D_r, k⟩, behind the gate if there is one, (p, r).
        coefficients: Λ, (c_out, r, y, x), or (c_out, r).

    Returns:
        (p,), ≥ 0.

    Examples:
        >>> change_bound(torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 1.0], [4.0, 0.0]])).tolist()
        [7.0]
    """
    norms = coefficients.norm(dim=0)
    return maps.abs() @ (norms if norms.ndim == 1 else norms.sum(dim=(1, 2)))


def project_out(basis: Tensor, moment: Tensor, share: float) -> Tensor:
    r"""Project the leading principal subspace of protected keys out of the directions (AlphaEdit, Fang et al. 2025).

    D(I − VVᵀ), where V are the leading eigenvectors of C.

    Args:
        basis: D, (r, c).
        moment: C of the protected keys, (c, c), float64.
        share: share of their power that V explains, 0..1.

    Returns:
        An orthonormal basis of the rows of D(I − VVᵀ), at most (r, c); vanishing rows are dropped.
    """
    values, vectors = torch.linalg.eigh(moment)
    held = values.flip(0).cumsum(0) / values.sum()
    leading = vectors.flip(1)[:, : int((held < share).sum()) + 1]
    left = basis - basis @ leading @ leading.T
    _, singular, right = torch.linalg.svd(left, full_matrices=False)
    return right[singular > 1e-6]


def interference(first: Tensor, second: Tensor, moment: Tensor) -> float:
    r"""Largest canonical correlation of the subspaces of two rules under C, that is of ⟨d, k⟩ with ⟨e, k⟩.

    Directions are whitened keys, d = C⁻¹k, so ⟨d, C e⟩ = ⟨k_d, C⁻¹ k_e⟩ is the response of one rule to the other's key
    (thesis eq. 2.23-2.24). Over all directions that two rules read it is the cosine of the
    smallest angle between the spans of D and E in the inner product of C.

    Args:
        first: D, (r, c), independent rows.
        second: E, (s, c), independent rows.
        moment: C, (c, c), float64.

    Returns:
        0..1: 0 for rules that do not respond to each other's keys on average, 1 if they share a direction.

    Examples:
        >>> eye = torch.eye(2).double()
        >>> interference(eye[:1], eye[1:], eye), interference(eye[:1], eye[:1], eye)
        (0.0, 1.0)
    """
    first, second = (rows.double() for rows in (first, second))
    lower = [torch.linalg.cholesky(rows @ moment @ rows.T) for rows in (first, second)]
    crossed = torch.linalg.solve_triangular(lower[0], first @ moment @ second.T, upper=False)
    both = torch.linalg.solve_triangular(lower[1], crossed.T, upper=False)
    return float(torch.linalg.matrix_norm(both, ord=2).clamp(max=1))


def masked_error(values: Tensor, targets: Tensor, weights: Tensor, error: Error) -> Tensor:
    r"""Σ_p m_p ℓ(v*_p − v_p) for each output channel, over Σ_p m_p (paper eq. 1; the authors' code uses ℓ = |·|).

    Args:
        values: (p, c_out).
        targets: v*, (p, c_out).
        weights: m, (p,), not all zero.
        error: ℓ, squared or absolute.

    Returns:
        (c_out,).
    """
    difference = values - targets
    pointwise = difference.square() if error == "squared" else difference.abs()
    return weights @ pointwise / weights.sum()
