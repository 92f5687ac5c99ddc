"""Edits: immutable changes of a model that can be applied, reverted, saved, scaled and composed."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rulepatch.core.changes import KINDS, Change, LowRank, Minimum, NewClass
from rulepatch.core.patched_model import PatchedModel
from rulepatch.digests import digest_of_state
from rulepatch.errors import BaseMismatchError, EditFileError, ModelError, RulepatchError, SettingError
from rulepatch.files import write_tensors
from rulepatch.methods import Method
from rulepatch.models.peft_adapter import write_adapter
from rulepatch.records.edit_files import content_digest, read_edit
from rulepatch.records.edit_summary import COLUMNS, line_of, panel_of, rows_of
from rulepatch.records.exemplar_outcomes import ExemplarOutcomes
from rulepatch.records.site_reports import SiteReport
from rulepatch.text import Table
from rulepatch.tracing.installing import finite
from rulepatch.wrappers import copied, unwrapped

__all__ = ["Edit", "base_digest"]

SCHEMA = 1


class Holder(Protocol):
    """Anything that holds a network: `module`, and the same thing around another one."""

    @property
    def module(self) -> nn.Module: ...

    def with_module(self, module: nn.Module, new_classes: Sequence[str] = ()) -> Self: ...


Model = TypeVar("Model", bound="nn.Module | Holder")


def base_digest(model: nn.Module) -> str:
    """Digest of a model's weights and buffers: names, types, shapes and contents.

    Raises:
        ModelError: weights that have no contents yet.
    """
    state = unwrapped(model).state_dict()
    for name, value in state.items():
        if isinstance(value, Tensor) and (value.is_meta or is_lazy(value)):
            raise ModelError(
                f"expected a network with weights but its {name} has no contents yet (it is "
                f"{'on the meta device' if value.is_meta else 'made in a first pass'}); load its weights first"
            )
    return digest_of_state(state)


@dataclass(frozen=True, eq=False)
class Edit:
    """A low-rank change at one or more sites of a model, a dense one, or a new class.

    Attributes:
        changes: what is changed; a site may have several, which add up.
        base: digest of the weights of the model that it was computed on.
        provenance: how it was made: method, settings, seed, exemplars, reference set, library versions. JSON values.

    Examples:
        >>> import torch
        >>> from rulepatch.core.changes import LowRank
        >>> model = nn.Sequential(nn.Linear(2, 1, bias=False))
        >>> before = nn.init.constant_(model[0].weight, 0.5).tolist()
        >>> change = LowRank("0", "0", torch.tensor([[1.0, 0.0]]), torch.ones(1, 1, 1, 1))
        >>> edit = Edit((change,), base_digest(model))
        >>> with edit.applied(model):
        ...     model[0].weight.tolist()
        [[1.5, 0.5]]
        >>> model[0].weight.tolist() == before
        True
    """

    changes: tuple[Change, ...]
    base: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return line_of(self.changes, self.base, self.provenance)

    def _repr_html_(self) -> str:
        """What is changed, what was measured when it was made, and the exemplars that it was made from."""
        return panel_of(self.changes, self.base, self.provenance)

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, in order, each once."""
        return tuple(dict.fromkeys(change.site for change in self.changes))

    @property
    def new_classes(self) -> tuple[str, ...]:
        """Names of the classes that it adds, in the order of their logits, which come after all others."""
        return tuple(change.name for change in self.changes if isinstance(change, NewClass))

    @property
    def beside_weights(self) -> str:
        """Its modules beyond changed weights, such as "is gated at layer4.2"; empty if it changes weights only."""
        gated = list(dict.fromkeys(change.site for change in self.changes if change.gate is not None))
        lowers = list(dict.fromkeys(change.site for change in self.changes if isinstance(change, Minimum)))
        told = {"adds the class": self.new_classes, "is gated at": gated, "is a minimum at": lowers}
        return " and ".join(f"{what} {', '.join(where)}" for what, where in told.items() if where)

    @property
    def note(self) -> str:
        """Remark on how it can be deployed, for the end of a text; empty for a plain change of weights."""
        gates = {change.gate.level for change in self.changes if change.gate is not None}
        where = f"its key fires beyond the {', '.join(map(str, sorted(gates)))} quantile of the reference set"
        told = [f"gated: acts only where {where}"] if gates else []
        if any(isinstance(change, Minimum) for change in self.changes):
            told.append("a minimum: of each logit the lower one counts, with or without it; the network runs twice")
        told += [f"adds the class {', '.join(self.new_classes)}"] if self.new_classes else []
        return f"{'; '.join(told)}; `apply` needs .pt2 or .onnx" if told else ""

    @property
    def how(self) -> Method | None:
        """The method that made it, with its settings; None if no method of that name is installed."""
        settings = Method.named(self.provenance.get("method", ""))
        told = self.provenance.get("settings")
        if settings is None or not isinstance(told, Mapping):
            return None
        return settings.of({name: value for name, value in told.items() if name in settings.model_fields})

    @property
    def reports(self) -> tuple[SiteReport, ...]:
        """Measurements at each site, taken when the edit was made."""
        return tuple(SiteReport.from_json(each) for each in self.provenance.get("sites") or ())

    @property
    def on_exemplars(self) -> ExemplarOutcomes:
        """Predictions for the exemplars that it was made from, before and after the edit."""
        return ExemplarOutcomes.from_provenance(self.provenance)

    def with_strength(self, strength: float) -> "Edit":
        """The same edit at another strength; 1 is the solution. Predictions for its exemplars are not kept.

        Raises:
            SettingError: the strength is not finite.
        """
        changes = tuple(replace(change, strength=strength) for change in self.changes)
        untested = ExemplarOutcomes().within(self.provenance) if self.on_exemplars.outcomes else self.provenance
        return replace(self, changes=changes, provenance=untested)

    @classmethod
    def compose(cls, *edits: "Edit") -> "Edit":
        """Combine edits: a bundle of changes at different sites, the sum of changes at the same site.

        Raises:
            BaseMismatchError: the edits were computed on different bases.
            SettingError: no edits are given.
        """
        if not edits:
            raise SettingError("expected at least one edit to compose but got none; name one")
        for edit in edits[1:]:
            if edit.base != edits[0].base:
                raise BaseMismatchError(
                    f"expected edits of one base but got bases {edits[0].base[:12]} and {edit.base[:12]}; "
                    "compute them on the same model"
                )
        changes = tuple(change for edit in edits for change in edit.changes)
        return cls(changes, edits[0].base, {"composed": [dict(edit.provenance) for edit in edits]})

    def apply(self, model: Model, *, any_base: bool = False) -> Model:
        """A new model with the edit in it; the given one is untouched.

        Args:
            model: a module, or anything that holds one. Of a compiled or parallel module the network inside is taken.
            any_base: apply it to another base than the one that it was computed on.

        Returns:
            A model of the same type.

        Raises:
            BaseMismatchError: the model is not the edit's base.
            ModelError: the model cannot be copied.
            SiteError: the model does not have a site, or its shape differs.
        """
        module = _module_of(model)
        self.check(module, any_base=any_base)
        edited = copied(module)
        PatchedModel(edited, self.changes).install()
        return self._held(model, edited)

    def applied(self, model: Model, *, any_base: bool = False) -> AbstractContextManager[Model]:
        """Context manager that edits a model in place; on exit every tensor and layer is the one that it was.

        Threads take turns at a model. Edits have to be taken out in the reverse order of being put in.

        Args:
            model: a module, or anything that holds one.
            any_base: apply it to another base than the one that it was computed on.

        Returns:
            Gives the same model; around the same network one that knows the new classes, if there are any.

        Raises:
            BaseMismatchError: the model is not the edit's base.
            SiteError: the model does not have a site, or its shape differs.
            RevertError: on exit: the block changed the model (`half`, `to`, `load_state_dict`, an optimiser's step,
                other layers), which was undone where it can be; or another edit was put in later and is in it still.
        """
        return _Applied(self, model, any_base)

    def _held(self, model: Model, module: nn.Module) -> Model:
        """What holds a network, around another one."""
        if isinstance(model, nn.Module):
            return module  # type: ignore[return-value]
        return model.with_module(module, self.new_classes) if self.new_classes else model.with_module(module)

    def merged(self, model: Model, *, any_base: bool = False) -> Model:
        """A new model whose weights hold the edit: what `apply` gives, with nothing but weights changed.

        Args:
            model: a module, or anything that holds one.
            any_base: apply it to another base than the one that it was computed on.

        Returns:
            A model of the same type and architecture.

        Raises:
            SettingError: the edit is gated, a minimum, or adds a class, which is no change of weights.
        """
        if self.beside_weights:
            raise SettingError(
                f"expected an edit that is a change of weights but it {self.beside_weights}; use Edit.apply, which "
                "puts that beside the layers, write the whole network (.pt2 or .onnx), or make an edit without it"
            )
        return self.apply(model, any_base=any_base)

    def to_peft(self, folder: Path | str, model: "nn.Module | Holder", *, any_base: bool = False) -> None:
        """Write the edit as a LoRA adapter for PEFT; with it the base gets the same weights, up to rounding.

        Args:
            folder: for `adapter_config.json` and `adapter_model.safetensors`; made if it is not there.
            model: the base.
            any_base: take another base than the one that it was computed on.

        Raises:
            BaseMismatchError: the model is not the edit's base.
            SettingError: the edit is gated, a minimum or dense: no LoRA adapter can hold it.
        """
        module = _module_of(model)
        self.check(module, any_base=any_base)
        factors: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for change in self.changes:
            if not isinstance(change, LowRank) or change.is_branch:
                kinds = {"dense": "dense", "minimum": "a minimum"}
                kind = "gated" if change.gate else kinds.get(change.kind, "a new class")
                raise SettingError(
                    f"expected low-rank changes of weights but that of {change.parameter} is {kind}, which no adapter "
                    "can hold; make it with gate none and without minimum, or write the whole network (rulepatch apply)"
                )
            factors.setdefault(change.site, []).append(change.lora_factors())
        write_adapter(factors, module, Path(folder))

    def check(self, module: nn.Module, *, any_base: bool = False) -> None:
        """Check that the edit fits a model.

        Raises:
            BaseMismatchError: the model is not the edit's base.
            SiteError: the model does not have a site, or its shape differs.
            WeightsError: a weight to be edited holds NaN or infinity.
        """
        for change in self.changes:
            change.check(module)
        if not any_base and (digest := base_digest(module)) != self.base:
            raise BaseMismatchError(
                f"expected the base {self.base[:12]} that the edit was computed on but got a model with digest "
                f"{digest[:12]}; load that model, without other edits in it, or allow any base (any_base, --any-base)"
            )

    def save(self, path: Path | str) -> None:
        """Write the edit to a safetensors file with metadata, atomically; it holds no pickle and no images.

        Args:
            path: the file, by convention `….safetensors`.

        Raises:
            OutputError: it cannot be written there.
            SettingError: a tensor holds NaN or infinity, in float32.
        """
        path = Path(path)
        tensors: dict[str, Tensor] = {}
        for i, change in enumerate(self.changes):
            tensors |= {f"{i}.{name}": tensor for name, tensor in change.tensors().items()}
        tensors = {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            finite(tensor, name)
        described = self.describe()
        described["content"] = content_digest(described, tensors)
        write_tensors(path, tensors, {"rulepatch": json.dumps(described, sort_keys=True)})

    def describe(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON.

        Returns:
            A dictionary with the schema version, the base, the changes and the provenance.
        """
        changes = [change.describe() for change in self.changes]
        return {"schema": SCHEMA, "base": self.base, "changes": changes, "provenance": dict(self.provenance)}

    def to_json(self) -> dict[str, Any]:
        """Alias of `describe`, the interface that all results share."""
        return self.describe()

    def to_text(self) -> str:
        """Human-readable summary of the edit and its provenance."""
        found = Table(COLUMNS, rows_of(self.changes)).to_text()
        found += f"\n{self.note}" if self.note else ""
        if self.on_exemplars.outcomes:
            found += f"\n\n{self.on_exemplars.to_text()}"
        return f"{found}\n\nbase {self.base}\n{json.dumps(dict(self.provenance), indent=2, ensure_ascii=False)}"

    @classmethod
    def load(cls, path: Path | str) -> "Edit":
        """Read an edit from a file.

        Returns:
            The edit, equal to the one saved, in float32.

        Raises:
            EditFileError: the file is missing, damaged, tampered with, of a newer version, or no edit at all.
        """
        described, tensors = read_edit(Path(path), schema=SCHEMA, kinds=KINDS)
        try:
            changes = tuple(KINDS[e["kind"]].restore(e, t) for e, t in zip(described["changes"], tensors, strict=True))
            return cls(changes, described["base"], described["provenance"])
        except RulepatchError as error:
            told = str(error).rpartition("; ")[0] or str(error)
            raise EditFileError(f"{told} in the edit file {path}; get a sound copy") from None


class _Applied(PatchedModel):
    """An edit in a model, which is looked at when it is put in."""

    def __init__(self, edit: Edit, model: Any, any_base: bool) -> None:
        self._module, self._edit, self._model, self._any_base = _module_of(model), edit, model, any_base

    def __str__(self) -> str:
        return str(self._edit)

    def prepare(self) -> Any:
        edit, model = self._edit, self._model
        edit.check(self._module, any_base=self._any_base)
        super().__init__(self._module, edit.changes, whole=True)
        return edit._held(model, self._module) if edit.new_classes else model


def _module_of(model: "nn.Module | Holder") -> nn.Module:
    return unwrapped(model if isinstance(model, nn.Module) else model.module)
