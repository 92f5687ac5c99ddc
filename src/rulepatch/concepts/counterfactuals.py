"""Counterfactuals from unlabelled images: a concept is located by context matching and replaced as in the exemplars.

No labels are needed: the target of a manipulated image is the model's prediction for the original.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from rulepatch.concepts.match import Key, key_at, match, scores_on_reference
from rulepatch.concepts.test_sets import paste_at_match, seen_of
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.site_activations import SiteActivations
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.editors.problem import Problem
from rulepatch.models.classifier import Classifier
from rulepatch.progress import Bar
from rulepatch.tracing import capture
from rulepatch.tracing.sites import flatten_positions, key_axis

__all__ = ["Counterfactuals", "Place", "counterfactuals_of", "locate", "make_counterfactuals", "texture_of"]

THRESHOLDS = 49
"""Number of candidate thresholds of a concept's score, evenly spaced over its quantiles in the exemplars."""

SMALLEST_SHARE = 0.25
"""Least area of the concept in an image, relative to the exemplar with the smallest area."""

SMALLEST_TEXTURE = 0.04
"""Side of the smallest rectangle from which a texture is taken, as a share of the image's side."""


@dataclass(frozen=True, eq=False)
class Place:
    """Detector of a concept in images.

    Attributes:
        key: key of the concept, at the site where it is most distinctive.
        threshold: threshold of ⟨d, k⟩.
        agreement: intersection over union with the exemplars' masks, 0..1.
        usual: detection rate at the reference set's positions, 0..1.
    """

    key: Key
    threshold: float
    agreement: float
    usual: float


@dataclass(frozen=True)
class Counterfactuals:
    """Images with a concept replaced, and their target classes.

    Attributes:
        originals: the images as the network sees them, labelled with its predictions.
        replaced: the images with the concept replaced, with the same labels.
        groups: index of the original of each, (n,); counterfactuals of one image are not independent.
        place: the detector; None if masks were given.
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
    """Replace a rule's old concept by the new one in given images.

    The concept is located by context matching at the site whose key agrees best with the exemplars' masks, in images
    that show enough of it. It is replaced by the texture of the exemplars' edited regions, using the exemplars in turn.

    Args:
        problem: problem at all candidate sites.
        images: the images; labels are ignored.
        count: most counterfactuals.
        progress: whether to show a bar.

    Returns:
        The counterfactuals; None if the concept is not found, or no exemplar has a usable texture.
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
    """Counterfactuals from held-out exemplars.

    Args:
        model: the classifier.
        exemplars: at least one.

    Returns:
        The counterfactuals, labelled with the exemplars' labels, or else with the predictions for the originals.
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

    named = pictures(originals, "originals"), pictures(replaced, "images with the concept replaced")
    return Counterfactuals(*named, groups, place)


def locate(problem: Problem) -> Place | None:
    """Find the site and the threshold at which a concept's key agrees best with the exemplars' masks.

    Keys of early layers respond to anything with the same texture, and keys that fire everywhere agree with large masks
    by chance; so the square root of the detection rate on the reference set is subtracted from the agreement.

    Args:
        problem: problem at all candidate sites.

    Returns:
        The detector; None if no site has positions on a grid.
    """
    grids = [seen for seen in problem.observations if seen.site.is_spatial]
    places = (place for seen in grids for place in _places(problem, seen))
    return max(places, key=lambda place: place.agreement - place.usual**0.5, default=None)


def _places(problem: Problem, seen: SiteActivations) -> Iterator[Place]:
    """Detectors at a site with different thresholds."""
    key = key_at(problem, seen)
    keys = flatten_positions(seen.original.keys, key_axis(seen.site.kind)).float().cpu()
    assert seen.site.key_places is not None
    scores = seen.site.key_places.to_map((keys @ key.direction).reshape(len(seen.masks), -1))
    masks = seen.masks.cpu() > 0.5
    laid_over = F.interpolate(scores[:, None], size=masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    usual = scores_on_reference(problem.statistics[seen.site.path], key)
    levels = torch.linspace(0.02, 0.98, THRESHOLDS)
    for threshold in torch.quantile(scores.flatten(), levels).tolist():
        found = laid_over > threshold
        agreement = float((found & masks).sum() / (found | masks).sum())
        yield Place(key, threshold, agreement, 1 - np.searchsorted(usual, threshold) / len(usual))


def texture_of(model: Classifier, exemplar: Exemplar) -> Image.Image | None:
    """Texture of an exemplar's edited region, extended to image size by mirroring its largest inscribed rectangle.

    Args:
        model: the classifier; the texture has the scale at which it sees images.
        exemplar: the exemplar.

    Returns:
        An image of the network's input size; None if the edited region is too small.
    """
    height, width = model.preprocess.input_size
    box = _largest_rectangle(model.preprocess.mask(exemplar.mask).numpy() > 0.95)
    if min(box[2] - box[0], box[3] - box[1]) < SMALLEST_TEXTURE * min(height, width):
        return None
    piece = np.asarray(model.preprocess.frame(exemplar.edited))[box[0] : box[2], box[1] : box[3]]
    missing = [(0, max(0, side - there)) for side, there in zip((height, width), piece.shape[:2], strict=True)]
    return Image.fromarray(np.pad(piece, [*missing, (0, 0)], mode="symmetric")[:height, :width])


def _largest_rectangle(inside: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The largest rectangle inside a region: top, left, bottom, right; empty for an empty region."""
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
