"""Correspondence between positions of a tensor (feature map, tokens, windows) and regions of the image.

A convolution's output is a grid over the image. Tokens are a flattened grid, with class and register tokens added, and
perhaps cut into windows, rolled, or merged in pairs. The correspondence is found by sending the indices of the grid's
cells through the traced operations that moved the tokens. A network may also rotate, crop or pad the image before its
first layer: then feature maps, and masks, refer to the input of that layer.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from rulepatch.tracing.trace import CHANNEL_NORMS, MATRIX_PRODUCTS, Ref, Step, Trace, kind_of, name_of

__all__ = ["Frame", "PlaceFinder", "SpatialPositions", "resize_mask"]

_NOWHERE = -1

# Operators that move numbers without changing them. (Padding and copies add numbers without a position.)
_MOVES = {
    "_unsafe_view", "alias", "cat", "clone", "contiguous", "detach", "expand", "flip", "narrow", "permute",
    "pixel_shuffle", "pixel_unshuffle", "repeat", "reshape", "roll", "rot90", "select", "slice", "split",
    "split_with_sizes", "squeeze", "stack", "t", "transpose", "unbind", "unsqueeze", "view", "view_as",
}  # fmt: skip
_PADS = {"constant_pad_nd", "pad", "reflection_pad2d", "replication_pad2d"}
_SELECTS = {"index", "index_select"}
"""Indexing by another tensor, whose values a trace does not keep."""
_REDUCTIONS = {"amax", "amin", "linalg_vector_norm", "max", "mean", "min", "std", "sum", "var"}
"""Reductions over the channels of an image, such as conversion to greyscale."""
_ATTENTION = {
    "_scaled_dot_product_attention_math", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable",
    "scaled_dot_product_attention",
}  # fmt: skip
_IN_PLACE = {"_safe_softmax", "_softmax", "_to_copy", "native_dropout", "softmax"} | CHANNEL_NORMS
"""Elementwise operators besides those that act channel by channel."""


@dataclass(frozen=True, eq=False)
class Frame:
    """The image as the first layer sees it, if it was rotated, cropped or padded before.

    Attributes:
        grid: (h, w), the cells that the image, or the preceding frame, is divided into.
        cells: (rows, columns), the number of the cell at each position; -1 where there is none.
        before: the preceding frame; None for the image itself.
    """

    grid: tuple[int, int]
    cells: Tensor
    before: "Frame | None" = None

    @property
    def share(self) -> float:
        """Share of the image that is inside the frame, 0..1."""
        left = len(self.cells[self.cells != _NOWHERE].unique()) / math.prod(self.grid)
        return left if self.before is None else left * self.before.share

    def carry(self, masks: Tensor) -> Tensor:
        """Transform masks as the image was transformed.

        Args:
            masks: (n, height, width), 0..1, float64.

        Returns:
            (n, rows, columns), 0..1.
        """
        masks = masks if self.before is None else self.before.carry(masks)
        shares = resize_mask(masks, self.grid).flatten(1)
        shares = torch.cat([shares, shares.new_zeros(len(shares), 1)], dim=1)  # -1 is the last
        return shares[:, self.cells]

    def lay_back(self, maps: Tensor) -> Tensor:
        """Map scores of the frame back to the image; the lowest score outside of the frame.

        Args:
            maps: (n, h, w).

        Returns:
            (n, h, w) on the image's grid; the maximum if several positions fall into one cell.
        """
        found = F.interpolate(maps[:, None], size=tuple(self.cells.shape), mode="nearest-exact").flatten(1)
        real = self.cells.flatten() != _NOWHERE
        cells = self.cells.flatten()[real].to(maps.device)
        laid = maps.flatten(1).amin(dim=1, keepdim=True).expand(-1, math.prod(self.grid)).clone()
        laid = laid.scatter_reduce(1, cells.expand(len(laid), -1), found[:, real.to(maps.device)], "amax")
        laid = laid.unflatten(1, self.grid)
        return laid if self.before is None else self.before.lay_back(laid)


@dataclass(frozen=True)
class SpatialPositions:
    """Positions of a tensor in the image.

    Attributes:
        grid: (h, w), the cells that the image is divided into.
        cells: for each position of one image, in the tensor's order, the number of its cell; -1 for positions without
            one (class and register tokens).
        windows: how many entries of the tensor's first axis belong to one image: 1, or its number of windows.
        frame: the frame that the grid divides, if the network rotated or cropped the image; None for the image itself.
    """

    grid: tuple[int, int]
    cells: tuple[int, ...]
    windows: int = 1
    frame: Frame | None = None

    @classmethod
    def of_map(cls, height: int, width: int) -> Self:
        """Positions of a feature map that covers the image, (…, h, w).

        Returns:
            One cell for each position.
        """
        return cls((height, width), tuple(range(height * width)))

    @cached_property
    def real(self) -> Tensor:
        """Which positions are in the image, (p,), bool."""
        return torch.tensor(self.cells) != _NOWHERE

    @property
    def extra_tokens(self) -> int:
        """Number of positions without a place in the image (class and register tokens)."""
        return len(self.cells) - int(self.real.sum())

    def weights(self, masks: Tensor, *, smallest: float) -> Tensor:
        """Share of a mask at each position; 0 for positions outside of the image.

        Args:
            masks: (n, height, width), 0..1.
            smallest: share relative to the largest below which it is set to zero.

        Returns:
            (n, p), float64, 0..1.
        """
        seen = masks.double().cpu()
        seen = seen if self.frame is None else self.frame.carry(seen)
        shares = resize_mask(seen, self.grid).flatten(1)
        shares = torch.where(shares > smallest * shares.max(), shares, 0)
        shares = torch.cat([shares, shares.new_zeros(len(shares), 1)], dim=1)  # -1 is the last
        return shares[:, list(self.cells)].to(masks.device)

    def to_map(self, scores: Tensor) -> Tensor:
        """Arrange scores of positions as a map over the image; cells without a position get the lowest score.

        Args:
            scores: (n, p).

        Returns:
            (n, h, w), on the grid or on that of its frame; the maximum if several positions share a cell.
        """
        cells = torch.tensor(self.cells, device=scores.device)[self.real.to(scores.device)]
        lowest = scores.amin(dim=1, keepdim=True).expand(-1, math.prod(self.grid)).clone()
        kept = scores[:, self.real.to(scores.device)]
        laid_out = lowest.scatter_reduce(1, cells.expand_as(kept), kept, "amax").unflatten(1, self.grid)
        return laid_out if self.frame is None else self.frame.lay_back(laid_out)


@dataclass(frozen=True)
class _Numbered:
    """Cell of every number of a tensor, with the grid and the frame that the cells refer to.

    `untouched` holds for the image itself, however its numbers are moved, until a layer transforms it.
    """

    cells: Tensor
    grid: tuple[int, int]
    frame: Frame | None = None
    untouched: bool = False


class PlaceFinder:
    """Finds the positions of the tensors of a trace, with caching.

    Args:
        traced: a forward pass of one image.

    Attributes:
        lost: an operation before the first layer that moved the image's numbers to unknown positions.
    """

    def __init__(self, traced: Trace) -> None:
        self._trace = traced
        self._makers: dict[int, tuple[Step, int]] = {}
        for step in traced.steps:
            for index, number in enumerate([*step.writes, *(new for _, new in step.mutates)]):
                if number not in step.reads:  # some operations return their input
                    self._makers.setdefault(number, (step, index))
        self._known: dict[int, _Numbered | None] = {}
        self._weights = set(traced.parameters.values())
        self.lost: str | None = None

    def places(self, number: int, channel_axis: int) -> SpatialPositions | None:
        """The positions of a tensor.

        Args:
            number: of the tensor.
            channel_axis: which of its axes holds the channels.

        Returns:
            The positions; None if they do not correspond to regions of the image.
        """
        found, shape = self._find(number), self._trace.shapes[number]
        if found is None and len(shape) == 4 and channel_axis == 1 and shape[0] == 1:
            return SpatialPositions.of_map(shape[2], shape[3])  # a feature map, whatever produced it
        if found is None:
            return None
        moved = replace(found, cells=found.cells.movedim(channel_axis, -1))
        one = _collapsed(moved)
        if one is None or len(one.cells) == 0:
            return None
        cells = one.cells[..., 0]
        return SpatialPositions(one.grid, tuple(cells.flatten().tolist()), windows=len(cells), frame=one.frame)

    def _find(self, number: int) -> _Numbered | None:
        """Trace a tensor back to the grid that it was made from; iteratively, as networks are deep."""
        waiting = [number]
        while waiting:
            current = waiting[-1]
            missing = [each for each in self._sources(current) if each not in self._known]
            if current in self._known or not missing:
                waiting.pop()
                if current not in self._known:
                    self._known[current] = self._made(current)
            else:
                waiting.extend(missing)
        return self._known[number]

    def _sources(self, number: int) -> tuple[int, ...]:
        """The tensors that must be resolved first."""
        if number not in self._makers or number == self._trace.input_number:
            return ()
        step, _ = self._makers[number]
        return step.reads[:1] if self._is_map(number) else step.reads

    def _is_map(self, number: int) -> bool:
        shape = self._trace.shapes[number]
        if number == self._trace.input_number:
            return len(shape) == 4
        if number not in self._makers or len(shape) != 4 or shape[0] != 1:
            return False
        name = name_of(self._makers[number][0])
        return "conv" in name or "pool" in name or "upsample" in name

    def _made(self, number: int) -> _Numbered | None:
        shape = self._trace.shapes[number]
        if self._is_map(number):
            grid = (shape[2], shape[3])
            cells = torch.arange(math.prod(grid)).reshape(1, 1, *grid).expand(shape)
            if number == self._trace.input_number:
                return _Numbered(cells, grid, untouched=True)
            step, _ = self._makers[number]
            source = self._known[step.reads[0]]
            untouched = source is not None and source.untouched and self._weights.isdisjoint(step.reads)
            return _Numbered(cells, grid, self._frame(step), untouched)
        if number not in self._makers:
            return None
        step, index = self._makers[number]
        known = {each: found for each in step.reads if (found := self._known[each]) is not None}
        if not known:
            return None
        name = name_of(step)
        if name in _SELECTS:
            return self._selected(step, known)
        if name in _MOVES or name in _PADS:
            return self._replayed(step, index, known)
        if name in MATRIX_PRODUCTS:
            first, second = step.reads[-2:] if name != "linear" else step.reads[:2]
            found = _spread(_collapsed(known.get(first)), shape)
            if found is None and second in known and known[second].untouched:  # a colour matrix
                columns = replace(known[second], cells=known[second].cells.mT)
                turned = _spread(_collapsed(columns), (*shape[:-2], shape[-1], shape[-2]))
                found = None if turned is None else replace(turned, cells=turned.cells.mT)
            still = any(each.untouched for each in known.values()) and self._weights.isdisjoint(step.reads)
            return None if found is None else replace(found, untouched=still)
        if name in _REDUCTIONS:
            return self._reduced(step, known)
        if name in _ATTENTION:
            return _spread(_collapsed(known.get(step.reads[0])), shape) if index == 0 else None
        if kind_of(step) in {"affine", "elementwise"} or name in _IN_PLACE:
            same = [found for found in known.values() if tuple(found.cells.shape) == shape]
            return max(same, key=lambda found: math.prod(found.grid), default=None)
        return None

    def _replayed(self, step: Step, index: int, known: Mapping[int, _Numbered]) -> _Numbered | None:
        """Move the cell indices as the step moved the tensor's numbers."""
        like = next(iter(known.values()))
        if any(found.grid != like.grid or found.frame is not like.frame for found in known.values()) or step.mutates:
            return None

        def cells(argument: Any) -> Any:
            if not isinstance(argument, Ref):
                return argument
            if argument.number in known:
                return known[argument.number].cells
            return torch.full((1,), _NOWHERE).expand(self._trace.shapes[argument.number])

        args, kwargs = tree_map(cells, step.arguments)
        operator: Callable[..., Any] = step.operator
        if name_of(step) in _PADS:
            operator, args, kwargs = F.pad, args[:2], {"value": _NOWHERE}
        try:
            moved = operator(*args, **kwargs)
        except RuntimeError:  # a view of numbers that lie elsewhere in memory than the tensor's own
            moved = torch.reshape(*args, **kwargs)
        found = moved if isinstance(moved, Tensor) else moved[index]
        return replace(like, cells=found)

    def _selected(self, step: Step, known: Mapping[int, _Numbered]) -> _Numbered | None:
        """A permutation along the channel axis (such as RGB to BGR); None along any other axis."""
        found, shape, args = known.get(step.reads[0]), self._trace.shapes[step.writes[0]], step.arguments[0]
        axes = [args[1]] if isinstance(args[1], int) else [i for i, each in enumerate(args[1]) if each is not None]
        if found is None or len(axes) != 1 or len(shape) != found.cells.ndim:
            return None
        one = found.cells.narrow(axes[0], 0, 1)
        return replace(found, cells=one.expand(shape)) if bool((found.cells == one).all()) else None

    def _reduced(self, step: Step, known: Mapping[int, _Numbered]) -> _Numbered | None:
        """Conversion to greyscale; None for a reduction over anything but channels."""
        found, args, shape = known.get(step.reads[0]), step.arguments[0], self._trace.shapes[step.writes[0]]
        if found is None or found.cells.ndim != 4 or found.cells.stride(1) != 0 or [1] not in args:
            return None
        return replace(found, cells=found.cells[:, :1].reshape(shape))

    def _frame(self, step: Step) -> Frame | None:
        """The frame of a feature map, from the inputs of the step that made it."""
        found = self._known[step.reads[0]]
        if found is None:
            self.lost = self.lost or self._lost_at(step.reads[0])
        if found is None or not found.untouched or found.cells.ndim != 4 or len(found.cells) != 1:
            return None if found is None else found.frame
        one = _collapsed(replace(found, cells=found.cells.movedim(1, -1)))
        if one is None:
            return found.frame
        cells = one.cells[0, ..., 0]
        return (
            one.frame if _in_order(cells, one.grid, _margins(step, self._trace)) else Frame(one.grid, cells, one.frame)
        )

    def _lost_at(self, number: int) -> str | None:
        """The operation before the first layer that moved the image's numbers to unknown positions, if any."""
        while number in self._makers and self._known[number] is None:
            step, _ = self._makers[number]
            source = self._known.get(step.reads[0]) if step.reads else None
            if source is not None:
                return (
                    name_of(step) if source.untouched and name_of(step) not in _REDUCTIONS | MATRIX_PRODUCTS else None
                )
            number = step.reads[0] if step.reads else -1
        return None


