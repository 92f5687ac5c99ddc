"""The parts of edits: what is changed at each site, the layers that this makes, and putting them into a network."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rulepatch.core import linalg
from rulepatch.core.sites import Layer, with_weight
from rulepatch.errors import SettingError

__all__ = ["Addition", "EditedLayer", "Gate", "GateKind", "Part", "Reader", "install", "installed"]

GateKind = Literal["hard", "soft"]


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
    thresholds: Tensor
    direction: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """The change of one site.

    Attributes:
        site: dotted path of the layer.
        value_point: dotted path of the module whose output was matched.
        directions: D, (r, c_in), or (r, c_in, y, x) for the second architecture.
        coefficients: Λ, (c_out, r, y, x), or (c_out, r) for the second architecture.
        strength: s; the change is s·Λ·D, and s = 1 is the solve.
        gate: where the change acts; everywhere if None.
    """

    site: str
    value_point: str
    directions: Tensor
    coefficients: Tensor
    strength: float = 1.0
    gate: Gate | None = None

    @property
    def rank(self) -> int:
        """Number of directions."""
        return len(self.directions)

    @property
    def architecture(self) -> int:
        """1 if the key of a position is its channels, 2 if it is the unfolded patch (thesis fig. 2-3)."""
        return 1 if self.directions.ndim == 2 else 2

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight that is changed, (c_out, c_in, y, x)."""
        taps = (self.coefficients if self.architecture == 1 else self.directions).shape[2:]
        return (self.coefficients.shape[0], self.directions.shape[1], taps[0], taps[1])

    def delta(self) -> Tensor:
        """The change of the weight where the gate is open, s·ΔW.

        Returns:
            (c_out, c_in, y, x), float64.
        """
        return self.strength * linalg.low_rank(self.coefficients.double(), self.directions.double())

    def __post_init__(self) -> None:
        if not math.isfinite(self.strength):
            raise SettingError(f"expected a finite strength but got {self.strength}; 1 is the solve, 1 to 4 is usual")
        thresholds = [self.gate.thresholds] if self.gate else []
        if not all(tensor.isfinite().all() for tensor in (self.directions, self.coefficients, *thresholds)):
            raise SettingError(
                f"expected finite factors at {self.site} but got NaN or infinity; check the exemplars and the weights"
            )


