"""The settings of a case set. Loads no torch."""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from rulepatch.errors import SettingError
from rulepatch.settings import Settings

__all__ = ["CaseSettings"]


class CaseSettings(Settings):
    """Which images and regions a case set takes."""

    title: ClassVar[str] = "settings of a case set"

    size: Annotated[int, Field(ge=8)] | None = Field(
        default=256, description="Pixels of the shorter side, to which larger images are reduced; 0 to leave them."
    )
    smallest: float = Field(default=0.02, ge=0, le=1, description="Share of the image that a concept must cover.")
    largest: float = Field(default=0.9, ge=0, le=1, description="Share of the image that it may cover.")
    exclude: dict[str, tuple[str, ...]] = Field(
        default={}, description="For each concept the classes of which it is no part but the thing itself."
    )

    @field_validator("size", mode="before")
    @classmethod
    def _none_for_zero(cls, value: Any) -> Any:
        return None if value in (0, "0") else value

    @field_validator("exclude", mode="before")
    @classmethod
    def _in_order(cls, value: Any) -> Any:
        return {concept: sorted(labels) for concept, labels in sorted((value or {}).items())}

    @model_validator(mode="after")
    def _some_share(self) -> Self:
        if self.smallest >= self.largest:
            raise SettingError(
                f"expected smallest to be below largest but got {self.smallest} and {self.largest}; choose within 0..1"
            )
        return self
