"""Forward passes of networks that other people wrote: in evaluation mode, and with a sentence where they fail."""

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import _disable_current_modes

from rulepatch.errors import ModelError, RulepatchError, SettingError, reason_of

__all__ = ["device_named", "gradients", "inference", "run", "words_of"]


def device_named(name: str | torch.device | None) -> torch.device:
    """The device of a name; the CPU if None.

    Returns:
        The device; something was computed there to see that it can be, which on "meta" it cannot.

    Raises:
        SettingError: no such device here.

    Examples:
        >>> device_named(None)
        device(type='cpu')
        >>> device_named("meta")
        Traceback (most recent call last):
        rulepatch.errors.SettingError: expected a device that is here, such as cpu, but got 'meta' ...
    """
    try:
        device = torch.device(name or "cpu")
        torch.ones(1, device=device).add(1).item()
    except (AssertionError, RuntimeError, ValueError, OverflowError, ImportError) as error:  # torch has no type for it
        reason = str(error).partition("\n")[0]
        raise SettingError(f"expected a device that is here, such as cpu, but got {str(name)!r} ({reason})") from None
    return device


@contextmanager
def inference(model: nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """Run a block in evaluation mode and without gradients, then put every module's training flag back.

    Args:
        model: any module.
        gradients: keep them after all.

    Yields:
        Nothing.

    Examples:
        >>> model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2).eval())
        >>> with inference(model):
        ...     model[0].training
        False
        >>> model[0].training, model[1].training
        (True, False)
    """
    # frozen scripts have no such flag
    flags = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    if any(training for _, training in flags):  # setting an attribute of hundreds of modules takes long
        with suppress(NotImplementedError):  # of programs of torch.export, which stay as they were exported
            model.eval()
    try:
        with torch.set_grad_enabled(gradients), _eager():
            yield
    finally:
        for module, training in flags:
            if module.training != training:
                module.training = training


def _eager() -> AbstractContextManager[Any]:
    """Let compiled parts run as they were written: a compiled one need not heed hooks made later."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def run(model: nn.Module, inputs: Tensor) -> Any:
    """Run a network; every forward pass of rulepatch is made here.

    Args:
        model: any module that takes a batch of images, as its first argument or as one that has to be named.
        inputs: (n, …), on the model's device and in its type.

    Raises:
        ModelError: the network's own code raised something, or its layers have no weights yet.

    Examples:
        >>> tuple(run(nn.Flatten(), torch.zeros(1, 3, 4, 4)).shape)
        (1, 48)
        >>> run(nn.Linear(5, 2), torch.zeros(1, 4))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        rulepatch.errors.ModelError: expected a network that takes images of shape (1, 4), float32, but ...
    """
    for path, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise ModelError(
                f"expected a network with weights but its {path} gets its own in a first pass; run it once on a batch "
                "of images, then load its weights"
            )
        if parameter.is_meta and not inputs.is_meta:
            raise ModelError(
                f"expected a network with weights but its {path} is on the meta device, which holds no contents; "
                "load its weights first"
            )
    try:
        name = _named_argument(model)
        with _disable_current_modes():  # no part of what the network does
            inputs = inputs.clone()  # it may write into it
        return model(inputs) if name is None else model(**{name: inputs})
    except Exception as error:
        if isinstance(error, RulepatchError):
            raise
        raise ModelError(
            f"expected a network that takes images of {words_of(inputs)}, but {_layer_of(model, error)} raised "
            f"{_reason(error)}; {_advice(model, inputs, error)}"
        ) from error


def gradients(value: Tensor, leaves: Sequence[Tensor], *, allow_unused: bool = False) -> tuple[Tensor, ...]:
    """Gradients of a number that a network gave.

    Args:
        value: the number.
        leaves: what to differentiate by.
        allow_unused: return None for a leaf that the number does not depend on.

    Raises:
        ModelError: no gradients flow through the network.
    """
    try:
        return torch.autograd.grad(value, leaves, allow_unused=allow_unused)
    except RuntimeError as error:
        raise ModelError(
            f"expected a network that gradients flow through but they do not ({reason_of(error)}); take a method "
            "without gradients, such as rewrite, or keep no_grad, inference_mode and checkpointing out of its forward"
        ) from error


def words_of(inputs: Tensor) -> str:
    """Shape and type of a tensor, in words."""
    return f"shape {tuple(inputs.shape)}, {str(inputs.dtype).removeprefix('torch.')}"


def _named_argument(model: nn.Module) -> str | None:
    """Name of the argument that takes the images, where it cannot be given by its position."""
    if isinstance(model, torch.jit.ScriptModule):
        return None
    try:
        arguments = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(each.kind not in {each.KEYWORD_ONLY, each.VAR_KEYWORD} for each in arguments):
        return None
    names = [each.name for each in arguments if each.kind == each.KEYWORD_ONLY]
    required = [each.name for each in arguments if each.kind == each.KEYWORD_ONLY and each.default is each.empty]
    return next(iter(required or [name for name in names if name == "pixel_values"] or names), None)


def _layer_of(model: nn.Module, error: Exception) -> str:
    """The innermost module whose code raised an error, in words."""
    paths = {id(module): path for path, module in model.named_modules()}
    found, frame = "", error.__traceback__
    while frame is not None:
        found = paths.get(id(frame.tb_frame.f_locals.get("self")), found)
        frame = frame.tb_next
    return f"its {found} ({type(model.get_submodule(found)).__name__})" if found else type(model).__name__


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    if "TorchScript" in str(error):  # the cause comes last, after a trace of the script
        return lines[-1].strip()[:160]
    return reason_of(error) if lines else type(error).__name__


def _advice(model: nn.Module, inputs: Tensor, error: Exception) -> str:
    """What probably helps."""
    if "Guard failed" in str(error):
        return "it was exported for inputs of one shape: take the network that it was exported from"
    devices = {str(tensor.device) for tensor in (*model.parameters(), *model.buffers())}
    if len(devices) > 1:
        return f"its weights are on {' and '.join(sorted(devices))}: move the whole network to one device"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        return "it does not fit into the memory: use a smaller input size or another device"
    types = {str(tensor.dtype) for name, tensor in model.named_parameters() if tensor.is_floating_point()}
    if len(types) > 1 and "type" in str(error):
        return f"its weights are of types {' and '.join(sorted(types))}: convert the whole network, as by .float()"
    if any(word in str(error) for word in ("dtype", "scalar type", "Input type", "not implemented for")):
        return "convert the network to a type that its layers work with on this device, as by .float()"
    first = next((layer for layer in model.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is not None and inputs.ndim == 4 and "channels" in str(error) and first.in_channels != inputs.shape[1]:
        return f"its first convolution takes {first.in_channels} channels: give a preprocessing of as many"
    if isinstance(error, TypeError | KeyError | AttributeError) or "too many indices" in str(error):
        return "wrap it in a module whose forward takes a batch of images and nothing else"
    if any(word in str(error).lower() for word in ("size", "shape", "match", "dimension")):
        return "check the input size of its preprocessing"
    return "make sure that it runs on such an input by itself"
