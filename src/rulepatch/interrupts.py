"""Signals that wait while a few lines run that must not be broken off.

Python handles a signal between any two instructions of the main thread, so that Ctrl-C can end a function before its
first line, where no `try` of its own helps. Between `hold` and `release` a signal that comes while a function marked by
`unbroken` runs is kept, and handled by `deliver`; at all other times it is handled as ever.
"""

import signal
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, TypeVar

__all__ = ["deliver", "hold", "release", "unbroken"]

Function = TypeVar("Function", bound=Callable[..., Any])

_UNBROKEN: set[CodeType] = set()
_HOLDERS: set[int] = set()
_CAME: list[tuple[Callable[..., Any], int]] = []


def unbroken(function: Function) -> Function:
    """Mark a function that signals must not break off, nor what it calls. It has to call `deliver` last.

    Args:
        function: of Python.
    """
    _UNBROKEN.add(function.__code__)
    return function


class _Handler:
    """Stands before another handler and keeps signals from it while an unbroken function runs."""

    def __init__(self, before: Callable[..., Any]) -> None:
        self.before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        at = frame
        while at is not None:
            if at.f_code in _UNBROKEN:
                _CAME.append((self.before, number))
                return
            at = at.f_back
        self.before(number, frame)


def hold(holder: object) -> None:
    """Let signals wait for unbroken functions until the holder releases them; only the main thread is sent any.

    Args:
        holder: anything; several may hold at a time.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    _HOLDERS.add(id(holder))
    for number in signal.valid_signals():
        there = signal.getsignal(number)
        if callable(there) and not isinstance(there, _Handler):
            signal.signal(number, _Handler(there))


def release(holder: object) -> None:
    """Put the handlers back that were there before the first holder, unless the program has set others since.

    Args:
        holder: that holds them, or not any more.
    """
    _HOLDERS.discard(id(holder))
    if _HOLDERS or threading.current_thread() is not threading.main_thread():
        return
    for number in signal.valid_signals():
        there = signal.getsignal(number)
        if isinstance(there, _Handler):
            signal.signal(number, there.before)


def deliver() -> None:
    """Handle the signals that have waited; in the main thread.

    Raises:
        BaseException: what their handlers raise, such as KeyboardInterrupt.
    """
    if _CAME and threading.current_thread() is threading.main_thread():
        before, number = _CAME.pop(0)
        try:
            before(number, None)
        finally:
            deliver()
