"""Reconstructions before and after an edit: their curves, as text and as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor

from rulepatch.core.exemplars import Exemplar
from rulepatch.text import Table

__all__ = ["LEVELS", "Inversion", "Level", "Reconstruction", "When"]

Level = Literal["key", "map", "image"]
When = Literal["before", "after"]

LEVELS: tuple[Level, ...] = get_args(Level)
"""What can be rebuilt: single keys, the layer's feature map, the image."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Reconstruction of an input from an output.

    Attributes:
        level: "key", "map" or "image".
        when: "before" the edit or "after" it.
        steps: steps at which the curves were sampled.
        losses: squared distance of the output from its target, relative to the target's square.
        to_edited: mean cosine of the site's inputs at the marked positions to those of the edited images.
        to_original: the same to those of the original images.
        similarity: dot products with the inputs of the edited and of the original images at each position, over the
            mean square of these, (n, h, w); of feature maps alone.
        pictures: of the level "image", (n, channels, height, width), 0..1.
    """

    level: Level
    when: Literal["before", "after"]
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    to_edited: tuple[float, ...]
    to_original: tuple[float, ...]
    similarity: dict[str, Tensor] = field(default_factory=dict, repr=False)
    pictures: Tensor | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The curves, as JSON."""
        return {
            "level": self.level,
            "when": self.when,
            "loss": self.losses[-1],
            "to_edited": self.to_edited[-1],
            "to_original": self.to_original[-1],
            "curves": {
                "steps": list(self.steps),
                "loss": list(self.losses),
                "to_edited": list(self.to_edited),
                "to_original": list(self.to_original),
            },
        }


@dataclass(frozen=True, eq=False)
class Inversion:
    """Reconstructions before and after an edit.

    Attributes:
        model: name of the classifier.
        site: where the output is taken.
        edit: method of the edit; None if there was none.
        settings: how it was done, as JSON.
        exemplars: the images.
        reconstructions: each level before the edit, and after it.
    """

    model: str
    site: str
    edit: str | None
    settings: dict[str, Any]
    exemplars: Sequence[Exemplar]
    reconstructions: Sequence[Reconstruction]

    def of(self, level: Level) -> list[Reconstruction]:
        """The reconstructions of a level, before and after.

        Returns:
            None, one or two of them.
        """
        return [each for each in self.reconstructions if each.level == level]

    def to_json(self) -> dict[str, Any]:
        """Everything but the images, as JSON."""
        return {
            "model": self.model,
            "site": self.site,
            "edit": self.edit,
            "settings": self.settings,
            "exemplars": [exemplar.name for exemplar in self.exemplars],
            "reconstructions": [each.to_json() for each in self.reconstructions],
        }

    def to_text(self) -> str:
        """Final values of the curves, as a table."""
        lines = [
            [
                each.level,
                each.when,
                f"{each.losses[-1]:.2g}",
                f"{each.to_edited[-1]:.3f}",
                f"{each.to_original[-1]:.3f}",
            ]
            for each in self.reconstructions
        ]
        return Table(["rebuilt", "edit", "loss left", "cosine to the edited", "to the original"], lines).to_text()