def _collapsed(found: _Numbered | None) -> _Numbered | None:
    """Merge channels into one cell for each position: the square of cells that its channels come from.

    Args:
        found: cells with the channels on the last axis.

    Returns:
        Cells with one channel, on the grid of these squares; None if the channels come from anything else.
    """
    if found is None or found.cells.ndim == 0:
        return None
    height, width = found.grid
    cells = found.cells
    if cells.stride(-1) == 0 or cells.shape[-1] == 1:
        return replace(found, cells=cells[..., :1])
    low, high = cells.aminmax(dim=-1, keepdim=True)
    if bool((low == high).all()):
        return replace(found, cells=low)
    y, x = cells // width, cells % width
    real = low != _NOWHERE
    if not bool(real.any()):
        return None
    tall = (y.amax(-1, keepdim=True) - y.amin(-1, keepdim=True) + 1)[real].unique()
    wide = (x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True) + 1)[real].unique()
    if len(tall) != 1 or len(wide) != 1 or height % int(tall) or width % int(wide):
        return None
    grid = (height // int(tall), width // int(wide))
    merged = (y.amin(-1, keepdim=True) // int(tall)) * grid[1] + x.amin(-1, keepdim=True) // int(wide)
    return replace(found, cells=torch.where(real, merged, _NOWHERE), grid=grid)


def _spread(found: _Numbered | None, shape: tuple[int, ...]) -> _Numbered | None:
    """The same positions for a tensor with other channels on its last axis."""
    if found is None or tuple(found.cells.shape[:-1]) != shape[:-1]:
        return None
    return replace(found, cells=found.cells.expand(shape), untouched=False)


def _margins(step: Step, traced: Trace) -> tuple[int, int]:
    """Most rows and columns without a cell that can be explained by a layer's own padding."""
    args = step.arguments[0]
    if "conv" in name_of(step):
        *_, y, x = traced.shapes[step.reads[1]]
        spread = args[5] if len(args) > 5 and isinstance(args[5], list) else [1]
        return (y - 1) * spread[0], (x - 1) * spread[-1]
    sides = args[1] if len(args) > 1 and "pool" in name_of(step) and "adaptive" not in name_of(step) else [1]
    return sides[0] - 1, sides[-1] - 1


def _in_order(cells: Tensor, grid: tuple[int, int], margins: tuple[int, int]) -> bool:
    """Whether cells are in the image's order, each less than one position off, apart from padding."""
    real = cells != _NOWHERE
    inside = cells[real.any(dim=1)][:, real.any(dim=0)]
    if any(had - has > most for had, has, most in zip(cells.shape, inside.shape, margins, strict=True)):
        return False
    if not bool((inside != _NOWHERE).all()):
        return False
    for side, at in enumerate((inside // grid[1], inside % grid[1])):
        positions, step = inside.shape[side], grid[side] / inside.shape[side]
        wanted = (torch.arange(positions) + 0.5) * step - 0.5
        off = at - (wanted[:, None] if side == 0 else wanted)
        if float(off.abs().max()) > max(step, 1):
            return False
    return True


def resize_mask(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of each position's area that a mask covers (paper 2.2: the mask is downsampled to the layer).

    Args:
        mask: (n, height, width), 0..1.
        grid: (h, w) of the feature map.

    Returns:
        (n, h, w), 0..1.

    Examples:
        >>> resize_mask(torch.tensor([[[1.0, 0, 0, 0], [1, 0, 0, 0]]]), (1, 2)).tolist()
        [[[0.5, 0.0]]]
    """
    return F.interpolate(mask[:, None], size=grid, mode="area")[:, 0]
