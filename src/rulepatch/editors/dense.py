"""Dense least squares in the form of MEMIT: the values of every marked position at once, for comparison."""

import math
from collections.abc import Sequence
from typing import Literal

from rulepatch.core import linalg
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.cache import Cache
from rulepatch.editors.problem import Reference, Settings, assemble, pose
from rulepatch.editors.reading import Reading, change_of
from rulepatch.editors.registry import editor
from rulepatch.errors import SettingError
from rulepatch.models.classifier import Classifier
from rulepatch.timing import stretch

__all__ = ["dense"]


@editor("dense")
def dense(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Reference,
    site: str | Sequence[str],
    strength: float = 1.0,
    balance: float = 1.0,
    value_point: str | None = None,
    whole_image: bool = False,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    r"""Change a layer by ΔW = R K*ᵀ (λC + K* K*ᵀ)⁻¹ (Meng et al. 2023, eq. 14), without choosing directions.

    K* holds the edited pictures' keys at the marked positions, R what the outputs lack there. Kernels with several taps
    see unfolded patches (the second architecture), whose second moment takes c_in·y·x squared numbers.

    Args:
        model: the classifier; it is not changed.
        exemplars: pictures, their edited counterparts and masks.
        reference: pictures whose treatment should stay: a folder, pictures in memory, or statistics computed before.
        site: dotted path of the layer to edit, or of several, each solved on its own.
        strength: the change is scaled by it; 1 is the solve.
        balance: λ per marked position, above 0: how much the reference set's keys count beside the exemplars'.
        value_point: dotted path of the module whose output is matched; found by itself if None.
        whole_image: match the whole pictures, without the mask.
        seed: of the sample of the reference set's keys.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars.

    Returns:
        The edit; its rank is at most the number of marked positions.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        SettingError: a setting out of range.
        SiteError: a site that the model does not have, or that cannot be edited.
    """
    if not 0 < balance < math.inf:
        raise SettingError(f"expected a balance above 0 but got {balance}; 0.1 to 10 is usual")
    settings = Settings(
        site, strength=strength, architecture=2, value_point=value_point, seed=seed, whole_image=whole_image
    )
    problem = pose(model, exemplars, settings, reference=reference, cache=cache, progress=progress)
    changes = []
    with stretch("solve"):
        for seen in problem.observations:
            keys, weights = seen.concept_keys(architecture=2)
            moment = problem.statistics[seen.site.path].moment.mean().to(keys.device)
            basis, coefficients = linalg.dense_least_squares(keys, seen.residuals, weights, moment, balance=balance)
            reading = Reading(basis.reshape(-1, *seen.site.shape[1:]), None)
            changes.append(change_of(problem, seen, reading, coefficients.T))
    return assemble(problem, changes, method="dense", own={"balance": balance})
