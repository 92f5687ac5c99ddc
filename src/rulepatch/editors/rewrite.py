"""Rewriting by the reduced solve: the edit's directions are found first, then only its coefficients are unknown."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rulepatch.core import linalg
from rulepatch.core.changes import LowRank, Minimum
from rulepatch.core.patched_model import PatchedModel, Projection
from rulepatch.core.site_activations import SiteActivations
from rulepatch.editors.joint import descend_jointly
from rulepatch.editors.minimise import minimise
from rulepatch.editors.problem import Problem
from rulepatch.editors.registry import editor
from rulepatch.editors.subspace import check_rank, find_gate, free_directions, low_rank_change, shape_of_keys
from rulepatch.errors import SettingError
from rulepatch.methods import Rewrite
from rulepatch.tracing.sites import key_axis

__all__ = ["rewrite"]


@editor(Rewrite, check=check_rank)
def rewrite(problem: Problem, how: Rewrite) -> list[LowRank]:
    r"""Make a layer treat a new concept as it treats the one that it replaces.

    Directions D are the leading whitened directions of the edited images' keys under the mask (Bau et al. 2020; paper
    2.2); the coefficients Λ of ΔW = Λ·D are then the only unknowns. For squared error against the original's
    pre-activation they are a closed form: one normal matrix for all output channels. Matching the value itself, after
    the activation, or by absolute error (the authors' objective), takes first-order steps on Λ alone, from there.

    Args:
        problem: the problem.
        how: the settings.

    Returns:
        A change for each site.

    Raises:
        SettingError: nothing of the directions is left beside what is protected.
    """
    if problem.style is not None and how.coupling != "none":
        raise SettingError(
            f"expected no coupling for a rule from features, as later sites see no edited image, but got "
            f"{how.coupling}; give edited images or leave it out"
        )
    changes: list[LowRank] = []
    for recorded in problem.observations:
        seen, path = recorded, recorded.site.path
        if how.coupling != "none" and changes:
            with PatchedModel(problem.model.module, changes):
                seen = recorded.rerecord(problem.model.module, problem.edited)
        statistics, concept = problem.statistics[path], seen.concept_keys(2 if how.unfolded else 1)
        whitener = statistics.whitening(floor=how.floor).to(concept[0].device)
        basis, leading = linalg.directions(*concept, whitener, how.rank)
        if problem.protected:
            basis = free_directions(basis, problem.protected[path], how.protected_share, path)
        gate = find_gate(seen, how, basis, leading, concept, statistics)
        directions = basis.reshape(-1, *shape_of_keys(seen, how))
        projection = Projection(seen.layer, directions, gate, dtype=torch.float64)
        with torch.no_grad():
            keys = seen.keys.to(directions)
            maps = linalg.gated(projection.read(keys), projection.scores(keys), projection.thresholds)
            features = seen.features(maps, unfolded=how.unfolded)
        weights = seen.output_weights[seen.marked]
        coefficients = linalg.ridge_path(features[seen.marked], seen.residuals, weights, [how.ridge])[0]
        if _matched(seen, how) != ("pre-activation", "squared"):
            coefficients = _descend(seen, features, coefficients, how, progress=problem.run.progress)
        taps = () if how.unfolded else seen.site.shape[2:]
        coefficients = coefficients.T.reshape(-1, len(directions), *taps)
        changes.append(low_rank_change(seen, directions, coefficients, strength=how.strength, gate=gate))
    if how.coupling == "joint" and len(changes) > 1:
        changes = descend_jointly(problem, changes, steps=how.steps, progress=problem.run.progress)
    return [Minimum(**vars(change)) for change in changes] if how.minimum else changes


def _matched(seen: SiteActivations, how: Rewrite) -> tuple[str, linalg.Error]:
    """What is matched at a site, and the loss: the value where the site mixes channels before its pre-activation."""
    match = ("pre-activation" if seen.site.exact else "value") if how.match == "auto" else how.match
    return match, how.error


def _descend(seen: SiteActivations, features: Tensor, start: Tensor, how: Rewrite, *, progress: bool) -> Tensor:
    """Coefficients found by first-order steps on them alone; of each output channel the best that was met.

    The features are whitened first, so that one step size serves all directions, and each channel is measured in units
    of what it lacks.

    Returns:
        (q, c_out), float64.
    """
    under_mask, weights = features[seen.marked], seen.output_weights[seen.marked]
    whitener = linalg.whitening((under_mask * weights[:, None]).T @ under_mask, floor=1e-7)
    lacking = (weights @ seen.residuals.square()).sqrt()
    scale = lacking.clamp(min=1e-6 * float(lacking.max()) + torch.finfo(lacking.dtype).tiny).float()
    positions, measured = _measure(seen, *_matched(seen, how))
    basis = (features @ whitener).float()[positions]
    unknown = (torch.linalg.solve(whitener, start).float() / scale).requires_grad_()

    def evaluate(unknowns: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        errors = measured(basis @ (unknowns[0] * scale))
        return errors.detach(), torch.autograd.grad(errors.sum(), list(unknowns))

    (best,) = minimise([unknown], evaluate, steps=how.steps, learning_rate=0.03, title="solve", progress=progress)
    return whitener @ (best * scale).double()


def _measure(seen: SiteActivations, match: str, error: linalg.Error) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The error of each output channel, as a function of what is added to the site's output at some positions.

    Where every value depends on one position alone, those under the mask are enough.

    Returns:
        Which positions, (n, p), bool; and a function of what is added there, (positions, c_out).
    """
    marked = seen.marked
    weights, lacking = seen.output_weights[marked].float(), seen.residuals.float()
    if match == "pre-activation":
        return marked, lambda added: linalg.masked_error(added, lacking, weights, error)
    if (activate := seen.activation()) is not None:
        before, slope = seen.pre_activation.float(), seen.slope.float()
        targets = seen.targets()[marked].float()
        return marked, lambda added: linalg.masked_error(activate(before + slope * added), targets, weights, error)
    output, axis = seen.edited.output, key_axis(seen.site.kind)

    def of_values(added: Tensor) -> Tensor:
        laid_out = added.reshape(output.movedim(axis, -1).shape).movedim(-1, axis)
        errors = seen.error(laid_out.to(output), error=error)
        return errors if seen.site.exact else errors.mean().expand(added.shape[1])

    return torch.ones_like(marked), of_values
