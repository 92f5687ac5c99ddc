"""Rewriting by the reduced solve: the edit's directions are found first, then only its coefficients are unknown."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from rulepatch.core import linalg
from rulepatch.core.changes import GateKind, LowRank
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar, Observation
from rulepatch.core.installation import Installation, Reader
from rulepatch.data.cache import Cache
from rulepatch.editors.joint import descend_jointly
from rulepatch.editors.problem import GateLevel, Problem, Reference, Settings, assemble, pose
from rulepatch.editors.reading import Reading, change_of, read
from rulepatch.editors.registry import editor
from rulepatch.errors import SettingError
from rulepatch.models.classifier import Classifier
from rulepatch.progress import Bar
from rulepatch.timing import stretch
from rulepatch.tracing.sites import key_axis, patches, rows

__all__ = ["Coupling", "Match", "Solving", "features_of", "rewrite", "rewrite_posed", "solve"]

Match = Literal["auto", "pre-activation", "value"]
Coupling = Literal["none", "sequence", "joint"]


@dataclass(frozen=True)
class Solving:
    """How the coefficients are found; see `rewrite`.

    Attributes:
        match: "auto", "pre-activation" or "value".
        error: "squared" or "absolute".
        steps: first-order steps, at least 0, where there is no closed form.
        ridge: of the closed form, at least 0.
        coupling: of several sites, "none", "sequence" or "joint".
    """

    match: Match = "auto"
    error: linalg.Error = "squared"
    steps: int = 600
    ridge: float = 1e-3
    coupling: Coupling = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.ridge < math.inf:
            raise SettingError(f"expected a ridge of at least 0 but got {self.ridge}; 0.001 is usual")
        if self.steps < 0:
            raise SettingError(f"expected at least 0 steps but got {self.steps}; some hundreds are usual")
        if self.coupling not in {"none", "sequence", "joint"}:
            raise SettingError(f"expected a coupling none, sequence or joint but got {self.coupling!r}; choose one")


@editor("rewrite")
def rewrite(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Reference,
    site: str | Sequence[str],
    rank: int = 1,
    strength: float = 1.0,
    gate: GateLevel = "auto",
    gate_kind: GateKind = "hard",
    architecture: int = 1,
    match: Match = "auto",
    error: linalg.Error = "squared",
    steps: int = 600,
    ridge: float = 1e-3,
    coupling: Coupling = "none",
    floor: float = 1e-5,
    value_point: str | None = None,
    whole_image: bool = False,
    protect: Reference = None,
    protected_share: float = 0.9,
    style: Image.Image | None = None,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    r"""Rewrite a rule: make a layer treat a new concept as it treats the one that it replaces.

    Directions D are the leading whitened directions of the edited pictures' keys under the mask (Bau et al. 2020; paper
    2.2); the coefficients Λ of ΔW = Λ·D are then the only unknowns. With the defaults (squared error against the
    original's pre-activation) they are a closed form: one normal matrix for all output channels. Matching the value
    itself, after the activation, or by absolute error (the authors' objective), takes first-order steps on Λ alone,
    starting from the closed form.

    Args:
        model: the classifier; it is not changed.
        exemplars: pictures, their edited counterparts and masks.
        reference: pictures whose treatment should stay: a folder, pictures in memory, or statistics computed before.
        site: dotted path of the layer to edit, or of several.
        rank: number of directions at each site.
        strength: the change is scaled by it; 1 is the solve, 1 to 4 is usual.
        gate: quantile q of the reference set, 0..1: the edit acts only on keys that look more like the concept than
            that share of the reference set; "auto" for one that lets 90 % of the concept in the exemplars through,
            within 0.9..0.98; None or "none" for everywhere, so that the edit is a plain change of weights.
        gate_kind: "hard" (all or nothing) or "soft" (in proportion to the excess; new neurons beside the layer).
        architecture: 1 for keys of c_in channels, 2 for keys of unfolded patches (thesis fig. 2-3).
        match: what to match: the "pre-activation" (residual sum included), the "value" after activation and pool, or
            "auto": the pre-activation, but the value where the site mixes channels before it (layer norm, gates).
        error: "squared" (the paper) or "absolute" (the authors' code).
        steps: first-order steps, where there is no closed form.
        ridge: of the closed form, relative to the mean diagonal of the normal matrix, ≥ 0.
        coupling: of several sites: with "none" each is solved on its own; in "sequence" each sees the edits of those
            before it; "joint" starts there and takes steps on the coefficients of all for the error at all of them.
        floor: smallest eigenvalue of the second moment kept, relative to the largest, in 0..1.
        value_point: dotted path of the module whose output is matched; found by itself if None.
        whole_image: match the whole pictures, without the mask (an ablation of the paper).
        protect: pictures that must not change: what their keys use is kept from the directions (AlphaEdit, Fang et al.
            2025). It holds as far as their keys lie in a subspace; measure what was kept.
        protected_share: how much of the power of their keys that subspace holds, 0..1.
        style: a texture whose keys at the layer stand in the place of those of edited pictures (thesis 2.3), so that
            the exemplars need none.
        seed: of the sample of the reference set's keys.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars on standard error.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        SettingError: a setting out of range.
        SiteError: a site that the model does not have, or that cannot be edited.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import exemplar, training_images
        >>> model = load_model("playground")
        >>> edit = rewrite(model, [exemplar("van", ground="snow", seed=1)], reference=training_images(100, seed=2),
        ...                site="blocks.5.conv", cache=None)
        >>> edit.sites, edit.changes[0].rank
        (('blocks.5.conv',), 1)
    """
    settings = Settings(
        site, rank, strength, gate, gate_kind, architecture, floor, value_point, seed, whole_image, protected_share
    )
    solving = Solving(match, error, steps, ridge, coupling)
    if style is not None and coupling != "none":
        raise SettingError(
            f"expected no coupling for a rule from features, as later sites see no edited picture, but got {coupling}; "
            "give edited pictures or leave it out"
        )
    pictures = {"reference": reference, "protect": protect, "style": style}
    problem = pose(model, exemplars, settings, cache=cache, progress=progress, **pictures)
    return rewrite_posed(problem, solving, progress=progress)


def rewrite_posed(problem: Problem, solving: Solving, *, progress: bool = False) -> Edit:
    """Rewrite a rule whose problem was posed before, as when many settings are tried of one problem.

    Args:
        problem: the problem.
        solving: how to solve it.
        progress: whether to show bars.
    """
    changes: list[LowRank] = []
    with stretch("solve"):
        for observation in problem.observations:
            seen = observation
            if solving.coupling != "none" and changes:
                with Installation(problem.model.module, changes):
                    seen = observation.again(problem.model.module, problem.edited)
            found = read(problem, seen)
            coefficients = solve(
                seen, found, match=solving.match, error=solving.error, steps=solving.steps, ridge=solving.ridge,
                progress=progress,
            )  # fmt: skip
            changes.append(change_of(problem, seen, found, coefficients))
        if solving.coupling == "joint" and len(changes) > 1:
            changes = descend_jointly(problem, changes, steps=solving.steps, progress=progress)
    return assemble(problem, changes, method="rewrite", own=asdict(solving))


def solve(
    observation: Observation,
    reading: Reading,
    *,
    match: Match = "auto",
    error: linalg.Error = "squared",
    steps: int = 600,
    ridge: float = 1e-3,
    progress: bool = False,
) -> Tensor:
    """The reduced solve at one site: coefficients for given directions.

    Args:
        observation: what the site sees of the exemplars.
        reading: the directions and the gate.
        match: "auto", "pre-activation" or "value".
        error: "squared" or "absolute".
        steps: first-order steps, where there is no closed form.
        ridge: of the closed form.
        progress: whether to show a bar, where there is no closed form.

    Returns:
        Λ, (c_out, r, y, x), or (c_out, r) for the second architecture; float64.
    """
    if match == "auto":
        match = "pre-activation" if observation.site.exact else "value"
    features, marked = features_of(observation, reading), observation.marked
    weights = observation.output_weights[marked]
    coefficients = linalg.least_squares(features[marked], observation.residuals, weights, ridge=ridge)
    if (match, error) != ("pre-activation", "squared"):
        coefficients = _descend(
            observation, features, coefficients, match=match, error=error, steps=steps, progress=progress
        )
    taps = observation.site.shape[2:] if reading.directions.ndim == 2 else ()
    return coefficients.T.reshape(-1, len(reading.directions), *taps)


def features_of(observation: Observation, reading: Reading) -> Tensor:
    """X: what each coefficient contributes at each position of the site's output.

    Args:
        observation: what the site sees of the exemplars.
        reading: the directions and the gate.

    Returns:
        (n, p, q), float64.
    """
    reader = Reader(observation.layer, reading.directions, reading.gate, dtype=torch.float64)
    with torch.no_grad():
        maps = reader(observation.keys.to(reading.directions))
        if reading.directions.ndim == 2:
            return patches(observation.layer, maps)
        return rows(maps, key_axis(observation.site.kind))


def _descend(
    observation: Observation,
    features: Tensor,
    start: Tensor,
    *,
    match: Match,
    error: linalg.Error,
    steps: int,
    progress: bool,
) -> Tensor:
    """Coefficients found by first-order steps on them alone; of each output channel the best that was met.

    The features are whitened first, so that one step size serves all directions, and each channel is measured in units
    of what it lacks.

    Returns:
        (q, c_out), float64.
    """
    under_mask, weights = features[observation.marked], observation.output_weights[observation.marked]
    whitener = linalg.whitening((under_mask * weights[:, None]).T @ under_mask, floor=1e-7)
    lacking = (weights @ observation.residuals.square()).sqrt()
    scale = lacking.clamp(min=1e-6 * float(lacking.max()) + torch.finfo(lacking.dtype).tiny).float()
    positions, measured = _measure(observation, match, error)
    basis = (features @ whitener).float()[positions]
    unknown = (torch.linalg.solve(whitener, start).float() / scale).requires_grad_()
    best, best_errors = unknown.detach().clone(), torch.full_like(scale, torch.inf)
    optimiser = torch.optim.Adam([unknown], lr=0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    with torch.enable_grad(), Bar(steps + 1, "solve", shown=progress) as bar:
        for _ in range(steps + 1):
            errors = measured(basis @ (unknown * scale))
            improved = errors.detach() < best_errors
            best_errors = torch.where(improved, errors.detach(), best_errors)
            best = torch.where(improved, unknown.detach(), best)
            (unknown.grad,) = torch.autograd.grad(errors.sum(), unknown)
            optimiser.step()
            schedule.step()
            bar.update()
    return whitener @ (best * scale).double()


def _measure(observation: Observation, match: Match, error: linalg.Error) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The error of each output channel, as a function of what is added to the site's output at some positions.

    Where every value depends on one position alone, those under the mask are enough.

    Returns:
        Which positions, (n, p), bool; and a function of what is added there, (positions, c_out).
    """
    marked = observation.marked
    weights, lacking = observation.output_weights[marked].float(), observation.residuals.float()
    if match == "pre-activation":
        return marked, lambda added: linalg.masked_error(added, lacking, weights, error)
    if (activate := observation.activation()) is not None:
        before, slope = observation.pre_activation.float(), observation.slope.float()
        targets = observation.targets()[marked].float()
        return marked, lambda added: linalg.masked_error(activate(before + slope * added), targets, weights, error)
    output, axis = observation.edited.output, key_axis(observation.site.kind)

    def of_values(added: Tensor) -> Tensor:
        laid_out = added.reshape(output.movedim(axis, -1).shape).movedim(-1, axis)
        errors = observation.error(laid_out.to(output), error=error)
        return errors if observation.site.exact else errors.mean().expand(added.shape[1])

    return torch.ones_like(marked), of_values
