"""An editor, `mean-key`: the smallest change that gives the mean key its new value, without second moments."""

import torch

from rulepatch.core import LowRank
from rulepatch.editors import Problem, editor, low_rank_change
from rulepatch.methods import Method


class MeanKey(Method):
    """The settings: `strength` alone, which every method has."""

    name = "mean-key"


@editor(MeanKey)
def mean_key(problem: Problem, how: MeanKey) -> list[LowRank]:
    r"""Change each layer by ΔW = r kᵀ / kᵀk, where k is the mean key under the mask and r the mean of what is missing.

    It is the change of least norm for which ΔW k = r.
    """
    changes = []
    for seen in problem.observations:
        keys, weights = seen.concept_keys(architecture=2)  # (p, c_in) and (p,)
        shares = weights / weights.sum()
        key, missing = shares @ keys, shares @ seen.residuals
        length = torch.linalg.vector_norm(key)
        directions = (key / length).reshape(1, *seen.site.shape[1:])
        changes.append(low_rank_change(seen, directions, missing[:, None] / length, strength=how.strength))
    return changes
