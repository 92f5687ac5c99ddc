"""From changes to an `Edit`: what is measured of every edit where it is made, and how it says it was made."""

import importlib.metadata
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rulepatch.core import linalg
from rulepatch.core.changes import Change, LowRank, WeightChange
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.moments import KeyStatistics
from rulepatch.core.patched_model import PatchedModel, with_delta
from rulepatch.core.site_activations import SiteActivations
from rulepatch.digests import digest_of_bytes
from rulepatch.editors.certificate import certify, gated_maps, low_rank_changes
from rulepatch.editors.problem import Problem
from rulepatch.editors.registry import Solution
from rulepatch.errors import SettingError
from rulepatch.methods import Method
from rulepatch.records.site_reports import SiteReport
from rulepatch.tracing import capture

__all__ = ["assembled", "damage_of", "libraries", "masked_errors"]


def assembled(problem: Problem, how: Method, found: Sequence[WeightChange] | Solution) -> Edit:
    """Make an edit of its changes, measure it at the problem's sites, and say how it was made.

    Args:
        problem: the problem.
        how: settings of the method that solved it.
        found: the changes, with or without notes.

    Raises:
        SettingError: an error at a site is NaN or infinite.
    """
    changes, notes = found if isinstance(found, Solution) else (found, {})
    edited = problem.edited if problem.style is None else None
    after = values_with(problem.model.module, edited, problem.observations, changes)
    reports = []
    for seen, values in zip(problem.observations, after, strict=True):
        path, weight = seen.site.path, seen.layer.weight.detach().reshape(seen.site.shape).cpu()
        delta, moment = _delta(seen, changes), problem.statistics[path].moment.mean().cpu()
        spared = problem.protected[path].moment.mean().cpu() if problem.protected else None
        before, then = (
            float(linalg.masked_error(*seen.compared(each), "absolute").mean()) for each in (seen.edited.values, values)
        )
        if not (math.isfinite(before) and math.isfinite(then)):
            raise SettingError(
                f"expected finite values at {seen.site.value_point} but their error is {before:g} before the edit and "
                f"{then:g} with it; take less strength, or check the weights, the exemplars and the preprocessing"
            )
        reports.append(
            SiteReport(
                path,
                before,
                then,
                predicted_damage=linalg.damage(delta, weight, moment),
                rounding=_rounding(seen, changes),
                certificate=certify(seen.site, seen.layer.weight, changes, problem.statistics[path]),
                gated_damage=_gated_damage(seen, changes, problem.statistics[path]),
                protected_damage=None if spared is None else linalg.damage(delta, weight, spared),
            )
        )
    provenance = {
        "method": how.name,
        "settings": {"site": list(problem.paths), "seed": problem.run.seed, **how.describe()},
        "model": problem.model.name,
        "sites": [report.to_json() for report in reports],
        "exemplars": [exemplar.describe() for exemplar in problem.exemplars],
        "style": None if problem.style is None else digest_of_bytes(np.asarray(problem.style).tobytes()),
        "reference_keys": {path: problem.statistics[path].moment.count for path in problem.paths},
        "libraries": libraries(),
        **notes,
    }
    return Edit(tuple(changes), base_digest(problem.model.module), provenance)


def damage_of(seen: SiteActivations, changes: Sequence[WeightChange], statistics: KeyStatistics) -> float:
    """The damage that is predicted of a site's changes, a share ≥ 0; see `linalg.damage`.

    Args:
        seen: what the site sees.
        changes: of an edit; those of other sites are passed over.
        statistics: of the site's keys on the reference set.
    """
    weight = seen.layer.weight.detach().reshape(seen.site.shape).cpu()
    return linalg.damage(_delta(seen, changes), weight, statistics.moment.mean().cpu())


def libraries() -> dict[str, str]:
    """Versions of what an edit was made with."""
    return {name: importlib.metadata.version(name) for name in ("rulepatch", "torch", "torchvision", "timm")}


def values_with(
    module: nn.Module, edited: Tensor | None, observations: Sequence[SiteActivations], changes: Sequence[Change]
) -> list[Tensor]:
    """The edited images' values at each site with some changes in place.

    Args:
        module: the network; it is changed for a while and then as it was.
        edited: model inputs of the edited images, (n, channels, height, width); None if the keys were made at the
            layer.
        observations: what each site saw before any change.
        changes: all of them fit the network.

    Returns:
        For each site a tensor of its value point's shape.
    """
    with torch.no_grad(), PatchedModel(module, changes):
        return [
            seen.edited.route(module.get_submodule(seen.site.path)(seen.keys))
            if edited is None
            else capture.record(module, edited, {seen.site.path: seen.site.value_point})[seen.site.path].values
            for seen in observations
        ]


def masked_errors(
    module: nn.Module, edited: Tensor | None, observations: Sequence[SiteActivations], changes: Sequence[Change]
) -> list[float]:
    """The masked absolute error at each site's value point (the authors' objective) with some changes in place.

    Args:
        module: the network; it is changed for a while and then as it was.
        edited: model inputs of the edited images; None if the keys were made at the layer.
        observations: what each site saw before any change.
        changes: all of them fit the network.

    Returns:
        The mean over channels and the mask's positions, one number for each site.
    """
    values = values_with(module, edited, observations, changes)
    return [float(seen.error_of(each).mean()) for seen, each in zip(observations, values, strict=True)]


def _delta(seen: SiteActivations, changes: Sequence[WeightChange]) -> Tensor:
    """Sum of the changes of a site's weight, (c_out, c_in, y, x), float64."""
    path, shape = seen.site.path, seen.site.shape
    own = [change.delta().cpu().reshape(shape) for change in changes if change.parameter == f"{path}.weight"]
    return torch.stack([torch.zeros(shape, dtype=torch.float64), *own]).sum(dim=0)


def _gated_damage(seen: SiteActivations, changes: Sequence[WeightChange], statistics: KeyStatistics) -> float | None:
    """`damage_of` with the gates in place, on the sample of keys; None without gates."""
    keys = statistics.sample.keys.double().cpu()
    own = low_rank_changes([each for each in changes if each.parameter == f"{seen.site.path}.weight"], keys)
    if not own or all(each.gate is None for each in own):
        return None
    maps = torch.cat([gated_maps(each, keys) for each in own], dim=1)
    coefficients = torch.cat([each.strength * each.coefficients.double().cpu() for each in own], dim=1)
    coefficients = coefficients[..., None, None] if coefficients.ndim == 2 else coefficients
    weight = seen.layer.weight.detach().reshape(seen.site.shape).cpu()
    changed = linalg.output_power(coefficients, linalg.second_moment(maps) / len(maps))
    return changed / linalg.output_power(weight, statistics.moment.mean().cpu())


def _rounding(seen: SiteActivations, changes: Sequence[WeightChange]) -> float:
    """What writing the weight in the model's own type loses of its change, relative to the change; 0 for branches."""
    plain = [change for change in changes if change.parameter == f"{seen.site.path}.weight"]
    if not plain or any(isinstance(change, LowRank) and change.is_branch for change in plain):
        return 0.0
    weight = seen.layer.weight.detach().cpu()
    wanted = _delta(seen, plain).reshape(weight.shape)
    written = with_delta(weight, wanted).double() - weight.double()
    return float((written - wanted).norm() / wanted.norm().clamp(min=torch.finfo(torch.float64).tiny))
