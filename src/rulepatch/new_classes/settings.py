"""The settings of a new class. Loads no torch."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from rulepatch.methods import MAX_DROP, MaxDrop
from rulepatch.settings import Settings

__all__ = ["METHODS", "NewClassMethod", "NewClassSettings"]

NewClassMethod = Literal["filter", "random", "class-feature", "compositional", "imprinted", "ridge"]
METHODS: tuple[NewClassMethod, ...] = get_args(NewClassMethod)
"""The filter, the three baselines of thesis 4.1.4, and two modern ones."""

RIDGES = {"filter": 0.01, "ridge": 0.1}
COUNTS = {"random": 50, "mined": 5}


class NewClassSettings(Settings):
    """How a class is learnt from its exemplars (thesis chapter 4), and how its logit is scaled."""

    title: ClassVar[str] = "settings of a new class"
    renamed: ClassVar[Mapping[str, str]] = {"loudness": "logit_scale"}

    method: NewClassMethod = Field(default="filter", description="Way to learn it; some are baselines.")
    count: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description=f"Negatives of the filter; if none, {COUNTS['random']} drawn or {COUNTS['mined']} mined.",
    )
    balance: float = Field(default=0.05, ge=0, description="Weight of each negative of the filter.")
    ridge: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description=f"If none, {RIDGES['filter']} for the filter, {RIDGES['ridge']} for the regression."
    )
    pool: Literal["mean", "max"] = Field(default="mean", description="Of the filter's response over positions.")
    max_drop: MaxDrop = MAX_DROP
    logit_scale: float = Field(
        default=1.0, gt=0, description="Factor of the logit; at 1 it has the spread of an old one."
    )

    @property
    def ridge_used(self) -> float:
        """The ridge, or what the method takes if there is none."""
        return RIDGES[self.method] if self.ridge is None else self.ridge

    def count_used(self, negatives: str) -> int:
        """The number of negatives, or the usual one if there is none.

        Args:
            negatives: "random" or "mined"; anything else is given, not counted.
        """
        return COUNTS.get(negatives, COUNTS["random"]) if self.count is None else self.count
