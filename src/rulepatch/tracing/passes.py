"""Running a network twice for each output: with parts of it switched on and, where these acted, switched off."""

import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rulepatch.errors import SettingError
from rulepatch.tracing import capture, tails

__all__ = ["ThreadLocalSlot", "TwoPasses"]


class ThreadLocalSlot(threading.local):
    """Thread-local slot from one module to another, such as from the filter of a new class to the head.

    It holds the response of the last forward pass in each thread, so that concurrent passes do not interfere. A copy of
    a network gets an empty one.
    """

    def __init__(self) -> None:
        self.response: Tensor | None = None

    def __reduce__(self) -> tuple[type["ThreadLocalSlot"], tuple[()]]:
        return ThreadLocalSlot, ()


@dataclass
class _State:
    """What a thread is at: whether the switch is on, whether a part acted, and the network's arguments."""

    on: bool = True
    acted: bool = False
    given: Any = None


class TwoPasses:
    """A switch that parts of a network heed, and the second pass with it off.

    Each thread has a state of its own, so that concurrent passes do not interfere, and so has each copy of a network.

    Args:
        merge: a top-level function of the outputs with the switch on and off that gives the network's output.
    """

    def __init__(self, merge: Callable[[Any, Any], Any]) -> None:
        self.merge = merge
        # no threading.local, whose attributes torch.compile reads wrongly
        self._states: ContextVar[_State | None] = ContextVar("state", default=None)

    def __reduce__(self) -> tuple[type["TwoPasses"], tuple[Callable[[Any, Any], Any]]]:
        return TwoPasses, (self.merge,)

    @property
    def _state(self) -> _State:
        found = self._states.get()
        if found is None:
            self._states.set(found := _State())
        return found

    def install(self, model: nn.Module) -> None:
        """Make a network run twice.

        Raises:
            SettingError: it runs twice already.
        """
        if any(isinstance(getattr(hook, "__self__", None), TwoPasses) for hook in model._forward_hooks.values()):
            raise SettingError(
                "expected a network without a minimum in it but an edit of this kind is applied already; compose the "
                "edits, so that they are switched together"
            )
        capture.around_passes(model, self._before, self._after)

    def remove(self, model: nn.Module) -> None:
        """Make it run once again, if it runs twice because of this."""
        capture.not_around_passes(model, self._before, self._after)

    def let_through(self, added: Tensor) -> Tensor:
        """What a part adds to its layer's output, zeros in the second pass; if all is zero no second pass is needed.

        Args:
            added: of any shape. It is not looked at, and does not count as zero, where values are not known: on the
                meta device and while the network is exported or compiled.

        Returns:
            A tensor of the same shape.
        """
        state = self._state
        if not state.on:
            return torch.zeros_like(added)
        state.acted = state.acted or added.is_meta or torch.compiler.is_compiling() or bool(added.any())
        return added

    def _before(self, model: nn.Module, args: Any, kwargs: Any) -> Any:
        state = self._state
        if not state.on:
            return None
        state.acted, state.given = False, (args, kwargs)
        return tails.copied((args, kwargs))  # the network may write into them

    def _after(self, model: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        state = self._state
        given, state.given = state.given, None
        if given is None or not state.acted:  # a compiled network's wrapper calls the hooks once more
            return None
        state.on = False
        try:
            return self.merge(output, model(*given[0], **given[1]))
        finally:
            state.on = True
