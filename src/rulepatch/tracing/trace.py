"""Traces of forward passes: tensor operations and module calls, and the route from one tensor to another.

A `Recorder` (a `TorchDispatchMode`) numbers every tensor; an in-place operation gives its tensor a new number. It works
for any Python code, on any device, including the meta device.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from rulepatch.tracing.operators import CHANNEL_NORMS, COPIES, MATRIX_PRODUCTS, PRODUCTS, Ref, Step, kind_of, name_of

__all__ = [
    "CHANNEL_NORMS",
    "MATRIX_PRODUCTS",
    "Call",
    "Recorder",
    "Ref",
    "Route",
    "Step",
    "Trace",
    "kind_of",
    "name_of",
]


@dataclass(frozen=True)
class Call:
    """One call of a submodule.

    Attributes:
        path: dotted path of the module.
        occurrence: how often the module had been called before in this pass.
        parent: the enclosing call, as an index into the trace's calls; -1 for none.
        first_step: number of steps recorded when it began.
        last_step: number of steps recorded when it ended; -1 if it did not.
        inputs: numbers of its input tensors.
        outputs: numbers of its output tensors.
        result: its result; in a finished trace its tensors have shapes but no values.
    """

    path: str
    occurrence: int
    parent: int
    first_step: int
    inputs: tuple[int, ...]
    last_step: int = -1
    outputs: tuple[int, ...] = ()
    result: Any = None

    @property
    def is_opaque(self) -> bool:
        """Whether the result holds objects that may hide tensors."""
        plain = (Tensor, bool, int, float, str, type(None))
        return not all(isinstance(leaf, plain) for leaf in tree_leaves(self.result))


@dataclass(frozen=True)
class Route:
    """The function from one tensor of a trace to a later one, with all other tensors fixed.

    Calling it replays the recorded operations on a new tensor of the same shape; it is differentiable.

    Attributes:
        steps: the operations, in order.
        source: number of the first tensor.
        target: number of the last tensor.
        constants: every other tensor that the operations read.
    """

    steps: tuple[Step, ...]
    source: int
    target: int
    constants: Mapping[int, Tensor] = field(repr=False)

    def __call__(self, output: Tensor) -> Tensor:
        """Replay the operations from another source tensor.

        Returns:
            The target tensor; `output` itself is not modified.
        """
        known = dict(self.constants) | {self.source: output}
        for step in self.steps:
            for old, _ in step.mutates:
                known[old] = known[old].clone()
            args, kwargs = tree_map(lambda a: known[a.number] if isinstance(a, Ref) else a, step.arguments)
            result = step.operator(*args, **kwargs)
            known.update({new: known[old] for old, new in step.mutates})
            known.update(zip(step.writes, _tensors(result), strict=True))
        return known[self.target]

    def to(self, *, dtype: torch.dtype, device: torch.device | None = None) -> "Route":
        """The same route in another precision or on another device.

        Returns:
            A route with converted floating-point constants; its own dtype conversions are replaced as well.
        """

        def convert(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

        constants = {number: convert(tensor) for number, tensor in self.constants.items()}
        return replace(self, steps=tuple(_converted(step, dtype) for step in self.steps), constants=constants)

    def split(self) -> "tuple[Route, Route]":
        """Split the route after its leading elementwise affine operations.

        Returns:
            The affine part (batch norm, residual sum, …) up to the pre-activation, and the rest.
        """
        cut = next((i for i, step in enumerate(self.steps) if not self._is_affine(step)), len(self.steps))
        head, rest = self.steps[:cut], self.steps[cut:]
        if not rest:
            return self, Route((), self.target, self.target, {})
        middle = _last_write(head) if head else self.source
        if any(number != middle and number not in self.constants for number in _outside_reads(rest)):
            head, middle, rest = (), self.source, self.steps  # the rest reads earlier tensors: no split exists
        return self._piece(head, self.source, middle), self._piece(rest, middle, self.target)

    @property
    def is_elementwise(self) -> bool:
        """Whether the route is elementwise."""
        return not self.constants and all(kind_of(step) in {"affine", "elementwise"} for step in self.steps)

    def _piece(self, steps: "tuple[Step, ...]", source: int, target: int) -> "Route":
        read = {number for step in steps for number in step.reads}
        return Route(steps, source, target, {number: self.constants[number] for number in read & self.constants.keys()})

    def _is_affine(self, step: Step) -> bool:
        if kind_of(step) == "layout":
            return True
        moving = [number for number in step.reads if number not in self.constants]
        divides_by_it = name_of(step).startswith("div") and step.reads[:1] != tuple(moving)
        return kind_of(step) == "affine" and len(moving) == 1 and not divides_by_it


def _converted(step: Step, dtype: torch.dtype) -> Step:
    """A step whose conversion to a floating-point dtype (by autocast, say) is replaced by one to this dtype."""
    args, kwargs = step.arguments
    wanted = kwargs.get("dtype")
    if name_of(step) == "_to_copy" and wanted is not None and wanted.is_floating_point:
        return replace(step, arguments=(args, {**kwargs, "dtype": dtype}))
    return step


def _last_write(steps: tuple[Step, ...]) -> int:
    step = steps[-1]
    return step.mutates[0][1] if step.mutates else step.writes[0]


def _outside_reads(steps: tuple[Step, ...]) -> set[int]:
    written = {number for step in steps for number in (*step.writes, *(new for _, new in step.mutates))}
    return {number for step in steps for number in step.reads} - written


@dataclass(frozen=True)
class Trace:
    """Every operation and call of one forward pass.

    Attributes:
        steps: the operations, in order.
        calls: the module calls, in the order in which they began; the first is the model's own.
        shapes: shape of every numbered tensor.
        parameters: for each parameter's dotted path its number.
    """

    steps: tuple[Step, ...]
    calls: tuple[Call, ...]
    shapes: Mapping[int, tuple[int, ...]]
    parameters: Mapping[str, int] = field(default_factory=dict)

    @property
    def input_number(self) -> int:
        """Number of the model's input."""
        return self.calls[0].inputs[0]

    def calls_of(self, path: str) -> list[int]:
        """The indices of a module's calls."""
        return [index for index, call in enumerate(self.calls) if call.path == path]

    def makers_of(self, number: int) -> set[int]:
        """The calls within which a tensor was computed."""
        for step in reversed(self.steps):
            if step.call >= 0 and (number in step.writes or any(number == new for _, new in step.mutates)):
                return {step.call, *self._ancestors(step.call)}
        return set()

    def readers_of(self, parameter: str) -> list[str]:
        """The modules whose own code uses a parameter.

        Args:
            parameter: dotted path.

        Returns:
            Dotted paths, in order; "" for the model itself.
        """
        number = self.parameters.get(parameter)
        readers = [self.calls[step.call].path for step in self.steps if number in step.reads]
        return list(dict.fromkeys(readers))

    def multiplies(self, layer: str) -> bool:
        """Whether a layer uses its weight directly, without normalisation, standardisation or masking.

        Args:
            layer: dotted path of a module that is called once.
        """
        call = self.calls[self.calls_of(layer)[0]]
        own = {self.parameters[f"{layer}.weight"]}
        for step in self.steps[call.first_step : call.last_step]:
            if own.isdisjoint(step.reads):
                continue
            if kind_of(step) == "layout" or name_of(step) in COPIES:
                own.update(step.writes)
            elif name_of(step) not in PRODUCTS:
                return False
        return True

    def finished_before(self, site: str) -> tuple[Call, ...]:
        """The outermost calls that are complete when a module is first called.

        Returns:
            The calls, in order.
        """
        start = self.calls_of(site)[0]
        open_calls = set(self._ancestors(start))
        return tuple(
            call
            for index, call in enumerate(self.calls[:start])
            if index not in open_calls and call.parent in open_calls
        )

    def read_outside(self, calls: Iterable[Call]) -> set[int]:
        """Numbers of the tensors that code outside of some calls reads, or that the model returns."""
        inside = {id(call) for call in calls}
        hidden = [
            any(id(self.calls[index]) in inside for index in (i, *self._ancestors(i))) for i in range(len(self.calls))
        ]
        read = {number for step in self.steps if step.call < 0 or not hidden[step.call] for number in step.reads}
        return read | set(self.calls[0].outputs)

    def _ancestors(self, index: int) -> list[int]:
        found = []
        while (index := self.calls[index].parent) >= 0:
            found.append(index)
        return found


