"""What several commands ask for together: groups of options, each under its heading."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rulepatch.cli import options
from rulepatch.text import read_pairs, read_share

if TYPE_CHECKING:
    from rulepatch.core.exemplars import Exemplar
    from rulepatch.methods import Method
    from rulepatch.models.classifier import Classifier
    from rulepatch.workflows.edit_workflow import Limits

__all__ = [
    "ExemplarOptions",
    "LimitOptions",
    "MethodOptions",
    "ModelOptions",
    "NamedModelOptions",
    "OptionalExemplarOptions",
    "OptionalModelOptions",
    "OptionalReferenceOptions",
    "ReferenceOptions",
    "RunOptions",
]


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
