"""What can be said of a change for certain, from its factors and a sample of the reference set's keys alone."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from rulepatch.core import linalg
from rulepatch.core.changes import LowRank, WeightChange
from rulepatch.core.moments import KeyStatistics
from rulepatch.core.site_activations import SiteActivations
from rulepatch.records.site_reports import Certificate

__all__ = ["EPSILON", "certify"]

EPSILON = 0.01
"""A key whose output can move by less than this share of the usual output counts as not moved."""


def certify(seen: SiteActivations, changes: Sequence[WeightChange], statistics: KeyStatistics) -> Certificate:
    """What the changes at a site can do at most.

    Args:
        seen: what the site sees.
        changes: all of an edit; those at other sites are passed over.
        statistics: of the site's keys on the reference set.
    """
    path, weight = seen.site.path, seen.layer.weight.detach().double().cpu()
    own = [change for change in changes if change.parameter == f"{path}.weight"]
    delta = sum((change.delta().cpu().reshape(weight.shape) for change in own), torch.zeros_like(weight))
    parameters = [change.parameter for change in changes if change.site == path]
    found = Certificate(parameters, float(delta.norm()), float(delta.norm() / weight.norm()), EPSILON)
    low_rank = [change for change in own if isinstance(change, LowRank)]
    if len(low_rank) < len(own) or len({change.architecture for change in low_rank}) > 1:
        return found
    keys = statistics.sample.keys.double().cpu()
    if low_rank and low_rank[0].directions[0].numel() != keys.shape[1]:
        return found
    bounds = torch.stack([torch.zeros(len(keys), dtype=torch.float64), *(_bounds(change, keys) for change in low_rank)])
    usual = linalg.output_power(weight.reshape(seen.site.shape), statistics.moment.mean().cpu()) ** 0.5
    moved = bounds.sum(dim=0)
    unchanged, closed = (float(each.double().mean()) for each in (moved < EPSILON * usual, moved == 0))
    return replace(found, unchanged_share=unchanged, gate_closed_share=closed)


def _bounds(change: LowRank, keys: torch.Tensor) -> torch.Tensor:
    """How far the change can move the output for each key, (p,)."""
    maps, gate = keys @ change.directions.double().flatten(1).T, change.gate
    if gate is not None:
        scores = None if gate.direction is None else (keys @ gate.direction.double().flatten())[:, None]
        maps = linalg.gated(maps, scores, gate.thresholds.double())
    return abs(change.strength) * linalg.change_bound(maps, change.coefficients.double())
