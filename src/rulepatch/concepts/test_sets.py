"""The thesis's test sets: random, confusing and mislabelled images, as they are and manipulated (thesis 2.2.2)."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from rulepatch.concepts.match import Match, Matches
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import SettingError
from rulepatch.images import blurred, composite
from rulepatch.models.classifier import Classifier

__all__ = ["TestSet", "make_test_sets", "paste_at_match", "seen_of"]

FEATHER = 0.01
"""Radius over which a pasted texture fades out, as a share of the image's side."""


@dataclass(frozen=True)
class TestSet:
    """Images, and the same images with a concept replaced.

    Attributes:
        name: "random", "confusing" or "mislabelled".
        normal: the images, as the network sees them.
        manipulated: the same, with a texture pasted where the concept's key fires.
    """

    __test__ = False  # it is no test, whatever pytest thinks

    name: str
    normal: ImageSet
    manipulated: ImageSet


def make_test_sets(
    model: Classifier,
    matches: Matches,
    texture: Image.Image,
    *,
    target: Collection[int],
    share: float = 0.01,
    count: int = 5000,
    seed: int = 0,
) -> Mapping[str, TestSet]:
    """Make the three sets from images in which a concept was looked for.

    *Random*: any images. *Confusing*: the share of all that match the concept best. *Mislabelled*: images of the
    target classes, each with the label of another class, the same for all ("noise"). The sets are held in memory,
    150 kB an image of 224 × 224.

    Args:
        model: the classifier.
        matches: labelled images, with where the key of the concept that is to be replaced fires.
        texture: what the concept is replaced by, RGB.
        target: classes that the rule is about.
        share: of the images that count as confusing, 0..1.
        count: random images, at most.
        seed: of the random images and the wrong label.

    Returns:
        The sets by name; mislabelled is left out where no image is of a target class.

    Raises:
        SettingError: a share out of range, no target class, or images without labels.
    """
    if not 0 < share <= 1 or not target:
        raise SettingError(f"expected a share in 0..1 and a target class but got {share} and {sorted(target)}")
    if any(each.picture.label is None for each in matches.matches):
        raise SettingError("expected labelled images to make test sets of but some have no label; use class folders")
    rng = np.random.default_rng(seed)
    ranked = matches.matches
    drawn = np.sort(rng.permutation(len(ranked))[:count])
    others = [label for label in range(len(model.classes)) if label not in target]
    noise = int(rng.choice(others)) if others else 0
    chosen = {
        "random": [ranked[i] for i in drawn],
        "confusing": list(ranked[: max(1, round(share * len(ranked)))]),
        "mislabelled": [each for each in ranked if each.picture.label in target],
    }
    return {
        name: _set(model, matches, texture, name, found, noise if name == "mislabelled" else None)
        for name, found in chosen.items()
        if found
    }


def paste_at_match(model: Classifier, match: Match, threshold: float, texture: Image.Image) -> Image.Image:
    """The part of an image that the network sees, with a texture where a key fires.

    Args:
        model: the classifier.
        match: the image and the scores.
        threshold: of the score.
        texture: RGB, of any size.

    Returns:
        An image of the network's input size.
    """
    seen = seen_of(model, match.picture)
    mask = match.mask(threshold, (seen.height, seen.width))
    return composite(seen, texture, blurred(mask, FEATHER * max(seen.size)))


def _set(
    model: Classifier, matches: Matches, texture: Image.Image, name: str, chosen: list[Match], label: int | None
) -> TestSet:
    def pictures(manipulated: bool) -> ImageSet:
        found = tuple(
            Picture(
                paste_at_match(model, each, matches.threshold, texture)
                if manipulated
                else seen_of(model, each.picture),
                each.picture.label if label is None else label,
                framed=True,
            )
            for each in chosen
        )
        return ImageSet(found, f"{name}, {'manipulated' if manipulated else 'normal'}")

    return TestSet(name, pictures(manipulated=False), pictures(manipulated=True))


def seen_of(model: Classifier, picture: Picture) -> Image.Image:
    """The part of an image that the network sees.

    Args:
        model: the classifier.
        picture: the image.

    Returns:
        An image of the network's input size, RGB; RGBA for a network of four channels.
    """
    image = picture.read(alpha=model.preprocess.has_alpha)
    return image if picture.framed else model.preprocess.frame(image)
