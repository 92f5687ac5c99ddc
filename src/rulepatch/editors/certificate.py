"""What can be said of a change for certain, from its factors and a sample of the reference set's keys alone."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from rulepatch.core import linalg
from rulepatch.core.changes import LowRank, WeightChange
from rulepatch.core.moments import KeyStatistics
from rulepatch.records.site_reports import Certificate
from rulepatch.tracing.sites import Site

__all__ = ["EPSILON", "certify", "gated_maps", "low_rank_changes", "norms_of"]

EPSILON = 0.01
"""A key whose output can move by less than this share of the usual output counts as not moved."""


def certify(
    site: Site, weight: torch.Tensor, changes: Sequence[WeightChange], statistics: KeyStatistics
) -> Certificate:
    """What the changes at a site can do at most.

    Args:
        site: the site.
        weight: of its layer.
        changes: all of an edit; those at other sites are passed over.
        statistics: of the site's keys on the reference set.
    """
    own = [change for change in changes if change.parameter == f"{site.path}.weight"]
    parameters = [change.parameter for change in changes if change.site == site.path]
    found = Certificate(parameters, *norms_of(site.path, weight, changes), EPSILON)
    keys = statistics.sample.keys.double().cpu()
    low_rank = low_rank_changes(own, keys)
    if low_rank is None:
        return found
    bounds = torch.stack([torch.zeros(len(keys), dtype=torch.float64), *(_bounds(change, keys) for change in low_rank)])
    flat = weight.detach().double().cpu().reshape(site.shape)
    usual = linalg.output_power(flat, statistics.moment.mean().cpu()) ** 0.5
    moved = bounds.sum(dim=0)
    unchanged, closed = (float(each.double().mean()) for each in (moved < EPSILON * usual, moved == 0))
    return replace(found, unchanged_share=unchanged, gate_closed_share=closed)


def norms_of(path: str, weight: torch.Tensor, changes: Sequence[WeightChange]) -> tuple[float, float]:
    """Norm of what changes a site's weight (Frobenius), and the same relative to that of the weight.

    Args:
        path: of the site.
        weight: of its layer.
        changes: all of an edit; those at other sites are passed over.
    """
    precise = weight.detach().double().cpu()
    own = [change for change in changes if change.parameter == f"{path}.weight"]
    delta = sum((change.delta().cpu().reshape(precise.shape) for change in own), torch.zeros_like(precise))
    return float(delta.norm()), float(delta.norm() / precise.norm())


def low_rank_changes(own: Sequence[WeightChange], keys: torch.Tensor) -> list[LowRank] | None:
    """The changes of a site; None if not all of them read keys like these.

    Args:
        own: changes of the site's weight.
        keys: a sample of its keys, (p, c_in).
    """
    found = [change for change in own if isinstance(change, LowRank)]
    one_kind = len(found) == len(own) and len({change.architecture for change in found}) <= 1
    return found if one_kind and all(each.directions[0].numel() == keys.shape[1] for each in found) else None


def gated_maps(change: LowRank, keys: torch.Tensor) -> torch.Tensor:
    """⟨D, k⟩ behind the gate, if there is one, (p, r), float64.

    Args:
        change: of a site.
        keys: (p, c_in), float64.
    """
    maps, gate = keys @ change.directions.double().cpu().flatten(1).T, change.gate
    if gate is None:
        return maps
    scores = None if gate.direction is None else (keys @ gate.direction.double().cpu().flatten())[:, None]
    return linalg.gated(maps, scores, gate.thresholds.double().cpu())


def _bounds(change: LowRank, keys: torch.Tensor) -> torch.Tensor:
    """How far the change can move the output for each key, (p,)."""
    return abs(change.strength) * linalg.change_bound(gated_maps(change, keys), change.coefficients.double().cpu())
