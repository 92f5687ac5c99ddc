"""The equations of the inverse direction, against theorems."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rulepatch.core import linalg
from rulepatch.inverse import matrices


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("architecture", [3, 4])
def test_a_weight_comes_back_from_its_matrix(architecture):
    weight = randn(4, 2, 3, 5)
    matrix = matrices.matrix_of(weight, architecture)
    assert torch.equal(matrices.weight_of(matrix, tuple(weight.shape), architecture), weight)


def test_the_matrices_are_those_of_the_two_architectures():
    weight, maps = randn(4, 2, 3, 3), randn(1, 2, 5, 5, seed=1)
    output = torch.nn.functional.conv2d(maps, weight)
    assert torch.allclose(matrices.matrix_of(weight, 4) @ maps[0, :, 1:4, 2:5].flatten(), output[0, :, 1, 2])
    spread = matrices.matrix_of(weight, 3) @ maps[0, :, 2, 2]  # what one input gives to each output around it
    back = torch.nn.functional.conv_transpose2d(output, weight)
    alone = torch.zeros_like(maps)
    alone[0, :, 2, 2] = maps[0, :, 2, 2]
    given_to = torch.nn.functional.conv2d(alone, weight)[0]
    assert torch.allclose(spread.reshape(4, 3, 3), given_to.flip(1, 2))
    around = output[0].flip(1, 2).flatten()  # the outputs that the middle input gave to
    assert torch.allclose(matrices.matrix_of(weight, 3).T @ around, back[0, :, 2, 2])


def inverse(f: int, c: int, positions: int, seed: int):
    """A layer, original and edited keys, the reference set's second moment."""
    weight = randn(f, c, seed=seed)
    originals, edited = randn(positions, c, seed=seed + 1), randn(positions, c, seed=seed + 2)
    moment = linalg.second_moment(randn(50, c, seed=seed + 3)) / 50
    return weight, originals, edited, moment


def changed(weight, originals, edited, moment, *, rank, transposed=False):
    """The edited weight, and its edited memory."""
    outputs = originals @ weight.T
    memory = weight.T if transposed else matrices.pseudo_inverse(weight, cutoff=1e-9)
    basis, coefficients = matrices.recall(
        outputs,
        edited,
        torch.ones(len(outputs)).double(),
        linalg.whitening(weight @ moment @ weight.T, floor=1e-9),
        memory,
        rank=rank,
        ridge=0,
    )
    delta = coefficients.T @ basis
    change = delta.T if transposed else matrices.pseudo_inverse_change(weight, delta, cutoff=1e-9)
    return weight + change, memory + delta


@given(f=st.integers(1, 6), c=st.integers(1, 6), seed=st.integers(0, 50))
def test_one_key_is_recalled_exactly_and_the_forward_rule_holds_exactly(f, c, seed):
    """The theorem of docs/inverse.md, wide and tall layers alike."""
    weight, original, edited, moment = inverse(f, c, 1, seed)
    new, memory = changed(weight, original, edited, moment, rank=1)
    output = weight @ original[0]
    scale = float(edited.norm() + output.norm())
    assert torch.allclose(memory @ output, edited[0], rtol=1e-6, atol=1e-6 * scale)
    if float(torch.linalg.svdvals(memory)[-1]) > 1e-2:  # else its inverse is all rounding
        assert torch.allclose(new @ edited[0], output, rtol=1e-5, atol=1e-5 * scale)


@pytest.mark.parametrize(("f", "c"), [(8, 5), (5, 8), (6, 6)])
def test_several_keys_are_recalled_exactly_by_as_many_directions(f, c):
    weight, originals, edited, moment = inverse(f, c, 3, 7)
    new, memory = changed(weight, originals, edited, moment, rank=3)
    assert torch.allclose(originals @ weight.T @ memory.T, edited)
    assert torch.allclose(edited @ new.T, originals @ weight.T)
    fewer, _ = changed(weight, originals, edited, moment, rank=2)
    assert not torch.allclose(edited @ fewer.T, originals @ weight.T, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("f", "c"), [(8, 5), (5, 8), (6, 6)])
def test_the_transpose_recalls_but_the_forward_rule_does_not_follow(f, c):
    weight, original, edited, moment = inverse(f, c, 1, 7)
    new, memory = changed(weight, original, edited, moment, rank=1, transposed=True)
    output = weight @ original[0]
    assert torch.allclose(memory @ output, edited[0])
    cosine = torch.nn.functional.cosine_similarity(new @ edited[0], output, dim=0)
    assert not torch.allclose(new @ edited[0], output, rtol=0.1, atol=0.1 * float(output.norm())) or cosine < 0.99


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize(("f", "c"), [(12, 9), (9, 12), (10, 10)])
def test_the_change_has_at_most_twice_the_rank(f, c, rank):
    weight, originals, edited, moment = inverse(f, c, 4, 3)
    new, _ = changed(weight, originals, edited, moment, rank=rank)
    basis, coefficients = matrices.factors(new - weight)
    assert len(basis) == (rank if f == c else 2 * rank)  # a square inverse is unique: Sherman and Morrison
    assert torch.allclose(coefficients @ basis, new - weight)
    assert torch.allclose(basis @ basis.T, torch.eye(len(basis)).double())


def test_what_the_cutoff_leaves_out_stays_in_the_weight():
    weight = torch.diag(torch.tensor([2.0, 1.0, 1e-5])).double()
    assert torch.equal(matrices.pseudo_inverse(weight, cutoff=1e-3), torch.diag(torch.tensor([0.5, 1, 0])).double())
    unchanged = matrices.pseudo_inverse_change(weight, torch.zeros(3, 3).double(), cutoff=1e-3)
    assert torch.equal(unchanged, torch.zeros(3, 3).double())


def test_the_shortest_reconstruction_is_what_the_edited_inverse_recalls():
    """Why reconstructions of keys succeed: from nothing, gradient steps reach W'† y, which is k_edited by the edit."""
    wide = randn(5, 8)  # more inputs than outputs, so that many inputs fit
    original, edited = randn(1, 8, seed=1), randn(1, 8, seed=2)
    new, _ = changed(wide, original, edited, linalg.second_moment(randn(50, 8, seed=4)) / 50, rank=1)
    output, found = wide @ original[0], torch.zeros(8).double()
    for _ in range(20_000):
        found -= 0.02 * new.T @ (new @ found - output)
    assert torch.allclose(found, edited[0], atol=1e-4)
