"""Components of an edit: low-rank changes of sites with optional gates, dense parameter changes, new classes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rulepatch.core import linalg
from rulepatch.errors import SettingError, SiteError, WeightsError, nearest
from rulepatch.methods import STRONGEST
from rulepatch.records.edit_files import dense_fields, low_rank_fields, new_class_fields
from rulepatch.tracing.sites import Layer

__all__ = [
    "KINDS",
    "Activation",
    "Change",
    "Dense",
    "Gate",
    "GateKind",
    "LowRank",
    "Minimum",
    "NewClass",
    "Pool",
    "WeightChange",
]

GateKind = Literal["hard", "soft"]
Activation = Literal["none", "relu", "sigmoid"]
Pool = Literal["mean", "max"]


@dataclass(frozen=True, eq=False)
class Gate:
    """Where an edit acts: only where a key looks like the concept.

    Attributes:
        kind: "hard" lets the edit through whole where ⟨d, k⟩ > τ; "soft" lets through relu(⟨D, k⟩ − τ).
        level: q, the quantile over the reference set at which τ was set, 0..1.
        thresholds: τ, (1,) for a hard gate, (r,) for a soft one.
        direction: d, (c_in,), or (c_in, y, x) for the second architecture; None for a soft gate, which reads the
            edit's own directions.
    """

    kind: GateKind
    level: float
    thresholds: Tensor = field(repr=False)
    direction: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class LowRank:
    """A low-rank change of the weight of one site.

    Attributes:
        site: dotted path of the layer.
        value_point: dotted path of the module whose output was matched.
        directions: D, (r, c_in), or (r, c_in, y, x) for the second architecture.
        coefficients: Λ, (c_out, r, y, x), or (c_out, r) for the second architecture.
        strength: s; the change is s·Λ·D, and s = 1 is the solve.
        gate: where the change acts; everywhere if None.
    """

    kind: ClassVar[str] = "low-rank"

    site: str
    value_point: str
    directions: Tensor = field(repr=False)
    coefficients: Tensor = field(repr=False)
    strength: float = 1.0
    gate: Gate | None = None

    @property
    def rank(self) -> int:
        """Number of directions."""
        return len(self.directions)

    @property
    def is_branch(self) -> bool:
        """Whether it stands beside the layer rather than in its weight."""
        return self.gate is not None

    @property
    def architecture(self) -> int:
        """1 if the key of a position is its channels, 2 if it is the unfolded patch (thesis fig. 2-3)."""
        return 1 if self.directions.ndim == 2 else 2

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight that is changed, (c_out, c_in, y, x)."""
        taps = (self.coefficients if self.architecture == 1 else self.directions).shape[2:]
        return (self.coefficients.shape[0], self.directions.shape[1], taps[0], taps[1])

    @property
    def parameter(self) -> str:
        """Dotted path of the parameter that is changed."""
        return f"{self.site}.weight"

    def delta(self) -> Tensor:
        """The change of the weight where the gate is open, s·ΔW.

        Returns:
            (c_out, c_in, y, x), float64.
        """
        return self.strength * linalg.low_rank(self.coefficients.double(), self.directions.double())

    def lora_factors(self) -> tuple[Tensor, Tensor]:
        """Factors A and B of a LoRA layer whose product is this change without its gate.

        Where the coefficients differ between kernel taps (architecture 1 at a k × k convolution), each tap takes r of
        the adapter's ranks: A holds the directions at that tap only.

        Returns:
            A, (q, c_in, y, x), and B, (c_out, q); y = x = 1 for a linear layer.
        """
        directions, coefficients = self.directions.float(), self.strength * self.coefficients.float()
        if self.architecture == 2:
            return directions, coefficients
        c_out, _, y, x = coefficients.shape
        taps = torch.eye(y * x).reshape(1, y * x, 1, y, x)
        spread = directions[:, None, :, None, None] * taps  # (r, taps, c_in, y, x)
        return spread.flatten(0, 1), coefficients.reshape(c_out, -1)

    def describe(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON."""
        return {
            "kind": self.kind,
            "site": self.site,
            "value_point": self.value_point,
            "shape": list(self.shape),
            "rank": self.rank,
            "architecture": self.architecture,
            "strength": self.strength,
            "gate": None if self.gate is None else {"kind": self.gate.kind, "level": self.gate.level},
        }

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, by the names that they have in a file."""
        found = {"directions": self.directions, "coefficients": self.coefficients}
        if self.gate is not None:
            found["thresholds"] = self.gate.thresholds
            if self.gate.direction is not None:
                found["direction"] = self.gate.direction
        return found

    @classmethod
    def restore(cls, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Restore a change from its description and tensors, each of them checked."""
        fields, gate = low_rank_fields(described, tensors)
        return cls(**fields, gate=None if gate is None else Gate(**gate))

    def check(self, module: nn.Module) -> None:
        """Check that the change fits a model.

        Raises:
            SiteError: the model does not have the site, or its shape differs.
            WeightsError: the weight to be changed holds NaN or infinity.
        """
        weight = _layer_at(module, self.site).weight
        _check_weight(weight, tuple((*weight.shape, 1, 1)[:4]), self.shape, self.site)

    def __post_init__(self) -> None:
        _check_strength(self.strength)
        if not all(tensor.isfinite().all() for tensor in self.tensors().values()):
            raise SettingError(
                f"expected finite factors at {self.site} but got NaN or infinity; check the exemplars and the weights"
            )


@dataclass(frozen=True, eq=False)
class Minimum(LowRank):
    """A low-rank change that lowers logits and raises none: of each the lower one counts, with or without the change.

    Where it acts the network runs a second time without it, and without all others of this kind.
    """

    kind: ClassVar[str] = "minimum"

    @property
    def is_branch(self) -> bool:
        """It is switched off for the second pass."""
        return True


@dataclass(frozen=True, eq=False)
class Dense:
    """A dense change of one parameter, as fine-tuning makes it.

    Attributes:
        parameter: dotted path of the parameter: of a weight, a bias, a scale.
        values: ΔP, of the parameter's shape.
        strength: s; the change is s·ΔP.
    """

    kind: ClassVar[str] = "dense"
    gate: ClassVar[None] = None  # it acts everywhere

    parameter: str
    values: Tensor = field(repr=False)
    strength: float = 1.0

    @property
    def site(self) -> str:
        """Dotted path of the module that has the parameter."""
        return self.parameter.rpartition(".")[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the parameter."""
        return tuple(self.values.shape)

    def delta(self) -> Tensor:
        """The change, s·ΔP.

        Returns:
            A tensor of the parameter's shape, float64.
        """
        return self.strength * self.values.double()

    def describe(self) -> dict[str, Any]:
        """Everything but the tensor, as JSON."""
        shape, strength = list(self.shape), self.strength
        return {"kind": self.kind, "parameter": self.parameter, "shape": shape, "strength": strength}

    def tensors(self) -> dict[str, Tensor]:
        """The tensor, by the name that it has in a file."""
        return {"values": self.values}

    @classmethod
    def restore(cls, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Restore a change from its description and tensor."""
        return cls(**dense_fields(described, tensors))

    def check(self, module: nn.Module) -> None:
        """Check that the change fits a model.

        Raises:
            SiteError: the model does not have the parameter, or its shape differs.
            WeightsError: the parameter holds NaN or infinity.
        """
        parameters = dict(module.named_parameters(remove_duplicate=False))
        if self.parameter not in parameters:
            raise SiteError(
                f"expected a parameter {self.parameter} but the model has none of that name; "
                f"the nearest are {nearest(self.parameter, parameters)}"
            )
        found = parameters[self.parameter]
        _check_weight(found, tuple(found.shape), self.shape, self.parameter)

    def __post_init__(self) -> None:
        _check_strength(self.strength)
        if not self.values.isfinite().all():
            raise SettingError(
                f"expected a finite change of {self.parameter} but got NaN or infinity; take a lower learning rate"
            )


@dataclass(frozen=True, eq=False)
class NewClass:
    """A new class: one additional logit, ℓ = s·(scale·r + bias); the rest of the network is unchanged.

    The response r reads the keys of a site with one filter, φ(w ∗ k + c) pooled over the image (thesis 4.1). A row of
    the head is the case where the site is the head itself and φ does nothing.

    Attributes:
        name: of the class.
        site: dotted path of the layer whose keys are read.
        head: dotted path of the layer whose outputs are the logits.
        weight: w, (1, c_in, y, x), applied as the site applies its own.
        offset: c, (1,).
        scale: of the response.
        bias: of the logit.
        activation: φ.
        pool: how the positions of the image become one number.
        strength: s, which scales the whole logit.
    """

    kind: ClassVar[str] = "new-class"
    gate: ClassVar[None] = None  # it applies to every image

    name: str
    site: str
    head: str
    weight: Tensor = field(repr=False)
    offset: Tensor = field(repr=False)
    scale: float = 1.0
    bias: float = 0.0
    activation: Activation = "none"
    pool: Pool = "mean"
    strength: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the filter, (1, c_in, y, x)."""
        return tuple(self.weight.shape)

    @property
    def parameter(self) -> str:
        """Dotted path of the layer that gets one more output; no parameter of the network is changed."""
        return self.head

    def describe(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON."""
        plain = ("kind", "name", "site", "head", "scale", "bias", "activation", "pool", "strength")
        return {key: getattr(self, key) for key in plain} | {"shape": list(self.shape)}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors, by the names that they have in a file."""
        return {"weight": self.weight, "offset": self.offset}

    @classmethod
    def restore(cls, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Restore a class from its description and tensors."""
        return cls(**new_class_fields(described, tensors))

    def check(self, module: nn.Module) -> None:
        """Check that the class fits a model.

        Raises:
            SiteError: the model does not have the site or the head, or the site's keys differ.
        """
        weight, _ = (_layer_at(module, path).weight for path in (self.site, self.head))
        _check_weight(weight, (1, *(*weight.shape, 1, 1)[1:4]), self.shape, self.site)

    def __post_init__(self) -> None:
        _check_strength(self.strength)
        if not self.name.strip():
            raise SettingError("expected a name for the new class but got none; name it")
        if self.activation not in get_args(Activation) or self.pool not in get_args(Pool):
            raise SettingError(
                f"expected an activation of {', '.join(get_args(Activation))} and a pool of "
                f"{', '.join(get_args(Pool))} but got {self.activation!r} and {self.pool!r}; choose among them"
            )
        numbers = math.isfinite(self.scale) and math.isfinite(self.bias)
        if not (numbers and self.weight.isfinite().all() and self.offset.isfinite().all()):
            raise SettingError(
                f"expected a finite filter, scale and bias for {self.name} but got NaN or infinity; "
                "check the image, its mask and the weights"
            )


WeightChange = LowRank | Dense
"""A change of existing weights."""

Change = LowRank | Dense | NewClass
"""A component of an edit."""

KINDS: Mapping[str, type[LowRank] | type[Dense] | type[NewClass]] = {
    kind.kind: kind for kind in (LowRank, Minimum, Dense, NewClass)
}
"""Kinds of change by their names in edit files."""


def _check_strength(strength: float) -> None:
    if isinstance(strength, bool) or not abs(strength) <= STRONGEST:
        raise SettingError(
            f"expected a finite strength of at most {STRONGEST:g} but got {strength}; 1 is the solve, 1 to 4 is usual"
        )


def _layer_at(module: nn.Module, path: str) -> Layer:
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, Layer)}
    if path not in layers:
        raise SiteError(
            f"expected a convolution or linear layer at {path} but the model has none there; "
            f"the nearest are {nearest(path, layers)}"
        )
    layer = layers[path]
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        raise SiteError(
            f"expected a weight of its own at {path} but it is computed from others, as by a parametrization; write it "
            "into the layer first (torch.nn.utils.parametrize.remove_parametrizations)"
        )
    return layer


def _check_weight(weight: Tensor, shape: tuple[int, ...], wanted: tuple[int, ...], path: str) -> None:
    if shape != wanted:
        raise SiteError(
            f"expected a weight of shape {wanted} at {path} but the model's has {shape}; "
            "apply the edit to the model that it was computed on"
        )
    if weight.is_meta or is_lazy(weight):
        raise WeightsError(f"expected weights at {path} but there are none yet (on the meta device, say); load them")
    if not weight.isfinite().all():
        raise WeightsError(f"expected finite weights at {path} but got NaN or infinity; load sound weights")
