"""Value points: the operations that follow a layer in its block, and the end of the block (paper 2.2, A.1).

From a layer's output the trace is followed through the operations of a block: batch norm, activation, layer scale,
residual sum and pool act channel by channel; layer norm and gates (such as squeeze and excitation) mix channels but
keep the feature map. Any other operation belongs to another block.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rulepatch.errors import SiteError, nearest
from rulepatch.tracing.trace import CHANNEL_NORMS, Call, Step, Trace, kind_of, name_of

__all__ = ["ValuePoint", "find_value_point"]


@dataclass(frozen=True)
class _Value:
    """A tensor of a block: its channels' axis, and whether a number depends on one channel of the layer alone."""

    axis: int
    exact: bool


@dataclass(frozen=True)
class ValuePoint:
    """The module whose output is matched.

    Attributes:
        path: dotted path.
        number: of the tensor that it returns.
        axis: which axis of that tensor holds the channels.
        exact: whether all operations between the layer and it act channel by channel.
    """

    path: str
    number: int
    axis: int
    exact: bool


def find_value_point(traced: Trace, layer: str, axis: int, path: str | None = None) -> ValuePoint:
    """The module that returns the last tensor of a layer's block, or a given one.

    Args:
        traced: a forward pass of one image.
        layer: dotted path of the layer; it is called once.
        axis: which axis of the layer's output holds the channels.
        path: of the module whose output is matched; found from the trace if None.

    Raises:
        SiteError: the given module is not called after the layer.
    """
    own = traced.calls[traced.calls_of(layer)[0]]
    values = _follow_block(traced, own, axis)
    if path is None:
        number, call = max(_candidates(traced, own, values), key=lambda pair: _preference(traced, *pair))
    else:
        call = _first_after(traced, own, path)
        number = call.outputs[0]
    shape = traced.shapes[number]
    found = values.get(number, _Value(1 if len(shape) == 4 else len(shape) - 1, exact=False))
    return ValuePoint(call.path, number, found.axis, found.exact)


def _follow_block(traced: Trace, own: Call, axis: int) -> dict[int, _Value]:
    """Every tensor of a layer's block: its output and what the block computes from it.

    Args:
        traced: a forward pass of one image.
        own: the layer's call.
        axis: which axis of its output holds the channels.

    Returns:
        For each tensor's number the axis of its channels, and whether it is exact.
    """
    values, mixed = {own.outputs[0]: _Value(axis, exact=True)}, set[int]()
    for step in traced.steps[own.last_step :]:
        results = [*step.writes, *(new for _, new in step.mutates)]
        if values.keys().isdisjoint(step.reads) and mixed.isdisjoint(step.reads):
            continue
        after = _after(step, traced, values, mixed)
        if after is None:
            mixed.update(results)
        else:  # norms return the mean and standard deviation as well
            values |= dict.fromkeys(results[:1] if name_of(step) in CHANNEL_NORMS else results, after)
            mixed.update(results[1:] if name_of(step) in CHANNEL_NORMS else ())
    return values


def _after(step: Step, traced: Trace, values: Mapping[int, _Value], mixed: set[int]) -> _Value | None:
    """The value that a step computes; None if the block ends there."""
    kind = kind_of(step)
    moving = [values[number] for number in step.reads if number in values]
    if not moving or any(each.axis != moving[0].axis for each in moving):
        return None
    value = _Value(moving[0].axis, all(each.exact for each in moving))
    first = next(number for number in step.reads if number in values)
    before = traced.shapes[first]
    after = traced.shapes[step.writes[0]] if step.writes else before
    if name_of(step) in CHANNEL_NORMS:
        return _Value(value.axis, exact=False) if step.reads[0] == first else None
    if kind == "layout":
        axis = _moved_axis(step, value.axis, before, after)
        return None if axis is None else _Value(axis, value.exact)
    if kind == "pool":  # global pooling ends the feature map and is no part of a block
        return value if value.axis == 1 and any(size > 1 for size in after[2:]) else None
    if kind == "mixing" or after != before:
        return None
    scales = name_of(step).startswith(("mul", "div"))
    if not mixed.isdisjoint(step.reads):
        return _Value(value.axis, exact=False) if scales else None  # a gate that depends on all channels
    constants = [traced.shapes[number] for number in step.reads if number not in values]
    if scales and any(math.prod(shape) not in {1, before[value.axis]} for shape in constants):
        return _Value(value.axis, exact=False)  # one value for each position: a gate, not a scale
    return value


def _moved_axis(step: Step, axis: int, before: Sequence[int], after: Sequence[int]) -> int | None:
    """Position of an axis after a step that only reorders numbers.

    Args:
        step: of kind "layout".
        axis: the axis.
        before: shape of the tensor read.
        after: shape of the tensor made.

    Returns:
        The axis, or None if it was merged with another or split.
    """
    name, ndim = name_of(step), len(before)
    if name == "permute":
        return [dim % ndim for dim in step.arguments[0][1]].index(axis)
    if name in {"transpose", "t"}:
        first, second = (0, 1) if name == "t" else (dim % ndim for dim in step.arguments[0][1:3])
        return {first: second, second: first}.get(axis, axis)
    if name in {"view", "_unsafe_view", "reshape"}:
        leading = math.prod(before[:axis])
        kept = [i for i in range(len(after)) if math.prod(after[:i]) == leading and after[i] == before[axis]]
        return kept[-1] if kept else None
    return axis


def _candidates(traced: Trace, own: Call, values: Mapping[int, _Value]) -> Iterator[tuple[int, Call]]:
    """Candidate calls for the value point: the layer, its siblings and ancestors that return values of its block.

    A module that returns named results is a whole network, not a block.

    Yields:
        Number of the tensor, and the call.
    """
    for call in traced.calls:
        sibling = call.parent == own.parent
        ancestor = own.path.startswith(f"{call.path}.")
        if call.path and (sibling or ancestor) and call.last_step >= own.last_step and not _is_record(call):
            for number in call.outputs[:1]:
                if number in values:
                    yield number, call


def _is_record(call: Call) -> bool:
    return isinstance(call.result, Mapping)


def _preference(traced: Trace, number: int, call: Call) -> tuple[int, bool, bool, int]:
    """The last tensor of the block; of the modules that return it, the innermost that made it, called once."""
    index = traced.calls.index(call)
    made_it = index in traced.makers_of(number)
    return number, made_it, len(traced.calls_of(call.path)) == 1, index


def _first_after(traced: Trace, own: Call, path: str) -> Call:
    for index in traced.calls_of(path):
        call = traced.calls[index]
        if call.last_step >= own.last_step and call.outputs:
            return call
    raise SiteError(
        f"expected a value point that is reached after {own.path} but got {path!r}; the nearest modules are "
        + nearest(path, [call.path for call in traced.calls if call.path and call.last_step >= own.last_step])
    )
