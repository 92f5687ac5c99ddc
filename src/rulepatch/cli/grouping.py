"""Commands whose help shows options in groups, and those that take settings as options."""

import copy
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from itertools import pairwise
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from rulepatch.trust import trust

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from rulepatch.settings import Settings

__all__ = [
    "GroupedCommand",
    "MethodCommand",
    "SettingsCommand",
    "grouped",
    "settings_given",
    "settings_of",
    "taking",
]

SETTINGS = "rulepatch.settings"
"""Where a context keeps the settings that were given."""

METHOD_NAME = "rulepatch.method-name"

ARGUMENTS, INPUT, OUTPUT = "Arguments", "Input", "Output"
"""Headings: of what has no option, the first; of options without a heading of their own; and the last."""


def _trust(given: bool) -> None:
    if given:
        trust()


@functools.cache
def _option_to_trust() -> Any:
    told = "Run code that a model file or a plan names."
    kind = typer.Option("--trust", callback=_trust, is_eager=True, expose_value=False, help=told)
    (option,) = _made({"trust": (False, Annotated[bool, kind])})
    return option


def _made(parameters: Mapping[str, tuple[Any, Any]]) -> tuple[Any, ...]:
    """Options of names, with their defaults and annotations."""
    program = typer.Typer(add_completion=False, rich_markup_mode=None)

    def command() -> None:
        """Nothing: only its parameters are of use."""

    _sign(
        command,
        [
            Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)
            for name, (default, hint) in parameters.items()
        ],
    )
    program.command(add_help_option=False)(command)
    return tuple(typer.main.get_command(program).params)


class GroupedCommand(TyperCommand):
    """A command whose help shows its options in groups, each under its heading; with --trust where it reads models."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The command's own options, and --trust."""
        own = super().get_params(ctx)
        return [*own[:-1], _option_to_trust(), *own[-1:]] if _names(own) & {"model", "named", "plan"} else own

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
                found.setdefault(_heading(parameter), []).append(row)
        between = {name: rows for name, rows in found.items() if name not in {ARGUMENTS, OUTPUT}}
        return {name: found[name] for name in [ARGUMENTS, *between, OUTPUT] if name in found}


