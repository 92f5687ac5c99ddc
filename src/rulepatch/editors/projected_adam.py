"""The authors' algorithm, from its description: for fidelity, and as the yardstick of speed and loss."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from rulepatch.core import linalg
from rulepatch.core.changes import Dense, GateKind, WeightChange
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar, Observation
from rulepatch.data.cache import Cache
from rulepatch.editors.problem import Reference, Settings, assemble, pose
from rulepatch.editors.reading import change_of, read
from rulepatch.editors.registry import editor
from rulepatch.errors import SettingError
from rulepatch.models.classifier import Classifier
from rulepatch.progress import Bar
from rulepatch.timing import stretch
from rulepatch.tracing.sites import with_weight

__all__ = ["descend", "projected_adam"]


@editor("projected-adam")
def projected_adam(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Reference,
    site: str | Sequence[str],
    rank: int = 1,
    strength: float = 1.0,
    gate: float | None = None,
    gate_kind: GateKind = "hard",
    architecture: int = 1,
    steps: int = 20_000,
    learning_rate: float = 1e-4,
    project_every: int = 10,
    projected: bool = True,
    floor: float = 1e-5,
    value_point: str | None = None,
    whole_image: bool = False,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    """Edit a layer as the authors of the paper do: Adam on the whole weight, projected onto the subspace now and then.

    The loss is the mean absolute error of the masked values; every `project_every` steps and at the end the weight is
    projected onto W0 + span(D) (thesis 2.1.5; Bau et al. 2020). `rewrite` solves for the few numbers that this leaves
    free, at once.

    Args:
        model: the classifier; it is not changed.
        exemplars: pictures, their edited counterparts and masks.
        reference: pictures whose treatment should stay: a folder, pictures in memory, or statistics computed before.
        site: dotted path of the layer to edit, or of several, each edited on its own.
        rank: number of directions at each site.
        strength: the change is scaled by it; 1 is what Adam found.
        gate: as in `rewrite`; set after the fact, Adam knows nothing of it. Hard gates only.
        gate_kind: "hard".
        architecture: 1 for keys of c_in channels, 2 for keys of unfolded patches (thesis fig. 2-3).
        steps: of Adam; the paper's grid goes from 10,000 at 1e-3 to 80,000 at 1e-7.
        learning_rate: of Adam.
        project_every: steps between projections.
        projected: project at all; without, the change is dense (an ablation of the paper).
        floor: smallest eigenvalue of the second moment kept, relative to the largest, in 0..1.
        value_point: dotted path of the module whose output is matched; found by itself if None.
        whole_image: match the whole pictures, without the mask (an ablation of the paper).
        seed: of the sample of the reference set's keys.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars on standard error.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        SettingError: a setting out of range.
        SiteError: a site that the model does not have, or that cannot be edited.
    """
    if steps < 0:
        raise SettingError(f"expected at least 0 steps but got {steps}; 10,000 to 80,000 are usual")
    if project_every < 1:
        raise SettingError(f"expected at least 1 step between projections but got {project_every}; 10 is usual")
    if not 0 < learning_rate < math.inf:
        raise SettingError(f"expected a learning rate above 0 but got {learning_rate}; 0.0001 is usual")
    if gate_kind != "hard":
        raise SettingError(f"expected a hard gate but got {gate_kind!r}; Adam does not know of soft ones: use rewrite")
    if gate is not None and not projected:
        raise SettingError("expected no gate without the projection but got both; a dense change acts everywhere")
    settings = Settings(
        site, rank, strength, gate, gate_kind, architecture, floor, value_point, seed, whole_image=whole_image
    )
    problem = pose(model, exemplars, settings, reference=reference, cache=cache, progress=progress)
    own = {"steps": steps, "learning_rate": learning_rate, "project_every": project_every, "projected": projected}
    adam = partial(descend, steps=steps, learning_rate=learning_rate, project_every=project_every, progress=progress)
    changes: list[WeightChange] = []
    with stretch("solve"):
        for seen in problem.observations:
            if projected:
                found = read(problem, seen)
                delta = adam(seen, found.directions)
                coefficients = linalg.coefficients_of(delta.double(), found.directions.to(delta.device))
                changes.append(change_of(problem, seen, found, coefficients))
            else:
                delta = adam(seen, None).reshape(seen.layer.weight.shape)
                changes.append(Dense(f"{seen.site.path}.weight", delta.float().cpu(), strength))
    return assemble(problem, changes, method="projected-adam", own=own)


def descend(
    observation: Observation,
    directions: Tensor | None,
    *,
    steps: int,
    learning_rate: float,
    project_every: int = 10,
    progress: bool = False,
) -> Tensor:
    """Adam on the whole weight, projected onto W0 + span(D) every few steps and at the end.

    Args:
        observation: what the site sees of the exemplars.
        directions: D, (r, c_in), or (r, c_in, y, x) for the second architecture; None to leave out the projection.
        steps: of Adam.
        learning_rate: of Adam.
        project_every: steps between projections.
        progress: whether to show a bar.

    Returns:
        ΔW, (c_out, c_in, y, x), in the layer's type.
    """
    layer, keys = observation.layer, observation.keys
    basis = None if directions is None else directions.to(layer.weight.detach())
    changed = with_weight(layer, torch.zeros_like(layer.weight.detach()).requires_grad_())
    optimiser = torch.optim.Adam([changed.weight], lr=learning_rate)
    with torch.enable_grad(), Bar(steps, "steps", shown=progress) as bar:
        for step in range(1, steps + 1):
            loss = observation.error(changed(keys), error="absolute").mean()
            (changed.weight.grad,) = torch.autograd.grad(loss, changed.weight)
            optimiser.step()
            if basis is not None and (step % project_every == 0 or step == steps):
                _project(changed.weight, basis)
            bar.update()
    return changed.weight.detach().reshape(observation.site.shape)


@torch.no_grad()
def _project(weight: Tensor, basis: Tensor) -> None:
    four_axes = weight.reshape((*weight.shape, 1, 1)[:4])
    weight.copy_(linalg.project(four_axes, basis).reshape(weight.shape))
