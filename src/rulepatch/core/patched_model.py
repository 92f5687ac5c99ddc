"""Modules that implement changes, and patching a network with them."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rulepatch.core import linalg
from rulepatch.core.changes import Change, Gate, LowRank, Minimum, NewClass
from rulepatch.models.outputs import minimum
from rulepatch.tracing.installing import Installation, finite
from rulepatch.tracing.passes import ThreadLocalSlot, TwoPasses
from rulepatch.tracing.sites import Layer, clone_with_weight

__all__ = [
    "EditedLayer",
    "ExtendedHead",
    "LowRankBranch",
    "PatchedModel",
    "Projection",
    "ResponseTap",
    "with_delta",
]


class Projection(nn.Module):
    """The projection of a site's keys onto an edit's directions, ⟨D_r, k⟩ at each position, through the gate.

    Args:
        layer: the site's layer.
        directions: D, (r, c_in), or (r, c_in, y, x) for whole patches at the layer's output positions.
        gate: the gate; none if None.
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
        """Project keys, (n, c_in, h, w) or (n, …, c_in), to maps, (n, r, h, w) or (n, …, r)."""
        return linalg.gated(self.read(keys), self.scores(keys), self.thresholds)

    def scores(self, keys: Tensor) -> Tensor | None:
        """Scores that a hard gate thresholds, ⟨d, k⟩, (n, 1, h, w) or (n, …, 1); None without one."""
        return None if self.score is None else self.score(keys)


def _channel_shape(layer: Layer) -> tuple[int, ...]:
    return (-1,) if isinstance(layer, nn.Linear) else (-1, 1, 1)


def _reading(layer: Layer, directions: Tensor) -> nn.Module:
    if isinstance(layer, nn.Linear) or directions.ndim == 4:
        return clone_with_weight(layer, directions)
    return _Pointwise(directions)


class _Pointwise(nn.Module):
    """A 1×1 convolution without bias; making an `nn.Conv2d` would draw random weights first."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight[:, :, None, None], requires_grad=False)

    def forward(self, maps: Tensor) -> Tensor:
        return F.conv2d(maps, self.weight)


class LowRankBranch(nn.Module):
    """Branch that one change adds to a layer's output: s·Λ·g(k)⟨D, k⟩, as ordinary layers.

    Args:
        layer: the layer.
        change: the change.
        passes: switches it if it is a `Minimum`.
    """

    def __init__(self, layer: Layer, change: LowRank, passes: TwoPasses | None = None) -> None:
        super().__init__()
        self.passes = passes if isinstance(change, Minimum) else None
        self.reader = Projection(layer, change.directions, change.gate)
        weight = finite((change.strength * change.coefficients.double()).to(layer.weight.detach()), change.site)
        whole = change.architecture == 1 or isinstance(layer, nn.Linear)
        self.write = clone_with_weight(layer, weight) if whole else _Pointwise(weight)

    def forward(self, keys: Tensor) -> Tensor:
        """Output of the branch for some keys.

        Returns:
            A tensor of the layer's output shape, zero where the gate is closed or the branch is switched off.
        """
        added: Tensor = self.write(self.reader(keys))
        return added if self.passes is None else self.passes.let_through(added)


class EditedLayer(nn.Module):
    """A layer with parallel gated branches. Where every gate is closed its output is bit for bit the layer's own.

    Args:
        layer: the layer; it is unchanged.
        changes: all changes of that layer.
        passes: switches those that are a `Minimum`.
    """

    carries_edit = True
    """Marks a layer that an edit replaced."""

    def __init__(self, layer: nn.Module, changes: Sequence[LowRank], passes: TwoPasses | None = None) -> None:
        super().__init__()
        assert isinstance(layer, Layer)
        self.layer = layer
        self.branches = nn.ModuleList(LowRankBranch(layer, change, passes) for change in changes)

    def forward(self, keys: Tensor) -> Tensor:
        """The layer's output with the changes added."""
        output: Tensor = self.layer(keys)
        for branch in self.branches:
            added = branch(keys)
            if not output.is_contiguous() and output.ndim == 4:  # in another layout later layers round otherwise
                added = added.contiguous(memory_format=torch.channels_last)
            output = torch.where(added == 0, output, output + added)  # even -0.0 stays what it was
        return output


class ResponseTap(nn.Module):
    """A layer that also computes the response of a new class from its input; its output is unchanged.

    Args:
        layer: the module currently at the site.
        like: the site's layer, whose stride and padding the filter uses.
        change: the new class.
        slot: where the response, (n,), is stored.
    """

    def __init__(self, layer: nn.Module, like: Layer, change: NewClass, slot: ThreadLocalSlot) -> None:
        super().__init__()
        self.layer = layer
        # a copy: rounding of sums may depend on memory alignment, which differs for a loaded weight
        self.filter = clone_with_weight(like, change.weight.to(like.weight.detach(), copy=True))
        self.filter.weight.requires_grad_(False)
        self.register_buffer("offset", change.offset.to(like.weight.detach()))
        self.activation, self.pool, self.slot = change.activation, change.pool, slot

    def forward(self, keys: Tensor) -> Tensor:
        """The layer's own output."""
        maps = self.filter(keys) + self.offset
        if self.activation != "none":
            maps = torch.sigmoid(maps) if self.activation == "sigmoid" else F.relu(maps)
        flat = maps.flatten(1)
        self.slot.response = flat.mean(dim=1) if self.pool == "mean" else flat.amax(dim=1)
        output: Tensor = self.layer(keys)
        return output