def _heading(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return ARGUMENTS
    return getattr(parameter, "rich_help_panel", None) or (OUTPUT if parameter.name == "help" else INPUT)


class SettingsCommand(GroupedCommand):
    """A command that takes settings as options, made of the fields of their classes, but for those of its own.

    They are read when the command is asked for, as checking them takes a library that others need not load.

    Attributes:
        where: module and name of the class.
    """

    where: ClassVar[str] = ""

    def classes(self) -> "tuple[type[Settings], ...]":
        """Whose fields are options."""
        return (resolve_name(self.where),)

    def shown(self, ctx: Any) -> "tuple[str, type[Settings]]":
        """The heading and the class of the settings that the help lists."""
        return "Settings", self.classes()[0]

    def get_params(self, ctx: Any) -> list[Any]:
        """Options of the command itself, and of the settings."""
        own = super().get_params(ctx)
        return [*own, *(each for each in _options_of(self.classes()) if each.name not in _names(own))]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; options of settings are known by the names of the version before, too."""
        renamed = {_option(old): _option(new) for each in self.classes() for old, new in each.renamed.items()}
        for old, new in renamed.items():
            args = [re.sub(rf"^{old}(?=$|=)", new, each) for each in args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the settings are kept for `settings_given`."""
        own = _names(super().get_params(ctx))
        ctx.meta[SETTINGS] = {name: ctx.params.pop(name) for name in list(ctx.params) if name not in own}
        return super().invoke(ctx)

    def sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """What the help lists under each heading."""
        from rulepatch.settings import written

        found, own = super().sections(ctx), _names(super().get_params(ctx))
        heading, settings = self.shown(ctx)
        rows = [
            (f"{_option(name)} {_metavar(field)}", f"{field.description} [{written(field.get_default())}]")
            for name, field in settings.model_fields.items()
            if name not in own
        ]
        last = found.pop(OUTPUT)
        return {**found, heading: rows, OUTPUT: last}


class MethodCommand(SettingsCommand):
    """A command that takes the settings of all methods as options."""

    def classes(self) -> "tuple[type[Settings], ...]":
        """Those of all methods."""
        from rulepatch.methods import Method

        return tuple(Method.known.values())

    def shown(self, ctx: Any) -> "tuple[str, type[Settings]]":
        """The settings of the method that was named."""
        from rulepatch.methods import Method

        name = ctx.meta.get(METHOD_NAME, "rewrite")
        return f"Settings of {name} (--method NAME --help: those of another)", Method.named(name) or Method

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; help is about the method that they name."""
        named = [value for option, value in pairwise([*args, ""]) if option == "--method"]
        named += [each.partition("=")[2] for each in args if each.startswith("--method=")]
        ctx.meta[METHOD_NAME] = (named or ["rewrite"])[-1]
        return super().parse_args(ctx, args)


def _names(parameters: list[Any]) -> set[str]:
    return {parameter.name for parameter in parameters}


@functools.cache
def _options_of(classes: "tuple[type[Settings], ...]") -> tuple[Any, ...]:
    """An option for each field of any class; they are hidden, as the help lists those of one class."""
    names = dict.fromkeys(name for settings in classes for name in settings.model_fields)
    return _made({name: (None, Annotated[str | None, typer.Option(_option(name), hidden=True)]) for name in names})


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _metavar(field: "FieldInfo") -> str:
    """What an option takes, in few letters."""
    from rulepatch.settings import choices_of, kinds_of, written

    kinds = kinds_of(field)
    plain = {int: "N", float: "X", bool: "yes|no", str: "TEXT", type(None): "none"}
    told = [*map(written, choices_of(kinds)), *(plain[kind] for kind in kinds if kind in plain)]
    return "|".join(dict.fromkeys(told))


def taking(where: str) -> type[SettingsCommand]:
    """The class of a command that takes settings as options.

    Args:
        where: module and name of their class, as `package.module:Name`.
    """
    return type("SettingsCommand", (SettingsCommand,), {"where": where})


def settings_of(ctx: Any, **further: Any) -> Any:
    """The settings that were given to a command of one class of settings, checked.

    Args:
        ctx: of the command.
        further: settings that it has options of its own for.

    Raises:
        SettingError: a value is out of its range.
    """
    (settings,) = ctx.command.classes()
    return settings.of({**settings_given(ctx), **further})


def settings_given(ctx: Any) -> dict[str, str]:
    """Settings that were given as options of a `SettingsCommand`, by name.

    Args:
        ctx: of the command.
    """
    return {key: value for key, value in ctx.meta.get(SETTINGS, {}).items() if value is not None}


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of the groups among its parameters; it is called with the groups.

    Args:
        command: all of whose parameters are by keyword alone.
    """
    hints = {name: hint for name, hint in get_type_hints(command, include_extras=True).items() if name != "return"}
    defaults = command.__kwdefaults__ or {}
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint) and isinstance(hint, type)}
    parameters = []
    for name, hint in hints.items():
        if name in groups:
            parameters += _parameters_of(groups[name])
        else:
            default = defaults.get(name, Parameter.empty)
            parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hint))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        filled = {
            name: own(**{field.name: given.pop(field.name) for field in dataclasses.fields(own)})
            for name, own in groups.items()
        }
        command(**given, **filled)

    _sign(run, sorted(parameters, key=lambda each: each.default is not Parameter.empty))
    return run


def _sign(command: Any, parameters: list[Parameter]) -> None:
    """Give a function the parameters that are read from it."""
    command.__signature__ = Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}


def _parameters_of(group: Any) -> list[Parameter]:
    """A parameter for each field of a group, under its heading."""
    heading, hints = (group.__doc__ or "").rstrip("."), get_type_hints(group, include_extras=True)
    return [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=_headed(hints[field.name], heading),
        )
        for field in dataclasses.fields(group)
    ]


def _headed(hint: Any, heading: str) -> Any:
    """An option under a heading."""
    assert get_origin(hint) is Annotated
    kind, info = get_args(hint)
    own = copy.copy(info)
    own.rich_help_panel = heading
    return Annotated[kind, own]
