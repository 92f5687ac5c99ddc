"""Checks of image sets before they are used for measurements: their labels, and overlaps between them."""

from collections.abc import Sequence

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.evaluation.evaluate import believed, check_tests, outcomes_of
from rulepatch.evaluation.overlaps import warn_of_overlap
from rulepatch.models.classifier import Classifier

__all__ = ["check_validation", "trusted"]

CHECKED = 250
"""Sample size for checking labels: enough to detect a permutation of a thousand classes."""


def trusted(model: Classifier, images: ImageSet, *, seed: int = 0, progress: bool = True) -> ImageSet:
    """A reference set, without its labels, and with a warning, if they do not seem to be the model's.

    Args:
        model: the base classifier.
        images: the set.
        seed: seed of the sample.
        progress: whether to show a bar.

    Returns:
        The set, or the same images without labels.
    """
    if not images.is_labelled:
        return images
    sample = images.sample(CHECKED, seed=seed)
    found = outcomes_of(model, [Edit((), "")], sample, progress="labels" if progress else None)
    (outcomes,) = believed(found, model.classes)
    return images if outcomes.doubt is None else images.without_labels()


def check_validation(
    model: Classifier,
    validation: ImageSet,
    reference: ImageSet,
    exemplars: Sequence[Exemplar],
    *,
    progress: bool = True,
) -> None:
    """Warn of validation images whose labels seem permuted, or that are used by the edit as well.

    Args:
        model: the base classifier.
        validation: images that the edit should repair.
        reference: images whose predictions should not change.
        exemplars: the edit's exemplars.
        progress: whether to show a bar.
    """
    (found,) = outcomes_of(model, [Edit((), "")], validation, progress="labels" if progress else None)
    check_tests("validation", found, None, exemplars, model)
    tested = list(zip(validation.digests(), (picture.name for picture in validation.pictures), strict=True))
    warn_of_overlap("validation", tested, set(reference.digests()), "in the reference set")
