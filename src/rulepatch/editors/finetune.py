"""Fine-tuning on the edited pictures, as a baseline: of one layer, and of all that follows it (paper 4)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rulepatch.core import linalg
from rulepatch.core.changes import Dense, WeightChange
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.model_sites import sites_of
from rulepatch.data.cache import Cache
from rulepatch.editors.problem import Problem, Reference, Settings, assemble, pose
from rulepatch.editors.reading import change_of, read
from rulepatch.editors.registry import editor
from rulepatch.editors.tuning import Tail, check_stepping, labels_of, leaves_of
from rulepatch.errors import SettingError
from rulepatch.forward import gradients
from rulepatch.models.classifier import Classifier
from rulepatch.progress import Bar
from rulepatch.timing import stretch
from rulepatch.tracing.trace import Trace

__all__ = ["finetune_global", "finetune_local"]

PROJECT_EVERY = 10
"""Steps between projections, as in the authors' algorithm."""


@editor("finetune-local")
def finetune_local(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Reference,
    site: str | Sequence[str],
    strength: float = 1.0,
    steps: int = 200,
    learning_rate: float = 1e-3,
    projected: bool = False,
    rank: int = 1,
    floor: float = 1e-5,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    """Fine-tune the sites' weights on the edited pictures with the original labels, by SGD (paper 4; thesis eq. 2.22).

    Args:
        model: the classifier; it is not changed.
        exemplars: pictures and their edited counterparts; one without a label counts as what the model says of it.
        reference: pictures whose treatment should stay; directions and predicted damage come from them.
        site: dotted path of the layer whose weight is tuned, or of several, tuned together.
        strength: the change is scaled by it: 1 is what SGD found, less interpolates.
        steps: of SGD, each on all exemplars.
        learning_rate: of SGD.
        projected: keep the change in the span of the edit's directions, as a rewrite does (the paper's ablation).
        rank: number of directions, if projected.
        floor: smallest eigenvalue of the second moment kept, relative to the largest, in 0..1.
        seed: of the sample of the reference set's keys.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars.

    Returns:
        The edit: dense changes, or low-rank ones if projected.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        SettingError: a setting out of range.
        SiteError: a site that the model does not have, or that cannot be edited.
    """
    settings = Settings(site, rank=rank, strength=strength, floor=floor, seed=seed)
    check_stepping(steps, learning_rate)
    problem = pose(model, exemplars, settings, reference=reference, cache=cache, progress=progress)
    with stretch("solve"):
        parameters = [f"{path}.weight" for path in settings.paths]
        found = _descend(problem, parameters, steps, learning_rate, projected=projected, progress=progress)
        changes = _changes(problem, found, projected=projected)
    own = {"steps": steps, "learning_rate": learning_rate, "projected": projected}
    return assemble(problem, changes, method="finetune-local", own=own)


@editor("finetune-global")
def finetune_global(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Reference,
    site: str | Sequence[str],
    strength: float = 1.0,
    steps: int = 200,
    learning_rate: float = 1e-3,
    projected: bool = False,
    rank: int = 1,
    floor: float = 1e-5,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    """Fine-tune every parameter from a site to the output on the edited pictures, by SGD (paper 4; thesis eq. 2.22).

    Args:
        model: the classifier; it is not changed.
        exemplars: pictures and their edited counterparts; one without a label counts as what the model says of it.
        reference: pictures whose treatment should stay; directions and predicted damage come from them.
        site: dotted path of the first layer that is tuned.
        strength: the change is scaled by it: 1 is what SGD found, less interpolates.
        steps: of SGD, each on all exemplars.
        learning_rate: of SGD.
        projected: tune the weights of sites alone, each in the span of its own directions (the paper's ablation).
        rank: number of directions at each site, if projected.
        floor: smallest eigenvalue of the second moment kept, relative to the largest, in 0..1.
        seed: of the sample of the reference set's keys.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars.

    Returns:
        The edit: dense changes, or low-rank ones if projected.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        SettingError: a setting out of range.
        SiteError: a site that the model does not have, or that cannot be edited.
    """
    check_stepping(steps, learning_rate)
    survey = sites_of(model)
    first = survey.site(_only(site))
    sites = [each.path for each in survey.sites[survey.sites.index(first) :]] if projected else [first.path]
    settings = Settings(sites, rank=rank, strength=strength, floor=floor, seed=seed)
    problem = pose(model, exemplars, settings, reference=reference, cache=cache, progress=progress)
    with stretch("solve"):
        weights = [f"{path}.weight" for path in sites]
        parameters = weights if projected else _parameters_from(model.module, survey.trace, first.path)
        found = _descend(problem, parameters, steps, learning_rate, projected=projected, progress=progress)
        changes = _changes(problem, found, projected=projected)
    own = {"steps": steps, "learning_rate": learning_rate, "projected": projected}
    return assemble(problem, changes, method="finetune-global", own=own)


def _only(site: str | Sequence[str]) -> str:
    sites = [site] if isinstance(site, str) else list(site)
    if len(sites) != 1:
        raise SettingError(f"expected one site from which to tune but got {len(sites)}; name the first of them")
    return sites[0]


def _parameters_from(module: nn.Module, traced: Trace, site: str) -> list[str]:
    """Every parameter of the modules that are still at work when a site begins, or begin later."""
    begins = traced.calls[traced.calls_of(site)[0]].first_step
    late = {call.path for call in traced.calls if call.last_step > begins}
    return [path for path, _ in module.named_parameters() if path.rpartition(".")[0] in late]


def _descend(
    problem: Problem, paths: Sequence[str], steps: int, learning_rate: float, *, projected: bool, progress: bool
) -> dict[str, Tensor]:
    """SGD on some parameters; what was found less what was there, for each parameter that has a part in the logits."""
    model = problem.model
    tail, labels, leaves = Tail(model, problem.settings.paths[0]), labels_of(problem), leaves_of(model.module, paths)
    start = tail.start(problem.edited)
    bases = _bases(problem) if projected else {}
    before = {path: leaf.detach().clone() for path, leaf in leaves.items()}
    optimiser = torch.optim.SGD(list(leaves.values()), lr=learning_rate)
    with torch.enable_grad(), Bar(steps, "steps", shown=progress) as bar:
        for step in range(1, steps + 1):
            loss = F.cross_entropy(tail.run(leaves, start), labels)
            found = gradients(loss, list(leaves.values()), allow_unused=True)
            for leaf, gradient in zip(leaves.values(), found, strict=True):
                leaf.grad = gradient
            optimiser.step()
            if step % PROJECT_EVERY == 0 or step == steps:
                for path, basis in bases.items():
                    _project(leaves[path], before[path], basis)
            bar.update()
    return {path: leaf.detach() - before[path] for path, leaf in leaves.items() if leaf.grad is not None or not steps}


def _bases(problem: Problem) -> dict[str, Tensor]:
    return {f"{seen.site.path}.weight": read(problem, seen).directions for seen in problem.observations}


@torch.no_grad()
def _project(leaf: Tensor, before: Tensor, basis: Tensor) -> None:
    change = (leaf - before).reshape((*leaf.shape, 1, 1)[:4])
    leaf.copy_(before + linalg.project(change, basis.to(change)).reshape(leaf.shape))


def _changes(problem: Problem, found: Mapping[str, Tensor], *, projected: bool) -> list[WeightChange]:
    strength = problem.settings.strength
    if not projected:
        return [Dense(path, delta.float().cpu(), strength) for path, delta in found.items()]
    changes: list[WeightChange] = []
    for seen in problem.observations:
        reading = read(problem, seen)
        delta = found[f"{seen.site.path}.weight"].reshape(seen.site.shape).double()
        coefficients = linalg.coefficients_of(delta, reading.directions.to(delta.device))
        changes.append(change_of(problem, seen, reading, coefficients))
    return changes
