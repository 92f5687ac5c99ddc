"""An exemplar in the making: an image, a concept marked in it, and what takes its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rulepatch.concepts.match import Match, Matcher, key_of_points
from rulepatch.concepts.segment import Segmenter, concept_mask
from rulepatch.concepts.typographic import Note, note
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.moments import KeyStatistics
from rulepatch.data.folders import Picture
from rulepatch.errors import ExemplarError, SettingError
from rulepatch.images import composite
from rulepatch.masks import read_mask
from rulepatch.models.classifier import Classifier

__all__ = ["Painting", "mask_by_name", "mask_from_points"]

SMALLEST_MARK = 0.5
"""Share of a pixel from which it counts as marked."""


@dataclass(frozen=True, eq=False)
class Painting:
    """An exemplar in the making; every step gives a new one.

    Attributes:
        picture: where the image comes from, and its label.
        image: the image, RGB.
        mask: where the concept is, (h, w), 0..1; None until it is marked.
        concept: what the mask marks.
        texture: what is painted over the concept; None until it is chosen.
        replacement: what the texture shows, or the word.
        word: what is written on a note, instead of a texture.

    Examples:
        >>> from rulepatch.playground.scenes import render
        >>> from rulepatch.playground.pictures import picture_of
        >>> scene = render("van", seed=1)
        >>> snow = Image.new("RGB", (64, 64), "white")
        >>> painting = Painting.of(Picture(picture_of(scene))).marked(scene.masks["ground"], "road")
        >>> painting.replaced_by(snow, "snow").exemplar.replacement
        'snow'
    """

    picture: Picture
    image: Image.Image
    mask: NDArray[np.float32] | None = field(default=None, repr=False)
    concept: str | None = None
    texture: Image.Image | None = None
    replacement: str | None = None
    word: str | None = None

    @classmethod
    def of(cls, picture: Picture) -> Self:
        """An image with nothing marked yet.

        Returns:
            The beginning of an exemplar.

        Raises:
            ImageError: the image cannot be read.
        """
        return cls(picture, picture.read())

    def marked(self, mask: Any, concept: str | None = None) -> Self:
        """With the concept marked.

        Args:
            mask: of the image's size, in any form that `read_mask` reads; None for nothing.
            concept: what it marks.

        Raises:
            MaskError: the mask is of another size than the image, or can be read in several ways or in none.
        """
        if mask is not None:
            mask = read_mask(mask, size=self.image.size)
        return replace(self, mask=mask, concept=concept)

    def replaced_by(self, texture: Image.Image, name: str) -> Self:
        """With a texture in the concept's place."""
        return replace(self, texture=texture, replacement=name, word=None)

    def with_word(self, word: str) -> Self:
        """With a word on a note where the concept is marked, or anywhere if nothing is; the rule is to overlook it."""
        return replace(self, texture=None, replacement=word, word=word)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing for an exemplar."""
        return self.word is not None or (self.is_marked and self.texture is not None)

    @property
    def is_marked(self) -> bool:
        """Whether there is a mark to be seen."""
        return self.mask is not None and float(self.mask.max()) >= SMALLEST_MARK

    @property
    def edited(self) -> Image.Image:
        """The image with as much replaced as is known; the image itself before."""
        if self.word is not None:
            return self._note.written
        if self.mask is None or self.texture is None or not self.is_marked:
            return self.image
        return composite(self.image, self.texture, self.mask)

    @property
    def exemplar(self) -> Exemplar:
        """What can be learnt from.

        Raises:
            ExemplarError: something is missing.
        """
        if self.word is not None:
            return self._note.exemplar(label=self.picture.label)
        if self.mask is None or not self.is_marked:
            raise ExemplarError(
                "expected the concept to be marked in the image but nothing is; paint over it, name it, click on it "
                "or upload a mask"
            )
        if self.texture is None:
            raise ExemplarError("expected something in the concept's place but got nothing; choose a texture")
        return Exemplar(
            self.image, self.edited, self.mask, label=self.picture.label, concept=self.concept,
            replacement=self.replacement, name=self.picture.name,
        )  # fmt: skip

    @property
    def _note(self) -> Note:
        """The note, in the marked region if there is any."""
        assert self.word is not None
        if self.mask is None or not self.is_marked:
            return note(self.image, self.word)
        down, across = np.nonzero(self.mask >= SMALLEST_MARK)
        box = (int(across.min()), int(down.min()), int(across.max()) + 1, int(down.max()) + 1)
        return note(self.image, self.word, box=box)


def mask_by_name(segmenter: Segmenter, painting: Painting, concept: str) -> NDArray[np.float32]:
    """Where a segmenter sees a concept.

    Args:
        segmenter: finds concepts by name.
        painting: whose image to look in.
        concept: its name.

    Returns:
        The mask, (h, w), 0 or 1.

    Raises:
        ExemplarError: the concept is not in the image.
        SettingError: no concept is named.
    """
    if not concept.strip():
        raise SettingError("expected the name of a concept but got none; write one, such as road")
    found = segmenter.segment(painting.picture, painting.image, [concept])[concept]
    mask, _ = concept_mask(found, segmenter.threshold, painting.image.size[::-1])
    if mask is None:
        raise ExemplarError(
            f"expected {concept} in {painting.picture.name} but it is not found there; use another word or the brush"
        )
    return mask


def mask_from_points(
    model: Classifier,
    image: Image.Image,
    points: Sequence[tuple[float, float]],
    *,
    site: str,
    statistics: Mapping[str, KeyStatistics],
    likeness: float = 0.2,
) -> NDArray[np.float32]:
    """Where in an image a site sees what it sees at some points.

    Args:
        model: the classifier.
        image: RGB.
        points: (x, y) in the image's pixels, at least one.
        site: dotted path of the layer.
        statistics: of the site's keys on a reference set, by path.
        likeness: share of the highest score from which a position counts as alike, above 0 and below 1.

    Returns:
        The mask, (h, w), 0 or 1; nothing is marked outside of what the network sees.

    Raises:
        SettingError: there are no points, the network does not see one, or the likeness is out of range.
        SiteError: the model does not have the site, or its positions form no grid.
    """
    if not 0 < likeness < 1:
        raise SettingError(f"expected a likeness above 0 and below 1 but got {likeness}; 0.2 is usual")
    key = key_of_points(model, image, points, site=site, statistics=statistics)
    (scores,) = Matcher(model, key, reference=dict(statistics)).scores(model.preprocess.pixels(image)[None])
    found = Match(Picture(image), scores, 0.0)
    left, top, right, bottom = (round(edge) for edge in model.preprocess.window(image.size))
    seen = found.mask(likeness * found.best, (bottom - top, right - left))
    mask = np.zeros(image.size[::-1], np.float32)
    inside = mask[max(top, 0) : bottom, max(left, 0) : right]  # what pads a small image is cut off
    inside[:] = seen[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
    return mask
