"""What the rest of a network needs of what came before a site, so that a forward pass can be resumed there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from rulepatch.tracing.trace import Call, Trace

__all__ = ["Checkpoint", "TailPlan", "checkpoint_of", "copied", "plan_suffix"]


@dataclass(frozen=True)
class TailPlan:
    """Plan for resuming a model at a site: the calls before it, and which of their results the rest needs.

    Attributes:
        site: dotted path.
        calls: the calls that are complete when the site is called, in order.
        needed: for each of them, whether its result is read again at or after the site.
        input_needed: whether the model's own input is.
    """

    site: str
    calls: tuple[Call, ...]
    needed: tuple[bool, ...]
    input_needed: bool


@dataclass(frozen=True)
class Checkpoint:
    """Cached state of a forward pass at a site, sufficient to run the rest.

    Attributes:
        inputs: the model's input, or a placeholder of its shape if the rest does not read it.
        results: for each call of the plan its result, or placeholders of its shapes.
    """

    inputs: Tensor
    results: tuple[Any, ...]


def plan_suffix(traced: Trace, site: str) -> TailPlan:
    """Determine from a trace which earlier results the rest of a model needs after a site.

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


def checkpoint_of(plan: TailPlan, kept: Mapping[tuple[str, int], Any], inputs: Tensor) -> Checkpoint:
    """The state of a pass at a plan's site.

    Args:
        plan: of the site.
        kept: results of calls by path and occurrence, at least those that the plan needs.
        inputs: the model's input, (n, …).
    """
    results = [
        kept[call.path, call.occurrence] if needed else _placeholders(call, len(inputs))
        for call, needed in zip(plan.calls, plan.needed, strict=True)
    ]
    return Checkpoint(inputs if plan.input_needed else torch.empty_like(inputs, device="meta"), tuple(results))


def copied(result: Any) -> Any:
    """What a call is given or returns, with its tensors cloned, as a model may modify them in place."""
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, result)


def _placeholders(call: Call, images: int) -> Any:
    """Placeholder tensors of a call's output shapes, for another batch size than the traced one."""

    def placeholder(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0:
            return leaf
        return torch.empty(leaf.shape[0] * images, *leaf.shape[1:], dtype=leaf.dtype, device="meta")

    return tree_map(placeholder, call.result)
