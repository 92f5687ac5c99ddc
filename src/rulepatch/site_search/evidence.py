"""Images on which a search measures repair, and what the edits that are measured on them learn from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rulepatch.concepts.counterfactuals import Counterfactuals, counterfactuals_of, make_counterfactuals
from rulepatch.concepts.overlays import Overlay, transplants
from rulepatch.concepts.variants import variants_of
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.errors import FolderError
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.set_checks import check_validation
from rulepatch.evaluation.verdict import verdict_on
from rulepatch.models.classifier import Classifier
from rulepatch.site_search.candidates import EditFactory
from rulepatch.site_search.scoring import Fold
from rulepatch.site_search.selection import told_damage
from rulepatch.text import plural

__all__ = ["Evidence", "gather_evidence", "report_held_out", "transplants_of"]

FEWEST_FAILING = 10
"""Counterfactuals of which the model must be wrong, in as many images, for them to say anything of repair."""

MOST_TRANSPLANTS = 192

ENOUGH_TO_SPARE, SPARED = 40, 0.25
"""Labelled validation images from which some are spared to report on what was chosen, and their share."""

MOST_FOLDS = 4
"""Parts into which exemplars are divided, each of which is left out once."""

VARIANTS = 36
"""Variants of all exemplars together."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Images that an edit should repair.

    Attributes:
        folds: the images, each set with what edits learn from that are measured on it.
        told: what they are, for the end of a sentence.
        held: labelled images that choose nothing; None if there are none to spare.
    """

    folds: tuple[Fold, ...]
    told: str
    held: ImageSet | None = None


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
    factory: EditFactory, given: Any, images: ImageSet, overlay: Overlay | None, unseen: ImageSet, held: ImageSet
) -> Evidence:
    """Evidence for a search.

    Args:
        factory: of edits at all candidate sites, learnt from all exemplars.
        given: labelled images or exemplars of the user's own; None to make some.
        images: the reference set.
        overlay: by which the exemplars differ from their originals, if they differ by one.
        unseen: the part of the reference set from which nothing is learnt.
        held: images beside the reference set that choose nothing.

    Raises:
        FolderError: images of the user's own have no labels.
    """
    problem = factory.problem
    model, run = problem.model, problem.run
    if given is None and overlay is not None:
        shown, spared = (transplants_of(overlay, model, some, run) for some in (unseen, held))
        what = "sticker" if overlay.anywhere else f"overlay ({overlay.kind})"
        told = f"{plural(len(shown), 'transplant')} of the exemplars' {what}"
        return replace(_evidence(factory, shown, told), held=replace(spared.replaced, name="transplant"))
    if given is None:
        made = make_counterfactuals(problem, images, progress=run.progress)
        if made is not None and _failing_groups(model, made) >= FEWEST_FAILING:
            return _evidence(factory, made, _told(made))
        return _of_exemplars(factory)
    if isinstance(given, Sequence) and given and isinstance(given[0], Exemplar):
        shown = counterfactuals_of(model, given)
        return _evidence(factory, shown, f"{plural(len(shown), 'exemplar')} of validation")
    pictures = ImageSet.of(given, model.classes)
    if not pictures.is_labelled:
        raise FolderError(
            f"expected validation images in a folder for each class but {pictures.name} has some without; "
            "name the folders by class"
        )
    check_validation(model, pictures, images, problem.exemplars, progress=run.progress)
    spare: ImageSet | None = None
    if len(pictures) >= ENOUGH_TO_SPARE:
        pictures, spare = pictures.split(1 - SPARED, seed=run.seed)
        spare = replace(spare, name="validation image")
    told = plural(len(pictures), "labelled validation image")
    return Evidence((Fold(factory, pictures, np.arange(len(pictures))),), told, spare)


def _evidence(factory: EditFactory, made: Counterfactuals, told: str) -> Evidence:
    return Evidence((Fold(factory, made.replaced, made.groups),), told)


def _failing_groups(model: Classifier, made: Counterfactuals) -> int:
    """How many images have a counterfactual of which the model is wrong."""
    (found,) = outcomes_of(model, [Edit((), "")], made.replaced)
    return len(np.unique(made.groups[~found.right_before]))


def _of_exemplars(factory: EditFactory) -> Evidence:
    """Variants of each exemplar, for edits that learnt from the others; of a single one, for edits that learnt it."""
    exemplars = list(factory.problem.exemplars)
    each = max(1, VARIANTS // len(exemplars))
    parts = min(MOST_FOLDS, len(exemplars))
    folds = []
    for part in range(parts):
        rest = [one for index, one in enumerate(exemplars) if index % parts != part]
        shown: list[Exemplar] = []
        groups: list[int] = []
        for index in range(part, len(exemplars), parts):
            variants = [exemplars[index], *variants_of(exemplars[index], each, seed=index)]
            shown += variants
            groups += [index] * len(variants)
        made = counterfactuals_of(factory.problem.model, shown)
        folds.append(Fold(factory.learning_from(rest) if rest else factory, made.replaced, np.array(groups)))
    count = plural(sum(len(fold.images) for fold in folds), "variant")
    if parts == 1:
        return Evidence(tuple(folds), f"{count} of the one exemplar that is learnt from: flattered")
    told = f"{count} of the {len(exemplars)} exemplars, by edits that learnt from the others"
    return Evidence(tuple(folds), told)


def report_held_out(model: Classifier, edit: Edit, evidence: Evidence, held: ImageSet, max_drop: float) -> str:
    """What an edit does on images that chose nothing.

    Args:
        model: the classifier.
        edit: the chosen edit.
        evidence: of the search.
        held: images of the reference set that neither statistics nor choice saw.
        max_drop: the budget, 0..1.
    """
    (damage,) = outcomes_of(model, [edit], held)
    if evidence.held is None:
        return (
            f"on {plural(len(held), 'reference image')} that chose nothing: {told_damage(damage, interval=True)}; how "
            "much it repairs that it never saw is not known: measure it on labelled failures (`rulepatch evaluate`)"
        )
    (repair,) = outcomes_of(model, [edit], evidence.held)
    verdict = verdict_on(repair, damage, max_drop=max_drop)
    return f"on {plural(len(repair), evidence.held.name)} and images that chose nothing it {verdict.text}"


def _told(made: Counterfactuals) -> str:
    place = made.place
    assert place is not None
    return (
        f"{plural(len(made), 'counterfactual')} of {plural(int(made.groups.max()) + 1, 'image')}, the concept found "
        f"at {place.key.site} (agreement with the exemplars' masks {place.agreement:.2f})"
    )