class Recorder(TorchDispatchMode):
    """Records operations while it is active; a context manager for a forward pass.

    Args:
        active: whether to record from the start.
    """

    def __init__(self, *, active: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.active = active
        self._steps: list[Step] = []
        self._calls: list[Call] = []
        self._open: list[int] = []
        self._occurrences: Counter[str] = Counter()
        self._numbers: dict[int, int] = {}
        self._seen: list[Tensor] = []  # by number; references keep every id() unique
        self._contents: dict[int, Tensor] = {}  # values of tensors before in-place operations

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context manager within which nothing is recorded."""
        active, self.active = self.active, False
        try:
            yield
        finally:
            self.active = active

    def number_of(self, tensor: Tensor) -> int:
        """The number of a tensor in its current state.

        Returns:
            A number; a new one for an unknown tensor.
        """
        if id(tensor) not in self._numbers:
            self._renumber(tensor)
        return self._numbers[id(tensor)]

    def _renumber(self, tensor: Tensor) -> int:
        self._numbers[id(tensor)] = len(self._seen)
        self._seen.append(tensor)
        return self._numbers[id(tensor)]

    def enter(self, path: str, inputs: Any) -> None:
        """Record the begin of a module call."""
        numbers = tuple(map(self.number_of, _tensors(inputs)))
        parent = self._open[-1] if self._open else -1
        self._open.append(len(self._calls))
        self._calls.append(Call(path, self._occurrences[path], parent, len(self._steps), numbers))
        self._occurrences[path] += 1

    def leave(self, result: Any) -> None:
        """Record the end of the innermost module call."""
        index = self._open.pop()
        outputs = tuple(map(self.number_of, _tensors(result)))
        self._calls[index] = replace(self._calls[index], last_step=len(self._steps), outputs=outputs, result=result)

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        arguments = tree_map(lambda a: Ref(self.number_of(a)) if isinstance(a, Tensor) else a, (args, kwargs))
        reads = tuple(map(self.number_of, _tensors((args, kwargs))))
        mutated = _mutated(func, args, kwargs)
        olds = [self.number_of(tensor) for tensor in mutated]
        for old, tensor in zip(olds, mutated, strict=True):
            self._contents[old] = tensor.clone()
        result = func(*args, **kwargs)
        news = [self._renumber(tensor) for tensor in mutated]
        writes = tuple(map(self.number_of, _tensors(result)))
        call = self._open[-1] if self._open else -1
        mutates = tuple(zip(olds, news, strict=True))
        self._steps.append(Step(func, arguments, reads, mutates, writes, call))
        return result

    def trace(self, parameters: Mapping[str, Tensor]) -> Trace:
        """The trace.

        Args:
            parameters: of the network, by dotted path.
        """
        numbers = {path: self.number_of(parameter) for path, parameter in parameters.items()}
        shapes = {number: tuple(tensor.shape) for number, tensor in enumerate(self._seen)}
        calls = tuple(replace(call, result=_without_contents(call.result)) for call in self._calls)
        return Trace(tuple(self._steps), calls, shapes, numbers)

    def route(self, source: int, target: int) -> Route | None:
        """The route from one tensor to another.

        Returns:
            The route, or None if the target does not depend on the source.
        """
        moving = {source}
        for step in self._steps:
            if moving.intersection(step.reads):
                moving.update(step.writes, (new for _, new in step.mutates))
        if target not in moving:
            return None
        wanted, steps = {target}, []
        for step in reversed(self._steps):
            results = {*step.writes, *(new for _, new in step.mutates)} - {old for old, _ in step.mutates}
            if wanted.intersection(results) and moving.intersection(step.reads) and source not in results:
                wanted.update(step.reads)
                steps.append(step)
        constants = {number: self._contents.get(number, self._seen[number]).detach() for number in wanted - moving}
        return Route(tuple(reversed(steps)), source, target, constants)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _without_contents(tree: Any) -> Any:
    return tree_map(lambda a: torch.empty_like(a, device="meta") if isinstance(a, Tensor) else a, tree)


def _mutated(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    if not func._schema.is_mutable:
        return []
    found: list[Tensor] = []
    for position, argument in enumerate(func._schema.arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.extend(_tensors(value))
    return found
