"""Editing a layer in the inverse direction, from outputs to inputs (thesis ch. 3).

What is edited is the transpose of its weight, its pseudo-inverse, or the inverse of its convolution in the Fourier
domain. The rule is turned round: for the original picture's output the layer's inverse should recall the edited
picture's input. docs/inverse.md derives the equations and says what they can do.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.cache import Cache
from rulepatch.editors.problem import Reference, Settings, assemble, pose
from rulepatch.editors.registry import editor
from rulepatch.errors import SettingError
from rulepatch.inverse.convolution import edit_convolution, power_spectrum_at
from rulepatch.inverse.memory import check_share, check_sites, edit_memory, forward_architecture
from rulepatch.models.classifier import Classifier
from rulepatch.timing import stretch

__all__ = ["inverse_fourier", "inverse_pinv", "inverse_transpose"]


@editor("inverse-transpose")
def inverse_transpose(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Reference,
    site: str | Sequence[str],
    rank: int = 1,
    strength: float = 1.0,
    architecture: int = 4,
    ridge: float = 1e-3,
    floor: float = 1e-5,
    whole_image: bool = False,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    r"""Edit the transpose of a layer's weight, and turn it back (thesis 3.1, Algorithm 1).

    The thesis found that it fails, for reasons that docs/inverse.md gives. Bias and activation are left aside.

    Args:
        model: the classifier; it is not changed.
        exemplars: pictures, their edited counterparts and masks.
        reference: pictures whose treatment should stay: a folder, pictures in memory; with architecture 4 also
            statistics of unfolded patches computed before.
        site: dotted path of the layer to edit, or of several, each solved on its own.
        rank: number of directions of outputs that the edited memory reads, at least 1.
        strength: the change is scaled by it; 1 is the solve.
        architecture: 3 if a patch of outputs recalls one input, 4 if one output recalls a patch (thesis fig. 2-3).
        ridge: of the least squares, relative to the mean diagonal of the normal matrix, ≥ 0.
        floor: smallest eigenvalue of the outputs' second moment kept, relative to the largest, in 0..1.
        whole_image: match the whole pictures, without the mask.
        seed: of the sample of the reference set's keys.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars.

    Returns:
        The edit, of the given rank.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        SettingError: a setting out of range.
        SiteError: a site that the model does not have, or that cannot be edited.
    """
    settings = Settings(
        site,
        rank=rank,
        strength=strength,
        architecture=forward_architecture(architecture),
        floor=floor,
        seed=seed,
        whole_image=whole_image,
    )
    own = {"architecture": architecture, "ridge": ridge}
    return edit_memory(
        model, exemplars, settings, "transpose", own, reference=reference, cache=cache, progress=progress
    )


@editor("inverse-pinv")
def inverse_pinv(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Reference,
    site: str | Sequence[str],
    rank: int = 1,
    strength: float = 1.0,
    architecture: int = 4,
    ridge: float = 1e-3,
    cutoff: float = 1e-3,
    floor: float = 1e-5,
    whole_image: bool = False,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    r"""Edit the pseudo-inverse of a layer's weight, and turn it back (thesis 3.2, eq. 3.11-3.13).

    Bias and activation are left aside.

    Args:
        model: the classifier; it is not changed.
        exemplars: pictures, their edited counterparts and masks.
        reference: pictures whose treatment should stay: a folder, pictures in memory; with architecture 4 also
            statistics of unfolded patches computed before.
        site: dotted path of the layer to edit, or of several, each solved on its own.
        rank: number of directions of outputs that the edited memory reads, at least 1.
        strength: the change is scaled by it; 1 is the solve.
        architecture: 3 if a patch of outputs recalls one input, 4 if one output recalls a patch (thesis fig. 2-3).
        ridge: of the least squares, relative to the mean diagonal of the normal matrix, ≥ 0.
        cutoff: smallest singular value of the weight that is inverted, relative to the largest, in 0..1.
        floor: smallest eigenvalue of the outputs' second moment kept, relative to the largest, in 0..1.
        whole_image: match the whole pictures, without the mask.
        seed: of the sample of the reference set's keys.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars.

    Returns:
        The edit, of at most twice the given rank.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        SettingError: a setting out of range.
        SiteError: a site that the model does not have, or that cannot be edited.
    """
    settings = Settings(
        site,
        rank=rank,
        strength=strength,
        architecture=forward_architecture(architecture),
        floor=floor,
        seed=seed,
        whole_image=whole_image,
    )
    check_share("cutoff", cutoff)
    own = {"architecture": architecture, "ridge": ridge, "cutoff": cutoff}
    return edit_memory(
        model, exemplars, settings, "pseudo-inverse", own, reference=reference, cache=cache, progress=progress
    )


@editor("inverse-fourier")
def inverse_fourier(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Reference,
    site: str | Sequence[str],
    strength: float = 1.0,
    balance: float = 1.0,
    cutoff: float = 1e-3,
    floor: float = 1e-5,
    fitted: bool = False,
    whole_image: bool = False,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    r"""Edit the inverse of a layer's convolution in the Fourier domain, and turn it back (thesis 3.3, eq. 3.52-3.57).

    Boundaries are taken for circular, and the change for a kernel as large as the map. Of this the layer gets the taps
    that it has, or, `fitted`, the weight that does most nearly the same at the marked positions. What that costs is
    written into the edit's provenance, under `inverse`.

    Args:
        model: the classifier; it is not changed.
        exemplars: pictures, their edited counterparts and masks.
        reference: pictures whose treatment should stay: a folder, or pictures in memory. They are looked at once more
            for their power spectrum, which is not cached.
        site: dotted path of the layer to edit, or of several, each solved on its own; its output must have as many
            positions as its input.
        strength: the change is scaled by it; 1 is the solve.
        balance: how much the reference set counts beside the marked positions, ≥ 0; the constraint is exact at 0.
        cutoff: smallest singular value that is inverted, relative to the largest of all frequencies, in 0..1.
        floor: smallest eigenvalue of the outputs' power spectrum kept, relative to its frequency's largest, in 0..1.
        fitted: fit the layer's few taps to what the whole kernel does to the edited pictures; else it is cut off.
        whole_image: match the whole pictures, without the mask.
        seed: of the sample of the reference set's keys.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars.

    Returns:
        The edit: a dense change of each site's weight; fitted, one of at most as many directions as marked positions.

    Raises:
        ExemplarError: no exemplars, or one that does not fit the model.
        SettingError: a setting out of range, or statistics in the place of pictures.
        SiteError: a site that the model does not have, that cannot be edited, or that strides.
    """
    settings = Settings(site, strength=strength, architecture=2, floor=floor, seed=seed, whole_image=whole_image)
    check_share("cutoff", cutoff)
    if not 0 <= balance < math.inf:
        raise SettingError(f"expected a balance of at least 0 but got {balance}; 0.1 to 10 is usual")
    check_sites(model, settings, rank=1, architecture=None)
    problem = pose(model, exemplars, settings, reference=reference, cache=cache, progress=progress)
    with stretch("statistics"):
        spectra = {
            seen.site.path: power_spectrum_at(model, reference, seen.site, progress=progress)
            for seen in problem.observations
        }
    with stretch("solve"):
        solved = [
            edit_convolution(problem, seen, spectra[seen.site.path], balance=balance, cutoff=cutoff, fitted=fitted)
            for seen in problem.observations
        ]
    own = {"balance": balance, "cutoff": cutoff, "fitted": fitted}
    edit = assemble(problem, [change for change, _ in solved], method="inverse-fourier", own=own)
    return replace(edit, provenance={**edit.provenance, "inverse": [about for _, about in solved]})
