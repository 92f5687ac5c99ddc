"""Sites: where a model can be edited, and where the edit's effect is to be matched.

A site is a dense convolution or linear layer, by dotted path, together with its value point: the module of the same
block whose output is matched, after batch norm, activation, residual sum and pool (paper 2.2, A.1). Both are found by
following a traced forward pass, not by names of architectures.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rulepatch.core import capture
from rulepatch.core.trace import Call, Step, Trace, kind_of
from rulepatch.errors import SiteError, nearest
from rulepatch.text import table

__all__ = ["Layer", "Refusal", "Site", "Survey", "find_sites", "key_axis", "patches", "rows", "with_weight"]

Layer = nn.Conv2d | nn.Linear
"""What can be edited."""


@dataclass(frozen=True)
class Site:
    """A place where a model can be edited.

    Attributes:
        path: dotted path of the convolution or linear layer.
        value_point: dotted path of the module whose output is matched.
        kind: "conv" or "linear".
        shape: of the weight, (c_out, c_in, y, x); y = x = 1 for a linear layer.
        stride: (vertical, horizontal).
        exact: whether everything between the site and its value point acts channel by channel, so that the reduced
            solve is exact.
        channel_axis: which axis of the value point's output holds the channels.
        positions: (h, w) of the site's own output at the traced input size, (tokens,) for sequences, () if none.
        reads: number of the tensor that it is called with; sites of one survey with the same number share their keys.
    """

    path: str
    value_point: str
    kind: Literal["conv", "linear"]
    shape: tuple[int, int, int, int]
    stride: tuple[int, int]
    exact: bool
    channel_axis: int
    positions: tuple[int, ...]
    reads: int


@dataclass(frozen=True)
class Refusal:
    """A convolution or linear layer that cannot be edited.

    Attributes:
        path: dotted path.
        reason: why not, in a few words.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class Survey:
    """Every layer of a model that could be a site.

    Attributes:
        sites: those that can be edited, in the order of the forward pass.
        refused: those that cannot, and why.
        trace: the forward pass that was followed.
    """

    sites: tuple[Site, ...]
    refused: tuple[Refusal, ...]
    trace: Trace

    def to_json(self) -> dict[str, Any]:
        """The survey as JSON.

        Returns:
            A dictionary with `sites` and `refused`.
        """
        sites = [
            {
                "site": site.path,
                "kind": site.kind,
                "shape": list(site.shape),
                "stride": list(site.stride),
                "value_point": site.value_point,
                "exact": site.exact,
                "positions": list(site.positions),
            }
            for site in self.sites
        ]
        return {"sites": sites, "refused": [vars(refusal) for refusal in self.refused]}

    def to_text(self) -> str:
        """The survey as tables.

        Returns:
            Lines of text.
        """
        rows = [
            [
                site.path,
                site.kind,
                "×".join(map(str, site.shape)),
                "×".join(map(str, site.stride)),
                site.value_point,
                "yes" if site.exact else "no",
                "×".join(map(str, site.positions)) or "1",
            ]
            for site in self.sites
        ]
        found = table(["site", "kind", "shape", "stride", "value point", "exact", "positions"], rows)
        if not self.refused:
            return found
        refused = table(["cannot be edited", "because"], [[refusal.path, refusal.reason] for refusal in self.refused])
        return f"{found}\n\n{refused}"

    def site(self, path: str, *, value_point: str | None = None) -> Site:
        """The site at a dotted path.

        Args:
            path: of the layer.
            value_point: of the module whose output is to be matched; found by following the graph if not given.

        Returns:
            The site.

        Raises:
            SiteError: there is no such layer, it cannot be edited, or the value point does not come after it.
        """
        found = {site.path: site for site in self.sites}
        if path not in found:
            for refusal in self.refused:
                if refusal.path == path:
                    raise SiteError(
                        f"expected a site that can be edited but got {path} ({refusal.reason}); "
                        "`rulepatch sites` lists the others"
                    )
            raise SiteError(
                f"expected the dotted path of a convolution or linear layer but got {path!r}; "
                f"the nearest are {nearest(path, found)}"
            )
        if value_point is None:
            return found[path]
        return _site(self.trace, found[path], value_point)


