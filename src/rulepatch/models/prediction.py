"""Prediction of a classifier for one image."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rulepatch.errors import ModelError, SettingError
from rulepatch.models.classes import Classes
from rulepatch.text import percent

__all__ = ["TOP", "Guess", "Prediction"]

TOP = 5
"""Number of likeliest classes shown."""


@dataclass(frozen=True)
class Guess:
    """A class with its probability.

    Attributes:
        name: of the class.
        index: of the class.
        probability: 0..1.
    """

    name: str
    index: int
    probability: float


@dataclass(frozen=True)
class Prediction:
    """Prediction of a classifier for one image.

    Attributes:
        name: of the likeliest class.
        index: of the likeliest class.
        probability: of the likeliest class, 0..1.
        top: the likeliest classes, the likeliest first.

    Examples:
        >>> Prediction.of(Tensor([[0.0, 2.0, 1.0]]), Classes(("bus", "car", "van")))
        [Prediction('car' 66.5 %, 'van' 24.5 %, 'bus' 9.0 %)]
    """

    name: str
    index: int
    probability: float
    top: tuple[Guess, ...] = field(repr=False)

    @classmethod
    def of(cls, logits: Tensor, classes: Classes, *, top: int = TOP) -> "list[Prediction]":
        """Read predictions off logits.

        Args:
            logits: (n, classes).
            classes: their names.
            top: how many of the likeliest classes are kept, at least 1.

        Returns:
            One for each of the n images.

        Raises:
            SettingError: `top` is below 1.
            ModelError: the logits are NaN or infinite.
        """
        if top < 1:
            raise SettingError(f"expected to be told of at least 1 class but got top {top}; 5 is usual")
        shares = logits.softmax(dim=1).float().cpu()
        if not shares.isfinite().all():
            raise ModelError(
                "expected finite logits but the network gives NaN or infinity for an image, so that it predicts "
                "nothing; check its weights, its preprocessing and its type"
            )
        probabilities, indices = shares.topk(min(top, len(classes)), dim=1)
        found = []
        for own, which in zip(probabilities.tolist(), indices.tolist(), strict=True):
            guesses = tuple(Guess(classes[index], index, each) for index, each in zip(which, own, strict=True))
            found.append(cls(guesses[0].name, guesses[0].index, guesses[0].probability, guesses))
        return found

    def to_json(self) -> dict[str, Any]:
        """The prediction, as JSON.

        Returns:
            A dictionary with `predicted`, `index`, `probability` and `top`.
        """
        top = [{"class": guess.name, "index": guess.index, "probability": guess.probability} for guess in self.top]
        return {"predicted": self.name, "index": self.index, "probability": self.probability, "top": top}

    def __repr__(self) -> str:
        told = ", ".join(f"{guess.name!r} {percent(guess.probability)}" for guess in self.top[:3])
        return f"Prediction({told}{', …' if len(self.top) > 3 else ''})"
