r"""The equations of the inverse direction, as pure functions of tensors (thesis ch. 3).

A layer is W: keys → values. In the inverse direction the memory that is edited maps outputs to inputs: M = Wᵀ (thesis
3.1) or M = W† (3.2). The rule is inverted as well: for the output of the original image, y = W k_original, the memory
should recall the input of the edited image, k_edited. Then M is converted back into a weight.

Two of the four architectures of thesis fig. 2-3 are of this direction. In the fourth an output's c_out channels recall
a patch of inputs, so M is made of W as a matrix (c_out, c_in·y·x); in the third a patch of outputs recalls one input's
c_in channels, so M is made of W as a matrix (c_out·y·x, c_in). Below, K is the number of rows of that matrix, V of its
columns, p positions, r rank.
"""

import torch
from torch import Tensor

from rulepatch.core import linalg

__all__ = ["factors", "matrix_of", "pseudo_inverse", "pseudo_inverse_change", "recall", "weight_of"]


def matrix_of(weight: Tensor, architecture: int) -> Tensor:
    """The matrix of a weight that an architecture of the inverse direction inverts (thesis fig. 2-3).

    Args:
        weight: W, (c_out, c_in, y, x).
        architecture: 3 or 4.

    Returns:
        (K, V): (c_out·y·x, c_in) for architecture 3, (c_out, c_in·y·x) for architecture 4.

    Examples:
        >>> [tuple(matrix_of(torch.zeros(4, 2, 3, 3), architecture).shape) for architecture in (3, 4)]
        [(36, 2), (4, 18)]
    """
    return weight.permute(0, 2, 3, 1).flatten(0, 2) if architecture == 3 else weight.flatten(1)


def weight_of(matrix: Tensor, shape: tuple[int, int, int, int], architecture: int) -> Tensor:
    """The weight of a matrix, the inverse of `matrix_of`.

    Args:
        matrix: (K, V).
        shape: of the weight, (c_out, c_in, y, x).
        architecture: 3 or 4.

    Returns:
        (c_out, c_in, y, x).
    """
    if architecture == 4:
        return matrix.reshape(shape)
    c_out, c_in, y, x = shape
    return matrix.reshape(c_out, y, x, c_in).permute(0, 3, 1, 2)


def recall(
    keys: Tensor, values: Tensor, weights: Tensor, whitener: Tensor, memory: Tensor, *, rank: int, ridge: float
) -> tuple[Tensor, Tensor]:
    r"""The rewrite of a memory: ΔM = Λᵀ D with M' k ≈ v (thesis eq. 3.6-3.8 and 3.11-3.13, solved as eq. 2.19-2.21).

    The directions D are those of the whitened keys, Λ minimises Σ_p m_p ‖v_p − (M + ΔM) k_p‖² with a ridge. With one
    key and no ridge M' k = v holds exactly.

    Args:
        keys: k, keys of the memory, (p, K), float64.
        values: v, target values, (p, V).
        weights: m, (p,), 0..1.
        whitener: C^(-1/2) of its keys on the reference set, (K, K).
        memory: M, (V, K).
        rank: r, at most min(p, K).
        ridge: ρ ≥ 0, relative to the mean diagonal of the normal matrix.

    Returns:
        D, (r, K), orthonormal rows; and Λ, (r, V).

    Examples:
        >>> key, value, eye = torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0]]), torch.eye(2)
        >>> basis, coefficients = recall(key, value, torch.ones(1), eye, torch.ones(1, 2), rank=1, ridge=0)
        >>> (torch.ones(1, 2) + coefficients.T @ basis).tolist()
        [[5.0, 1.0]]
    """
    basis, _ = linalg.directions(keys, weights, whitener, rank)
    lacking = values - keys @ memory.T
    return basis, linalg.ridge_path(keys @ basis.T, lacking, weights, [ridge])[0]


def pseudo_inverse(matrix: Tensor, *, cutoff: float) -> Tensor:
    r"""Moore-Penrose pseudo-inverse W† with truncated singular values (thesis 3.2).

    Args:
        matrix: W, (K, V), float64.
        cutoff: smallest singular value kept, relative to the largest, in 0..1.

    Returns:
        (V, K).
    """
    return torch.linalg.pinv(matrix, rtol=cutoff)


def pseudo_inverse_change(matrix: Tensor, change: Tensor, *, cutoff: float) -> Tensor:
    r"""Change of the weight by an edit of its pseudo-inverse: ΔW = (W† + ΔM)† − W†† (thesis eq. 3.11).

    Singular components that the cutoff removes from W† are unchanged in W. For y in the range of W, and ΔM that is zero
    on its complement, W' (W† + ΔM) y = y: if the edited inverse recalls k_edited from y = W k_original, then
    W' k_edited = W k_original, so that the forward rule holds as exactly as the inverse one.

    Args:
        matrix: W, (K, V), float64.
        change: ΔM, (V, K), of rank r.
        cutoff: smallest singular value of W kept, relative to the largest, in 0..1.

    Returns:
        ΔW, (K, V), of rank at most 2r.

    Examples:
        >>> pseudo_inverse_change(torch.tensor([[2.0]]), torch.tensor([[0.5]]), cutoff=0).tolist()
        [[-1.0]]
    """
    inverse = pseudo_inverse(matrix, cutoff=cutoff)
    return torch.linalg.pinv(inverse + change) - torch.linalg.pinv(inverse)


def factors(change: Tensor) -> tuple[Tensor, Tensor]:
    """Rank factorisation of a matrix, up to rounding.

    Args:
        change: (K, V), float64.

    Returns:
        An orthonormal basis of its row space, (r, V), r at least 1; and coefficients, (K, r).

    Examples:
        >>> [tuple(part.shape) for part in factors(torch.ones(3, 5).double())]
        [(1, 5), (3, 1)]
    """
    left, singular, right = torch.linalg.svd(change, full_matrices=False)
    kept = max(1, int((singular > 1e-9 * singular[0]).sum()))
    return right[:kept], left[:, :kept] * singular[:kept]
