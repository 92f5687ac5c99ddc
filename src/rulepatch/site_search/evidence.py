"""Images on which a search measures repair: the user's own, transplants of an overlay, or counterfactuals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rulepatch.concepts.counterfactuals import Counterfactuals, counterfactuals_of, make_counterfactuals
from rulepatch.concepts.overlays import Overlay, transplants
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.editors.problem import Problem
from rulepatch.errors import FolderError
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.set_checks import check_validation
from rulepatch.models.classifier import Classifier
from rulepatch.site_search.selection import told_damage
from rulepatch.text import plural

__all__ = ["Evidence", "gather_evidence", "report_held_out", "transplants_of"]

FEWEST_COUNTERFACTUALS = 10
MOST_TRANSPLANTS = 100


@dataclass(frozen=True, eq=False)
class Evidence:
    """Images that an edit should repair.

    Attributes:
        images: labelled; None if there are none.
        groups: of those made of the same image, (n,); each is its own if None.
        told: what they are.
    """

    images: ImageSet | None
    groups: NDArray[np.int64] | None = field(default=None, repr=False)
    told: str = ""


def transplants_of(overlay: Overlay, model: Classifier, images: ImageSet, run: Run) -> Counterfactuals:
    """An overlay on reference images, labelled with what the model says of them without it.

    Args:
        overlay: of the exemplars.
        model: the classifier.
        images: at most `MOST_TRANSPLANTS` of them are taken.
        run: seed and progress.
    """
    made = transplants(overlay, model, images, MOST_TRANSPLANTS, seed=run.seed, progress=run.progress)
    return counterfactuals_of(model, made)


def gather_evidence(
    problem: Problem, given: Any, images: ImageSet, overlay: Overlay | None, unseen: ImageSet
) -> Evidence:
    """Evidence for a search.

    Args:
        problem: at all candidate sites.
        given: labelled images or exemplars of the user's own; None to make some.
        images: the reference set.
        overlay: by which the exemplars differ from their originals, if they differ by one.
        unseen: the part of the reference set from which nothing is learnt.

    Raises:
        FolderError: images of the user's own have no labels.
    """
    run = problem.run
    if given is None and overlay is not None:
        shown = transplants_of(overlay, problem.model, unseen, run)
        what = f"{plural(len(shown), 'transplant')} of the exemplars' overlay ({overlay.kind})"
        return Evidence(shown.replaced, None, f"repair measured on {what}")
    if given is None:
        made = make_counterfactuals(problem, images, progress=run.progress)
        if made is None or len(made) < FEWEST_COUNTERFACTUALS:
            count = plural(0 if made is None else len(made), "counterfactual")
            return Evidence(None, None, f"repair not measured: only {count} could be made")
        return Evidence(made.replaced, made.groups, f"repair measured on {_told(made)}")
    if isinstance(given, Sequence) and given and isinstance(given[0], Exemplar):
        shown = counterfactuals_of(problem.model, given)
        return Evidence(shown.replaced, None, f"repair measured on {plural(len(shown), 'exemplar')} of validation")
    pictures = ImageSet.of(given, problem.model.classes)
    if not pictures.is_labelled:
        raise FolderError(
            f"expected validation images in a folder for each class but {pictures.name} has some without; "
            "name the folders by class"
        )
    check_validation(problem.model, pictures, images, problem.exemplars, progress=run.progress)
    return Evidence(pictures, None, f"repair measured on {plural(len(pictures), 'labelled validation image')}")


def report_held_out(model: Classifier, edit: Edit, overlay: Overlay, held: ImageSet, run: Run) -> str:
    """What an edit does on images that chose nothing, with and without an overlay.

    Args:
        model: the classifier.
        edit: the chosen edit.
        overlay: of the exemplars.
        held: images of the reference set that neither statistics nor choice saw.
        run: seed and progress.
    """
    shown = transplants_of(overlay, model, held, run)
    (repair,) = outcomes_of(model, [edit], shown.replaced)
    (damage,) = outcomes_of(model, [edit], held)
    failing = int((~repair.right_before).sum())
    return (
        f"on {plural(len(held), 'image')} that chose nothing: {len(repair.repaired)} of "
        f"{plural(failing, 'failing transplant')} repaired, {len(repair.broken)} broken; {told_damage(damage)} "
        "without the overlay"
    )


def _told(made: Counterfactuals) -> str:
    place = made.place
    assert place is not None
    return (
        f"{plural(len(made), 'counterfactual')} of {plural(int(made.groups.max()) + 1, 'image')}, the concept found "
        f"at {place.key.site} (agreement with the exemplars' masks {place.agreement:.2f})"
    )
