"""Dense least squares in the form of MEMIT: the values of every marked position at once, for comparison."""

from rulepatch.core import linalg
from rulepatch.core.changes import LowRank
from rulepatch.editors.problem import Problem
from rulepatch.editors.registry import editor
from rulepatch.editors.subspace import low_rank_change
from rulepatch.methods import Dense

__all__ = ["dense"]


@editor(Dense)
def dense(problem: Problem, how: Dense) -> list[LowRank]:
    r"""Change a layer by ΔW = R K*ᵀ (λC + K* K*ᵀ)⁻¹ (Meng et al. 2023, eq. 14), without choosing directions.

    K* holds the edited images' keys at the marked positions, R what the outputs lack there. Kernels with several taps
    see unfolded patches (the second architecture), whose second moment takes c_in·y·x squared numbers.

    Args:
        problem: the problem.
        how: the settings.

    Returns:
        A change for each site, of a rank of at most the number of marked positions.
    """
    changes = []
    for seen in problem.observations:
        keys, weights = seen.concept_keys(architecture=2)
        moment = problem.statistics[seen.site.path].moment.mean().to(keys.device)
        basis, coefficients = linalg.dense_least_squares(keys, seen.residuals, weights, moment, balance=how.balance)
        directions = basis.reshape(-1, *seen.site.shape[1:])
        changes.append(low_rank_change(seen, directions, coefficients.T, strength=how.strength))
    return changes
