"""The settings of a comparison. Loads no torch."""

from typing import ClassVar

from pydantic import Field

from rulepatch.methods import MAX_DROP, MaxDrop
from rulepatch.settings import Settings

__all__ = ["CompareSettings"]


class CompareSettings(Settings):
    """What is compared, and how the settings of each method are chosen (paper 4)."""

    title: ClassVar[str] = "settings of a comparison"

    methods: tuple[str, ...] | None = Field(default=None, description="Methods and ablations; all if none.")
    grids: dict[str, str] = Field(default={}, description="For a method, the name of another grid than the default.")
    max_drop: MaxDrop = MAX_DROP
    validation_share: float = Field(
        default=0.3, gt=0, lt=1, description="Share of each class of the tests to choose on, without --validation."
    )
