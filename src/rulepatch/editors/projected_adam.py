"""The authors' algorithm, from its description: for fidelity, and as the yardstick of speed and loss."""

import torch
from torch import Tensor

from rulepatch.core import linalg
from rulepatch.core.changes import Dense, WeightChange
from rulepatch.core.site_activations import SiteActivations
from rulepatch.editors.problem import Problem
from rulepatch.editors.registry import editor
from rulepatch.editors.subspace import check_rank, find_gate, low_rank_change, shape_of_keys
from rulepatch.methods import ProjectedAdam
from rulepatch.progress import Bar
from rulepatch.tracing.sites import clone_with_weight

__all__ = ["descend", "projected_adam"]


@editor(ProjectedAdam, check=check_rank)
def projected_adam(problem: Problem, how: ProjectedAdam) -> list[WeightChange]:
    """Edit a layer as the authors of the paper do: Adam on the whole weight, projected onto the subspace now and then.

    The loss is the mean absolute error of the masked values; every `project_every` steps and at the end the weight is
    projected onto W0 + span(D) (thesis 2.1.5; Bau et al. 2020). `rewrite` solves for the few numbers that this leaves
    free, at once.

    Args:
        problem: the problem.
        how: the settings; the paper's grid goes from 10,000 steps at 1e-3 to 80,000 at 1e-7.

    Returns:
        A change for each site, dense without the projection.
    """
    changes: list[WeightChange] = []
    for seen in problem.observations:
        if not how.projected:
            delta = descend(seen, None, how, progress=problem.run.progress).reshape(seen.layer.weight.shape)
            changes.append(Dense(f"{seen.site.path}.weight", delta.float().cpu(), how.strength))
            continue
        statistics, concept = problem.statistics[seen.site.path], seen.concept_keys(2 if how.unfolded else 1)
        whitener = statistics.whitening(floor=how.floor).to(concept[0].device)
        basis, leading = linalg.directions(*concept, whitener, how.rank)
        gate = find_gate(seen, how, basis, leading, concept, statistics)
        directions = basis.reshape(-1, *shape_of_keys(seen, how))
        delta = descend(seen, directions, how, progress=problem.run.progress)
        coefficients = linalg.coefficients_of(delta.double(), directions.to(delta.device))
        changes.append(low_rank_change(seen, directions, coefficients, strength=how.strength, gate=gate))
    return changes


def descend(
    observation: SiteActivations, directions: Tensor | None, how: ProjectedAdam, *, progress: bool = False
) -> Tensor:
    """Adam on the whole weight, projected onto W0 + span(D) every few steps and at the end.

    Args:
        observation: what the site sees of the exemplars.
        directions: D, (r, c_in), or (r, c_in, y, x) for unfolded patches; None to leave out the projection.
        how: steps, learning rate and steps between projections.
        progress: whether to show a bar.

    Returns:
        ΔW, (c_out, c_in, y, x), in the layer's type.
    """
    layer, keys = observation.layer, observation.keys
    basis = None if directions is None else directions.to(layer.weight.detach())
    changed = clone_with_weight(layer, torch.zeros_like(layer.weight.detach()).requires_grad_())
    optimiser = torch.optim.Adam([changed.weight], lr=how.learning_rate)
    with torch.enable_grad(), Bar(how.steps, "steps", shown=progress) as bar:
        for step in range(1, how.steps + 1):
            loss = observation.error(changed(keys), error="absolute").mean()
            (changed.weight.grad,) = torch.autograd.grad(loss, changed.weight)
            optimiser.step()
            if basis is not None and (step % how.project_every == 0 or step == how.steps):
                _project(changed.weight, basis)
            bar.update()
    return changed.weight.detach().reshape(observation.site.shape)


@torch.no_grad()
def _project(weight: Tensor, basis: Tensor) -> None:
    four_axes = weight.reshape((*weight.shape, 1, 1)[:4])
    weight.copy_(linalg.project(four_axes, basis).reshape(weight.shape))
