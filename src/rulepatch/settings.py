"""Settings, each declared once: name, type, range, default and meaning. Loads no torch.

A class of settings is frozen and checked when it is made, wherever its values come from: Python, `NAME=VALUE`, YAML,
TOML, JSON, an edit file or the page. Command-line options, grids, plans and the tables of the docs are made of its
fields.
"""

from collections.abc import Mapping
from decimal import Decimal
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from rulepatch.errors import SettingError, nearest

__all__ = ["Settings", "Usual", "choices_of", "kinds_of", "range_of", "usual_of", "written"]

_SYMBOLS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "yes or no",
    str: "a text",
    type(None): "none",
    tuple: "a list",
    dict: "names and values",
}


MOST = 2**31 - 1
"""The largest whole number that a setting without a bound of its own may be; libraries take no larger ones."""


class Usual:
    """Values of a setting that are usual, for sliders and menus: part of its annotation."""

    def __init__(self, *values: float) -> None:
        self.values = values


class Settings(BaseModel):
    """Base of all settings.

    Raises:
        SettingError: a name that is no setting, or a value of another type or out of its range.

    Examples:
        >>> from pydantic import Field
        >>> class Blur(Settings):
        ...     radius: int = Field(1, ge=0, description="Of the kernel, in pixels.")
        >>> Blur(radius="2")
        Blur(radius=2)
        >>> Blur(radius=1.5)
        Traceback (most recent call last):
        rulepatch.errors.SettingError: expected radius to be a whole number ≥ 0 but got 1.5; the default is 1
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
    title: ClassVar[str] = "settings"
    """What the settings are of, in messages."""
    renamed: ClassVar[Mapping[str, str]] = {}
    """Names of settings by the names that they had in the version before, which are read still."""

    def __init__(self, **values: Any) -> None:
        values = {self.renamed.get(name, name): value for name, value in values.items()}
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingError(self._sentence(error, values)) from None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        """Values as text files and libraries of numbers write them."""
        return {name: cls._plain_value(name, value) for name, value in values.items()}

    @field_validator("*")
    @classmethod
    def _within_reason(cls, value: Any, info: ValidationInfo) -> Any:
        """No count is beyond what a float holds exactly, whatever range a setting has: libraries overflow there."""
        if isinstance(value, int) and abs(value) > 2**53:
            raise ValueError(f"expected {info.field_name} to be at most 2^53 but got more; 1 to 10000 is usual")
        return value

    @classmethod
    def _plain_value(cls, name: str, value: Any) -> Any:
        field = cls.model_fields.get(name)
        if field is None:
            return value
        kinds = kinds_of(field)
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            value = value.item()  # a number of NumPy or PyTorch
        if value == "none" and type(None) in kinds and "none" not in choices_of(kinds):
            return None
        if isinstance(value, bool) and bool not in kinds:
            return repr(value)  # a truth value is no number
        if isinstance(value, str):
            return next((choice for choice in choices_of(kinds) if str(choice) == value), value)
        return value

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, int) and abs(value) > MOST and "≤" not in range_of(field):
                raise ValueError(
                    f"expected {name} to be {range_of(field)} and ≤ {MOST} but got {value}; the default is "
                    f"{written(field.get_default())}"
                )
        return self

    @classmethod
    def _sentence(cls, error: ValidationError, values: Mapping[str, Any]) -> str:
        first = error.errors(include_url=False)[0]
        if first["type"] == "extra_forbidden":
            name = str(first["loc"][0])
            if not cls.model_fields:
                return f"expected no {cls.title}, as there are none, but got {name!r}; leave it out"
            return (
                f"expected {cls.title} but got {name!r}, which is none; the nearest are "
                f"{nearest(name, list(cls.model_fields))}"
            )
        if first["type"] == "value_error":  # what a validator says
            return str(first["msg"]).removeprefix("Value error, ")
        name = str(first["loc"][0])
        default = cls.model_fields[name].get_default()
        advice = "give one" if first["type"] == "missing" else f"the default is {written(default)}"
        return f"expected {name} to be {range_of(cls.model_fields[name])} but got {values.get(name)!r}; {advice}"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Settings from names and values, as of a file or of `NAME=VALUE`; names may have hyphens.

        Args:
            values: by name.

        Raises:
            SettingError: a name that is no setting, or a value of another type or out of its range.
        """
        return cls(**{str(name).replace("-", "_"): value for name, value in values.items()})

    def but(self, **changes: Any) -> Self:
        """The same settings with some changed, checked as at construction; `model_fields_set` grows by these alone."""
        return type(self)(**{**{name: getattr(self, name) for name in self.model_fields_set}, **changes})

    def given(self) -> dict[str, Any]:
        """What differs from the defaults, by name: for recipes, titles and tables."""
        fields = type(self).model_fields.items()
        return {name: value for name, field in fields if (value := getattr(self, name)) != field.get_default()}

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={value!r}" for name, value in self.given().items())
        return f"{type(self).__name__}({told})"

    __str__ = __repr__

    def describe(self) -> dict[str, Any]:
        """All settings by name, as JSON."""
        return self.model_dump(mode="json")


def kinds_of(field: FieldInfo) -> list[Any]:
    """The types that a setting may have: plain types and `Literal`s, in the order of its declaration."""
    return [kind for kind, _ in _branches(field.annotation, tuple(field.metadata))]


def choices_of(kinds: list[Any]) -> list[Any]:
    """The values that are named one by one in some types."""
    return [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]


def range_of(field: FieldInfo) -> str:
    """What a setting may be, in words.

    Examples:
        >>> from pydantic import Field
        >>> class Gated(Settings):
        ...     gate: Literal["auto"] | Annotated[float, Field(ge=0, lt=1)] | None = "auto"
        >>> range_of(Gated.model_fields["gate"])
        'auto, a finite number ≥ 0 and < 1 or none'
    """
    told = []
    for kind, limits in _branches(field.annotation, tuple(field.metadata)):
        if get_origin(kind) is Literal:
            told += [written(choice) for choice in get_args(kind)]
        else:
            bounds = [f"{_SYMBOLS[key]} {written(value)}" for key, value in limits.items() if kind in {int, float}]
            told.append(
                " ".join(
                    filter(None, [_KINDS.get(get_origin(kind) or kind) or f"a {kind.__name__}", " and ".join(bounds)])
                )
            )
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} or {told[-1]}"


def usual_of(field: FieldInfo) -> tuple[float, ...]:
    """Values of a setting that are usual, ascending; none if nothing is said of it."""
    return next((each.values for each in field.metadata if isinstance(each, Usual)), ())


def _branches(annotation: Any, metadata: tuple[Any, ...]) -> list[tuple[Any, dict[str, float]]]:
    """Each type of a union, with the bounds of its numbers."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *further = get_args(annotation)
        extra = tuple(each for info in further for each in (info.metadata if isinstance(info, FieldInfo) else [info]))
        return _branches(inner, (*metadata, *extra))
    if origin in {Union, UnionType}:
        return [branch for part in get_args(annotation) for branch in _branches(part, metadata)]
    limits = {key: getattr(each, key) for each in metadata for key in _SYMBOLS if hasattr(each, key)}
    return [(annotation, limits)]


def written(value: Any) -> str:
    """A value of a setting as people write it.

    Examples:
        >>> written(1e-5), written(None), written(True), written("auto"), written(600)
        ('0.00001', 'none', 'yes', 'auto', '600')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        plain = f"{Decimal(repr(value)):f}" if 1e-9 < abs(value) < 1e9 else repr(value)
        return plain.removesuffix(".0")
    return "none" if value is None else str(value)