class ExtendedHead(nn.Module):
    """A head with one additional output; all others are bit for bit its own.

    Args:
        layer: the module currently at the head.
        axis: axis of its outputs.
        change: the new class.
        slot: where its response is read.
    """

    def __init__(self, layer: nn.Module, axis: int, change: NewClass, slot: ThreadLocalSlot) -> None:
        super().__init__()
        self.layer, self.axis, self.slot = layer, axis, slot
        self.scale, self.bias = change.strength * change.scale, change.strength * change.bias
        finite(torch.tensor([self.scale, self.bias], dtype=torch.float32), change.name)

    def forward(self, keys: Tensor) -> Tensor:
        """The head's outputs and the new one, which is constant over positions if the head has any.

        Returns:
            The head's output with one more entry on the axis.
        """
        outputs: Tensor = self.layer(keys)
        assert self.slot.response is not None, "the head was called before the site of the new class"
        response = self.slot.response.to(torch.promote_types(self.slot.response.dtype, torch.float32))
        logit = (self.scale * response + self.bias).to(outputs)
        like = outputs.narrow(self.axis, 0, 1)
        return torch.cat([outputs, logit.reshape(-1, *[1] * (like.ndim - 1)).expand_as(like)], dim=self.axis)


class PatchedModel(Installation):
    """A module with changes that can be installed and removed any number of times; they are computed once.

    Removal restores the original tensors and layers themselves.

    Args:
        module: the network.
        changes: changes that fit it.
        as_branch: implement every low-rank change as a parallel branch, as gated ones are, so that its coefficients can
            be tuned.
        whole: look after the whole network; see `Installation`.

    Attributes:
        edited_layers: those that stand beside parallel branches, by path.

    Examples:
        >>> from rulepatch.core.changes import Dense
        >>> layer = nn.Sequential(nn.Linear(2, 1))
        >>> change = Dense("0.bias", torch.ones(1))
        >>> before = layer[0].bias.tolist()
        >>> with PatchedModel(layer, [change]):
        ...     layer[0].bias.tolist() == before
        False
        >>> layer[0].bias.tolist() == before
        True
    """

    def __init__(
        self, module: nn.Module, changes: Sequence[Change], *, as_branch: bool = False, whole: bool = False
    ) -> None:
        totals: dict[str, Tensor] = {}
        gated: dict[str, list[LowRank]] = {}
        for change in changes:
            if isinstance(change, LowRank) and (as_branch or change.is_branch):
                gated.setdefault(change.site, []).append(change)
            elif not isinstance(change, NewClass):
                path = change.parameter
                delta = change.delta().reshape(module.get_parameter(path).shape)
                totals[path] = totals[path] + delta if path in totals else delta
        weights = {path: finite(with_delta(module.get_parameter(path), t), path) for path, t in totals.items()}
        self._passes, self._runs_twice = TwoPasses(minimum), any(isinstance(change, Minimum) for change in changes)
        self.edited_layers = {
            path: EditedLayer(module.get_submodule(path), own, self._passes) for path, own in gated.items()
        }
        super().__init__(module, weights, self.edited_layers, whole=whole)
        self._slots: list[ThreadLocalSlot] = []
        for change in changes:
            if isinstance(change, NewClass):
                self._add_class(change)

    @property
    def writers(self) -> list[nn.Parameter]:
        """s·Λ of the changes that are parallel branches, in their order at each site."""
        return [each.write.weight for layer in self.edited_layers.values() for each in layer.branches]  # type: ignore[union-attr,misc]

    @property
    def responses(self) -> list[Tensor]:
        """The response r of each new class in the last forward pass, (n,)."""
        return [slot.response for slot in self._slots if slot.response is not None]

    @property
    def bytes(self) -> int:
        """Size of the new weights in bytes."""
        return sum(weight.nbytes for weight in self._weights.values())

    def switch_on(self) -> None:
        """Make the network run twice if a change is a `Minimum`."""
        if self._runs_twice:
            self._passes.install(self._module)

    def off_switch(self) -> Callable[[], None]:
        """What makes it run once again."""
        return partial(self._passes.remove, self._module)

    def _add_class(self, change: NewClass) -> None:
        """Wrap the modules at a class's site and head, which may be wrapped already by earlier classes of the edit."""
        slot, like, head = ThreadLocalSlot(), *(self._module.get_submodule(path) for path in (change.site, change.head))
        assert isinstance(like, Layer)
        self._placed[change.site] = ResponseTap(self._placed.get(change.site, like), like, change, slot)
        axis = 1 if isinstance(head, nn.Conv2d) else -1
        self._placed[change.head] = ExtendedHead(self._placed.get(change.head, head), axis, change, slot)
        self._slots.append(slot)


def with_delta(parameter: Tensor, delta: Tensor) -> Tensor:
    """A parameter with its change, summed in float64 and rounded to the parameter's own type.

    Returns:
        A tensor like the parameter.
    """
    saved = parameter.data
    precise = saved.cpu() if saved.device.type == "mps" else saved  # MPS has no float64
    return (precise.double() + delta.to(precise.device)).to(saved)
