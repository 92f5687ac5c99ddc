"""Looking into a forward pass, and starting again in its middle. The only file that registers hooks.

Everything here leaves the model as it was found: no hook, stub, training flag or gradient stays behind, whether the
pass ends well or not.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from rulepatch.errors import SiteError
from rulepatch.forward import inference, run
from rulepatch.tracing.trace import Call, Recorder, Route, Trace

__all__ = [
    "Checkpoint",
    "Recording",
    "TailPlan",
    "checkpoint",
    "inference",
    "keys_at",
    "plan_tail",
    "read_keys",
    "record",
    "resume",
    "trace",
    "values_at",
]


class _Stop(BaseException):
    """Leaves a forward pass; no `except Exception` of a model's own code swallows it."""


@contextmanager
def _hooked(handles: Callable[[], Iterator[RemovableHandle]]) -> Iterator[None]:
    with ExitStack() as stack:
        for handle in handles():
            stack.callback(handle.remove)
        yield


def _first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any], path: str) -> Tensor:
    for value in tree_leaves((args, kwargs)):
        if isinstance(value, Tensor):
            return value
    raise SiteError(f"expected {path} to be called with a tensor but it was called with none; choose another site")


def _keys(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], path: str) -> Tensor:
    """What a site is called with, in the type of its weight: under autocast it may come in another."""
    found, weight = _first_tensor(args, kwargs, path), getattr(module, "weight", None)
    both = isinstance(weight, Tensor) and weight.is_floating_point() and found.is_floating_point()
    return found.to(weight.dtype) if both and isinstance(weight, Tensor) else found


