"""What every editor starts from and ends with: the problem posed at each site, and the edit of the changes."""

import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rulepatch.core import linalg
from rulepatch.core.agreement import check_agreement
from rulepatch.core.changes import Change, GateKind, LowRank, WeightChange
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.exemplars import Exemplar, Observation, observe
from rulepatch.core.installation import Installation, with_delta
from rulepatch.core.model_sites import sites_of
from rulepatch.core.moments import KeyStatistics
from rulepatch.data.cache import Cache, default_cache
from rulepatch.data.folders import ImageSet
from rulepatch.data.statistics import key_statistics
from rulepatch.digests import digest_of_bytes
from rulepatch.editors.certificate import certify
from rulepatch.errors import ExemplarError, SettingError, warn
from rulepatch.images import cover
from rulepatch.models.classifier import Classifier
from rulepatch.progress import steps
from rulepatch.timing import stretch
from rulepatch.tracing import capture
from rulepatch.tracing.sites import Site, Survey

__all__ = [
    "GateLevel",
    "Problem",
    "Reference",
    "Settings",
    "assemble",
    "errors_at",
    "look",
    "masked_inputs",
    "pose",
]

GateLevel = float | Literal["auto", "none"] | None

Reference = Any
"""Pictures whose treatment should stay: a folder, an `ImageSet`, pictures in memory; or statistics of every site."""


@dataclass(frozen=True)
class Settings:
    """What every editor is told.

    Attributes:
        site: dotted path of the layer to edit, or of several, each edited on its own.
        rank: number of directions at each site, at least 1.
        strength: the change is scaled by it; finite.
        gate: quantile of the reference set above which the edit acts, 0..1; "auto" to choose it; None or "none" for
            everywhere.
        gate_kind: "hard" or "soft".
        architecture: 1 for keys of c_in channels, 2 for unfolded patches (thesis fig. 2-3).
        floor: smallest eigenvalue of the second moment kept, relative to the largest, in 0..1.
        value_point: dotted path of the module whose output is matched; found by itself if None. One site only.
        seed: of the sample of the reference set's keys.
        whole_image: match the whole pictures, without the mask (an ablation of the paper).
        protected_share: how much of the power of the protected pictures' keys is kept from the edit, 0..1.
    """

    site: str | Sequence[str]
    rank: int = 1
    strength: float = 1.0
    gate: GateLevel = None
    gate_kind: GateKind = "hard"
    architecture: int = 1
    floor: float = 1e-5
    value_point: str | None = None
    seed: int = 0
    whole_image: bool = False
    protected_share: float = 0.9

    @property
    def paths(self) -> tuple[str, ...]:
        """The sites."""
        return (self.site,) if isinstance(self.site, str) else tuple(self.site)

    def __post_init__(self) -> None:
        if self.gate == "none":
            object.__setattr__(self, "gate", None)
        paths = self.paths
        if len(set(paths)) != len(paths) or not paths:
            raise SettingError(
                f"expected different sites but got {', '.join(paths) or 'none'}; the command `sites` lists them"
            )
        if "auto" in paths:
            raise SettingError("expected the dotted path of a site but got 'auto'; rulepatch.search chooses by itself")
        if self.value_point is not None and len(paths) > 1:
            raise SettingError(
                f"expected one site with a value point of your own but got {len(paths)}; edit them one by one"
            )
        if self.rank < 1:
            raise SettingError(f"expected a rank of at least 1 but got {self.rank}; 1 to 5 is usual")
        if not math.isfinite(self.strength):
            raise SettingError(f"expected a finite strength but got {self.strength}; 1 is the solve, 1 to 4 is usual")
        if self.gate is not None and self.gate != "auto" and not 0 <= float(self.gate) < 1:
            raise SettingError(
                f"expected a gate in 0..1 (a quantile of the reference set, such as 0.98), auto or none but got "
                f"{self.gate}"
            )
        if not 0 < self.protected_share < 1:
            raise SettingError(f"expected a protected share between 0 and 1 but got {self.protected_share}; take 0.9")
        if self.gate_kind not in {"hard", "soft"}:
            raise SettingError(f"expected a hard or soft gate but got {self.gate_kind!r}; choose one")
        if self.architecture not in {1, 2}:
            raise SettingError(f"expected architecture 1 or 2 but got {self.architecture}; choose one")
        if not 0 <= self.floor < 1:
            raise SettingError(f"expected a floor in 0..1 but got {self.floor}; 0.00001 is usual")


