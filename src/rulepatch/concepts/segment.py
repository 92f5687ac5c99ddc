"""Where a named concept is in an image: what every segmenter answers, and the registry of them."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rulepatch.data.folders import Picture
from rulepatch.data.run import Run
from rulepatch.editors.problem import Reference
from rulepatch.errors import ImageError, SettingError, nearest
from rulepatch.models.classifier import Classifier
from rulepatch.registry import Registry

__all__ = [
    "Factory",
    "Region",
    "Request",
    "Segmenter",
    "concept_mask",
    "entries_of",
    "load_segmenter",
    "regions_of",
    "segmenter",
    "segmenters",
]


@dataclass(frozen=True, eq=False)
class Region:
    """A part of an image that a segmenter takes for a concept.

    Attributes:
        probability: how sure it is at each pixel that the concept is there, (h, w) of the image's size, 0..1.
        score: how sure it is of the region as a whole, 0..1.
    """

    probability: NDArray[np.float32] = field(repr=False)
    score: float


class Segmenter(Protocol):
    """Finds concepts by their names."""

    @property
    def threshold(self) -> float:
        """Probability at or above which a pixel belongs to a concept."""

    @property
    def vocabulary(self) -> tuple[str, ...] | None:
        """The concepts that it knows; None if any words will do."""

    def describe(self) -> dict[str, Any]:
        """What its answers depend on besides the image, for manifests.

        Returns:
            JSON, equal for equal behaviour.
        """

    def segment(self, picture: Picture, image: Image.Image, concepts: Sequence[str]) -> dict[str, list[Region]]:
        """Look for concepts in an image.

        Args:
            picture: the image, of which some need the file's name.
            image: the same, read, RGB.
            concepts: what to look for.

        Returns:
            For each concept its regions, the best first, each with a pixel at or above the threshold; none where the
            concept is not found.

        Raises:
            SettingError: a concept that is not in the vocabulary.
        """


def concept_mask(
    regions: Sequence[Region], threshold: float, size: tuple[int, int]
) -> tuple[NDArray[np.float32] | None, float]:
    """The mask of a concept: all of its regions together.

    Args:
        regions: of one concept in one image.
        threshold: probability at or above which a pixel belongs to the concept.
        size: (height, width) of the image.

    Returns:
        The mask, (height, width), 1 where the highest probability reaches the threshold and 0 elsewhere, and the best
        score of the regions that contribute a pixel; None and 0 if none does.

    Raises:
        ImageError: a region of another size.

    Examples:
        >>> left = Region(np.array([[0.9, 0.1]], np.float32), 0.9)
        >>> right = Region(np.array([[0.0, 0.5]], np.float32), 0.5)
        >>> concept_mask([left, right], 0.4, (1, 2)), concept_mask([right], 0.8, (1, 2))
        ((array([[1., 1.]], dtype=float32), 0.9), (None, 0.0))
    """
    for region in regions:
        if region.probability.shape != tuple(size):
            raise ImageError(
                f"expected regions of the image's size, {size[0]} by {size[1]}, but got one of "
                f"{' by '.join(map(str, region.probability.shape))}; segment the image itself"
            )
    found = [(region.probability >= threshold, region.score) for region in regions]
    contributing = [(inside, score) for inside, score in found if inside.any()]
    if not contributing:
        return None, 0.0
    union = np.logical_or.reduce([inside for inside, _ in contributing])
    return union.astype(np.float32), max(score for _, score in contributing)


# The registry


@dataclass(frozen=True)
class Request:
    """What is asked of a kind of segmenter.

    Attributes:
        name: what stands after the kind and a slash: a checkpoint, an architecture, a folder, a file; "" for nothing.
        threshold: of the probability; its own if None.
        device: where its network runs; the CPU if None.
        weights: a local file of weights, for one that is named by its architecture.
        model: the classifier, for one that looks into it.
        reference: images that say what is usual, or statistics of the classifier's sites, for the same.
        run: cache, progress, and the seed of statistics.
    """

    name: str = ""
    threshold: float | None = None
    device: str | None = None
    weights: Path | None = None
    model: Classifier | None = None
    reference: Reference = None
    run: Run = Run()  # noqa: RUF009 - it is frozen


Factory = Callable[[Request], Segmenter]


@dataclass(frozen=True)
class _Kind:
    """A kind of segmenter: the function that loads one, and whether it takes a local file of weights."""

    load: Factory
    weights: bool


_SEGMENTERS = Registry[_Kind](
    "segmenter",
    {
        "grounded-sam": "rulepatch.concepts.segmenters.grounded_sam",
        "clipseg": "rulepatch.concepts.segmenters.clipseg",
        "sam3": "rulepatch.concepts.segmenters.sam3",
        "mask2former": "rulepatch.concepts.segmenters.universal",
        "oneformer": "rulepatch.concepts.segmenters.universal",
        "torchvision": "rulepatch.concepts.segmenters.torchvision_models",
        "files": "rulepatch.concepts.segmenters.mask_files",
        "playground": "rulepatch.concepts.segmenters.playground",
        "context": "rulepatch.concepts.segmenters.context",
    },
    group="rulepatch.segmenters",
)


def segmenter(kind: str, *, weights: bool = False) -> Callable[[Factory], Factory]:
    """Register a kind of segmenter under the first part of its names: `kind` or `kind/NAME`.

    Args:
        kind: the name.
        weights: whether it takes a local file of weights, `Request.weights`.

    Returns:
        A decorator for a function of a `Request`.
    """
    return _SEGMENTERS.register(kind, lambda load: _Kind(load, weights))


def segmenters() -> list[str]:
    """Kinds of segmenters, sorted.

    Examples:
        >>> "clipseg" in segmenters()
        True
    """
    return _SEGMENTERS.names()


def load_segmenter(
    name: str,
    *,
    threshold: float | None = None,
    device: str | None = None,
    weights: Path | str | None = None,
    model: Classifier | None = None,
    reference: Reference = None,
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Segmenter:
    """Load a segmenter by name.

    Args:
        name: `grounded-sam` or `grounded-sam/DETECTOR+SAM`, `clipseg` or `clipseg/CHECKPOINT`, `sam3` or
            `sam3/CHECKPOINT`, `mask2former/CHECKPOINT`, `oneformer/CHECKPOINT` (a checkpoint is a local folder or a
            model of Hugging Face), `torchvision/ARCHITECTURE`, `files/FOLDER`, `playground` or
            `context/EDIT.safetensors`; or a name that another package registers.
        threshold: probability at or above which a pixel belongs to a concept, above 0 and at most 1; the kind's own
            if None.
        device: where its network runs; the CPU if None.
        weights: a local file of weights, for `torchvision/ARCHITECTURE`.
        model: the classifier that was edited, for `context/EDIT.safetensors`.
        reference: images that say what is usual, or statistics of the classifier's sites, for the same.
        run: cache, progress, and the seed of statistics.
        settings: single settings of `run` by name, in place of its own.

    Returns:
        The segmenter. Weights are downloaded only if they are not here.

    Raises:
        BaseMismatchError: the edit of `context/…` was computed on another model.
        MissingExtraError: the kind's library is not installed.
        ModelError: no such model, or none of this kind.
        SettingError: no such kind, a threshold out of range, or something missing that the kind needs.
        WeightsError: weights that are missing, damaged or of another architecture.

    Examples:
        >>> found = load_segmenter("playground")
        >>> found.threshold, "wheels" in found.vocabulary
        (0.5, True)
    """
    kind, _, rest = name.partition("/")
    found = _SEGMENTERS[name]
    if threshold is not None and not 0 < threshold <= 1:
        raise SettingError(f"expected a threshold above 0 and at most 1 but got {threshold}; 0.5 is an even chance")
    if weights is not None and not found.weights:
        raise SettingError(f"expected no file of weights for {name} but got {weights}; name a folder, {kind}/FOLDER")
    local = None if weights is None else Path(weights)
    return found.load(Request(rest, threshold, device, local, model, reference, run.but(**settings)))


# What the segmenters share


def regions_of(
    probabilities: NDArray[np.float32], threshold: float, scores: Iterable[float] | None = None
) -> list[Region]:
    """The regions that have a pixel at or above a threshold, the best first.

    Args:
        probabilities: of each, (n, h, w); what rounding takes out of 0..1 is put back.
        threshold: of the probability.
        scores: of each, 0..1; the mean probability of the pixels at or above the threshold if None.

    Examples:
        >>> probabilities = np.array([[[0.1, 0.2]], [[0.5, 1.0]]], np.float32)
        >>> [region.score for region in regions_of(probabilities, 0.5)]
        [0.75]
    """
    found = []
    given = [None] * len(probabilities) if scores is None else list(scores)
    for probability, score in zip(np.clip(probabilities, 0, 1), given, strict=True):
        inside = probability >= threshold
        if inside.any():
            sure = float(probability[inside].mean(dtype=np.float64)) if score is None else float(score)
            found.append(Region(np.ascontiguousarray(probability, dtype=np.float32), sure))
    return sorted(found, key=lambda region: -region.score)


def entries_of(concepts: Sequence[str], vocabulary: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Which entries of a closed vocabulary are meant by some concepts.

    Args:
        concepts: as the user names them; case does not matter, nor do "_", "-" and " ".
        vocabulary: a name each; synonyms are separated by commas or semicolons.

    Returns:
        Numbers of entries for each concept: those of that whole name, else those that have it as a synonym.

    Raises:
        SettingError: a concept that is not in the vocabulary.

    Examples:
        >>> entries_of(["Sky", "dining_table"], ["diningtable", "road", "sky, heaven"])
        {'Sky': (2,), 'dining_table': (0,)}
    """
    found = {}
    for concept in concepts:
        whole = tuple(i for i, name in enumerate(vocabulary) if _plain(name) == _plain(concept))
        part = tuple(i for i, name in enumerate(vocabulary) if _plain(concept) in map(_plain, re.split("[,;]", name)))
        if not _plain(concept) or not (whole or part):
            raise SettingError(
                f"expected a concept that the segmenter knows but got {concept!r}; "
                f"the nearest are {nearest(concept.strip().casefold(), vocabulary)}"
            )
        found[concept] = whole or part
    return found


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
