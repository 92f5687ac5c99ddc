"""Failures made from unlabelled pictures: a concept is found where its key fires, and replaced as in the exemplars.

Nobody need label them: what the model says of the untouched picture is what it should say of the manipulated one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from rulepatch.concepts.match import Key, key_at, match, usual_scores
from rulepatch.concepts.test_sets import paste_at_match, seen_of
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.observations import Observation
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.editors.problem import Problem
from rulepatch.models.classifier import Classifier
from rulepatch.progress import Bar
from rulepatch.tracing import capture
from rulepatch.tracing.sites import key_axis, rows

__all__ = ["Counterfactuals", "Place", "counterfactuals_of", "locate", "make_counterfactuals", "texture_of"]

THRESHOLDS = 49
"""Thresholds that are tried of a concept's score, evenly spread over its quantiles in the exemplars."""

SMALLEST_SHARE = 0.25
"""How much of the concept a picture must show beside the exemplar that shows least of it."""

SMALLEST_TEXTURE = 0.04
"""Side of the smallest rectangle from which a texture is taken, as a share of the picture's side."""


@dataclass(frozen=True, eq=False)
class Place:
    """How a concept is found in pictures.

    Attributes:
        key: what stands for the concept, at the site that shows it best.
        threshold: of ⟨d, k⟩, above which the concept is taken to be there.
        agreement: of what is found in the exemplars with their masks, intersection over union, 0..1.
        usual: share of the reference set's positions where the concept is found, 0..1.
    """

    key: Key
    threshold: float
    agreement: float
    usual: float


@dataclass(frozen=True)
class Counterfactuals:
    """Pictures with a concept replaced, and what the model should say of them.

    Attributes:
        originals: the pictures as the network sees them, labelled with what it says of them.
        replaced: the same with the concept replaced, with the same labels.
        groups: number of the picture that each was made of, (n,): with several textures pasted on one they are no
            independent witnesses.
        place: how the concept was found; None where its masks were given.
    """

    originals: ImageSet
    replaced: ImageSet
    groups: NDArray[np.int64] = field(repr=False)
    place: Place | None = None

    def __len__(self) -> int:
        return len(self.replaced)


def make_counterfactuals(
    problem: Problem, images: ImageSet, *, count: int = 200, progress: bool = True
) -> Counterfactuals | None:
    """Replace a rule's old concept by the new one in pictures at hand.

    The concept is found by context matching at the site whose key agrees best with the exemplars' own masks, in
    pictures that show enough of it. What replaces it is the texture of the exemplars' edited regions, each exemplar's
    in turn while more counterfactuals are wanted.

    Args:
        problem: posed at every site that may show the concept.
        images: the pictures; labels are not looked at.
        count: of counterfactuals, at most.
        progress: whether to show a bar.

    Returns:
        The counterfactuals; None if the concept is found nowhere, or no exemplar has a piece of texture to take.
    """
    model = problem.model
    place = locate(problem)
    textures = [texture for each in problem.exemplars if (texture := texture_of(model, each)) is not None]
    if place is None or not textures:
        return None
    shares = [float(model.preprocess.mask(exemplar.mask).mean()) for exemplar in problem.exemplars]
    size = model.preprocess.input_size
    found = match(model, place.key, images, reference=problem.statistics, progress=progress)
    least = SMALLEST_SHARE * min(shares)
    showing = [each for each in found.matches if each.mask(place.threshold, size).mean() >= least]
    if not showing:
        return None
    pairs = [(turn + i, i) for turn in range(len(textures)) for i in range(len(showing))][:count]
    frames = [seen_of(model, each.picture) for each in showing]
    replaced = [paste_at_match(model, showing[i], place.threshold, textures[turn % len(textures)]) for turn, i in pairs]
    groups = np.array([i for _, i in pairs])
    return _labelled(model, [frames[i] for i in groups], replaced, groups, place, progress=progress)


def counterfactuals_of(model: Classifier, exemplars: Sequence[Exemplar]) -> Counterfactuals:
    """Counterfactuals whose masks somebody gave: exemplars that are not to be learnt from.

    Args:
        model: the classifier.
        exemplars: at least one.

    Returns:
        The counterfactuals, labelled with what the exemplars say, or else with what the model says of the originals.
    """
    framed = model.preprocess.frame
    given = [None if each.label is None else model.classes.index(each.label) for each in exemplars]
    originals, edited = [framed(each.image) for each in exemplars], [framed(each.edited) for each in exemplars]
    return _labelled(model, originals, edited, np.arange(len(exemplars)), None, given)