def find_sites(model: nn.Module, inputs: Tensor) -> Survey:
    """Find every place where a model can be edited.

    Args:
        model: any module; on the meta device it needs no weights.
        inputs: an input of one image, (1, …), on the model's device.

    Returns:
        The sites, in the order of the forward pass, and the layers that were refused.

    Examples:
        >>> block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8))
        >>> survey = find_sites(block, torch.zeros(1, 3, 16, 16))
        >>> [(site.path, site.value_point, site.exact) for site in survey.sites]
        [('0', '2', True)]
        >>> survey.refused
        (Refusal(path='3', reason='depthwise'),)
    """
    traced = capture.trace(model, inputs)
    owners = _owners(model)
    sites, refused = [], []
    for path, layer in model.named_modules():
        if not isinstance(layer, Layer):
            continue
        if reason := _refusal(path, layer, traced, owners):
            refused.append(Refusal(path, reason))
        else:
            sites.append(_site(traced, _bare_site(path, layer, traced)))
    sites.sort(key=lambda site: traced.calls_of(site.path)[0])
    return Survey(tuple(sites), tuple(refused), traced)


def rows(tensor: Tensor, channel_axis: int) -> Tensor:
    """Positions as rows, channels as columns.

    Args:
        tensor: (n, …) with the channels on some axis.
        channel_axis: which.

    Returns:
        (n, p, c).

    Examples:
        >>> rows(torch.zeros(2, 8, 5, 5), 1).shape
        torch.Size([2, 25, 8])
        >>> rows(torch.zeros(2, 8), 1).shape
        torch.Size([2, 1, 8])
    """
    moved = tensor.movedim(channel_axis, -1)
    return moved.reshape(len(moved), -1, moved.shape[-1])


def key_axis(kind: str) -> int:
    """Which axis of a site's input and own output holds the channels."""
    return 1 if kind == "conv" else -1


def with_weight(layer: Layer, weight: Tensor) -> Layer:
    """A layer that does with another weight what a layer does with its own: same stride, padding, class; no bias.

    Args:
        layer: the layer; it is not changed.
        weight: (c_out, c_in, y, x) for a convolution, (c_out, c_in) or (c_out, c_in, 1, 1) for a linear layer. The
            channels may differ from the layer's.

    Returns:
        A new layer.
    """
    twin = copy.copy(layer)
    for name in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"):
        setattr(twin, name, type(getattr(layer, name))())
    if isinstance(twin, nn.Linear):
        weight = weight.reshape(weight.shape[:2])
        twin.out_features, twin.in_features = weight.shape
    else:
        twin.out_channels, twin.in_channels = weight.shape[:2]
    twin.weight = nn.Parameter(weight, requires_grad=weight.requires_grad)
    twin.register_parameter("bias", None)
    return twin


