"""Exemplars: an image, its edited counterpart, and the mask of the concept that was replaced."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rulepatch.digests import digest_of_bytes, digest_of_json
from rulepatch.errors import ExemplarError, warn
from rulepatch.images import as_image, composite, has_alpha, in_mode, read_image
from rulepatch.masks import MaskValue, read_mask
from rulepatch.records.exemplar_predictions import ExemplarPredictions, Predictor, panel_of, predict_exemplar
from rulepatch.text import brief, percent, quoted

__all__ = ["Exemplar"]

WHOLE = 0.98
"""Share of the image above which a mask counts as covering everything."""


@dataclass(frozen=True, eq=False)
class Exemplar:
    """An image, the same image with a concept replaced, and the mask of that concept.

    Attributes:
        image: the original, RGB; RGBA if one of the two has transparency, which networks of four channels see.
        edited: its counterpart in which the concept is replaced, in the same mode and of the same size.
        mask: array (h, w), float32, 0..1, 1 where the concept is; given in any form that `read_mask` reads: an array or
            tensor of any type, a PIL image.
        label: what the image shows: a class index, class name or WordNet id.
        concept: name of what the mask marks ("road").
        replacement: name of what was put there ("snow").
        name: of the exemplar, for messages.

    Raises:
        ExemplarError: sizes differ, or the mask is empty.
        MaskError: the mask can be read in several ways or in none.

    Examples:
        >>> picture, snow = Image.new("RGB", (4, 4), "black"), Image.new("RGB", (9, 9), "white")
        >>> mask = np.zeros((4, 4), np.float32)
        >>> mask[2:] = 1
        >>> exemplar = Exemplar.painted(picture, mask, snow, label="van")
        >>> np.asarray(exemplar.edited)[:, 0, 0].tolist()
        [0, 0, 255, 255]
    """

    image: Image.Image
    edited: Image.Image
    mask: NDArray[np.float32] = field(repr=False)
    label: int | str | None = None
    concept: str | None = None
    replacement: str | None = None
    name: str = "the exemplar"

    def __repr__(self) -> str:
        rule = f"{self.concept or 'the concept'} → {self.replacement or 'its replacement'}"
        label = "without a label" if self.label is None else f"labelled {quoted(self.label)}"
        masked = f"{percent(float(self.mask.mean()))} masked"
        return brief("Exemplar", quoted(self.name), "×".join(map(str, self.image.size)), rule, label, masked)

    def _repr_html_(self) -> str:
        """Its images; `predictions` adds a model's predictions."""
        return panel_of(self)

    def predictions(self, model: Predictor) -> ExemplarPredictions:
        """Predictions of a model for the original and the edited image.

        Args:
            model: the classifier.

        Returns:
            Both predictions; a notebook shows them below the images.
        """
        return predict_exemplar(model, self)

    def __post_init__(self) -> None:
        both = [as_image(part, alpha=True, name=f"an image of {self.name}") for part in (self.image, self.edited)]
        mode = "RGBA" if any(map(has_alpha, both)) else "RGB"
        for part, picture in zip(("image", "edited"), both, strict=True):
            object.__setattr__(self, part, in_mode(picture, mode))
        if self.edited.size != self.image.size:
            raise ExemplarError(
                f"expected the edited image of {self.name} to have the image's size {_by(self.image.size)} but got "
                f"{_by(self.edited.size)}; edit the image itself, and turn it as the image is turned"
            )
        mask = read_mask(self.mask, size=self.image.size, name=f"the mask of {self.name}")
        object.__setattr__(self, "mask", mask)
        if self.mask.max() < 0.5:
            raise ExemplarError(
                f"expected the mask of {self.name} to mark the concept in white but it is empty; paint the concept"
            )

    @classmethod
    def painted(
        cls,
        image: Image.Image,
        mask: Any,
        replacement: Image.Image,
        *,
        label: int | str | None = None,
    ) -> Self:
        """An exemplar made by painting a texture over the concept.

        Args:
            image: the original, RGB.
            mask: where the concept is, in any form that `read_mask` reads.
            replacement: a texture of any size.
            label: what the image shows.

        Raises:
            ExemplarError: the mask has another size than the image, or is empty.
        """
        return cls(image, image, mask, label=label)._painted_over(as_image(replacement))

    @classmethod
    def from_files(
        cls,
        image: Path | str,
        *,
        mask: Path | str,
        replacement: Path | str | None = None,
        edited: Path | str | None = None,
        label: int | str | None = None,
        mask_value: MaskValue | None = None,
    ) -> Self:
        """Read an exemplar from files.

        Args:
            image: the image.
            mask: white where the concept is, of the image's size; or in another form that `read_mask` reads.
            replacement: a texture to paint over the concept; or
            edited: the image with the concept already replaced.
            label: what the image shows.
            mask_value: which colour or number of the mask is the concept, where it has several.

        Raises:
            ImageError: a file cannot be read.
            MaskError: the mask can be read in several ways.
            ExemplarError: neither or both of `replacement` and `edited` are given, or the parts do not fit.
        """
        if (replacement is None) == (edited is None):
            raise ExemplarError(
                f"expected either a replacement or an edited image for {image} but got "
                f"{'neither' if edited is None else 'both'}; give one of them"
            )
        picture = read_image(image, alpha=True)
        area = read_mask(mask, value=mask_value, size=picture.size)
        if edited is not None:
            return cls(picture, read_image(edited, alpha=True), area, label=label, name=str(image))
        texture = Path(str(replacement))
        bare = cls(picture, picture, area, label=label, replacement=texture.stem, name=str(image))
        return bare._painted_over(read_image(texture))

    def _painted_over(self, texture: Image.Image) -> Self:
        if self.mask.mean() >= WHOLE:
            warn(
                f"the mask of {self.name} covers the whole image, so nothing of it is left beside the texture; mark "
                "the concept alone"
            )
        return replace(self, edited=composite(self.image, texture, self.mask))

    def describe(self) -> dict[str, Any]:
        """Digests that identify the exemplar, as JSON."""
        about = {name: getattr(self, name) for name in ("label", "concept", "replacement")}
        return {"name": self.name, "digest": self.digest(), **about}

    def digest(self) -> str:
        """Digest of the three images' contents."""
        parts = (np.asarray(self.image), np.asarray(self.edited), self.mask)
        return digest_of_json([[str(part.shape), digest_of_bytes(part.tobytes())] for part in parts])


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
