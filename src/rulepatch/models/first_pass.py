"""Checks in the first forward passes of a network: input layout, meaning of the output, irregularities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from rulepatch.errors import ModelError, warn
from rulepatch.forward import inference, run
from rulepatch.models.outputs import End, unboxed

__all__ = ["FirstPass", "first_pass"]

_ENDS: dict[str, End] = {"_softmax": "softmax", "softmax": "softmax", "sigmoid": "sigmoid", "sigmoid_": "sigmoid"}
_THE_SAME = {
    "_reshape_alias", "_to_copy", "_unsafe_view", "alias", "clone", "contiguous", "detach", "expand", "permute",
    "reshape", "select", "slice", "squeeze", "t", "transpose", "unsqueeze", "view",
}  # fmt: skip
"""Operators that keep values."""


@dataclass(frozen=True)
class FirstPass:
    """Properties found in the first forward passes.

    Attributes:
        layout: of the input: channels_last, in which convolutions are up to twice as fast on a CPU, where the network
            runs with it and gives the same.
        end: final transform of the logits.
    """

    layout: torch.memory_format = torch.contiguous_format
    end: End = "logits"


def first_pass(module: nn.Module, inputs: Tensor, classes: Sequence[str], name: str) -> FirstPass:
    """Run a network three times, and warn of irregularities.

    Nothing is raised: what is wrong shows again, with the sentence that belongs there, when images come.

    Args:
        module: the network.
        inputs: two images that differ in kind, (2, …).
        classes: their names.
        name: of the network, for messages.

    Returns:
        The properties; defaults for a network on the meta device.
    """
    if inputs.is_meta:
        return FirstPass()
    first = inputs[:1]

    def table(pictures: Tensor) -> Tensor | None:
        try:
            return unboxed(run(module, pictures), len(classes), name).cpu().double()
        except ModelError:
            return None

    before = _versions(module)
    with inference(module):
        with _Makers() as makers:
            both = table(inputs)
        last = table(first.contiguous(memory_format=torch.channels_last))
        if not _agree(both, last, 1e-3):  # then find out why
            alone, again = table(first), table(first)
            _warn_of_moods(both, alone, again, name)
            last = last if _agree(last, alone, 5e-2) else None
    found = last if both is None else both
    end: End = "logits" if found is None else _end_of(makers, found)
    if found is not None:
        _warn_of_the_end(module, found, end, classes, name)
    if changed := [path for path, version in _versions(module).items() if before.get(path) != version]:
        warn(
            f"expected {name} to stay as it is but every pass changes its {', '.join(changed[:3])}, so that an edit of "
            "it will not fit it afterwards; keep its forward from writing there"
        )
    return FirstPass(torch.contiguous_format if last is None else torch.channels_last, end)


def _agree(some: Tensor | None, others: Tensor | None, tolerance: float) -> bool:
    """Whether two passes gave the same for the first image, up to rounding."""
    if some is None or others is None:
        return False
    largest = float(some[:1].abs().nan_to_num(0, 0, 0).max())
    return torch.allclose(some[:1], others[:1], rtol=0, atol=tolerance * largest, equal_nan=True)


def _warn_of_moods(both: Tensor | None, alone: Tensor | None, again: Tensor | None, name: str) -> None:
    """Warn of a network that gives an image other logits each time, or beside other images."""
    if alone is None or again is None:
        return
    if not _agree(alone, again, 1e-3):
        warn(
            f"expected {name} to give an image the same logits each time but two passes differ, so that nothing "
            "measured of it can be repeated; look for noise in its forward, such as dropout that is never switched off"
        )
    elif both is not None and not _agree(both, alone, 5e-2):
        warn(
            f"expected {name} to judge each image by itself but its logits depend on the other images of the "
            "batch; look for a batch norm that stays in training mode, or a softmax over the batch"
        )


def _warn_of_the_end(module: nn.Module, found: Tensor, end: End, classes: Sequence[str], name: str) -> None:
    """Warn if a network's output is not a matrix of finite logits."""
    several = getattr(getattr(module, "config", None), "problem_type", None) == "multi_label_classification"
    if not bool(found.isfinite().all()):
        warn(
            f"expected finite logits but {name} gives NaN or infinity for an image of noise, so that its predictions "
            "mean nothing; check its weights and its type"
        )
    if len(classes) == 2 and found.shape[1] == 1:
        warn(
            f"expected {name} to return one logit for each of its 2 classes but it returns one number; it is taken as "
            f"that of {classes[1]} against {classes[0]}"
        )
    elif end == "sigmoid" or several:
        warn(
            f"expected logits of classes of which an image has one but {name} "
            f"{'ends in a sigmoid' if end == 'sigmoid' else 'was trained for several labels an image'}; "
            "the class with the highest is taken as its answer, which is no accuracy if images have several labels"
        )
    elif end == "softmax":
        warn(
            f"expected logits but {name} ends in a softmax; their logarithms are taken as logits, so that confidences "
            "are its own"
        )


def _end_of(makers: "_Makers", found: Tensor) -> End:
    """Final transform of the logits, from the network's last operation, or else from the values."""
    if (end := _ENDS.get(makers.of(found), "logits")) != "logits":
        return end
    shares = bool((found >= 0).all()) and bool((found.sum(dim=1) - 1).abs().max() < 1e-3)
    return "softmax" if shares and found.shape[1] > 1 else "logits"


class _Makers(TorchDispatchMode):
    """Remembers which operation made each tensor; use as a context manager around a forward pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._of: dict[int, tuple[str, Any]] = {}
        self._alive: list[Tensor] = []  # so that every id() is its own

    def of(self, tensor: Tensor) -> str:
        """Name of the operation that gave a tensor its numbers; that of a softmax over images counts as none."""
        while id(tensor) in self._of:
            name, args = self._of[id(tensor)]
            if name not in _THE_SAME:
                return "" if name in {"_softmax", "softmax"} and args[1] % args[0].ndim == 0 else name
            tensor = args[0]
        return ""

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self._alive.append(result)
            self._of[id(result)] = (func.overloadpacket.__name__, args)
        return result


def _versions(module: nn.Module) -> dict[str, tuple[int, int]]:
    """Where each tensor of a network's state lies, and how often it was written to."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        path: (tensor.data_ptr(), tensor._version)
        for path, tensor in tensors.items()
        if not is_lazy(tensor) and not tensor.is_inference()
    }