def patches(layer: Layer, maps: Tensor) -> Tensor:
    """Unfold maps as a layer does: for each of its output positions, what each tap of its kernel sees of each map.

    The layer itself does it, with one-hot kernels, so that its own stride, dilation and padding hold.

    Args:
        layer: a site's layer.
        maps: (n, r, h, w) for a convolution, (n, …, r) for a linear layer.

    Returns:
        (n, p, r·y·x); maps vary slowest, then y, then x, as in a flattened weight.
    """
    if isinstance(layer, nn.Linear):
        return rows(maps, -1)
    y, x = layer.kernel_size
    one_hot = torch.eye(y * x, dtype=maps.dtype, device=maps.device).reshape(y * x, 1, y, x)
    unfolded: Tensor = with_weight(layer, one_hot)(maps.flatten(0, 1)[:, None])
    return unfolded.reshape(len(maps), -1, unfolded[0, 0].numel()).mT


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Paths of the parameters, by identity: more than one path means shared weights."""
    owners: dict[int, list[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(path)
    return owners


def _refusal(path: str, layer: Layer, traced: Trace, owners: dict[int, list[str]]) -> str | None:
    times = len(traced.calls_of(path))
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return "depthwise" if layer.groups == layer.in_channels else f"{layer.groups} groups"
    if parametrize.is_parametrized(layer, "weight") or "weight" not in layer._parameters:
        return "its weight is computed from other parameters"
    others = [owner for owner in owners[id(layer.weight)] if owner != f"{path}.weight"]
    if others:
        return f"it shares its weight with {', '.join(others)}"
    if times != 1:
        return "the forward pass never calls it" if times == 0 else f"the forward pass calls it {times} times"
    return None


def _bare_site(path: str, layer: Layer, traced: Trace) -> Site:
    """The site before its value point is known."""
    conv = isinstance(layer, nn.Conv2d)
    own = traced.calls[traced.calls_of(path)[0]]
    shape = traced.shapes[own.outputs[0]]
    c_out, c_in, *taps = layer.weight.shape
    y, x = taps or (1, 1)
    return Site(
        path=path,
        value_point=path,
        kind="conv" if conv else "linear",
        shape=(c_out, c_in, y, x),
        stride=layer.stride if conv else (1, 1),  # type: ignore[arg-type]
        exact=True,
        channel_axis=1 if conv else len(shape) - 1,
        positions=shape[2:] if conv else shape[1:-1],
        reads=own.inputs[0],
    )


def _site(traced: Trace, site: Site, value_point: str | None = None) -> Site:
    """Complete a site with its value point: the one given, or the last of its block that acts channel by channel."""
    index = traced.calls_of(site.path)[0]
    own = traced.calls[index]
    axes = _channelwise(traced, own, site)
    if value_point is None:
        number, call = max(_candidates(traced, index, axes), key=lambda pair: _preference(traced, *pair))
    else:
        call = _first_after(traced, own, value_point)
        number = call.outputs[0]
    exact = number in axes
    axis = axes.get(number, 1 if len(traced.shapes[number]) == 4 else len(traced.shapes[number]) - 1)
    return Site(**(vars(site) | {"value_point": call.path, "exact": exact, "channel_axis": axis}))


def _first_after(traced: Trace, own: Call, path: str) -> Call:
    for index in traced.calls_of(path):
        call = traced.calls[index]
        if call.last_step >= own.last_step and call.outputs:
            return call
    raise SiteError(
        f"expected a value point that is reached after {own.path} but got {path!r}; the nearest modules are "
        + nearest(path, [call.path for call in traced.calls if call.path and call.last_step >= own.last_step])
    )


def _candidates(traced: Trace, index: int, axes: dict[int, int]) -> Iterator[tuple[int, Call]]:
    """Calls that may be the value point: the site, its siblings and ancestors that return channel-wise values."""
    own = traced.calls[index]
    for call in traced.calls:
        sibling = call.parent == own.parent
        ancestor = own.path.startswith(f"{call.path}.")
        if call.path and (sibling or ancestor) and call.last_step >= own.last_step:
            for number in call.outputs[:1]:
                if number in axes:
                    yield number, call


def _preference(traced: Trace, number: int, call: Call) -> tuple[int, bool, bool, int]:
    """The latest tensor of the block; of the modules that return it one that made it, is called once, is innermost."""
    index = traced.calls.index(call)
    made_it = index in traced.makers_of(number)
    return number, made_it, len(traced.calls_of(call.path)) == 1, index


def _channelwise(traced: Trace, own: Call, site: Site) -> dict[int, int]:
    """Tensors in which every number depends on one channel of the site's output alone; and their channel axis."""
    axes, mixed = {own.outputs[0]: site.channel_axis}, set[int]()
    for step in traced.steps[own.last_step :]:
        results = {*step.writes, *(new for _, new in step.mutates)}
        moving = [number for number in step.reads if number in axes]
        if mixed.intersection(step.reads):
            mixed |= results
        elif moving:
            axis = _axis_after(step, traced, moving, axes)
            if axis is None:
                mixed |= results
            else:
                axes |= dict.fromkeys(results, axis)
    return axes


def _axis_after(step: Step, traced: Trace, moving: list[int], axes: dict[int, int]) -> int | None:
    """The channel axis after a step, or None if the step mixes channels, positions of a block, or shapes."""
    kind, axis = kind_of(step), axes[moving[0]]
    before = traced.shapes[moving[0]]
    after = traced.shapes[step.writes[0]] if step.writes else before
    if any(axes[number] != axis for number in moving) or kind == "mixing":
        return None
    if kind == "pool":  # a pool down to one position ends the feature map, it is no part of a block
        return axis if axis == 1 and any(size > 1 for size in after[2:]) else None
    if kind == "layout":
        return _moved_axis(step, axis, len(before))
    channels = before[axis]
    constants = [traced.shapes[number] for number in step.reads if number not in axes]
    scales = step.operator.overloadpacket.__name__.startswith(("mul", "div"))
    if scales and any(torch.Size(shape).numel() not in {1, channels} for shape in constants):
        return None  # a map of its own on every position: a gate, not a scale
    return axis if after == before else None


def _moved_axis(step: Step, axis: int, ndim: int) -> int:
    name = step.operator.overloadpacket.__name__
    if name == "permute":
        return [dim % ndim for dim in step.arguments[0][1]].index(axis)
    if name == "transpose":
        first, second = (dim % ndim for dim in step.arguments[0][1:3])
        return {first: second, second: first}.get(axis, axis)
    return axis
