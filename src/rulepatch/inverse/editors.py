"""Editing a layer in the inverse direction, from outputs to inputs (thesis ch. 3).

What is edited is the transpose of its weight, its pseudo-inverse, or the inverse of its convolution in the Fourier
domain. The rule is turned round: for the original image's output the layer's inverse should recall the edited
image's input. docs/inverse.md derives the equations and says what they can do.
"""

from rulepatch.core.site_activations import SiteActivations
from rulepatch.editors.problem import Problem
from rulepatch.editors.registry import Solution, editor
from rulepatch.inverse.convolution import edit_convolution, power_spectrum_at
from rulepatch.inverse.memory import check_sites, edit_memory
from rulepatch.methods import InverseFourier, InversePinv, InverseTranspose
from rulepatch.models.classifier import Classifier
from rulepatch.timing import section

__all__ = ["inverse_fourier", "inverse_pinv", "inverse_transpose"]


@editor(InverseTranspose, check=check_sites)
def inverse_transpose(problem: Problem, how: InverseTranspose) -> Solution:
    r"""Edit the transpose of a layer's weight, and turn it back (thesis 3.1, Algorithm 1).

    The thesis found that it fails, for reasons that docs/inverse.md gives. Bias and activation are left aside.

    Args:
        problem: the problem; with architecture 3 with reference images, not only statistics of them.
        how: the settings.

    Returns:
        A change of the given rank for each site, and what the edited memory recalls.
    """
    return edit_memory(problem, how)


@editor(InversePinv, check=check_sites)
def inverse_pinv(problem: Problem, how: InversePinv) -> Solution:
    r"""Edit the pseudo-inverse of a layer's weight, and turn it back (thesis 3.2, eq. 3.11-3.13).

    Bias and activation are left aside.

    Args:
        problem: the problem; with architecture 3 with reference images, not only statistics of them.
        how: the settings.

    Returns:
        A change of at most twice the given rank for each site, and what the edited memory recalls.
    """
    return edit_memory(problem, how)


def _check_fourier(model: Classifier, observations: list[SiteActivations], _: InverseFourier) -> None:
    check_sites(model, observations, None)


@editor(InverseFourier, check=_check_fourier)
def inverse_fourier(problem: Problem, how: InverseFourier) -> Solution:
    r"""Edit the inverse of a layer's convolution in the Fourier domain, and turn it back (thesis 3.3, eq. 3.52-3.57).

    Boundaries are taken for circular, and the change for a kernel as large as the map. Of this the layer gets the taps
    that it has, or, `fitted`, the weight that does most nearly the same at the marked positions. What that costs is
    written into the edit's provenance, under `inverse`.

    Args:
        problem: the problem. The reference images are read once more for their power spectrum, which is not cached.
        how: the settings.

    Returns:
        A dense change of each site's weight; fitted, one of at most as many directions as marked positions.

    Raises:
        SettingError: statistics are given in the place of images.
    """
    images = problem.images(how.name)
    with section("statistics"):
        spectra = [
            power_spectrum_at(problem.model, images, seen.site, progress=problem.run.progress)
            for seen in problem.observations
        ]
    solved = [
        edit_convolution(problem, seen, power, how) for seen, power in zip(problem.observations, spectra, strict=True)
    ]
    return Solution([change for change, _ in solved], {"inverse": [about for _, about in solved]})
