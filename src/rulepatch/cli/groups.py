"""Options in groups: what several commands ask for together, and the settings of methods, each under a heading."""

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from rulepatch.cli import options
from rulepatch.text import read_pairs, read_share

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from rulepatch.core.exemplars import Exemplar
    from rulepatch.methods import Method
    from rulepatch.models.classifier import Classifier
    from rulepatch.workflows.make import Limits

__all__ = [
    "ExemplarOptions",
    "GroupedCommand",
    "LimitOptions",
    "MethodCommand",
    "ModelOptions",
    "OptionalExemplarOptions",
    "ReferenceOptions",
    "grouped",
    "method_of",
]

METHOD = "rulepatch.method"
"""Where a context keeps the settings of the method."""

METHOD_NAME = "rulepatch.method-name"

OUTPUT = "Output"
"""Heading of options without a heading of their own; the last."""

KEYWORD = inspect.Parameter.KEYWORD_ONLY


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Input."""

    model: options.ModelName
    weights: options.Weights = None
    device: options.Device = "cpu"

    def load(self) -> "Classifier":
        """The classifier."""
        from rulepatch.models.registry import load_model

        return load_model(self.model, weights=self.weights, device=self.device)


@dataclasses.dataclass(frozen=True)
class OptionalExemplarOptions:
    """Input."""

    exemplar: options.OptionalExemplars = None
    mask: options.Masks = None
    mask_value: options.MaskValue = None
    replacement: options.Replacement = None
    label: options.Label = None

    def read(self, *, unedited: bool = False) -> "list[Exemplar]":
        """The exemplars; none if none are named.

        Args:
            unedited: whether they need no edited counterpart.
        """
        from rulepatch.data.exemplar_folders import read_exemplars

        return list(
            read_exemplars(
                self.exemplar or (),
                masks=self.mask or (),
                replacement=self.replacement,
                label=self.label,
                unedited=unedited,
                mask_value=self.mask_value,
            )
        )


@dataclasses.dataclass(frozen=True)
class ExemplarOptions(OptionalExemplarOptions):
    """Input."""

    exemplar: options.Exemplars = dataclasses.field(kw_only=True)


@dataclasses.dataclass(frozen=True)
class ReferenceOptions:
    """Input."""

    reference: Annotated[Path, typer.Option(metavar="DIR", help="Images whose treatment should stay.")]
    leave_out: options.LeaveOut = None


@dataclasses.dataclass(frozen=True)
class LimitOptions:
    """Output."""

    max_drop: options.MaxDrop = None
    allow_damage: Annotated[bool, typer.Option("--allow-damage", help="Write it even beyond --max-drop.")] = False
    allow_useless: Annotated[
        bool,
        typer.Option("--allow-useless", help="Write it even if useless for its exemplars."),
    ] = False

    def limits(self) -> "Limits":
        """What is allowed of an edit."""
        from rulepatch.workflows.make import Limits

        max_drop = None if self.max_drop is None else read_share(self.max_drop)
        return Limits(max_drop, self.allow_damage, self.allow_useless)


class GroupedCommand(TyperCommand):
    """A command whose help shows its options in groups, each under its heading."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write each group of options under its heading."""
        for heading, rows in self.sections(ctx).items():
            with formatter.section(heading):
                formatter.write_dl(rows)

    def sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """What the help lists under each heading."""
        found: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if (row := parameter.get_help_record(ctx)) is not None:
                found.setdefault(getattr(parameter, "rich_help_panel", None) or OUTPUT, []).append(row)
        return {**{name: rows for name, rows in found.items() if name != OUTPUT}, OUTPUT: found[OUTPUT]}


class MethodCommand(GroupedCommand):
    """A command that takes the settings of all methods as options, made of the fields of their classes.

    They are read when the command is asked for, as checking them takes a library that others need not load.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """Options of the command itself, and of the methods."""
        return [*super().get_params(ctx), *_method_parameters()]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; help is about the method that they name."""
        named = [value for option, value in pairwise([*args, ""]) if option == "--method"]
        named += [each.partition("=")[2] for each in args if each.startswith("--method=")]
        ctx.meta[METHOD_NAME] = (named or ["rewrite"])[-1]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the settings of the method are kept for `method_of`."""
        own = {parameter.name for parameter in _method_parameters()}
        ctx.meta[METHOD] = {name: ctx.params.pop(name) for name in list(ctx.params) if name in own}
        return super().invoke(ctx)

    def sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """What the help lists under each heading."""
        from rulepatch.methods import Method
        from rulepatch.settings import written

        found, name = super().sections(ctx), ctx.meta.get(METHOD_NAME, "rewrite")
        rows = [
            (f"{_option(setting)} {_metavar(field)}", f"{field.description} [{written(field.get_default())}]")
            for setting, field in Method.known.get(name, Method).model_fields.items()
        ]
        last = found.pop(OUTPUT)
        return {**found, f"Settings of {name} (--method NAME --help: those of another)": rows, OUTPUT: last}


@functools.cache
def _method_parameters() -> tuple[Any, ...]:
    """An option for each setting of any method; the help lists those of one."""
    from rulepatch.methods import Method

    program = typer.Typer(add_completion=False, rich_markup_mode=None)
    names = dict.fromkeys(name for settings in Method.known.values() for name in settings.model_fields)
    parameters = [
        inspect.Parameter(
            name, KEYWORD, default=None, annotation=Annotated[str | None, typer.Option(_option(name), hidden=True)]
        )
        for name in names
    ]

    def command() -> None:
        """Nothing: only its parameters are of use."""

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    program.command(add_help_option=False)(command)
    return tuple(typer.main.get_command(program).params)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _metavar(field: "FieldInfo") -> str:
    """What an option takes, in few letters."""
    from rulepatch.settings import choices_of, kinds_of, written

    kinds = kinds_of(field)
    plain = {int: "N", float: "X", bool: "yes|no", str: "TEXT", type(None): "none"}
    told = [*map(written, choices_of(kinds)), *(plain[kind] for kind in kinds if kind in plain)]
    return "|".join(dict.fromkeys(told))


def method_of(ctx: Any, name: str, further: list[str] | None) -> "Method":
    """The method that was asked for, with its settings.

    Args:
        ctx: of the command.
        name: of the method.
        further: settings as `NAME=VALUE`.

    Raises:
        SettingError: there is no such method, it does not have a setting, or a value is out of its range.
    """
    from rulepatch.editors.registry import editor_named

    given = {key: value for key, value in ctx.meta.get(METHOD, {}).items() if value is not None}
    return editor_named(name).settings.of({**given, **read_pairs(further or ())})


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of the groups among its parameters; it is called with the groups."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint) and isinstance(hint, type)}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(kind=KEYWORD, annotation=hints[parameter.name]))
            continue
        own, heading = groups[parameter.name], (groups[parameter.name].__doc__ or "").rstrip(".")
        for name, hint in get_type_hints(own, include_extras=True).items():
            field = own.__dataclass_fields__[name]
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
            parameters.append(inspect.Parameter(name, KEYWORD, default=default, annotation=_headed(hint, heading)))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        filled = {
            name: own(**{field.name: given.pop(field.name) for field in dataclasses.fields(own)})
            for name, own in groups.items()
        }
        command(**given, **filled)

    required = sorted(parameters, key=lambda each: each.default is not inspect.Parameter.empty)
    run.__signature__ = inspect.Signature(required)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _headed(hint: Any, heading: str) -> Any:
    """An option under a heading."""
    assert get_origin(hint) is Annotated
    kind, info = get_args(hint)
    own = copy.copy(info)
    own.rich_help_panel = heading
    return Annotated[kind, own]
