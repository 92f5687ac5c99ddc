"""Fine-tuning on the edited images, as a baseline: of one layer, and of all that follows it (paper 4)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rulepatch.core import linalg
from rulepatch.core.changes import Dense, WeightChange
from rulepatch.core.site_activations import SiteActivations
from rulepatch.editors.problem import Problem
from rulepatch.editors.registry import editor
from rulepatch.editors.subspace import check_rank, low_rank_change
from rulepatch.editors.tuning import Tail, labels_of, leaves_of
from rulepatch.errors import SettingError
from rulepatch.forward import gradients
from rulepatch.methods import FineTuneGlobal, FineTuneLocal
from rulepatch.models.classifier import Classifier
from rulepatch.progress import Bar
from rulepatch.tracing.model_sites import sites_of
from rulepatch.tracing.sites import SiteList
from rulepatch.tracing.trace import Trace

__all__ = ["finetune_global", "finetune_local"]

PROJECT_EVERY = 10
"""Steps between projections, as in the authors' algorithm."""


def _check(model: Classifier, observations: list[SiteActivations], how: FineTuneLocal) -> None:
    if how.projected:
        check_rank(model, observations, how)


def _from_a_site_on(site_list: SiteList, paths: Sequence[str], how: FineTuneGlobal) -> list[str]:
    """The site from which to tune; projected, all sites from there on."""
    if len(paths) != 1:
        raise SettingError(f"expected one site from which to tune but got {len(paths)}; name the first of them")
    first = site_list.site(paths[0])
    return [each.path for each in site_list.sites[site_list.sites.index(first) :]] if how.projected else [first.path]


@editor(FineTuneLocal, check=_check)
def finetune_local(problem: Problem, how: FineTuneLocal) -> list[WeightChange]:
    """Fine-tune the sites' weights on the edited images with the original labels, by SGD (paper 4; thesis eq. 2.22).

    Args:
        problem: the problem; an exemplar without a label counts as what the model says of it.
        how: the settings.

    Returns:
        Dense changes, or low-rank ones if projected.
    """
    return _tuned(problem, [f"{path}.weight" for path in problem.paths], how)


@editor(FineTuneGlobal, check=_check, sites=_from_a_site_on)
def finetune_global(problem: Problem, how: FineTuneGlobal) -> list[WeightChange]:
    """Fine-tune every parameter from a site to the output on the edited images, by SGD (paper 4; thesis eq. 2.22).

    Args:
        problem: the problem; an exemplar without a label counts as what the model says of it.
        how: the settings.

    Returns:
        Dense changes, or low-rank ones of the sites' weights if projected.
    """
    if how.projected:
        return _tuned(problem, [f"{path}.weight" for path in problem.paths], how)
    model = problem.model
    trace = sites_of(model).trace
    return _tuned(problem, _parameters_from(model.module, trace, problem.paths[0]), how)


def _parameters_from(module: nn.Module, traced: Trace, site: str) -> list[str]:
    """Every parameter of the modules that are still at work when a site begins, or begin later."""
    begins = traced.calls[traced.calls_of(site)[0]].first_step
    late = {call.path for call in traced.calls if call.last_step > begins}
    return [path for path, _ in module.named_parameters() if path.rpartition(".")[0] in late]


def _tuned(problem: Problem, paths: Sequence[str], how: FineTuneLocal) -> list[WeightChange]:
    """The changes of some parameters after SGD on them, of each that has a part in the logits."""
    model = problem.model
    tail, labels, leaves = Tail(model, problem.paths[0]), labels_of(problem), leaves_of(model.module, paths)
    start = tail.start(problem.edited)
    projected = problem.observations if how.projected else ()
    bases = {f"{seen.site.path}.weight": _directions(problem, seen, how) for seen in projected}
    before = {path: leaf.detach().clone() for path, leaf in leaves.items()}
    optimiser = torch.optim.SGD(list(leaves.values()), lr=how.learning_rate)
    with torch.enable_grad(), Bar(how.steps, "steps", shown=problem.run.progress) as bar:
        for step in range(1, how.steps + 1):
            loss = F.cross_entropy(tail.run(leaves, start), labels)
            found = gradients(loss, list(leaves.values()), allow_unused=True)
            for leaf, gradient in zip(leaves.values(), found, strict=True):
                leaf.grad = gradient
            optimiser.step()
            if step % PROJECT_EVERY == 0 or step == how.steps:
                for path, basis in bases.items():
                    _project(leaves[path], before[path], basis)
            bar.update()
    tuned = [path for path, leaf in leaves.items() if leaf.grad is not None or not how.steps]
    deltas = {path: leaves[path].detach() - before[path] for path in tuned}
    if not how.projected:
        return [Dense(path, delta.float().cpu(), how.strength) for path, delta in deltas.items()]
    changes: list[WeightChange] = []
    for seen in problem.observations:
        directions = bases[f"{seen.site.path}.weight"]
        delta = deltas[f"{seen.site.path}.weight"].reshape(seen.site.shape).double()
        coefficients = linalg.coefficients_of(delta, directions.to(delta.device))
        changes.append(low_rank_change(seen, directions, coefficients, strength=how.strength))
    return changes


def _directions(problem: Problem, seen: SiteActivations, how: FineTuneLocal) -> Tensor:
    """D, (r, c_in)."""
    keys, weights = seen.concept_keys(architecture=1)
    whitener = problem.statistics[seen.site.path].whitening(floor=how.floor).to(keys.device)
    return linalg.directions(keys, weights, whitener, how.rank)[0]


@torch.no_grad()
def _project(leaf: Tensor, before: Tensor, basis: Tensor) -> None:
    change = (leaf - before).reshape((*leaf.shape, 1, 1)[:4])
    leaf.copy_(before + linalg.project(change, basis.to(change)).reshape(leaf.shape))
