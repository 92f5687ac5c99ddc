"""Convolutions in the Fourier domain, against slow dense twins on tiny maps."""

import pytest
import torch
from torch.nn import functional as F

from rulepatch.core import linalg
from rulepatch.inverse import fourier, matrices
from rulepatch.inverse.fourier import MaskedPositions
from rulepatch.methods import FLOOR

GRID = (3, 4)
CELLS = GRID[0] * GRID[1]


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def circulant(kernel: torch.Tensor) -> torch.Tensor:
    """The matrix of a circular convolution with a kernel as large as the map, (b·h·w, a·h·w), entry by entry."""
    b, a, h, w = kernel.shape
    matrix = torch.zeros(b, h, w, a, h, w, dtype=kernel.dtype)
    middle = ((h - 1) // 2, (w - 1) // 2)
    for row in range(h):
        for column in range(w):
            for i in range(h):
                for j in range(w):
                    reads = (row + i - middle[0]) % h, (column + j - middle[1]) % w
                    matrix[:, row, column, :, reads[0], reads[1]] += kernel[:, :, i, j]
    return matrix.reshape(b * h * w, a * h * w)


def whole(response: torch.Tensor, grid=GRID) -> torch.Tensor:
    return fourier.kernel_of(response, grid, grid)


def coloured(channels: int, pictures: int = 40, grid=GRID, seed: int = 9) -> torch.Tensor:
    """Maps whose power differs from channel to channel and from frequency to frequency."""
    maps = randn(pictures, channels, *grid, seed=seed) * torch.linspace(0.5, 2, channels).double()[:, None, None]
    return maps + 0.7 * maps.roll(1, dims=3) + maps.mean((2, 3), keepdim=True)


def marks_of(positions: list[tuple[int, int, int]], weights=None) -> MaskedPositions:
    images, rows, columns = (torch.tensor(each) for each in zip(*positions, strict=True))
    return MaskedPositions(images, rows, columns, torch.ones(len(positions)).double() if weights is None else weights)


@pytest.mark.parametrize(("taps", "dilation"), [((3, 3), (1, 1)), ((1, 3), (1, 1)), ((3, 3), (2, 1)), ((2, 2), (1, 1))])
def test_convolve_is_a_convolution_with_circular_padding(taps, dilation):
    kernel, maps = randn(3, 2, *taps), randn(2, 2, 5, 6, seed=1)
    before = [d * (t - 1) // 2 for d, t in zip(dilation, taps, strict=True)]
    after = [d * (t - 1) - b for d, t, b in zip(dilation, taps, before, strict=True)]
    padded = F.pad(maps, (before[1], after[1], before[0], after[0]), mode="circular")
    expected = F.conv2d(padded, kernel, dilation=dilation)
    found = fourier.convolve(fourier.frequency_response(kernel, (5, 6), dilation), maps)
    torch.testing.assert_close(found, expected)
    if taps == (3, 3):  # the network's own padding differs, at the border alone
        zero = F.conv2d(maps, kernel, padding=dilation, dilation=dilation)
        border = dilation[0], dilation[1]
        inside = (..., slice(border[0], -border[0]), slice(border[1], -border[1]))
        torch.testing.assert_close(found[inside], zero[inside])
        assert not torch.allclose(found, zero)


@pytest.mark.parametrize("taps", [(3, 3), (1, 1), (3, 1)])
def test_kernels_come_back_and_what_is_beyond_the_taps_is_cut_off(taps):
    kernel = randn(3, 2, *taps)
    response = fourier.frequency_response(kernel, (5, 6))
    torch.testing.assert_close(fourier.kernel_of(response, (5, 6), taps), kernel)
    everything = whole(response, (5, 6))
    assert float(everything.square().sum()) == pytest.approx(float(kernel.square().sum()))
    assert float(fourier.kernel_of(response, (5, 6), (1, 1)).square().sum()) <= float(kernel.square().sum())


def test_the_power_spectrum_is_the_transform_of_the_autocorrelation():
    maps = randn(3, 2, *GRID)
    lags = torch.zeros(2, 2, *GRID).double()
    for i in range(GRID[0]):
        for j in range(GRID[1]):
            lags[:, :, i, j] = torch.einsum("nahw,nbhw->ab", maps.roll((-i, -j), dims=(2, 3)), maps)
    expected = torch.fft.rfft2(lags).permute(2, 3, 0, 1)
    torch.testing.assert_close(fourier.power_spectrum(maps), expected)


def twin(reference, keys, residuals, marks, balance):
    """The same least squares with the kernel's numbers as unknowns and every convolution a matrix, by KKT."""
    a, b = reference.shape[1], residuals.shape[1]
    unfolded = []  # what multiplies the kernel's numbers at each position of each map
    for maps in (reference, keys):
        units = torch.eye(a * CELLS).double().reshape(a * CELLS, a, *GRID)
        columns = [maps.flatten(1) @ circulant(unit[None]).T for unit in units]
        unfolded.append(torch.stack(columns, dim=-1))  # (n, positions, unknowns)
    usual = torch.einsum("npi,npj->ij", unfolded[0], unfolded[0]) / len(reference) / CELLS
    rows = unfolded[1].reshape(len(keys), *GRID, -1)[marks.images, marks.rows, marks.columns]
    if balance == 0:
        count = len(rows)
        system = torch.cat(
            [torch.cat([usual, rows.T], 1), torch.cat([rows, torch.zeros(count, count).double()], 1)]
        )  # fmt: skip
        right = torch.cat([torch.zeros(len(usual), b).double(), residuals])
        return torch.linalg.solve(system, right)[: len(usual)].T.reshape(b, a, *GRID)
    normal = (rows * marks.weights[:, None]).T @ rows + balance * marks.weights.sum() * usual
    return torch.linalg.solve(normal, (rows * marks.weights[:, None]).T @ residuals).T.reshape(b, a, *GRID)


@pytest.mark.parametrize("balance", [0.0, 0.3])
def test_constrained_least_squares_are_those_of_a_slow_dense_twin(balance):
    reference, keys = coloured(2), randn(2, 2, *GRID, seed=1)
    marks = marks_of([(0, 0, 0), (0, 2, 1), (1, 1, 3)], torch.tensor([1.0, 0.5, 0.8]).double())
    residuals = randn(3, 3, seed=2)
    power = fourier.power_spectrum(reference) / len(reference)
    found = fourier.constrained(power, fourier.spectra(keys), residuals, marks, GRID, balance=balance)
    torch.testing.assert_close(whole(found), twin(reference, keys, residuals, marks, balance), rtol=1e-8, atol=1e-9)
    reached = marks.of(fourier.convolve(found, keys))
    missed = float((reached - residuals).abs().max())
    assert missed < 1e-8 if balance == 0 else missed > 1e-2


def test_the_thesis_s_element_by_element_division_is_no_solution():
    """The negative control: eq. 3.57 as it is printed divides by the channels' own spectra, one by one."""
    reference, keys, marks = coloured(2), randn(1, 2, *GRID, seed=1), marks_of([(0, 0, 0)])
    power = fourier.power_spectrum(reference) / len(reference)
    alone = torch.diag_embed(torch.diagonal(power, dim1=-2, dim2=-1))
    right, printed = (
        whole(fourier.constrained(each, fourier.spectra(keys), randn(1, 3, seed=2), marks, GRID, balance=0))
        for each in (power, alone)
    )
    cost = [
        float(fourier.convolve(fourier.frequency_response(kernel, GRID), reference).square().mean())
        for kernel in (right, printed)
    ]
    assert not torch.allclose(right, printed) and cost[0] < 0.99 * cost[1]


def layer_of(kernel, cutoff=1e-9, grid=GRID):
    return fourier.svd_per_frequency(fourier.frequency_response(kernel, grid), cutoff=cutoff)


@pytest.mark.parametrize("channels", [(3, 2), (2, 2), (2, 3)])
def test_the_inverse_is_one_where_there_is_one(channels):
    f, c = channels
    kernel, maps = randn(f, c, 3, 3), randn(2, c, *GRID, seed=1)
    layer, response = layer_of(kernel), fourier.frequency_response(kernel, GRID)
    torch.testing.assert_close(layer.forward, response)
    again = fourier.convolve(layer.inverse @ layer.left.mH, fourier.convolve(response, maps))
    assert torch.allclose(again, maps) is (f >= c)
    whole_matrix = circulant(whole(response))
    dense = torch.linalg.pinv(whole_matrix)
    torch.testing.assert_close(circulant(whole(layer.inverse @ layer.left.mH)), dense, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("channels", [(3, 2), (2, 2), (2, 3)])
@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_the_edited_layer_gives_the_original_s_output_for_what_the_edited_inverse_recalls(channels, balance):
    f, c = channels
    kernel, originals = randn(f, c, 3, 3), randn(2, c, *GRID, seed=1)
    marks = marks_of([(0, 0, 0), (0, 1, 2), (1, 2, 3)])
    targets, power = randn(3, c, seed=5), fourier.power_spectrum(coloured(c)) / 40
    layer = layer_of(kernel)
    change, recalled = fourier.inverse_change(layer, power, originals, targets, marks, balance=balance, floor=FLOOR)
    reached = float((marks.of(recalled) - targets).abs().max())
    assert reached < 1e-8 if balance == 0 else reached > 1e-3
    outputs = fourier.convolve(layer.forward, originals)
    torch.testing.assert_close(fourier.convolve(layer.forward + change, recalled), outputs, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(fourier.convolve(layer.forward, recalled), outputs, rtol=1e-2, atol=1e-2)


def test_a_kernel_cut_off_at_the_layer_s_taps_loses_it():
    kernel, originals, marks = randn(3, 2, 3, 3), randn(1, 2, 5, 6, seed=1), marks_of([(0, 0, 0), (0, 1, 2)])
    layer = fourier.svd_per_frequency(fourier.frequency_response(kernel, (5, 6)), cutoff=1e-9)
    power = fourier.power_spectrum(coloured(2, grid=(5, 6))) / 40
    change, recalled = fourier.inverse_change(
        layer, power, originals, randn(2, 2, seed=5), marks, balance=0, floor=FLOOR
    )
    cut = fourier.frequency_response(fourier.kernel_of(change, (5, 6), (3, 3)), (5, 6))
    outputs = fourier.convolve(layer.forward, originals)
    assert not torch.allclose(fourier.convolve(layer.forward + cut, recalled), outputs, rtol=1e-2, atol=1e-2)


def dense_inverse_change(weight, keys, targets, moment):
    """The pseudo-inverse form of one constraint, without positions."""
    outputs = weight @ keys
    basis, coefficients = matrices.recall(
        outputs[None],
        targets,
        torch.ones(1).double(),
        linalg.whitening(weight @ moment @ weight.T, floor=1e-8),
        torch.linalg.pinv(weight),
        rank=1,
        ridge=0,
    )
    return matrices.pseudo_inverse_change(weight, coefficients.T @ basis, cutoff=1e-9)


@pytest.mark.parametrize("channels", [(3, 2), (2, 2), (2, 3)])
def test_on_a_map_of_one_position_it_is_the_pseudo_inverse_form(channels):
    f, c = channels
    weight, key, targets, reference = randn(f, c), randn(c, seed=1), randn(1, c, seed=2), coloured(c, grid=(1, 1))
    layer = layer_of(weight[:, :, None, None], grid=(1, 1))
    power = fourier.power_spectrum(reference) / len(reference)
    change, _ = fourier.inverse_change(
        layer, power, key.reshape(1, c, 1, 1), targets, marks_of([(0, 0, 0)]), balance=0, floor=1e-12
    )
    moment = linalg.second_moment(reference.flatten(1)) / len(reference)
    expected = dense_inverse_change(weight, key, targets, moment)
    torch.testing.assert_close(fourier.kernel_of(change, (1, 1), (1, 1))[..., 0, 0], expected, rtol=1e-5, atol=1e-6)


def test_with_a_kernel_of_one_tap_it_is_so_if_the_reference_is_white_and_not_if_it_is_coloured():
    weight, key, targets = randn(3, 2), randn(2, seed=1), randn(1, 2, seed=2)
    originals = torch.zeros(1, 2, *GRID).double()
    originals[0, :, 1, 1] = key
    moment = linalg.second_moment(randn(30, 2, seed=3)) / 30
    white = moment.to(torch.complex128).expand(GRID[0], GRID[1] // 2 + 1, 2, 2) * CELLS
    uneven = white * torch.linspace(0.2, 3, GRID[0])[:, None, None, None]
    expected = dense_inverse_change(weight, key, targets, moment)
    layer = layer_of(weight[:, :, None, None])
    for power, same in ((white, True), (uneven, False)):
        change, _ = fourier.inverse_change(
            layer, power, originals, targets, marks_of([(0, 1, 1)]), balance=0, floor=FLOOR
        )
        kernel = whole(change)
        middle = kernel[:, :, (GRID[0] - 1) // 2, (GRID[1] - 1) // 2]
        assert torch.allclose(middle, expected, rtol=1e-5, atol=1e-6) is same
        assert (float(kernel.square().sum() - middle.square().sum()) < 1e-12) is same
