"""Recording activations of a forward pass, and resuming it at a site. The only file that registers hooks.

Everything here restores the model: no hook, stub, training flag or gradient is left behind, also after exceptions.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from rulepatch.errors import SiteError
from rulepatch.forward import inference, run
from rulepatch.tracing import tails
from rulepatch.tracing.trace import Recorder, Route, Trace

__all__ = [
    "Recording",
    "around_passes",
    "checkpoint",
    "inference",
    "input_of",
    "inputs_of",
    "not_around_passes",
    "outputs_of",
    "record",
    "run_suffix",
    "trace",
]


MOST_HELD = 512 << 20
"""Bytes of the inputs of sites that are held at a time."""


class _Stop(BaseException):
    """Ends a forward pass early; a `BaseException`, so that `except Exception` in a model does not catch it."""


@contextmanager
def _hooked(handles: Callable[[], Iterator[RemovableHandle]]) -> Iterator[None]:
    with ExitStack() as stack:
        for handle in handles():
            stack.callback(handle.remove)
        yield


def around_passes(model: nn.Module, before: Callable[..., Any], after: Callable[..., Any]) -> None:
    """Call functions before and after each pass of a model.

    Args:
        model: any module.
        before: of the model, its positional arguments and its named ones; it may return others.
        after: of the same and the output; it may return another.
    """
    model.register_forward_pre_hook(before, with_kwargs=True)
    model.register_forward_hook(after, with_kwargs=True)


def not_around_passes(model: nn.Module, before: Callable[..., Any], after: Callable[..., Any]) -> None:
    """Call them no more, if they are called."""
    tables = (
        (model._forward_pre_hooks, before, model._forward_pre_hooks_with_kwargs),
        (
            model._forward_hooks,
            after,
            model._forward_hooks_with_kwargs,
        ),
    )
    for hooks, own, named in tables:
        for number in [number for number, hook in hooks.items() if hook == own]:
            named.pop(number, None)
            del hooks[number]


def _first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any], path: str) -> Tensor:
    for value in tree_leaves((args, kwargs)):
        if isinstance(value, Tensor):
            return value
    raise SiteError(f"expected {path} to be called with a tensor but it was called with none; choose another site")


def _keys(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], path: str) -> Tensor:
    """Input activations of a site, cast to the dtype of its weight: autocast may have changed it."""
    found, weight = _first_tensor(args, kwargs, path), getattr(module, "weight", None)
    both = isinstance(weight, Tensor) and weight.is_floating_point() and found.is_floating_point()
    return found.to(weight.dtype) if both and isinstance(weight, Tensor) else found


def inputs_of(model: nn.Module, inputs: Tensor, sites: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    """Run the model up to the last of some sites, and give each site's input.

    Half a gibibyte of them is held at a time; where that is full, the pass ends, and another gives those that follow.

    Args:
        model: any module.
        inputs: the model's input, (n, …).
        sites: dotted paths.

    Yields:
        Each site and its input at its first call, in the order of the calls.

    Raises:
        SiteError: the forward pass ended before every site was called.

    Examples:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
        >>> [(path, tuple(keys.shape)) for path, keys in inputs_of(model, torch.ones(5, 2), ["1"])]
        [('1', (5, 3))]
    """
    waiting = set(sites)
    while waiting:
        found = _first_inputs(model, inputs, waiting)
        waiting -= found.keys()
        yield from found.items()


def _first_inputs(model: nn.Module, inputs: Tensor, sites: Collection[str]) -> dict[str, Tensor]:
    """Inputs of the first of some sites to be called, at least one, as many as may be held."""
    found: dict[str, Tensor] = {}

    def hook_of(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if path in found:
                return
            found[path] = _keys(module, args, kwargs, path)
            if len(found) == len(sites) or sum(keys.nbytes for keys in found.values()) >= MOST_HELD:
                raise _Stop
            found[path] = found[path].clone()  # a later operation may overwrite it

        return hook

    def handles() -> Iterator[RemovableHandle]:
        for path in sites:
            yield model.get_submodule(path).register_forward_pre_hook(hook_of(path), with_kwargs=True)

    with inference(model), _hooked(handles):
        try:
            run(model, inputs)
        except _Stop:
            return found
    missing = ", ".join(sorted(set(sites) - found.keys()))
    raise SiteError(f"expected the model to call {missing} but it never did; choose another site")


def input_of(model: nn.Module, inputs: Tensor, site: str) -> Tensor:
    """Input activations of a site.

    Args:
        model: any module; it is run up to the site.
        inputs: the model's input, (n, …).
        site: dotted path.

    Returns:
        The site's input, (n, …).

    Raises:
        SiteError: the model does not call the site.
    """
    ((_, keys),) = inputs_of(model, inputs, [site])
    return keys


@contextmanager
def _calls_reported(model: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Report every call of every submodule to a recorder."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder.enter(names[module], (args, kwargs))

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        recorder.leave(output)

    # scripted modules accept no hooks; their operations are attributed to the parent
    names = {module: name for name, module in model.named_modules() if not isinstance(module, torch.jit.ScriptModule)}

    def handles() -> Iterator[RemovableHandle]:
        for module in names:
            yield module.register_forward_pre_hook(before, with_kwargs=True)
            yield module.register_forward_hook(after)

    with _hooked(handles), recorder:
        yield


def trace(model: nn.Module, inputs: Tensor) -> Trace:
    """Run the model once and record every tensor operation and every call of a submodule.

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
    """Recording of a site in one forward pass.

    Attributes:
        keys: the site's input.
        output: the site's own output, before anything that follows it in its block.
        values: the output of the value point.
        route: the function from `output` to `values`, with all other tensors fixed to those of this pass.
    """

    keys: Tensor
    output: Tensor
    values: Tensor
    route: Route