def read_keys(model: nn.Module, inputs: Tensor, readers: Mapping[str, Callable[[Tensor], None]]) -> None:
    """Run the model as far as the last of some sites and hand each site's input to its reader on the way.

    Nothing is kept: a reader may add to its statistics and forget, so that all sites of a network cost no more memory
    than one.

    Args:
        model: any module.
        inputs: the model's input, (n, …).
        readers: for each site's dotted path, a function of the tensor that the site is called with.

    Raises:
        SiteError: the forward pass ended before every site was called.

    Examples:
        >>> model, shapes = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), []
        >>> read_keys(model, torch.ones(5, 2), {"1": lambda keys: shapes.append(tuple(keys.shape))})
        >>> shapes
        [(5, 3)]
    """
    waiting = set(readers)

    def hook_of(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            keys = _keys(module, args, kwargs, path)
            try:
                readers[path](keys)
            except Exception as error:  # ours, and none of the network's
                raise _Stop from error
            waiting.discard(path)
            if not waiting:
                raise _Stop

        return hook

    def handles() -> Iterator[RemovableHandle]:
        for path in readers:
            yield model.get_submodule(path).register_forward_pre_hook(hook_of(path), with_kwargs=True)

    with inference(model), _hooked(handles):
        try:
            run(model, inputs)
        except _Stop as stop:
            if stop.__cause__ is not None:
                raise stop.__cause__ from None
            return
    raise SiteError(f"expected the model to call {', '.join(sorted(waiting))} but it never did; choose another site")


def keys_at(model: nn.Module, inputs: Tensor, site: str) -> Tensor:
    """What a site is called with.

    Args:
        model: any module; it is run as far as the site.
        inputs: the model's input, (n, …).
        site: dotted path.

    Returns:
        The site's input, (n, …).

    Raises:
        SiteError: the model does not call the site.
    """
    seen: list[Tensor] = []
    read_keys(model, inputs, {site: seen.append})
    return seen[0]


@contextmanager
def _calls_reported(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Tell a recorder of every call of every submodule."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder.enter(names[module], (args, kwargs))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        recorder.leave(output)

    # scripted modules take no hooks; what they do counts as their parent's
    names = {module: name for name, module in model.named_modules() if not isinstance(module, torch.jit.ScriptModule)}

    def handles() -> Iterator[RemovableHandle]:
        for module in names:
            yield module.register_forward_pre_hook(before, with_kwargs=True)
            yield module.register_forward_hook(after)

    with _hooked(handles), recorder:
        yield


def trace(model: nn.Module, inputs: Tensor) -> Trace:
    """Run the model once and write down every tensor operation and every call of a submodule.

    Args:
        model: any module.
        inputs: the model's input, one image: (1, …). May be on the meta device if the model is.

    Raises:
        SiteError: the model is scripted.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise SiteError(
            "expected a network whose layers can be called one by one but got a scripted one; "
            "load the module that it was scripted from"
        )
    recorder = Recorder()
    with inference(model), _calls_reported(model, recorder):
        run(model, inputs)
    return recorder.trace(dict(model.named_parameters(remove_duplicate=False)))


@dataclass(frozen=True)
class Recording:
    """What a site saw and did in one forward pass.

    Attributes:
        keys: the site's input.
        output: the site's own output, before anything that follows it in its block.
        values: the output of the value point.
        route: from `output` to `values`, everything else held as it was in this pass.
    """

    keys: Tensor
    output: Tensor
    values: Tensor
    route: Route


def record(model: nn.Module, inputs: Tensor, site: str, value_point: str) -> Recording:
    """Run the model as far as a value point and keep what lies between the site and it.

    Args:
        model: any module.
        inputs: the model's input, (n, …).
        site: dotted path of the module whose weight is to be edited.
        value_point: dotted path of the module whose first output after the site is the value.

    Returns:
        The recording; its route repeats what the network did, and can be differentiated.

    Raises:
        SiteError: the value point is not called after the site, or does not depend on it, or what lies between cannot
            be repeated.
    """
    recorder, seen = Recorder(active=False), dict[str, Any]()

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["keys"] = _keys(module, args, kwargs, site).clone()

    def leave(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen["output"] = output.clone()
        recorder.active = True
        seen["source"] = recorder.number_of(output)

    def arrive(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if "source" in seen:
            seen["values"] = _first_tensor([output], {}, value_point).clone()
            seen["target"] = recorder.number_of(_first_tensor([output], {}, value_point))
            raise _Stop

    def handles() -> Iterator[RemovableHandle]:
        yield model.get_submodule(site).register_forward_pre_hook(enter, with_kwargs=True)
        yield model.get_submodule(site).register_forward_hook(leave)
        yield model.get_submodule(value_point).register_forward_hook(arrive)

    with inference(model), _hooked(handles), recorder:
        try:
            run(model, inputs)
        except _Stop:
            route = recorder.route(seen["source"], seen["target"])
            if route is None or not torch.allclose(route(seen["output"]), seen["values"], equal_nan=True):
                raise SiteError(
                    f"expected what follows {site} to lead to {value_point} but it cannot be followed there; "
                    "choose another value point"
                ) from None
            return Recording(seen["keys"], seen["output"], seen["values"], route)
    raise SiteError(
        f"expected the model to call {value_point} after {site} but it never did; choose another value point"
    )


def values_at(
    model: nn.Module, inputs: Tensor, points: Mapping[str, str], *, gradients: bool = False
) -> dict[str, Tensor]:
    """What some value points return, each after its site was called, from one forward pass.

    Args:
        model: any module; it is run to its end.
        inputs: the model's input, (n, …).
        points: for each site's dotted path that of its value point.
        gradients: keep track of them.

    Returns:
        For each site the value, (n, …).
    """
    called: set[str] = set()
    found: dict[str, Tensor] = {}

    def handles() -> Iterator[RemovableHandle]:
        for site, point in points.items():
            yield model.get_submodule(site).register_forward_hook(lambda *_, site=site: called.add(site))
            yield model.get_submodule(point).register_forward_hook(arrival(site))

    def arrival(site: str) -> Callable[..., None]:
        def arrive(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if site in called and site not in found:
                found[site] = _first_tensor([output], {}, points[site]).clone()  # it may be written into later

        return arrive

    with inference(model, gradients=gradients), _hooked(handles):
        run(model, inputs)
    return found


@dataclass(frozen=True)
class TailPlan:
    """How to start a model again at a site: which calls come before it, and which of their results the rest needs.

    Attributes:
        site: dotted path.
        calls: the calls that are over when the site begins and need not be repeated, in order.
        needed: for each of them, whether its result is read again at or after the site.
        input_needed: whether the model's own input is.
    """

    site: str
    calls: tuple[Call, ...]
    needed: tuple[bool, ...]
    input_needed: bool


@dataclass(frozen=True)
class Checkpoint:
    """What a forward pass had computed when it reached a site: enough to run the rest.

    Attributes:
        inputs: the model's input, or a placeholder of its shape if the rest does not read it.
        results: for each call of the plan its result, or placeholders of its shapes.
    """

    inputs: Tensor
    results: tuple[Any, ...]


def plan_tail(traced: Trace, site: str) -> TailPlan:
    """Find out from a trace what the rest of a model needs of what came before a site.

    Args:
        traced: a trace of the model, of one image.
        site: dotted path of a module that is called once.

    Returns:
        The plan, for `checkpoint` and `resume`.
    """
    finished = traced.finished_before(site)
    read = traced.read_outside(finished)
    needed = tuple(call.is_opaque or bool(read.intersection(call.outputs)) for call in finished)
    return TailPlan(site, finished, needed, traced.input_number in read)


def checkpoint(model: nn.Module, plans: Sequence[TailPlan], inputs: Tensor) -> tuple[Any, list[Checkpoint]]:
    """Run the model once and keep what is needed to run it again from the site of each of some plans on.

    Args:
        model: the model that was traced.
        plans: of the sites.
        inputs: the model's input, (n, …).

    Returns:
        The model's output, and a checkpoint for each plan.
    """
    wanted = {
        (call.path, call.occurrence)
        for plan in plans
        for call, needed in zip(plan.calls, plan.needed, strict=True)
        if needed
    }
    kept: dict[tuple[str, int], Any] = {}
    seen: Counter[str] = Counter()

    def hook_of(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if (path, seen[path]) in wanted:
                kept[path, seen[path]] = _copy(output)
            seen[path] += 1

        return hook

    def handles() -> Iterator[RemovableHandle]:
        for path in {path for path, _ in wanted}:
            yield model.get_submodule(path).register_forward_hook(hook_of(path))

    with inference(model), _hooked(handles):
        output = run(model, inputs)
    return output, [_checkpoint(plan, kept, inputs) for plan in plans]


def _checkpoint(plan: TailPlan, kept: Mapping[tuple[str, int], Any], inputs: Tensor) -> Checkpoint:
    results = [
        kept[call.path, call.occurrence] if needed else _placeholders(call, len(inputs))
        for call, needed in zip(plan.calls, plan.needed, strict=True)
    ]
    return Checkpoint(inputs if plan.input_needed else torch.empty_like(inputs, device="meta"), tuple(results))


def resume(model: nn.Module, plan: TailPlan, start: Checkpoint, *, gradients: bool = False) -> Any:
    """Run the rest of the model, from the plan's site on.

    Args:
        model: the model, perhaps with an edit applied at the site or after it.
        plan: of the site.
        start: a checkpoint made with that plan.
        gradients: keep track of them.

    Returns:
        The model's output, bit for bit what the whole pass gives.
    """
    answers: dict[str, list[Any]] = {}
    for call, result in zip(plan.calls, start.results, strict=True):
        answers.setdefault(call.path, []).append(result)
    with inference(model, gradients=gradients), ExitStack() as stack:
        for path, results in answers.items():
            stack.enter_context(_answering(model.get_submodule(path), results))
        return run(model, start.inputs)


@contextmanager
def _answering(module: nn.Module, results: Sequence[Any]) -> Iterator[None]:
    """Let a module's first calls return given results; further calls run as ever."""
    original, remaining = module.forward, iter(results)
    shadowed = module.__dict__.get("forward")

    def forward(*args: Any, **kwargs: Any) -> Any:
        for result in remaining:
            return _copy(result)  # the rest of the model may write into it
        return original(*args, **kwargs)

    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if shadowed is not None:
            module.__dict__["forward"] = shadowed


def _copy(result: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, result)


def _placeholders(call: Call, images: int) -> Any:
    """Tensors without contents, of the shapes that a call would return for more images than the one traced."""

    def placeholder(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            return leaf
        return torch.empty(leaf.shape[0] * images, *leaf.shape[1:], dtype=leaf.dtype, device="meta")

    return tree_map(placeholder, call.result)
