"""What can be said of a change for certain, from its factors and a sample of the reference set's keys alone."""

from collections.abc import Sequence
from typing import Any

import torch

from rulepatch.core import linalg
from rulepatch.core.changes import LowRank, WeightChange
from rulepatch.core.exemplars import Observation
from rulepatch.core.moments import KeyStatistics

__all__ = ["EPSILON", "certify"]

EPSILON = 0.01
"""A key whose output can move by less than this share of the usual output counts as not moved."""


def certify(seen: Observation, changes: Sequence[WeightChange], statistics: KeyStatistics) -> dict[str, Any]:
    """What the changes at a site can do at most.

    Args:
        seen: what the site sees.
        changes: all of an edit; those at other sites are passed over.
        statistics: of the site's keys on the reference set.

    Returns:
        `norm` of ΔW (Frobenius), as it is and `relative_norm` to W; for low-rank changes the share of the reference
        set's positions where a key can move the output by less than `epsilon` of its usual size, `still`, and where
        every gate is shut, so that nothing moves, `shut`; None for dense ones.
    """
    path, weight = seen.site.path, seen.layer.weight.detach().double().cpu()
    own = [change for change in changes if change.parameter == f"{path}.weight"]
    delta = sum((change.delta().cpu().reshape(weight.shape) for change in own), torch.zeros_like(weight))
    found: dict[str, Any] = {
        "parameters": [change.parameter for change in changes if change.site == path],
        "norm": float(delta.norm()),
        "relative_norm": float(delta.norm() / weight.norm()),
        "epsilon": EPSILON,
        "still": None,
        "shut": None,
    }
    low_rank = [change for change in own if isinstance(change, LowRank)]
    if len(low_rank) < len(own) or len({change.architecture for change in low_rank}) > 1:
        return found
    keys = statistics.sample.keys.double().cpu()
    if low_rank and low_rank[0].directions[0].numel() != keys.shape[1]:
        return found
    bounds = torch.stack([torch.zeros(len(keys), dtype=torch.float64), *(_bounds(change, keys) for change in low_rank)])
    usual = linalg.output_power(weight.reshape(seen.site.shape), statistics.moment.mean().cpu()) ** 0.5
    moved = bounds.sum(dim=0)
    return {
        **found,
        "still": float((moved < EPSILON * usual).double().mean()),
        "shut": float((moved == 0).double().mean()),
    }


def _bounds(change: LowRank, keys: torch.Tensor) -> torch.Tensor:
    """How far the change can move the output for each key, (p,)."""
    maps = keys @ change.directions.double().flatten(1).T
    gate = change.gate
    if gate is not None and gate.direction is None:
        maps = linalg.soft_gated(maps, gate.thresholds.double())
    elif gate is not None and gate.direction is not None:
        scores = keys @ gate.direction.double().flatten()
        maps = linalg.gated(maps, scores[:, None], gate.thresholds.double())
    return abs(change.strength) * linalg.change_bound(maps, change.coefficients.double())