def record(model: nn.Module, inputs: Tensor, points: Mapping[str, str]) -> dict[str, Recording]:
    """Run the model up to some value points and record the operations between each site and its own.

    Args:
        model: any module.
        inputs: the model's input, (n, …).
        points: for the dotted path of each site, a module whose weight is to be edited, that of its value point, the
            module whose first output after the site is the value.

    Returns:
        A recording for each site; its route replays the network's operations and is differentiable. The activations of
        everything from the first site on are held in memory at once.

    Raises:
        SiteError: a value point is not called after its site, or does not depend on it, or the operations between
            cannot be replayed.
    """
    recorder = Recorder(active=False)
    seen: dict[str, dict[str, Any]] = {site: {} for site in points}
    waiting = set(points)

    def enter(site: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if site in waiting:
            with recorder.paused():
                seen[site]["keys"] = _keys(module, args, kwargs, site).clone()

    def leave(site: str, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if site in waiting:
            with recorder.paused():
                seen[site]["output"] = output.clone()
            recorder.active = True
            seen[site]["source"] = recorder.number_of(output)

    def arrive(site: str, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if site in waiting and "source" in seen[site]:
            value = _first_tensor([output], {}, points[site])
            with recorder.paused():
                seen[site]["values"] = value.clone()
            seen[site]["target"] = recorder.number_of(value)
            waiting.remove(site)
            if not waiting:
                raise _Stop

    def handles() -> Iterator[RemovableHandle]:
        for site in points:
            yield model.get_submodule(site).register_forward_pre_hook(partial(enter, site), with_kwargs=True)
            yield model.get_submodule(site).register_forward_hook(partial(leave, site))
        for site, value_point in points.items():
            yield model.get_submodule(value_point).register_forward_hook(partial(arrive, site))

    with inference(model), _hooked(handles), recorder, suppress(_Stop):
        run(model, inputs)
    with inference(model):
        return {site: _recording(recorder, site, points[site], found) for site, found in seen.items()}


def _recording(recorder: Recorder, site: str, value_point: str, seen: Mapping[str, Any]) -> Recording:
    if "values" not in seen:
        raise SiteError(
            f"expected the model to call {value_point} after {site} but it never did; choose another value point"
        )
    route = recorder.route(seen["source"], seen["target"])
    if route is None or not torch.allclose(route(seen["output"]), seen["values"], equal_nan=True):
        raise SiteError(
            f"expected what follows {site} to lead to {value_point} but it cannot be followed there; "
            "choose another value point"
        )
    return Recording(seen["keys"], seen["output"], seen["values"], route)


def outputs_of(
    model: nn.Module, inputs: Tensor, points: Mapping[str, str], *, gradients: bool = False
) -> dict[str, Tensor]:
    """Outputs of value points after their sites were called, from one forward pass.

    Args:
        model: any module; it is run to the end.
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
                found[site] = _first_tensor([output], {}, points[site]).clone()  # a later operation may overwrite it

        return arrive

    with inference(model, gradients=gradients), _hooked(handles):
        run(model, inputs)
    return found


def checkpoint(model: nn.Module, plans: Sequence[tails.TailPlan], inputs: Tensor) -> tuple[Any, list[tails.Checkpoint]]:
    """Run the model once and cache what is needed to resume it at the site of each plan.

    Args:
        model: the model that was traced.
        plans: plans for the sites.
        inputs: the model's input, (n, …).

    Returns:
        The model's output, and a checkpoint for each plan.

    Raises:
        SiteError: an edit in the model makes it run twice.
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
                kept[path, seen[path]] = tails.copied(output)
            seen[path] += 1

        return hook

    def handles() -> Iterator[RemovableHandle]:
        for path in {"", *(path for path, _ in wanted)}:
            yield model.get_submodule(path).register_forward_hook(hook_of(path))

    with inference(model), _hooked(handles):
        output = run(model, inputs)
    if wanted and seen[""] > 1:
        raise SiteError("expected a network without a minimum in it, which runs it twice; compose edits of its base")
    return output, [tails.checkpoint_of(plan, kept, inputs) for plan in plans]


def run_suffix(model: nn.Module, plan: tails.TailPlan, start: tails.Checkpoint, *, gradients: bool = False) -> Any:
    """Run the rest of the model from the plan's site on.

    Args:
        model: the model, optionally with an edit at the site or after it.
        plan: plan for the site.
        start: a checkpoint made with that plan.
        gradients: keep track of them.

    Returns:
        The model's output, bit-identical to that of a full pass.
    """
    answers: dict[str, list[Any]] = {}
    for call, result in zip(plan.calls, start.results, strict=True):
        answers.setdefault(call.path, []).append(result)
    remaining: dict[str, Iterator[Any]] = {}

    def begin(*_: Any) -> None:  # an edit may make the model run twice
        remaining.update({path: iter(results) for path, results in answers.items()})

    with inference(model, gradients=gradients), ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(begin).remove)
        for path in answers:
            stack.enter_context(_answering(model.get_submodule(path), path, remaining))
        return run(model, start.inputs)


@contextmanager
def _answering(module: nn.Module, path: str, remaining: Mapping[str, Iterator[Any]]) -> Iterator[None]:
    """Replace a module's first outputs in each pass by cached ones."""
    original, shadowed = module.forward, module.__dict__.get("forward")

    def forward(*args: Any, **kwargs: Any) -> Any:
        for result in remaining[path]:
            return tails.copied(result)  # the rest of the model may modify it in place
        return original(*args, **kwargs)

    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if shadowed is not None:
            module.__dict__["forward"] = shadowed