class Reader(nn.Module):
    """Reads a site's keys for an edit: ⟨D_r, k⟩ at each position, through the gate.

    Args:
        layer: the site's layer.
        directions: D, (r, c_in), or (r, c_in, y, x) to read whole patches at the layer's output positions.
        gate: where to let it through; everywhere if None.
        dtype: of the keys; the layer's if None.
    """

    def __init__(
        self, layer: Layer, directions: Tensor, gate: Gate | None, *, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        like = layer.weight.detach().new_empty(0, dtype=dtype or layer.weight.dtype)
        self.read = _reading(layer, directions.to(like))
        self.score: nn.Module | None = None
        self.thresholds: Tensor | None
        self.register_buffer("thresholds", None)
        if gate is not None:
            self.thresholds = gate.thresholds.to(like).reshape(_channel_shape(layer))
            if gate.direction is not None:
                self.score = _reading(layer, gate.direction[None].to(like))

    def forward(self, keys: Tensor) -> Tensor:
        """Read keys, (n, c_in, h, w) or (n, …, c_in), as maps, (n, r, h, w) or (n, …, r).

        Returns:
            The maps.
        """
        maps: Tensor = self.read(keys)
        if self.thresholds is None:
            return maps
        if self.score is None:
            return linalg.soft_gated(maps, self.thresholds)
        return linalg.gated(maps, self.score(keys), self.thresholds)


def _channel_shape(layer: Layer) -> tuple[int, ...]:
    return (-1,) if isinstance(layer, nn.Linear) else (-1, 1, 1)


def _reading(layer: Layer, directions: Tensor) -> nn.Module:
    if isinstance(layer, nn.Linear) or directions.ndim == 4:
        return with_weight(layer, directions)
    return _Pointwise(directions)


class _Pointwise(nn.Module):
    """A 1×1 convolution without bias; making an `nn.Conv2d` would draw random weights first."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight[:, :, None, None], requires_grad=False)

    def forward(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, self.weight)


class Addition(nn.Module):
    """What one change adds to a layer's output: s·Λ·g(k)⟨D, k⟩, as ordinary layers.

    Args:
        layer: the layer.
        part: the change.
    """

    def __init__(self, layer: Layer, part: Part) -> None:
        super().__init__()
        self.reader = Reader(layer, part.directions, part.gate)
        weight = (part.strength * part.coefficients.double()).to(layer.weight.detach())
        whole = part.architecture == 1 or isinstance(layer, nn.Linear)
        self.write = with_weight(layer, weight) if whole else _Pointwise(weight)

    def forward(self, keys: Tensor) -> Tensor:
        """The addition for some keys.

        Returns:
            A tensor of the layer's output shape, zero where the gate is shut.
        """
        added: Tensor = self.write(self.reader(keys))
        return added


class EditedLayer(nn.Module):
    """A layer with gated changes beside it. Where every gate is shut its output is the layer's own, bit for bit.

    Args:
        layer: the layer; it is kept as it is.
        parts: the changes, all of that layer.
    """

    def __init__(self, layer: Layer, parts: Sequence[Part]) -> None:
        super().__init__()
        self.layer = layer
        self.additions = nn.ModuleList(Addition(layer, part) for part in parts)

    def forward(self, keys: Tensor) -> Tensor:
        """The layer's output with the changes added.

        Returns:
            What the layer returns.
        """
        output: Tensor = self.layer(keys)
        for addition in self.additions:
            added = addition(keys)
            output = torch.where(added == 0, output, output + added)  # even -0.0 stays what it was
        return output


@contextmanager
def installed(module: nn.Module, parts: Sequence[Part]) -> Iterator[None]:
    """Put changes into a module, unchecked; on leaving put back the very tensors and layers that were there.

    `Edit.applied` checks and then does this. Where the same edit goes in and out many times, `Edit.check` once and use
    this.

    Args:
        module: the network.
        parts: the changes.

    Yields:
        Nothing; the module is edited meanwhile.
    """
    take_back = install(module, parts)
    try:
        yield
    finally:
        take_back()


def install(module: nn.Module, parts: Sequence[Part]) -> Callable[[], None]:
    """Put changes into a module, unchecked. If one fails, none stays.

    Args:
        module: the network.
        parts: the changes.

    Returns:
        A function that takes them back; the network stays edited if it is never called.
    """
    by_site: dict[str, list[Part]] = {}
    for part in parts:
        by_site.setdefault(part.site, []).append(part)
    with ExitStack() as stack:
        for path, here in by_site.items():
            layer = module.get_submodule(path)
            assert isinstance(layer, Layer)
            if plain := [part.delta() for part in here if part.gate is None]:
                stack.callback(_change_weight(layer, torch.stack(plain).sum(dim=0)))
            if behind_gates := [part for part in here if part.gate is not None]:
                stack.callback(_replace_layer(module, path, EditedLayer(layer, behind_gates)))
        return stack.pop_all().close


def _change_weight(layer: Layer, delta: Tensor) -> Callable[[], None]:
    saved = layer.weight.data
    precise = saved.cpu() if saved.device.type == "mps" else saved  # MPS has no float64
    layer.weight.data = (precise.double() + delta.to(precise.device).reshape(saved.shape)).to(saved)

    def take_back() -> None:
        layer.weight.data = saved

    return take_back


def _replace_layer(module: nn.Module, path: str, layer: nn.Module) -> Callable[[], None]:
    parent, _, name = path.rpartition(".")
    children = module.get_submodule(parent)._modules
    saved = children[name]
    assert saved is not None
    children[name] = layer.train(saved.training)

    def take_back() -> None:
        children[name] = saved

    return take_back
