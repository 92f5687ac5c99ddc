r"""The convolutional constrained least squares of the inverse direction, in the Fourier domain (thesis 3.3, put right).

Boundaries are circular. Then a convolution is a matrix at each frequency ω, ŷ(ω) = Ŵ(ω) â(ω) with
Ŵ(ω) = Σ_m W[m] e^{iωm}, where m is counted from the centre of the kernel. Zero padding differs from it where a kernel
overlaps the border. docs/inverse.md derives everything here.

Spectra are halves, as `torch.fft.rfft2` gives them: (h, w/2+1, …), complex128. Axes: n images, c_in and c_out
channels, h w positions, y x taps, p marked positions, a and b channels of any map, e = min(c_in, c_out).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "Factored",
    "MaskedPositions",
    "constrained",
    "convolve",
    "frequency_response",
    "inverse_change",
    "kernel_of",
    "maps_of",
    "power_spectrum",
    "spectra",
    "svd_per_frequency",
]

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class MaskedPositions:
    """Marked positions of some maps.

    Attributes:
        images: which map each lies in, (p,).
        rows: (p,), 0..h-1.
        columns: (p,), 0..w-1.
        weights: m, (p,), above 0.
    """

    images: Tensor
    rows: Tensor
    columns: Tensor
    weights: Tensor

    def of(self, maps: Tensor) -> Tensor:
        """Values of maps at these positions.

        Args:
            maps: (n, a, h, w).

        Returns:
            (p, a).
        """
        return maps[self.images, :, self.rows, self.columns]


def _cells(size: int, taps: int, dilation: int) -> Tensor:
    """Circular offsets of the taps of a kernel from its centre, (taps,)."""
    return (torch.arange(taps) * dilation - dilation * (taps - 1) // 2) % size


def frequency_response(kernel: Tensor, grid: Grid, dilation: tuple[int, int] = (1, 1)) -> Tensor:
    r"""Frequency response of a layer, Ŵ(ω) = Σ_m W[m] e^{iωm} (in place of thesis eq. 3.39).

    Args:
        kernel: W, (c_out, c_in, y, x), float64.
        grid: (h, w).
        dilation: of the kernel's taps.

    Returns:
        (h, w/2+1, c_out, c_in). Taps that fall together on a small circle add up.

    Examples:
        >>> frequency_response(torch.full((1, 1, 1, 1), 3.0).double(), (2, 2)).real.flatten().tolist()
        [3.0, 3.0, 3.0, 3.0]
    """
    laid = kernel.new_zeros(*kernel.shape[:2], *grid)
    for i, row in enumerate(_cells(grid[0], kernel.shape[2], dilation[0])):
        for j, column in enumerate(_cells(grid[1], kernel.shape[3], dilation[1])):
            laid[:, :, row, column] += kernel[:, :, i, j]
    return torch.fft.rfft2(laid).conj().permute(2, 3, 0, 1)


def kernel_of(response: Tensor, grid: Grid, taps: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> Tensor:
    """The taps of a layer whose response is nearest to one with a kernel as large as the map.

    Args:
        response: (h, w/2+1, c_out, c_in).
        grid: (h, w), not smaller than the kernel; give it as `taps` for the whole kernel.
        taps: (y, x).
        dilation: of the taps.

    Returns:
        (c_out, c_in, y, x).
    """
    laid = torch.fft.irfft2(response.conj().permute(2, 3, 0, 1), s=grid)
    rows, columns = (_cells(*each) for each in zip(grid, taps, dilation, strict=True))
    return laid[:, :, rows[:, None], columns]


def spectra(maps: Tensor) -> Tensor:
    """Fourier transform of maps.

    Args:
        maps: (n, a, h, w).

    Returns:
        (n, h, w/2+1, a).
    """
    return torch.fft.rfft2(maps).permute(0, 2, 3, 1)


def maps_of(found: Tensor, grid: Grid) -> Tensor:
    """Maps of spectra, the inverse of `spectra`.

    Args:
        found: (n, h, w/2+1, a).
        grid: (h, w).

    Returns:
        (n, a, h, w).
    """
    return torch.fft.irfft2(found.permute(0, 3, 1, 2), s=grid)


def convolve(response: Tensor, maps: Tensor) -> Tensor:
    """A convolution with circular boundaries, without bias.

    Args:
        response: (h, w/2+1, b, a).
        maps: (n, a, h, w).

    Returns:
        (n, b, h, w).
    """
    grid = (maps.shape[2], maps.shape[3])
    return maps_of(torch.einsum("hwba,nhwa->nhwb", response, spectra(maps)), grid)


def power_spectrum(maps: Tensor) -> Tensor:
    r"""Σ_n â_n(ω) â_n(ω)ᴴ: what the autocorrelation R_A is in the Fourier domain (thesis eq. 3.36, of all channels).

    Args:
        maps: (n, a, h, w).

    Returns:
        (h, w/2+1, a, a), Hermitian.
    """
    found = spectra(maps.double()).permute(1, 2, 3, 0)
    return found @ found.mH


def constrained(
    power: Tensor, keys: Tensor, residuals: Tensor, marks: MaskedPositions, grid: Grid, *, balance: float
) -> Tensor:
    r"""The constrained least squares of a convolution: thesis eq. 3.52-3.57 with the multipliers solved for.

    Minimises Σ_p m_p ‖R_p − (ΔM ∗ k)(p)‖² + β·E‖ΔM ∗ k_reference‖² a position, β = balance·Σ_p m_p, over kernels as
    large as the map. With balance = 0 the constraint holds exactly, as in the thesis. The solution is
    ΔM̂(ω) = Σ_p λ_p e^{−iωp} k̂(ω)ᴴ S(ω)⁻¹ with λ = R (G + β/(hw)·diag(1/m))⁻¹, where
    G[p,p'] = 1/(hw) Σ_ω e^{iω(p−p')} k̂ᴴ S⁻¹ k̂ is the whitened autocorrelation of the keys.

    Args:
        power: S, mean power spectrum on the reference set, (h, w/2+1, a, a), positive definite.
        keys: k̂, (n, h, w/2+1, a).
        residuals: R, (p, b).
        marks: where the constraints are.
        grid: (h, w).
        balance: of the reference set beside the constraints, ≥ 0.

    Returns:
        ΔM̂, (h, w/2+1, b, a).
    """
    answers = torch.linalg.solve(power, keys.permute(1, 2, 3, 0))  # S⁻¹ k̂
    crossed = keys.conj().permute(1, 2, 0, 3) @ answers  # k̂_jᴴ S⁻¹ k̂_i
    lags = torch.fft.irfft2(crossed.permute(2, 3, 0, 1), s=grid)
    down = (marks.rows[:, None] - marks.rows) % grid[0]
    right = (marks.columns[:, None] - marks.columns) % grid[1]
    gram = lags[marks.images, marks.images[:, None], down, right]
    gram = (gram + gram.T) / 2 + torch.diag(balance * marks.weights.sum() / (grid[0] * grid[1]) / marks.weights)
    multipliers = torch.linalg.pinv(gram, hermitian=True) @ residuals
    laid = residuals.new_zeros(len(keys), residuals.shape[1], *grid)
    laid[marks.images, :, marks.rows, marks.columns] = multipliers
    return torch.einsum("nbhw,hwan->hwba", torch.fft.rfft2(laid), answers.conj())


@dataclass(frozen=True, eq=False)
class Factored:
    """Ŵ(ω) = U Σ Vᴴ, a thin singular value decomposition at each frequency.

    Attributes:
        left: U, (h, w/2+1, c_out, e).
        singular: Σ, (h, w/2+1, e); zero where it was cut off.
        right: V, (h, w/2+1, c_in, e).
    """

    left: Tensor
    singular: Tensor
    right: Tensor

    @property
    def inverse(self) -> Tensor:
        """V Σ⁻¹, so that Ŵ† = V Σ⁻¹ Uᴴ, (h, w/2+1, c_in, e); zero where Σ is."""
        return self.right * torch.where(self.singular > 0, 1 / self.singular, 0)[..., None, :]

    @property
    def forward(self) -> Tensor:
        """U Σ Vᴴ, (h, w/2+1, c_out, c_in)."""
        return (self.left * self.singular[..., None, :]) @ self.right.mH

    def power(self, inputs: Tensor, *, floor: float) -> Tensor:
        """Mean power spectrum of the outputs in the coordinates Uᴴ, with small eigenvalues lifted.

        Args:
            inputs: mean power spectrum of the inputs, (h, w/2+1, c_in, c_in).
            floor: smallest eigenvalue kept, relative to the largest of its frequency.

        Returns:
            (h, w/2+1, e, e), positive definite.
        """
        scaled = self.right * self.singular[..., None, :]
        values, vectors = torch.linalg.eigh(scaled.mH @ inputs @ scaled)
        largest = values[..., -1:].clamp(min=torch.finfo(values.dtype).tiny)
        lifted = torch.maximum(values, floor * largest)
        return (vectors * lifted[..., None, :]) @ vectors.mH


def svd_per_frequency(response: Tensor, *, cutoff: float) -> Factored:
    """Decompose a layer frequency by frequency, so that it can be inverted.

    Args:
        response: Ŵ, (h, w/2+1, c_out, c_in).
        cutoff: singular values below this share of the largest of all frequencies count as zero, in 0..1.
    """
    left, singular, right = torch.linalg.svd(response, full_matrices=False)
    return Factored(left, torch.where(singular > cutoff * singular.max(), singular, 0), right.mH)


def inverse_change(
    layer: Factored,
    power: Tensor,
    originals: Tensor,
    targets: Tensor,
    marks: MaskedPositions,
    *,
    balance: float,
    floor: float,
) -> tuple[Tensor, Tensor]:
    r"""Edit the inverse of a convolution by constrained least squares, and invert it again (thesis 3.3.2).

    M̂ = Ŵ† at each frequency, the true inverse of a circular convolution. M̂' = M̂ + ΔM̂ recalls the edited images'
    inputs at the marked positions where the output is the originals'; Ŵ' = M̂'†.

    Args:
        layer: the layer's response, factored.
        power: mean power spectrum of the layer's inputs on the reference set, (h, w/2+1, c_in, c_in).
        originals: inputs of the original images, (n, c_in, h, w), float64.
        targets: the edited images' inputs at the marked positions, (p, c_in).
        marks: these positions.
        balance: of the reference set beside the constraints, ≥ 0; the constraint is exact at 0.
        floor: smallest eigenvalue of the outputs' power spectrum kept, relative to the largest of its frequency.

    Returns:
        ΔŴ, (h, w/2+1, c_out, c_in), in general of a kernel as large as the map; and what the edited inverse recalls
        of the originals' outputs, (n, c_in, h, w).
    """
    grid = (originals.shape[2], originals.shape[3])
    keys = torch.einsum("hwce,nhwc->nhwe", layer.right.conj(), spectra(originals)) * layer.singular  # Uᴴ ŷ
    inverse = layer.inverse

    def recalled(memory: Tensor) -> Tensor:
        return maps_of(torch.einsum("hwce,nhwe->nhwc", memory, keys), grid)

    lacking = targets - marks.of(recalled(inverse))
    changed = inverse + constrained(layer.power(power, floor=floor), keys, lacking, marks, grid, balance=balance)
    return layer.left @ torch.linalg.pinv(changed) - layer.forward, recalled(changed)
