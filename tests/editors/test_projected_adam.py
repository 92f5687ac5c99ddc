"""The authors' algorithm: stays in its subspace, and finds no lower squared loss than the closed form."""

import pytest
import torch

from rulepatch.core import linalg
from rulepatch.editors.problem import Settings, pose
from rulepatch.editors.projected_adam import descend
from rulepatch.editors.reading import read
from rulepatch.editors.rewrite import solve


@pytest.fixture
def problem(model, exemplars, reference):
    problem = pose(model, exemplars, Settings("1.conv2", rank=2), reference=reference, cache=None, progress=False)
    return problem.observations[0], read(problem, problem.observations[0])


def test_the_change_ends_in_the_subspace(problem):
    observation, reading = problem
    delta = descend(observation, reading.directions, steps=27, learning_rate=1e-3).double()
    assert torch.allclose(linalg.project(delta, reading.directions), delta, atol=1e-6)
    assert float(delta.abs().max()) > 1e-3


def test_without_projection_it_would_not(problem):
    """The negative control: a step that is not projected leaves the subspace."""
    observation, reading = problem
    layer = observation.layer
    weight = torch.zeros_like(layer.weight).requires_grad_()
    loss = observation.error(torch.nn.functional.conv2d(observation.keys, weight, padding=1)).mean()
    (gradient,) = torch.autograd.grad(loss, weight)
    projected = linalg.project(gradient.double(), reading.directions)
    assert float((gradient - projected).norm()) > 0.1 * float(gradient.norm())


def test_steps_on_the_coefficients_get_below_it(problem):
    """With the authors' own objective, solving for the coefficients alone reaches a loss at most theirs."""
    observation, reading = problem
    delta = descend(observation, reading.directions, steps=1000, learning_rate=1e-4)
    theirs = observation.error(torch.nn.functional.conv2d(observation.keys, delta, padding=1)).mean()
    found = solve(observation, reading, match="value", error="absolute", steps=1500)
    ours = linalg.low_rank(found, reading.directions).float()
    reached = observation.error(torch.nn.functional.conv2d(observation.keys, ours, padding=1)).mean()
    assert float(reached.detach()) <= float(theirs.detach()) * 1.001
    assert float(theirs.detach()) < 0.98 * float(observation.error().mean().detach())
