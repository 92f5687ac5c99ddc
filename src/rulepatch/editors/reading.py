"""What an edit reads at a site: its directions, and the gate that says where it acts."""

from dataclasses import dataclass

from torch import Tensor

from rulepatch.core import linalg
from rulepatch.core.changes import Gate, LowRank
from rulepatch.core.exemplars import Observation
from rulepatch.core.moments import KeyStatistics
from rulepatch.editors.problem import Problem
from rulepatch.errors import SettingError

__all__ = ["Reading", "change_of", "read"]

PASSED = 0.9
"""Share of the concept in the exemplars that a gate chosen by itself lets through."""

LOWEST_GATE, HIGHEST_GATE = 0.9, 0.98


@dataclass(frozen=True, eq=False)
class Reading:
    """What an edit may read at a site, found from the exemplars' keys and the reference set.

    Attributes:
        directions: D, (r, c_in), or (r, c_in, y, x) for the second architecture; float64.
        gate: where the edit is to act; everywhere if None.
    """

    directions: Tensor
    gate: Gate | None


def read(problem: Problem, observation: Observation, pictures: slice = slice(None)) -> Reading:
    """Find the directions of an edit at a site, and its gate.

    Args:
        problem: the problem.
        observation: what the site sees of the exemplars.
        pictures: exemplars to read; all by default.

    Raises:
        SettingError: nothing of the directions is left beside what is protected.
    """
    settings, site, statistics = problem.settings, observation.site, problem.statistics[observation.site.path]
    keys, weights = observation.concept_keys(settings.architecture, pictures)
    whitener = statistics.whitening(floor=settings.floor).to(keys.device)
    basis, leading = linalg.directions(keys, weights, whitener, settings.rank)
    if problem.protected:
        basis = _beside(basis, problem.protected[site.path], settings.protected_share, site.path)
    shape = (-1, *site.shape[1:]) if settings.architecture == 2 else (-1, site.shape[1])
    if settings.gate is None:
        return Reading(basis.reshape(shape), None)
    level = _level(leading, keys, weights, statistics) if settings.gate == "auto" else float(settings.gate)
    if settings.gate_kind == "soft":
        gate = Gate("soft", level, statistics.quantile(basis, level))
    else:
        gate = Gate("hard", level, statistics.quantile(leading[None], level), leading.reshape(shape)[0])
    return Reading(basis.reshape(shape), gate)


def _level(leading: Tensor, keys: Tensor, weights: Tensor, statistics: KeyStatistics) -> float:
    """The gate that lets most of the concept in the exemplars through, within bounds that are usual."""
    scores, order = (keys @ leading).cpu().sort(descending=True)
    passed = weights.cpu()[order].cumsum(0)
    least = scores[int((passed < PASSED * passed[-1]).sum())]
    usual = statistics.sample.keys.double() @ leading.cpu()
    return min(max(float((usual < least).double().mean()), LOWEST_GATE), HIGHEST_GATE)


def _beside(basis: Tensor, protected: KeyStatistics, share: float, path: str) -> Tensor:
    """The directions without what the protected pictures' keys use."""
    found = linalg.beside(basis, protected.moment.mean().to(basis.device), share)
    if len(found) < len(basis):
        raise SettingError(
            f"expected directions at {path} that the protected pictures leave free but {len(basis) - len(found)} of "
            f"{len(basis)} lie in what they use; protect fewer pictures, take a smaller share or rank, or another site"
        )
    return found


def change_of(problem: Problem, observation: Observation, reading: Reading, coefficients: Tensor) -> LowRank:
    """The change of a site, in float32 on the CPU, as it will be saved.

    Args:
        problem: the problem.
        observation: what the site sees of the exemplars.
        reading: the directions and the gate.
        coefficients: Λ, (c_out, r, y, x), or (c_out, r) for the second architecture.
    """
    gate = reading.gate
    if gate is not None:
        direction = None if gate.direction is None else gate.direction.float().cpu()
        gate = Gate(gate.kind, gate.level, gate.thresholds.float().cpu(), direction)
    return LowRank(
        site=observation.site.path,
        value_point=observation.site.value_point,
        directions=reading.directions.float().cpu(),
        coefficients=coefficients.float().cpu().contiguous(),
        strength=problem.settings.strength,
        gate=gate,
    )