def _labelled(
    model: Classifier,
    originals: Sequence[Image.Image],
    replaced: Sequence[Image.Image],
    groups: NDArray[np.int64],
    place: Place | None,
    given: Sequence[int | None] = (),
    *,
    progress: bool = False,
) -> Counterfactuals:
    said: list[int] = []
    with capture.inference(model.module), Bar(len(originals), "labels", unit="image", shown=progress) as bar:
        for start in range(0, len(originals), model.batch_size):
            frames = originals[start : start + model.batch_size]
            pixels = torch.stack([model.preprocess.pixels(frame, framed=True) for frame in frames])
            said += model.logits(model.inputs(pixels)).argmax(dim=1).tolist()
            bar.update(len(frames))
    known = given or [None] * len(said)
    labels = [now if label is None else label for now, label in zip(said, known, strict=True)]

    def pictures(frames: Sequence[Image.Image], name: str) -> ImageSet:
        return ImageSet(tuple(Picture(*each, framed=True) for each in zip(frames, labels, strict=True)), name)

    named = pictures(originals, "originals"), pictures(replaced, "pictures with the concept replaced")
    return Counterfactuals(*named, groups, place)


def locate(problem: Problem) -> Place | None:
    """Find the site and the threshold at which a concept's key agrees best with the exemplars' masks.

    Keys of early layers fire on whatever has the same texture, and a key that fires everywhere agrees with large masks
    by chance, so the root of the share of the reference set's positions where it fires is taken off its agreement.

    Args:
        problem: posed at every site that may show the concept.

    Returns:
        The place; None if the positions of no site form a grid.
    """
    grids = [seen for seen in problem.observations if seen.site.is_spatial]
    places = (place for seen in grids for place in _places(problem, seen))
    return max(places, key=lambda place: place.agreement - place.usual**0.5, default=None)


def _places(problem: Problem, seen: Observation) -> Iterator[Place]:
    """The concept's key at a site, with each of some thresholds."""
    key = key_at(problem, seen)
    keys = rows(seen.original.keys, key_axis(seen.site.kind)).float().cpu()
    assert seen.site.key_places is not None
    scores = seen.site.key_places.lay_out((keys @ key.direction).reshape(len(seen.masks), -1))
    masks = seen.masks.cpu() > 0.5
    laid_over = F.interpolate(scores[:, None], size=masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    usual = usual_scores(problem.statistics[seen.site.path], key)
    levels = torch.linspace(0.02, 0.98, THRESHOLDS)
    for threshold in torch.quantile(scores.flatten(), levels).tolist():
        found = laid_over > threshold
        agreement = float((found & masks).sum() / (found | masks).sum())
        yield Place(key, threshold, agreement, 1 - np.searchsorted(usual, threshold) / len(usual))


def texture_of(model: Classifier, exemplar: Exemplar) -> Image.Image | None:
    """What replaces the concept in an exemplar, as a texture that fills a picture: its largest rectangle, mirrored.

    Args:
        model: the classifier; the texture has the scale at which it sees pictures.
        exemplar: the exemplar.

    Returns:
        A picture of the network's input size; None if the edited region holds no rectangle worth the name.
    """
    height, width = model.preprocess.input_size
    box = _largest_rectangle(model.preprocess.mask(exemplar.mask).numpy() > 0.95)
    if min(box[2] - box[0], box[3] - box[1]) < SMALLEST_TEXTURE * min(height, width):
        return None
    piece = np.asarray(model.preprocess.frame(exemplar.edited))[box[0] : box[2], box[1] : box[3]]
    missing = [(0, max(0, side - there)) for side, there in zip((height, width), piece.shape[:2], strict=True)]
    return Image.fromarray(np.pad(piece, [*missing, (0, 0)], mode="symmetric")[:height, :width])


def _largest_rectangle(inside: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The largest rectangle that lies inside a region: top, left, bottom, right; empty if the region is."""
    heights = np.zeros(inside.shape[1] + 1, dtype=np.int64)  # the last column stays 0 and closes every rectangle
    best: tuple[int, tuple[int, int, int, int]] = (0, (0, 0, 0, 0))
    for bottom, row in enumerate(inside, start=1):
        heights[:-1] = np.where(row, heights[:-1] + 1, 0)
        rising: list[tuple[int, Any]] = []  # left end and height of the rectangles that are still open
        for right, height in enumerate(heights):
            left = right
            while rising and rising[-1][1] >= height:
                left, tall = rising.pop()
                best = max(best, (int(tall) * (right - left), (int(bottom - tall), left, bottom, right)))
            rising.append((left, height))
    return best[1]
