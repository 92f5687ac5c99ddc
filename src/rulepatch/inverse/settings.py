"""The settings of reconstructions. Loads no torch."""

from typing import ClassVar, Literal

from pydantic import Field

from rulepatch.settings import Settings

__all__ = ["InvertSettings", "Optimiser"]

Optimiser = Literal["lbfgs", "adam"]


class InvertSettings(Settings):
    """What reconstructions aim at and how they seek it (thesis eq. 3.9-3.15)."""

    title: ClassVar[str] = "settings of a reconstruction"

    optimiser: Optimiser = Field(default="lbfgs", description="L-BFGS with a line search, or Adam.")
    steps: int = Field(default=100, ge=1, description="Of each reconstruction.")
    learning_rate: float = Field(default=0.05, gt=0, description="Of Adam.")
    architecture: Literal[3, 4] = Field(
        default=4, description="Of keys: a patch for an output (4), an input for a patch (3)."
    )
    target: Literal["base", "edited"] = Field(
        default="base", description="Output of the untouched or of the edited network."
    )
    variation: float = Field(default=0.0, ge=0, description="Weight of the total variation of rebuilt images.")
