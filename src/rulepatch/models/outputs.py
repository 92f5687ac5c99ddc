"""Logits from a network's output: extraction from containers, and inversion of a final softmax or similar."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from rulepatch.errors import ModelError

__all__ = ["End", "as_logits", "minimum", "unboxed"]

End = Literal["logits", "softmax", "sigmoid"]
"""What a network does to its logits at the end. A log_softmax leaves them logits: its softmax is the same."""

_NAMES = ("logits", "out", "output", "outputs", "pred", "preds", "prediction", "predictions", "scores", "y", "y_hat")
"""Usual names of logits in outputs with several entries, in order of preference."""


def unboxed(output: Any, classes: int, name: str) -> Tensor:
    """The tensor of one number per class in a network's output.

    Args:
        output: a tensor, or a tuple, list, dictionary or dataclass (a `ModelOutput`, say) that holds it.
        classes: how many there are.
        name: of the network, for messages.

    Returns:
        (n, classes); or (n, 1) if there are two classes and the network returns one number for both.

    Raises:
        ModelError: there is no such table, or there are several and none has a telling name.

    Examples:
        >>> tuple(unboxed({"out": torch.zeros(2, 3), "features": torch.zeros(2, 8)}, 3, "a network").shape)
        (2, 3)
    """
    parts = list(_parts(output))
    tables = [(key, part) for key, part in parts if _is_table(part, classes)]
    if len(tables) != 1:
        named = dict(reversed(tables))
        tables = [(key, named[key]) for key in _NAMES if key in named][:1] or tables
    if len(tables) == 1:
        table = tables[0][1]
        return table if table.ndim == 2 else table[:, None]
    wanted = f"expected {name} to return logits of shape (n, {classes}), one for each class name, but "
    if tables:
        boxes = " and ".join(key or "one" for key, _ in tables)
        raise ModelError(
            f"{wanted}it returns {len(tables)} such tensors ({boxes}); wrap it in a module whose forward returns the "
            "one that counts"
        )
    raise ModelError(f"{wanted}got {_words(output, parts)}; {_advice(output, parts, classes)}")


def as_logits(table: Tensor, end: End, classes: int) -> Tensor:
    """Logits whose softmax are a network's confidences.

    Args:
        table: (n, classes), or (n, 1), as the network returned it.
        end: the network's final transform.
        classes: how many there are.

    Returns:
        (n, classes), float32 or wider. Of one number z for two classes: 0 and z.

    Examples:
        >>> shares = torch.tensor([[0.25, 0.75]])
        >>> as_logits(shares, "softmax", 2).softmax(dim=1)
        tensor([[0.2500, 0.7500]])
    """
    found = table if table.dtype == torch.float64 else table.float()
    limits = torch.finfo(found.dtype)
    if end == "softmax":
        found = found.clamp(min=limits.tiny).log()
    elif end == "sigmoid":
        found = found.clamp(limits.tiny, 1 - limits.eps / 2).logit()
    return torch.cat([torch.zeros_like(found), found], dim=1) if classes == 2 and found.shape[1] == 1 else found


def minimum(output: Any, other: Any) -> Any:
    """The elementwise minimum of two outputs of a network.

    Args:
        output: a tensor, or what `unboxed` takes; of a box the tensors are lowered in place.
        other: another output of the same network for the same images.

    Returns:
        A tensor, or the box.

    Raises:
        ModelError: one number stands for two classes: lower for one of them is higher for the other.

    Examples:
        >>> minimum(torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, 2.0]]))
        tensor([[1., 2.]])
    """
    if isinstance(output, Tensor):
        if output.ndim < 2 or output.shape[1] == 1:
            raise ModelError(
                f"expected a logit for each class but got {tuple(output.shape)}, one number for two classes, of which "
                "no minimum can be taken class by class; make the edit without minimum"
            )
        return torch.minimum(output, other)
    for (_, part), (_, its) in zip(_parts(output), _parts(other), strict=True):
        if isinstance(part, Tensor) and part.is_floating_point():
            part.copy_(torch.minimum(part, its))
    return output


def _parts(output: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the things in a box, with the name of each."""
    if dataclasses.is_dataclass(output) and not isinstance(output, Mapping):
        output = {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        output = dict(zip(output._fields, output, strict=True))
    if isinstance(output, Mapping):
        for key, value in output.items():
            yield from _parts(value, str(key))
    elif isinstance(output, Sequence) and not isinstance(output, str | bytes):
        for index, value in enumerate(output):
            yield from _parts(value, str(index))
    elif not isinstance(output, Tensor) and isinstance(getattr(output, "logits", None), Tensor):
        yield "logits", output.logits
    else:
        yield name, output


def _is_table(part: Any, classes: int) -> bool:
    if not isinstance(part, Tensor) or part.is_complex():
        return False
    return (part.ndim == 2 and part.shape[1] in {classes, 1 if classes == 2 else classes}) or (
        part.ndim == 1 and classes == 2
    )


def _words(output: Any, parts: Sequence[tuple[str, Any]]) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    tensors = [f"{key}: {tuple(part.shape)}" for key, part in parts if isinstance(part, Tensor)]
    return f"{type(output).__name__}" + (f" ({', '.join(tensors[:5])})" if tensors else "")


def _advice(output: Any, parts: Sequence[tuple[str, Any]], classes: int) -> str:
    tensors = [part for _, part in parts if isinstance(part, Tensor)]
    if not tensors:
        return "let its forward return the logits"
    if any(part.ndim == 1 and len(part) == classes for part in tensors):
        return "it drops the axis of a batch of one, as squeeze() does: let its forward keep it, as flatten(1) does"
    if all(part.ndim > 2 for part in tensors):
        return "it returns feature maps or tokens: name a network with a head that classifies whole images"
    if not isinstance(output, Tensor):
        return "wrap it in a module whose forward returns the logits alone, or check the number of classes"
    return "check the class names"
