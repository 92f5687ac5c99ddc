"""What an edit reads at a site: its gate, directions that spare other images; and the change that comes of it."""

from collections.abc import Sequence

from torch import Tensor

from rulepatch.core import linalg
from rulepatch.core.changes import Gate, LowRank
from rulepatch.core.moments import KeyStatistics
from rulepatch.core.site_activations import SiteActivations
from rulepatch.errors import SettingError
from rulepatch.methods import FineTuneLocal, InverseTranspose, ProjectedAdam, Rewrite
from rulepatch.models.classifier import Classifier

__all__ = ["check_rank", "find_gate", "free_directions", "low_rank_change", "shape_of_keys"]

PASSED = 0.9
"""Share of the concept in the exemplars that a gate chosen by itself lets through."""

LOWEST_GATE, HIGHEST_GATE = 0.9, 0.98


def check_rank(
    _: Classifier,
    observations: Sequence[SiteActivations],
    how: Rewrite | ProjectedAdam | FineTuneLocal | InverseTranspose,
) -> None:
    """Make sure that the exemplars' keys have as many directions as are asked for.

    Raises:
        SettingError: the rank is too high for a site.
    """
    for seen in observations:
        marked, channels = seen.concept_keys(2 if how.unfolded else 1)[0].shape
        if how.rank > min(channels, marked):
            raise SettingError(
                f"expected a rank from 1 to {min(channels, marked)} at {seen.site.path} ({channels} channels, "
                f"{marked} marked positions) but got {how.rank}; choose another"
            )


def shape_of_keys(seen: SiteActivations, how: Rewrite | ProjectedAdam) -> tuple[int, ...]:
    """Shape of a key at a site: (c_in,), or (c_in, y, x) of an unfolded patch."""
    return tuple(seen.site.shape[1:]) if how.unfolded else (seen.site.shape[1],)


def find_gate(
    seen: SiteActivations,
    how: Rewrite | ProjectedAdam,
    basis: Tensor,
    leading: Tensor,
    concept: tuple[Tensor, Tensor],
    statistics: KeyStatistics,
) -> Gate | None:
    """The gate of an edit at a site, its threshold a quantile of the reference set.

    Args:
        seen: what the site sees of the exemplars.
        how: the kind of gate and its level.
        basis: D, (r, c).
        leading: d, (c,), the direction that stands for the concept.
        concept: the concept's keys, (p, c), and their weights, (p,).
        statistics: of the site's keys on the reference set.

    Returns:
        The gate in float64; None for everywhere.
    """
    if how.gate is None:
        return None
    level = _level(leading, *concept, statistics) if how.gate == "auto" else how.gate
    if how.gate_kind == "soft":
        return Gate("soft", level, statistics.quantile(basis, level))
    return Gate("hard", level, statistics.quantile(leading[None], level), leading.reshape(shape_of_keys(seen, how)))


def _level(leading: Tensor, keys: Tensor, weights: Tensor, statistics: KeyStatistics) -> float:
    """The gate that lets most of the concept in the exemplars through, within bounds that are usual."""
    scores, order = (keys @ leading).cpu().sort(descending=True)
    passed = weights.cpu()[order].cumsum(0)
    least = scores[int((passed < PASSED * passed[-1]).sum())]
    usual = statistics.sample.keys.double() @ leading.cpu()
    return min(max(float((usual < least).double().mean()), LOWEST_GATE), HIGHEST_GATE)


def free_directions(basis: Tensor, protected: KeyStatistics, share: float, path: str) -> Tensor:
    """Directions without what the protected images' keys use.

    Args:
        basis: D, (r, c).
        protected: statistics of the protected images' keys at the site.
        share: of their power that is spared, 0..1.
        path: of the site.

    Returns:
        (r, c), orthonormal rows.

    Raises:
        SettingError: some of the directions lie in what is protected.
    """
    found = linalg.project_out(basis, protected.moment.mean().to(basis.device), share)
    if len(found) < len(basis):
        raise SettingError(
            f"expected directions at {path} that the protected images leave free but {len(basis) - len(found)} of "
            f"{len(basis)} lie in what they use; protect fewer images, take a smaller share or rank, or another site"
        )
    return found


def low_rank_change(
    seen: SiteActivations, directions: Tensor, coefficients: Tensor, *, strength: float, gate: Gate | None = None
) -> LowRank:
    """The change of a site, in float32 on the CPU, as it will be saved.

    Args:
        seen: what the site sees of the exemplars.
        directions: D, (r, c_in), or (r, c_in, y, x) for unfolded patches.
        coefficients: Λ, (c_out, r, y, x), or (c_out, r) for unfolded patches.
        strength: factor of the change.
        gate: where it acts; everywhere if None.
    """
    if gate is not None:
        direction = None if gate.direction is None else gate.direction.float().cpu()
        gate = Gate(gate.kind, gate.level, gate.thresholds.float().cpu(), direction)
    return LowRank(
        site=seen.site.path,
        value_point=seen.site.value_point,
        directions=directions.float().cpu(),
        coefficients=coefficients.float().cpu().contiguous(),
        strength=strength,
        gate=gate,
    )