@dataclass(frozen=True, eq=False)
class Problem:
    """An edit's problem at some sites.

    Attributes:
        model: the classifier.
        exemplars: what to learn from.
        originals: model inputs of the original pictures, (n, channels, height, width).
        edited: model inputs of the edited pictures, (n, channels, height, width).
        settings: what the editor is told.
        observations: what each site sees of the exemplars.
        statistics: of each site's keys on the reference set.
        protected: of each site's keys on pictures that must not change; empty if there are none.
        style: what the concept is replaced by at the layer itself; None where the edited pictures show it.
    """

    model: Classifier
    exemplars: Sequence[Exemplar]
    originals: Tensor
    edited: Tensor
    settings: Settings
    observations: Sequence[Observation]
    statistics: Mapping[str, KeyStatistics]
    protected: Mapping[str, KeyStatistics] = field(default_factory=dict)
    style: Image.Image | None = None


def pose(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    settings: Settings,
    *,
    reference: Reference,
    protect: Reference = None,
    style: Image.Image | None = None,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Problem:
    """Look at the exemplars and the reference set through some sites.

    Args:
        model: the classifier.
        exemplars: at least one.
        settings: what the editor is told.
        reference: pictures whose treatment should stay: a folder, pictures in memory, or statistics of every site.
        protect: pictures that must not change, in the same forms; none if None.
        style: a texture, whose keys then stand in the place of those of the edited pictures (thesis 2.3).
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars.

    Raises:
        ExemplarError: no exemplars are given, or one was edited nowhere or beside its mask.
        SettingError: the rank is too high for a site, or a label is unknown to the model.
    """
    originals, edited, observations = look(model, exemplars, settings, edited=style is None, progress=progress)
    if style is not None:
        texture = cover(style, model.preprocess.input_size[::-1])
        keys = model.inputs(model.preprocess.pixels(texture, framed=True)[None])
        observations = [seen.with_style(capture.keys_at(model.module, keys, seen.site.path)) for seen in observations]
    for observation in observations:  # before the pass over the reference set, which may take long
        marked, channels = observation.concept_keys(settings.architecture)[0].shape
        if settings.rank > min(channels, marked):
            raise SettingError(
                f"expected a rank from 1 to {min(channels, marked)} at {observation.site.path} ({channels} channels, "
                f"{marked} marked positions) but got {settings.rank}; choose another"
            )
    sites = [observation.site for observation in observations]
    kept = default_cache() if cache == "user" else cache

    def statistics_of(pictures: Reference) -> Mapping[str, KeyStatistics]:
        if isinstance(pictures, Mapping) and all(path in pictures for path in settings.paths):
            return pictures
        images = ImageSet.of(pictures, model.classes)
        return key_statistics(
            model,
            images,
            sites,
            architecture=settings.architecture,
            seed=settings.seed,
            cache=kept,
            progress=progress,
        )

    with stretch("statistics"):
        known = statistics_of(reference)
        protected = {} if protect is None else statistics_of(protect)
    return Problem(model, exemplars, originals, edited, settings, observations, known, protected, style)


def look(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    settings: Settings,
    *,
    edited: bool = True,
    progress: bool = False,
) -> tuple[Tensor, Tensor, list[Observation]]:
    """Look at the exemplars through some sites.

    Args:
        model: the classifier.
        exemplars: at least one.
        settings: the sites, their value point, and whether the mask counts.
        edited: whether the edited pictures are looked at, so that they must differ where the masks are.
        progress: whether to show a bar.

    Returns:
        Model inputs of the original pictures and of the edited ones, (n, channels, height, width), and what each site
        sees.

    Raises:
        ExemplarError: no exemplars are given, or one was edited nowhere or beside its mask.
        SettingError: a label is unknown to the model.
        SiteError: a site that the model does not have, or that cannot be edited.
    """
    if not exemplars:
        raise ExemplarError("expected at least one exemplar but got none; give a picture with a mask")
    for exemplar in exemplars:
        if exemplar.label is not None:
            model.classes.index(exemplar.label)
    survey = sites_of(model)
    model.logits_of(survey.trace.calls[0].result)  # says so now if the class names do not fit
    sites = [survey.site(path, value_point=settings.value_point) for path in settings.paths]
    originals, counterparts, masks = _inputs(model, exemplars)
    for exemplar in exemplars if edited else ():
        check_agreement(exemplar, whole_image=settings.whole_image)
    if settings.whole_image:
        masks = torch.ones_like(masks)
    else:
        _follow_the_picture(model, survey, sites, exemplars, masks)
    through = steps(sites, "exemplars", unit="site", shown=progress)
    return originals, counterparts, [observe(model.module, site, originals, counterparts, masks) for site in through]


def _follow_the_picture(
    model: Classifier, survey: Survey, sites: Sequence[Site], exemplars: Sequence[Exemplar], masks: Tensor
) -> None:
    """Make sure that masks lie where the layers look, if a network moves or crops the picture before its first layer.

    Raises:
        ExemplarError: the layers see nothing of a mask.
    """
    spatial = [site for site in sites if site.is_spatial]
    if survey.lost is not None and spatial:
        warn(
            f"expected layers of {model.name} to see the picture as it lies but before the first of them {survey.lost} "
            "may move its places, where no mask can follow; do that in the preprocessing instead"
        )
    frames = dict.fromkeys(site.key_places.frame for site in spatial if site.key_places is not None)
    for frame in frames:
        if frame is None:
            continue
        for exemplar, seen in zip(exemplars, frame.carry(masks.double().cpu()), strict=True):
            if seen.max() < 0.5:
                raise ExemplarError(
                    f"expected the concept of {exemplar.name} where the layers of {model.name} look, but the network "
                    "crops its input and its mask is empty there; mark the concept there"
                )
        if frame.share < 0.9:
            warn(
                f"expected layers of {model.name} to see all that the network is given but they see "
                f"{frame.share:.0%} of it, as it crops its input; masks count there alone"
            )


def _inputs(model: Classifier, exemplars: Sequence[Exemplar]) -> tuple[Tensor, Tensor, Tensor]:
    """The original and the edited pictures as model inputs, and their masks, (n, height, width)."""
    edited = model.inputs(torch.stack([model.preprocess.pixels(exemplar.edited) for exemplar in exemplars]))
    originals, masks = masked_inputs(model, exemplars)
    return originals, edited, masks


def masked_inputs(model: Classifier, exemplars: Sequence[Exemplar]) -> tuple[Tensor, Tensor]:
    """The original pictures of exemplars as a model sees them, and their masks.

    Args:
        model: the classifier.
        exemplars: at least one.

    Returns:
        Inputs, (n, channels, height, width), and masks, (n, height, width), 0..1.

    Raises:
        ExemplarError: a mask is empty where the model looks.
    """
    framed = model.preprocess
    originals = model.inputs(torch.stack([framed.pixels(exemplar.image) for exemplar in exemplars]))
    masks = torch.stack([framed.mask(exemplar.mask) for exemplar in exemplars]).to(model.device)
    for exemplar, mask in zip(exemplars, masks, strict=True):
        if mask.max() < 0.5:
            raise ExemplarError(
                f"expected the concept of {exemplar.name} where the model looks but its mask is empty there; "
                "the model sees the centre of a picture only: mark the concept there"
            )
    return originals, masks


def assemble(problem: Problem, changes: Sequence[WeightChange], *, method: str, own: Mapping[str, Any]) -> Edit:
    """Make an edit of its changes, measure it at the problem's sites, and say how it was made.

    Args:
        problem: the problem.
        changes: what the editor found.
        method: name of the editor.
        own: settings of that editor alone, as JSON.
    """
    losses = _losses(problem, changes)
    measured = [
        {
            "site": seen.site.path,
            "loss": loss,
            "predicted_damage": _damage(problem, seen, changes),
            "rounding": _rounding(seen, changes),
            "certificate": certify(seen, changes, problem.statistics[seen.site.path]),
            **_protection(problem, seen, changes),
        }
        for seen, loss in zip(problem.observations, losses, strict=True)
    ]
    exemplars = [
        {
            "name": exemplar.name,
            "digest": exemplar.digest(),
            "label": exemplar.label,
            "concept": exemplar.concept,
            "replacement": exemplar.replacement,
        }
        for exemplar in problem.exemplars
    ]
    provenance = {
        "method": method,
        "settings": asdict(problem.settings) | {"site": list(problem.settings.paths)} | dict(own),
        "model": problem.model.name,
        "sites": measured,
        "exemplars": exemplars,
        "style": None if problem.style is None else digest_of_bytes(np.asarray(problem.style).tobytes()),
        "reference_keys": {path: problem.statistics[path].moment.count for path in problem.settings.paths},
        "libraries": {name: importlib.metadata.version(name) for name in ("rulepatch", "torch", "torchvision", "timm")},
    }
    return Edit(tuple(changes), base_digest(problem.model.module), provenance)


def _losses(problem: Problem, changes: Sequence[WeightChange]) -> list[dict[str, float]]:
    """Masked absolute error at each value point (the authors' objective) before and after, all changes in place."""
    module, seen = problem.model.module, problem.observations
    edited = problem.edited if problem.style is None else None
    before, after = (errors_at(module, edited, seen, each) for each in ((), changes))
    return [{"before": each, "after": then} for each, then in zip(before, after, strict=True)]


def errors_at(
    module: nn.Module, edited: Tensor | None, observations: Sequence[Observation], changes: Sequence[Change]
) -> list[float]:
    """The masked absolute error at each site's value point (the authors' objective) with some changes in place.

    Args:
        module: the network; it is changed for a while and then as it was.
        edited: model inputs of the edited pictures, (n, channels, height, width); None if the keys were made at the
            layer.
        observations: what each site saw before any change.
        changes: all of them fit the network.

    Returns:
        The mean over channels and the mask's positions, one number for each site.
    """
    with torch.no_grad(), Installation(module, changes):
        return [float(_error_now(module, edited, seen).mean()) for seen in observations]


def _error_now(module: nn.Module, edited: Tensor | None, seen: Observation) -> Tensor:
    if edited is None:
        return seen.error_of(seen.edited.route(module.get_submodule(seen.site.path)(seen.keys)))
    return seen.error_of(capture.record(module, edited, seen.site.path, seen.site.value_point).values)


def _damage(problem: Problem, seen: Observation, changes: Sequence[WeightChange]) -> float:
    """Damage predicted at a site where the gate is open; gates reduce it further."""
    path, shape = seen.site.path, seen.site.shape
    delta = _delta(seen, changes)
    moment = problem.statistics[path].moment.mean().cpu()
    return linalg.damage(delta, seen.layer.weight.detach().reshape(shape).cpu(), moment)


def _delta(seen: Observation, changes: Sequence[WeightChange]) -> Tensor:
    """Sum of the changes of a site's weight, (c_out, c_in, y, x), float64."""
    path, shape = seen.site.path, seen.site.shape
    own = [change.delta().cpu().reshape(shape) for change in changes if change.parameter == f"{path}.weight"]
    return torch.stack([torch.zeros(shape, dtype=torch.float64), *own]).sum(dim=0)


def _rounding(seen: Observation, changes: Sequence[WeightChange]) -> float:
    """What writing the weight in the model's own type loses of its change, relative to the change; 0 beside a gate."""
    plain = [change for change in changes if change.parameter == f"{seen.site.path}.weight"]
    if not plain or any(isinstance(change, LowRank) and change.gate is not None for change in plain):
        return 0.0
    weight = seen.layer.weight.detach().cpu()
    wanted = _delta(seen, plain).reshape(weight.shape)
    written = with_delta(weight, wanted).double() - weight.double()
    return float((written - wanted).norm() / wanted.norm().clamp(min=torch.finfo(torch.float64).tiny))


def _protection(problem: Problem, seen: Observation, changes: Sequence[WeightChange]) -> dict[str, float]:
    """Damage predicted on the protected pictures, in the form of that on the reference set; nothing without them."""
    if not problem.protected:
        return {}
    return {"protected_damage": _damage(replace(problem, statistics=problem.protected), seen, changes)}
