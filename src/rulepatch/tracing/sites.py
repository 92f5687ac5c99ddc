"""Sites: the layers that can be edited, with the value points at which the effect of an edit is matched.

A site is a dense convolution or linear layer, by dotted path, together with its value point: the module of the same
block whose output is matched, after batch norm, activation, residual sum and pool (paper 2.2, A.1). Both are found
from a traced forward pass, without names of architectures.
"""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rulepatch.errors import SiteError, nearest
from rulepatch.notebook import details, panel
from rulepatch.notebook import table as html_table
from rulepatch.text import Table, brief, plural
from rulepatch.tracing import capture
from rulepatch.tracing.positions import PlaceFinder, SpatialPositions
from rulepatch.tracing.trace import Trace
from rulepatch.tracing.value_points import find_value_point
from rulepatch.wrappers import unwrapped

__all__ = [
    "Layer",
    "Site",
    "SiteList",
    "SkippedLayer",
    "clone_with_weight",
    "find_sites",
    "flatten_positions",
    "key_axis",
    "unfold",
]

Layer = nn.Conv2d | nn.Linear
"""Layers that can be edited."""

COLUMNS = ("site", "kind", "shape", "stride", "value point", "exact", "positions")
REFUSED = ("cannot be edited", "because")


@dataclass(frozen=True)
class Site:
    """A layer that can be edited.

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
        reads: number of its input tensor; sites of one site list with the same number share their keys.
        key_places: positions of its input in the image; None if they have none, as after pooling.
        output_places: the same for its output.
        value_places: the same for the value point's output.
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
    key_places: SpatialPositions | None = field(default=None, repr=False)
    output_places: SpatialPositions | None = field(default=None, repr=False)
    value_places: SpatialPositions | None = field(default=None, repr=False)

    @property
    def output_axis(self) -> int:
        """Channel axis of its own output."""
        return 1 if self.kind == "conv" else len(self.positions) + 1

    @property
    def is_spatial(self) -> bool:
        """Whether it has several positions that correspond to regions of the image."""
        return math.prod(self.positions) > 1 and self.key_places is not None

    @property
    def layout(self) -> str:
        """Description of its positions: rows × columns of the image, and extra tokens."""
        places = self.output_places
        if not self.positions or places is None:
            return "×".join(map(str, self.positions)) or "1"
        words = [f"{places.grid[0]}×{places.grid[1]}"]
        if places.extra_tokens:
            words.append(f"{places.extra_tokens} apart")
        if places.windows > 1:
            words.append(f"{places.windows} windows")
        return ", ".join(words)


@dataclass(frozen=True)
class SkippedLayer:
    """A convolution or linear layer that cannot be edited.

    Attributes:
        path: dotted path.
        reason: why it cannot be edited.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class SiteList:
    """The sites of a model, and the layers that cannot be edited.

    Attributes:
        sites: those that can be edited, in the order of the forward pass.
        refused: those that cannot, and why.
        trace: the traced forward pass.
        lost: an operation before the first layer that moves parts of the image to unknown positions, so that masks
            cannot be mapped.
    """

    sites: tuple[Site, ...]
    refused: tuple[SkippedLayer, ...]
    trace: Trace
    lost: str | None = None

    def __repr__(self) -> str:
        refused = f"{plural(len(self.refused), 'layer')} not editable" if self.refused else ""
        return brief("SiteList", plural(len(self.sites), "site"), refused)

    def _repr_html_(self) -> str:
        """HTML tables for notebooks; layers that cannot be edited are collapsed."""
        parts = [html_table(COLUMNS, self._rows())]
        if self.refused:
            refused = html_table(REFUSED, [[refusal.path, refusal.reason] for refusal in self.refused])
            parts.append(details(f"{plural(len(self.refused), 'layer')} that cannot be edited", refused))
        return panel(plural(len(self.sites), "site"), *parts)

    def _rows(self) -> list[list[str]]:
        return [
            [
                site.path,
                site.kind,
                "×".join(map(str, site.shape)),
                "×".join(map(str, site.stride)),
                site.value_point,
                "yes" if site.exact else "no",
                site.layout,
            ]
            for site in self.sites
        ]

    def is_shortcut(self, site: Site) -> bool:
        """Whether a site is the shortcut of a residual block, beside which the block's other layers compute.

        It reads what the block's first layer reads, and the block's last layer has the same value point. A shortcut
        with layers of its own (an average pool before the convolution, say) is not recognised.

        Args:
            site: one of these.
        """
        firsts = [other for other in self.sites if other.reads == site.reads and other.value_point != site.value_point]
        lasts = [other for other in self.sites if other.value_point == site.value_point and other.reads != site.reads]
        return any(not f"{last.path}.".startswith(f"{first.value_point}.") for first in firsts for last in lasts)

    def to_json(self) -> dict[str, Any]:
        """The sites, as JSON.

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
                "grid": None if site.output_places is None else list(site.output_places.grid),
                "tokens_apart": 0 if site.output_places is None else site.output_places.extra_tokens,
            }
            for site in self.sites
        ]
        return {"sites": sites, "refused": [vars(refusal) for refusal in self.refused]}

    def to_text(self) -> str:
        """The sites, as tables."""
        found = Table(COLUMNS, self._rows()).to_text()
        if not self.refused:
            return found
        refused = Table(REFUSED, [[refusal.path, refusal.reason] for refusal in self.refused]).to_text()
        return f"{found}\n\n{refused}"

    def site(self, path: str, *, value_point: str | None = None) -> Site:
        """The site at a dotted path.

        Args:
            path: of the layer.
            value_point: of the module whose output is matched; found from the trace if not given.

        Raises:
            SiteError: there is no such layer, it cannot be edited, or the value point does not come after it.
        """
        found = {site.path: site for site in self.sites}
        if path not in found:
            for refusal in self.refused:
                if refusal.path == path:
                    raise SiteError(
                        f"expected a site that can be edited but got {path} ({refusal.reason}); "
                        "the command `sites` lists the others"
                    )
            if not found and not self.refused:
                raise SiteError(
                    "expected a network that calls its convolutions and linear layers as modules but got one without "
                    "any, as torch.export makes them; take the network that it was exported from"
                )
            raise SiteError(
                f"expected the dotted path of a convolution or linear layer but got {path!r}; "
                f"the nearest are {nearest(path, found)}"
            )
        if value_point is None:
            return found[path]
        return _matched(found[path], self.trace, PlaceFinder(self.trace), value_point)


def find_sites(model: nn.Module, inputs: Tensor) -> SiteList:
    """Find every site of a model.

    Args:
        model: any module; on the meta device it needs no weights. Paths are those of the network inside of a compiled
            or parallel module.
        inputs: an input of one image, (1, …), on the model's device.

    Returns:
        The sites, in the order of the forward pass, and the layers that were refused.

    Examples:
        >>> block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8))
        >>> survey = find_sites(block, torch.zeros(1, 3, 16, 16))
        >>> [(site.path, site.value_point, site.exact) for site in survey.sites]
        [('0', '2', True)]
        >>> survey.refused
        (SkippedLayer(path='3', reason='depthwise'),)
    """
    model = unwrapped(model)
    traced = capture.trace(model, inputs[:1])
    owners, finder = _owners(model), PlaceFinder(traced)
    sites, refused = [], []
    for path, layer in model.named_modules():
        if not isinstance(layer, Layer):
            reason = _foreign(layer)
        elif (reason := _refusal(path, layer, traced, owners)) is None:
            site = _site(path, layer, traced, finder)
            if (reason := _unplaced(site)) is None:
                sites.append(site)
        if reason is not None:
            refused.append(SkippedLayer(path, reason))
    sites.sort(key=lambda site: traced.calls_of(site.path)[0])
    return SiteList(tuple(sites), tuple(refused), traced, finder.lost)


def flatten_positions(tensor: Tensor, channel_axis: int) -> Tensor:
    """Flatten a tensor to positions × channels.

    Args:
        tensor: (n, …) with the channels on some axis.
        channel_axis: which.

    Returns:
        (n, p, c).

    Examples:
        >>> flatten_positions(torch.zeros(2, 8, 5, 5), 1).shape
        torch.Size([2, 25, 8])
        >>> flatten_positions(torch.zeros(2, 8), 1).shape
        torch.Size([2, 1, 8])
    """
    moved = tensor.movedim(channel_axis, -1)
    return moved.reshape(len(moved), -1, moved.shape[-1])


def key_axis(kind: str) -> int:
    """Channel axis of a site's input and own output."""
    return 1 if kind == "conv" else -1


