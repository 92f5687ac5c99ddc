"""Where the positions of a tensor lie in the picture: of feature maps, tokens, windows.

A convolution's output is a grid over the picture. Tokens are a grid that was flattened, joined by class and register
tokens, perhaps cut into windows, rolled, or merged by twos. The trace knows how: the numbers of the grid's cells are
sent through the very operations that moved the tokens.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rulepatch.core import linalg
from rulepatch.core.trace import CHANNEL_NORMS, MATRIX_PRODUCTS, Ref, Step, Trace, kind_of, name_of

__all__ = ["PlaceFinder", "Places"]

_NOWHERE = -1

# What moves numbers without changing them, apart from pads and copies, whose new numbers have no place.
_MOVES = {
    "_unsafe_view", "alias", "cat", "clone", "contiguous", "detach", "expand", "flip", "index_select", "narrow",
    "permute", "reshape", "roll", "select", "slice", "split", "split_with_sizes", "squeeze", "stack", "t", "transpose",
    "unbind", "unsqueeze", "view", "view_as",
}  # fmt: skip
_PADS = {"constant_pad_nd", "pad"}
_ATTENTION = {
    "_scaled_dot_product_attention_math", "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable",
    "scaled_dot_product_attention",
}  # fmt: skip
_IN_PLACE = {"_safe_softmax", "_softmax", "_to_copy", "native_dropout", "softmax"} | CHANNEL_NORMS
"""What gives a number for a number, at the same place, beside what acts channel by channel."""


@dataclass(frozen=True)
class Places:
    """Where the positions of a tensor lie in the picture.

    Attributes:
        grid: (h, w), the cells that the picture is divided into.
        cells: for each position of one picture, in the tensor's order, the number of its cell; -1 for a position that
            has none, as a class or register token.
        leading: how many entries of the tensor's first axis belong to one picture: 1, or its number of windows.
    """

    grid: tuple[int, int]
    cells: tuple[int, ...]
    leading: int = 1

    @classmethod
    def of_map(cls, height: int, width: int) -> Self:
        """Those of a feature map, (…, h, w).

        Returns:
            Each position in a cell of its own.
        """
        return cls((height, width), tuple(range(height * width)))

    @cached_property
    def real(self) -> Tensor:
        """Which positions lie in the picture, (p,), bool."""
        return torch.tensor(self.cells) != _NOWHERE

    @property
    def apart(self) -> int:
        """How many positions do not."""
        return len(self.cells) - int(self.real.sum())

    def weights(self, masks: Tensor, *, smallest: float) -> Tensor:
        """Share of a mask at each position; positions outside of the picture have none.

        Args:
            masks: (n, height, width), 0..1.
            smallest: share, relative to the largest, below which it is zero.

        Returns:
            (n, p), float64, 0..1.
        """
        shares = linalg.resize_mask(masks.double().cpu(), self.grid).flatten(1)
        shares = torch.where(shares > smallest * shares.max(), shares, 0)
        shares = torch.cat([shares, shares.new_zeros(len(shares), 1)], dim=1)  # -1 is the last
        return shares[:, list(self.cells)].to(masks.device)

    def lay_out(self, scores: Tensor) -> Tensor:
        """Lay numbers of positions over the picture; where no position lies, and for those without a place: the lowest.

        Args:
            scores: (n, p).

        Returns:
            (n, h, w); of several positions in one cell the highest counts.
        """
        cells = torch.tensor(self.cells, device=scores.device)[self.real.to(scores.device)]
        lowest = scores.amin(dim=1, keepdim=True).expand(-1, math.prod(self.grid)).clone()
        kept = scores[:, self.real.to(scores.device)]
        return lowest.scatter_reduce(1, cells.expand_as(kept), kept, "amax").unflatten(1, self.grid)


@dataclass(frozen=True)
class _Numbered:
    """Cell of every number of a tensor, and the grid that they are cells of."""

    cells: Tensor
    grid: tuple[int, int]


class PlaceFinder:
    """Finds where positions of a traced pass's tensors lie, each tensor once.

    Args:
        traced: a forward pass of one image.
    """

    def __init__(self, traced: Trace) -> None:
        self._trace = traced
        self._makers: dict[int, tuple[Step, int]] = {}
        for step in traced.steps:
            for index, number in enumerate([*step.writes, *(new for _, new in step.mutates)]):
                self._makers.setdefault(number, (step, index))
        self._known: dict[int, _Numbered | None] = {}

    def places(self, number: int, channel_axis: int) -> Places | None:
        """Where the positions of a tensor lie.

        Args:
            number: of the tensor.
            channel_axis: which of its axes holds the channels.

        Returns:
            The places; None if the tensor's positions cannot be laid over the picture.
        """
        found, shape = self._find(number), self._trace.shapes[number]
        if found is None and len(shape) == 4 and channel_axis == 1 and shape[0] == 1:
            return Places.of_map(shape[2], shape[3])  # a map, however it was made
        if found is None:
            return None
        moved = _Numbered(found.cells.movedim(channel_axis, -1), found.grid)
        one = _collapsed(moved)
        if one is None or len(one.cells) == 0:
            return None
        cells = one.cells[..., 0]
        return Places(one.grid, tuple(cells.flatten().tolist()), leading=len(cells))

    def _find(self, number: int) -> _Numbered | None:
        """Look back from a tensor to the grid that it was made of; without recursion, as networks are deep."""
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
        """The tensors that must be known first."""
        if number not in self._makers or self._is_map(number):
            return ()
        step, _ = self._makers[number]
        return step.reads

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
            return _Numbered(torch.arange(math.prod(grid)).reshape(1, 1, *grid).expand(shape), grid)
        if number not in self._makers:
            return None
        step, index = self._makers[number]
        known = {each: found for each in step.reads if (found := self._known[each]) is not None}
        if not known:
            return None
        name = name_of(step)
        if name in _MOVES or name in _PADS:
            return self._replayed(step, index, known)
        if name in MATRIX_PRODUCTS:
            first = step.reads[1] if name in {"addmm", "baddbmm"} else step.reads[0]
            return _spread(_collapsed(known.get(first)), shape)
        if name in _ATTENTION:
            return _spread(_collapsed(known.get(step.reads[0])), shape) if index == 0 else None
        if kind_of(step) in {"affine", "elementwise"} or name in _IN_PLACE:
            same = [found for found in known.values() if tuple(found.cells.shape) == shape]
            return max(same, key=lambda found: math.prod(found.grid), default=None)
        return None

    def _replayed(self, step: Step, index: int, known: Mapping[int, _Numbered]) -> _Numbered | None:
        """Move the cells' numbers as the step moved the tensor's."""
        grids = {found.grid for found in known.values()}
        if len(grids) != 1 or step.mutates:
            return None

        def cells(argument: Any) -> Any:
            if not isinstance(argument, Ref):
                return argument
            if argument.number in known:
                return known[argument.number].cells
            return torch.full((1,), _NOWHERE).expand(self._trace.shapes[argument.number])

        args, kwargs = tree_map(cells, step.arguments)
        if name_of(step) in _PADS:
            args, kwargs = args[:2], {"value": _NOWHERE}
        operator: Callable[..., Any] = step.operator.overloadpacket if name_of(step) in _PADS else step.operator
        try:
            moved = operator(*args, **kwargs)
        except RuntimeError:  # a view of numbers that lie elsewhere in memory than the tensor's own
            moved = torch.reshape(*args, **kwargs)
        found = moved if isinstance(moved, Tensor) else moved[index]
        return _Numbered(found, grids.pop())


def _collapsed(found: _Numbered | None) -> _Numbered | None:
    """One cell for each position: where the channels of a position come from a square of cells, that square.

    Args:
        found: cells with the channels on the last axis.

    Returns:
        Cells with one channel, of the grid of these squares; None if the channels come from anything else.
    """
    if found is None or found.cells.ndim == 0:
        return None
    height, width = found.grid
    cells = found.cells
    if cells.stride(-1) == 0 or cells.shape[-1] == 1:
        return _Numbered(cells[..., :1], found.grid)
    low, high = cells.aminmax(dim=-1, keepdim=True)
    if bool((low == high).all()):
        return _Numbered(low, found.grid)
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
    return _Numbered(torch.where(real, merged, _NOWHERE), grid)


def _spread(found: _Numbered | None, shape: tuple[int, ...]) -> _Numbered | None:
    """The same places for a tensor with other channels on its last axis."""
    if found is None or tuple(found.cells.shape[:-1]) != shape[:-1]:
        return None
    return _Numbered(found.cells.expand(shape), found.grid)
