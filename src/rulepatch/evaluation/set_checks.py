"""Whether sets of pictures can be trusted before anything is measured on them: their labels, and what they share."""

from collections.abc import Sequence

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.evaluation.evaluate import believed, check_tests, outcomes_of
from rulepatch.evaluation.overlaps import warn_of_overlap
from rulepatch.models.classifier import Classifier

__all__ = ["check_validation", "trusted"]

CHECKED = 250
"""Pictures whose labels are looked at: enough to tell another order of a thousand classes from bad luck."""


def trusted(model: Classifier, images: ImageSet, *, seed: int = 0, progress: bool = True) -> ImageSet:
    """A reference set, without its labels if these do not seem to be the model's, of which a warning tells.

    Args:
        model: the untouched classifier.
        images: the set.
        seed: of the sample that is looked at.
        progress: whether to show a bar.

    Returns:
        The set, or the same pictures without labels.
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
    """Warn of labelled validation pictures that seem to be labelled in another order, or are used by the edit as well.

    Args:
        model: the untouched classifier.
        validation: pictures that the edit should repair.
        reference: pictures whose treatment should stay.
        exemplars: what is learnt from.
        progress: whether to show a bar.
    """
    (found,) = outcomes_of(model, [Edit((), "")], validation, progress="labels" if progress else None)
    check_tests("validation", found, None, exemplars, model)
    tested = list(zip(validation.digests(), (picture.name for picture in validation.pictures), strict=True))
    warn_of_overlap("validation", tested, set(reference.digests()), "in the reference set")
