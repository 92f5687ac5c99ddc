"""The equations, against theorems and slow naive twins."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rulepatch.core import linalg
from rulepatch.tracing.positions import resize_mask

sizes = st.integers(1, 6)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment_of(channels: int, *, seed: int = 0) -> torch.Tensor:
    keys = randn(50, channels, seed=seed) * torch.linspace(0.2, 2, channels, dtype=torch.float64)
    return linalg.second_moment(keys) / 50


@pytest.mark.parametrize("channels", [3, 513, 1025])
def test_second_moment_is_the_sum_of_outer_products(channels):
    keys = randn(3, channels)
    assert torch.allclose(linalg.second_moment(keys), sum(torch.outer(k, k) for k in keys))


def test_second_moment_is_uncentred():
    keys = torch.full((4, 2), 3.0)
    assert linalg.second_moment(keys).tolist() == [[36, 36], [36, 36]]


@given(channels=st.integers(1, 8), seed=st.integers(0, 99))
def test_whitening_makes_the_moment_the_identity(channels, seed):
    moment = moment_of(channels, seed=seed)
    whitener = linalg.whitening(moment, floor=1e-12)
    assert torch.allclose(whitener @ moment @ whitener, torch.eye(channels, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(whitener, whitener.T)


def test_whitening_floors_dead_channels():
    moment = torch.diag(torch.tensor([4.0, 0.0], dtype=torch.float64))
    assert linalg.whitening(moment, floor=0.01).diagonal().tolist() == pytest.approx([0.5, 5.0])


@given(channels=st.integers(2, 8), seed=st.integers(0, 99))
def test_directions_of_one_key_are_its_whitened_key(channels, seed):
    """Thesis eq. 2.19: the update of one key reads C⁻¹k."""
    moment, key = moment_of(channels, seed=seed), randn(1, channels, seed=seed + 1)
    basis, leading = linalg.directions(key, torch.ones(1).double(), linalg.whitening(moment, floor=1e-12), 1)
    expected = torch.linalg.solve(moment, key[0])
    for found in (basis[0], leading):
        cosine = torch.nn.functional.cosine_similarity(found, expected, dim=0)
        assert abs(float(cosine)) == pytest.approx(1, abs=1e-6)
    assert float(leading @ key[0]) > 0


@given(positions=st.integers(4, 12), rank=st.integers(1, 4), seed=st.integers(0, 99))
def test_directions_are_orthonormal_and_nested(positions, rank, seed):
    keys, weights = randn(positions, 6, seed=seed), torch.rand(positions).double() + 0.1
    whitener = linalg.whitening(moment_of(6), floor=1e-12)
    basis, _ = linalg.directions(keys, weights, whitener, rank)
    assert torch.allclose(basis @ basis.T, torch.eye(rank, dtype=torch.float64), atol=1e-8)
    wider, _ = linalg.directions(keys, weights, whitener, min(rank + 1, 4))
    assert torch.allclose(basis @ wider.T @ wider, basis, atol=1e-6)  # a higher rank reads all that a lower one reads


def test_weights_of_positions_count_in_directions():
    keys = torch.eye(2, dtype=torch.float64)
    basis, _ = linalg.directions(keys, torch.tensor([1.0, 0.1]).double(), torch.eye(2).double(), 1)
    assert basis.abs().tolist() == [[1, 0]]


@given(rank=st.integers(1, 3), taps=st.sampled_from([1, 3]), seed=st.integers(0, 99))
def test_low_rank_has_that_rank_at_every_tap_and_lies_in_the_span(rank, taps, seed):
    basis = torch.linalg.qr(randn(5, rank, seed=seed)).Q.T
    delta = linalg.low_rank(randn(4, rank, taps, taps, seed=seed), basis)
    beside = torch.eye(5, dtype=torch.float64) - basis.T @ basis
    assert torch.allclose(torch.einsum("oiyx,ij->ojyx", delta, beside), torch.zeros_like(delta), atol=1e-12)
    for tap in delta.flatten(2).unbind(-1):
        assert torch.linalg.matrix_rank(tap) <= rank


def test_low_rank_equals_its_definition():
    coefficients, basis = randn(2, 2, 3, 3), randn(2, 4)
    found = linalg.low_rank(coefficients, basis)
    for o, i, y, x in np.ndindex(2, 4, 3, 3):
        assert found[o, i, y, x] == pytest.approx(sum(float(coefficients[o, r, y, x] * basis[r, i]) for r in range(2)))


def test_second_architecture_equals_its_definition():
    coefficients, basis = randn(2, 2), randn(2, 4, 3, 3)
    expected = (coefficients @ basis.flatten(1)).reshape(2, 4, 3, 3)
    assert torch.allclose(linalg.low_rank(coefficients, basis), expected)


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 3, 3)])
def test_project_is_the_nearest_point_of_the_subspace(shape):
    flat = torch.linalg.qr(randn(torch.Size(shape[1:]).numel(), 2)).Q.T
    basis, delta = flat.reshape(shape), randn(4, 5, 3, 3, seed=3)
    projected = linalg.project(delta, basis)
    assert torch.allclose(linalg.project(projected, basis), projected)
    assert torch.allclose(linalg.low_rank(linalg.coefficients_of(delta, basis), basis), projected)
    beside = linalg.project(randn(4, 5, 3, 3, seed=4), basis)
    assert abs(float(((delta - projected) * beside).sum())) < 1e-10  # what is lost is orthogonal to all that is kept


def test_one_key_and_no_statistics_give_the_textbook_rank_one_update():
    """W1 = W0 + (v − W0 k) kᵀ / kᵀk."""
    weight, key, value = randn(3, 4), randn(4, seed=1), randn(3, seed=2)
    basis, _ = linalg.directions(key[None], torch.ones(1).double(), torch.eye(4).double(), 1)
    features, residual = key[None] @ basis.T, (value - weight @ key)[None]
    coefficients = linalg.ridge_path(features, residual, torch.ones(1).double(), [0])[0]
    delta = linalg.low_rank(coefficients.T[:, :, None, None], basis)[:, :, 0, 0]
    assert torch.allclose(delta, torch.outer(value - weight @ key, key) / (key @ key))
    assert torch.allclose((weight + delta) @ key, value)


@given(positions=st.integers(1, 20), unknowns=st.integers(1, 6), ridge=st.sampled_from([0.0, 1e-3, 1.0]))
@settings(deadline=None)
def test_least_squares_has_no_gradient_left(positions, unknowns, ridge):
    features, residuals = randn(positions, unknowns), randn(positions, 3, seed=1)
    weights = torch.rand(positions).double()
    found = linalg.ridge_path(features, residuals, weights, [ridge])[0].requires_grad_()
    scale = ((features * weights[:, None]).T @ features).diagonal().mean()
    objective = (
        weights[:, None] * (residuals - features @ found).square()
    ).sum() + ridge * scale * found.square().sum()
    (gradient,) = torch.autograd.grad(objective, found)
    assert float(gradient.abs().max()) < 1e-8 * max(1, float(residuals.abs().max()))


def test_the_gradient_of_anything_else_is_not_zero():
    """The negative control of the test above: without its weights the same solution is not optimal."""
    features, residuals, weights = randn(9, 2), randn(9, 3, seed=1), torch.rand(9).double()
    found = linalg.ridge_path(features, residuals, weights, [0])[0].requires_grad_()
    (gradient,) = torch.autograd.grad((residuals - features @ found).square().sum(), found)
    assert float(gradient.abs().max()) > 1e-3


def test_ridge_path_equals_solving_each_ridge():
    features, residuals, weights = randn(9, 4), randn(9, 3, seed=1), torch.rand(9).double()
    normal = (features * weights[:, None]).T @ features
    ridges = [1e-4, 1e-2, 1.0]
    for ridge, found in zip(ridges, linalg.ridge_path(features, residuals, weights, ridges), strict=True):
        shifted = normal + ridge * normal.diagonal().mean() * torch.eye(4)
        assert torch.allclose(found, torch.linalg.solve(shifted, features.T @ (weights[:, None] * residuals)))


def test_directions_without_data_get_nothing():
    features = torch.tensor([[1.0, 0.0], [2.0, 0.0]]).double()
    found = linalg.ridge_path(features, torch.ones(2, 1).double(), torch.ones(2).double(), [0])[0]
    assert found[1].item() == 0 and torch.isfinite(found).all()


@given(positions=st.integers(1, 8), balance=st.sampled_from([0.1, 1.0, 30.0]), seed=st.integers(0, 99))
@settings(deadline=None)
def test_dense_least_squares_is_memits_formula_and_has_no_gradient_left(positions, balance, seed):
    keys, residuals = randn(positions, 5, seed=seed), randn(positions, 3, seed=seed + 1)
    weights, moment = torch.rand(positions).double() + 0.1, moment_of(5)
    basis, coefficients = linalg.dense_least_squares(keys, residuals, weights, moment, balance=balance)
    found = coefficients.T @ basis
    scale = balance * weights.sum()
    expected = (residuals.T * weights) @ keys @ torch.linalg.inv(scale * moment + (keys.T * weights) @ keys)
    assert torch.allclose(found, expected, atol=1e-8)
    assert len(basis) == min(positions, 5) and torch.allclose(basis @ basis.T, torch.eye(len(basis)).double())
    delta = found.clone().requires_grad_()
    lost = (weights[:, None] * (residuals - keys @ delta.T).square()).sum()
    (gradient,) = torch.autograd.grad(lost + scale * torch.einsum("oi,ij,oj->", delta, moment, delta), delta)
    assert float(gradient.abs().max()) < 1e-7


def test_damage_is_the_share_of_the_outputs_power():
    keys, weight, delta = randn(500, 6), randn(4, 6, 1, 1, seed=1), randn(4, 6, 1, 1, seed=2)
    changed, before = keys @ delta[:, :, 0, 0].T, keys @ weight[:, :, 0, 0].T
    expected = float(changed.square().sum() / before.square().sum())
    assert linalg.damage(delta, weight, linalg.second_moment(keys) / 500) == pytest.approx(expected)


def test_damage_of_patches_and_of_channels_agree_where_taps_are_independent():
    delta, weight = randn(4, 2, 3, 3, seed=1), randn(4, 2, 3, 3, seed=2)
    moment = moment_of(2)
    of_patches = torch.zeros(2, 9, 2, 9, dtype=torch.float64)
    for tap in range(9):
        of_patches[:, tap, :, tap] = moment
    found = linalg.damage(delta, weight, of_patches.reshape(18, 18))
    assert linalg.damage(delta, weight, moment) == pytest.approx(found)


def test_gates_shut_and_open():
    maps, scores = torch.tensor([[[2.0, 3.0]]]), torch.tensor([[[0.5, 1.5]]])
    assert linalg.gated(maps, scores, torch.tensor(1.0)).tolist() == [[[0, 3]]]
    assert linalg.gated(maps, None, torch.tensor([[2.5]])).tolist() == [[[0, 0.5]]]


@pytest.mark.parametrize("error", ["squared", "absolute"])
def test_masked_error_equals_a_loop(error):
    values, targets, weights = randn(5, 3), randn(5, 3, seed=1), torch.rand(5).double()
    power = 2 if error == "squared" else 1
    for channel, found in enumerate(linalg.masked_error(values, targets, weights, error)):
        total = sum(float(weights[p]) * abs(float(values[p, channel] - targets[p, channel])) ** power for p in range(5))
        assert float(found) == pytest.approx(total / float(weights.sum()))


@given(height=st.integers(1, 3), width=st.integers(1, 3))
def test_resized_masks_keep_their_area(height, width):
    mask = torch.rand(2, 6 * height, 6 * width, generator=torch.Generator().manual_seed(0))
    small = resize_mask(mask, (2 * height, 3 * width))
    assert small.shape == (2, 2 * height, 3 * width)
    assert torch.allclose(small.mean((1, 2)), mask.mean((1, 2)), atol=1e-6)
