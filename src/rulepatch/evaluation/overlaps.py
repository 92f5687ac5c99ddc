"""Detection of test images that were used to make an edit."""

from collections.abc import Collection, Iterable, Sequence

from rulepatch.core.exemplars import Exemplar
from rulepatch.digests import digest_of_tensors
from rulepatch.errors import warn
from rulepatch.models.preprocess import Preprocess
from rulepatch.text import plural

__all__ = ["inputs_of", "warn_of_overlap"]


def inputs_of(exemplars: Iterable[Exemplar], preprocess: Preprocess) -> set[str]:
    """Digests of a model's inputs for some exemplars, original and edited.

    Args:
        exemplars: the exemplars.
        preprocess: the model's preprocessing.
    """
    pictures = (picture for exemplar in exemplars for picture in (exemplar.image, exemplar.edited))
    return {digest_of_tensors({"": preprocess.pixels(picture)}) for picture in pictures}


def warn_of_overlap(name: str, tested: Sequence[tuple[str, str]], used: Collection[str], what: str) -> None:
    """Warn of test images that were used to make the edit.

    Args:
        name: name of the test set.
        tested: the digest of each of its images, and its name.
        used: digests of the images that were used.
        what: description of the latter.
    """
    both = [picture for digest, picture in tested if digest in used]
    if both:
        names = list(dict.fromkeys(both))
        told = ", ".join([*names[:3], *(["…"] if len(names) > 3 else [])])
        warn(
            f"{len(both)} of the {plural(len(tested), 'image')} of the {name} {'is' if len(both) == 1 else 'are'} "
            f"{what} as well ({told}), so that repair and damage look better than they are; test on others"
        )
