"""Display of an exemplar: its images side by side, with a model's predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rulepatch.notebook import Html, panel, pictures, remark
from rulepatch.text import brief, percent, quoted
from rulepatch.thumbnails import marked

__all__ = ["ExemplarPredictions", "panel_of", "predict_exemplar"]


class Guess(Protocol):
    """A class and its probability, 0..1."""

    @property
    def name(self) -> str: ...
    @property
    def probability(self) -> float: ...


class Prediction(Protocol):
    """Prediction for an image: classes, the likeliest first."""

    @property
    def top(self) -> Sequence[Guess]: ...


class Predictor(Protocol):
    """Protocol of a classifier that predicts classes of images."""

    @property
    def name(self) -> str: ...
    def __call__(self, pictures: Sequence[Image.Image], *, top: int) -> Sequence[Prediction]: ...


class Pictured(Protocol):
    """Protocol of an exemplar that can be displayed."""

    @property
    def image(self) -> Image.Image: ...
    @property
    def edited(self) -> Image.Image: ...
    @property
    def mask(self) -> NDArray[np.float32]: ...
    @property
    def label(self) -> int | str | None: ...
    @property
    def concept(self) -> str | None: ...
    @property
    def replacement(self) -> str | None: ...
    @property
    def name(self) -> str: ...


@dataclass(frozen=True, eq=False)
class ExemplarPredictions:
    """Predictions of a model for an exemplar's images; a notebook shows them with the images.

    Attributes:
        exemplar: the exemplar.
        model_name: of the model.
        original: prediction for the original image.
        edited: prediction for the edited image.
    """

    exemplar: Pictured
    model_name: str
    original: Prediction
    edited: Prediction

    def __repr__(self) -> str:
        (first, *_), (then, *_) = _said(self.original), _said(self.edited)
        return brief("ExemplarPredictions", f"{first} → {then}", quoted(self.exemplar.name), quoted(self.model_name))

    def _repr_html_(self) -> str:
        """The images, and the likeliest classes of each."""
        return panel_of(self.exemplar, self.original, self.edited, by=self.model_name)


def predict_exemplar(model: Predictor, exemplar: Pictured) -> ExemplarPredictions:
    """Predict the classes of an exemplar's images.

    Args:
        model: the classifier.
        exemplar: the exemplar.
    """
    original, edited = model([exemplar.image, exemplar.edited], top=3)
    return ExemplarPredictions(exemplar, model.name, original, edited)


def panel_of(
    exemplar: Pictured, original: Prediction | None = None, edited: Prediction | None = None, *, by: str = ""
) -> str:
    """HTML of an exemplar for notebooks: the image, the concept marked in it, the edited image.

    Args:
        exemplar: the exemplar.
        original: prediction for the original image, if any.
        edited: prediction for the edited image, if any.
        by: name of the model.
    """
    concept = exemplar.concept or "the concept"
    edit = f"{exemplar.replacement} in its place" if exemplar.replacement else f"{concept}, replaced"
    shown = [
        (exemplar.image, "the image", _said(original)),
        (marked(exemplar.image, exemplar.mask), f"{concept}, marked ({percent(float(exemplar.mask.mean()))})", []),
        (exemplar.edited, edit, _said(edited)),
    ]
    label = "" if exemplar.label is None else f", labelled {exemplar.label}"
    about = [remark(f"predictions of {by}")] if by else list[Html]()
    size = "×".join(map(str, exemplar.image.size))
    return panel(f"Exemplar: {exemplar.name}, {size}{label}", pictures(shown), *about)


def _said(prediction: Prediction | None) -> list[str]:
    return [] if prediction is None else [f"{guess.name} {percent(guess.probability)}" for guess in prediction.top]