def clone_with_weight(layer: Layer, weight: Tensor) -> Layer:
    """Clone a layer with another weight and no bias; class, stride and padding are kept.

    Args:
        layer: the layer; it is not changed.
        weight: (c_out, c_in, y, x) for a convolution, (c_out, c_in) or (c_out, c_in, 1, 1) for a linear layer. The
            channels may differ from the layer's.
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


def unfold(layer: Layer, maps: Tensor) -> Tensor:
    """Unfold maps as a layer does (im2col): the input of each kernel tap at each of its output positions.

    It is computed by the layer itself with one-hot kernels, so that its stride, dilation and padding apply.

    Args:
        layer: a site's layer.
        maps: (n, r, h, w) for a convolution, (n, …, r) for a linear layer.

    Returns:
        (n, p, r·y·x); maps vary slowest, then y, then x, as in a flattened weight.
    """
    if isinstance(layer, nn.Linear):
        return flatten_positions(maps, -1)
    y, x = layer.kernel_size
    one_hot = torch.eye(y * x, dtype=maps.dtype, device=maps.device).reshape(y * x, 1, y, x)
    unfolded: Tensor = clone_with_weight(layer, one_hot)(maps.flatten(0, 1)[:, None])
    return unfolded.reshape(len(maps), -1, unfolded[0, 0].numel()).mT


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Paths of the parameters, by identity: more than one path means shared weights."""
    owners: dict[int, list[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(path)
    return owners


def _refusal(path: str, layer: Layer, traced: Trace, owners: dict[int, list[str]]) -> str | None:
    """Why a layer cannot be edited; None if it can."""
    times = len(traced.calls_of(path))
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return "depthwise" if layer.groups == layer.in_channels else f"{layer.groups} groups"
    if parametrize.is_parametrized(layer, "weight") or "weight" not in layer._parameters:
        return "its weight is computed from other parameters"
    if not layer.weight.is_floating_point() or type(layer.weight.data) is not Tensor:
        kind = layer.weight.dtype if type(layer.weight.data) is Tensor else type(layer.weight.data).__name__
        return f"its weight is no plain tensor of floating-point numbers ({str(kind).removeprefix('torch.')})"
    others = [owner for owner in owners[id(layer.weight)] if owner != f"{path}.weight"]
    if others:
        return f"it shares its weight with {', '.join(others)}"
    if times != 1:
        return _uncalled(path, traced) if times == 0 else f"the forward pass calls it {times} times"
    if not traced.multiplies(path):
        return "its weight is changed before it is used"
    return None


def _uncalled(path: str, traced: Trace) -> str:
    readers = traced.readers_of(f"{path}.weight")
    if not readers:
        return "the forward pass never calls it"
    return f"{readers[0] or 'the model'} reads its weight without calling it"


def _foreign(module: nn.Module) -> str | None:
    """Why a converted convolution or linear layer cannot be edited; None for any other module."""
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted" if getattr(module, "original_name", None) in {"Conv2d", "Linear"} else None
    if getattr(module, "carries_edit", False):
        return "an edit is in it already; edit the untouched network and compose the edits"
    was_layer = type(module).__name__.endswith(("Conv2d", "Linear", "ReLU2d", "LinearReLU"))
    quantised = hasattr(module, "_packed_params") or type(module).__module__.startswith("torch.ao.nn.quantized")
    return "quantised" if was_layer and quantised else None


def _unplaced(site: Site) -> str | None:
    """Why a mask cannot be mapped to a site's positions; None if it can."""
    if math.prod(site.positions) <= 1:
        return None
    if site.key_places is None or site.output_places is None:
        return "its positions cannot be laid over the image"
    return "it mixes the positions of the image" if math.prod(site.output_places.grid) == 1 else None


def _site(path: str, layer: Layer, traced: Trace, finder: PlaceFinder) -> Site:
    """The site of a layer, with the last value point of its block."""
    conv = isinstance(layer, nn.Conv2d)
    own = traced.calls[traced.calls_of(path)[0]]
    shape = traced.shapes[own.outputs[0]]
    axis = 1 if conv else len(shape) - 1
    c_out, c_in, *taps = layer.weight.shape
    y, x = taps or (1, 1)
    site = Site(
        path=path,
        value_point=path,
        kind="conv" if conv else "linear",
        shape=(c_out, c_in, y, x),
        stride=layer.stride if conv else (1, 1),  # type: ignore[arg-type]
        exact=True,
        channel_axis=axis,
        positions=shape[2:] if conv else shape[1:-1],
        reads=own.inputs[0],
        key_places=finder.places(own.inputs[0], axis),
        output_places=finder.places(own.outputs[0], axis),
    )
    return _matched(site, traced, finder)


def _matched(site: Site, traced: Trace, finder: PlaceFinder, path: str | None = None) -> Site:
    """The same site with its value point: the one chosen, or the last of its block."""
    found = find_value_point(traced, site.path, site.output_axis, path)
    places = finder.places(found.number, found.axis)
    return replace(site, value_point=found.path, exact=found.exact, channel_axis=found.axis, value_places=places)
