"""The authors' algorithm: stays in its subspace, and finds no lower squared loss than the closed form."""

import pytest
import torch

from rulepatch.core import linalg
from rulepatch.editors.projected_adam import descend
from rulepatch.methods import ProjectedAdam, Rewrite
from tests.fixtures.solving import problem_at, solved

HOW = Rewrite(rank=2, gate=None)


@pytest.fixture
def problem(model, exemplars, reference):
    found = problem_at(model, exemplars, reference, "1.conv2", HOW)
    return found, found.observations[0], solved(found, HOW)


def test_the_change_ends_in_the_subspace(problem):
    _, observation, reading = problem
    delta = descend(observation, reading.directions, ProjectedAdam(steps=27, learning_rate=1e-3)).double()
    assert torch.allclose(linalg.project(delta, reading.directions), delta, atol=1e-6)
    assert float(delta.abs().max()) > 1e-3


def test_without_projection_it_would_not(problem):
    """The negative control: a step that is not projected leaves the subspace."""
    _, observation, reading = problem
    layer = observation.layer
    weight = torch.zeros_like(layer.weight).requires_grad_()
    loss = observation.error(torch.nn.functional.conv2d(observation.keys, weight, padding=1)).mean()
    (gradient,) = torch.autograd.grad(loss, weight)
    projected = linalg.project(gradient.double(), reading.directions)
    assert float((gradient - projected).norm()) > 0.1 * float(gradient.norm())


@pytest.mark.slow
def test_steps_on_the_coefficients_get_below_it(problem):
    """With the authors' own objective, solving for the coefficients alone reaches a loss at most theirs."""
    posed, observation, reading = problem
    delta = descend(observation, reading.directions, ProjectedAdam(steps=1000, learning_rate=1e-4))
    theirs = observation.error(torch.nn.functional.conv2d(observation.keys, delta, padding=1)).mean()
    found = solved(posed, HOW.but(match="value", error="absolute", steps=1500))
    ours = linalg.low_rank(found.coefficients, reading.directions).float()
    reached = observation.error(torch.nn.functional.conv2d(observation.keys, ours, padding=1)).mean()
    assert float(reached.detach()) <= float(theirs.detach()) * 1.001
    assert float(theirs.detach()) < 0.98 * float(observation.error().mean().detach())
