"""Options in groups: what several commands ask for together, and the settings of methods, each under a heading."""

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

from rulepatch.cli import options
from rulepatch.text import read_pairs, read_share

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from rulepatch.core.exemplars import Exemplar
    from rulepatch.methods import Method
    from rulepatch.models.classifier import Classifier
    from rulepatch.settings import Settings
    from rulepatch.workflows.edit_workflow import Limits

__all__ = [
    "ExemplarOptions",
    "GroupedCommand",
    "LimitOptions",
    "MethodCommand",
    "MethodOptions",
    "ModelOptions",
    "NamedModelOptions",
    "OptionalExemplarOptions",
    "OptionalModelOptions",
    "OptionalReferenceOptions",
    "ReferenceOptions",
    "RunOptions",
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
class OptionalModelOptions:
    """Input."""

    model: Annotated[str | None, options.model_option(options.MODELS)] = None
    weights: options.Weights = None
    device: options.Device = "cpu"

    def load(self) -> "Classifier | None":
        """The classifier; None if none is named."""
        return None if self.model is None else ModelOptions(self.model, self.weights, self.device).load()


@dataclasses.dataclass(frozen=True)
class NamedModelOptions:
    """Input."""

    model: options.ModelArgument = None
    named: options.OptionalModelName = None
    weights: options.Weights = None

    @property
    def name(self) -> str:
        """The model that is named as MODEL or by --model."""
        return options.one_model(self.model, self.named)


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
class OptionalReferenceOptions:
    """Input."""

    reference: options.OptionalReference = None
    leave_out: options.LeaveOut = None

    @property
    def images(self) -> Any:
        """The folder, or a tuple of several; None without one."""
        return (
            self.reference[0] if self.reference and len(self.reference) == 1 else self.reference and (*self.reference,)
        )


@dataclasses.dataclass(frozen=True)
class ReferenceOptions(OptionalReferenceOptions):
    """Input."""

    reference: options.Reference = dataclasses.field(kw_only=True)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Output."""

    seed: options.Seed = 0
    as_json: options.Json = False


@dataclasses.dataclass(frozen=True)
class LimitOptions:
    """Output."""

    max_drop: options.MaxDrop = None
    allow_damage: Annotated[bool, typer.Option("--allow-damage", help="Write it even beyond --max-drop.")] = False
    allow_useless: Annotated[
        bool,
        typer.Option("--allow-useless", help="Write it even if useless for its exemplars."),
    ] = False
    quick: Annotated[bool, typer.Option("--quick", help="With --site auto: try fewer edits.")] = False

    def limits(self) -> "Limits":
        """What is allowed of an edit."""
        from rulepatch.workflows.edit_workflow import Limits

        max_drop = None if self.max_drop is None else read_share(self.max_drop)
        return Limits(max_drop, self.allow_damage, self.allow_useless, self.quick)


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
    program = typer.Typer(add_completion=False, rich_markup_mode=None)
    names = dict.fromkeys(name for settings in classes for name in settings.model_fields)
    hints = {name: Annotated[str | None, typer.Option(_option(name), hidden=True)] for name in names}

    def command() -> None:
        """Nothing: only its parameters are of use."""

    _sign(command, [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=hints[name]) for name in names])
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


@dataclasses.dataclass(frozen=True)
class MethodOptions:
    """Input."""

    method: Annotated[str, typer.Option(metavar="NAME", help="Way to edit.")] = "rewrite"
    further: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any setting of the method; repeatable."),
    ] = None

    def settings(self, given: Mapping[str, str]) -> "Method":
        """The method, with its settings.

        Args:
            given: settings that have options of their own, by name.

        Raises:
            SettingError: there is no such method, it does not have a setting, or a value is out of its range.
        """
        from rulepatch.editors.registry import editor_named

        return editor_named(self.method).settings.of({**given, **read_pairs(self.further or ())})


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
