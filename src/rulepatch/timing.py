"""Wall-clock timings of named sections of a job."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["collect_timings", "section"]

_collecting: ContextVar[dict[str, float] | None] = ContextVar("_collecting", default=None)


@contextmanager
def collect_timings() -> Iterator[dict[str, float]]:
    """Collect the seconds of every named section in a block; "total" is added at its end.

    Yields:
        Seconds by name; repeated names are summed.

    Examples:
        >>> with collect_timings() as seconds:
        ...     with section("solve"):
        ...         pass
        >>> sorted(seconds)
        ['solve', 'total']
    """
    seconds: dict[str, float] = {}
    token, start = _collecting.set(seconds), time.perf_counter()
    try:
        yield seconds
    finally:
        seconds["total"] = time.perf_counter() - start
        _collecting.reset(token)


@contextmanager
def section(name: str) -> Iterator[None]:
    """A named section of a job; free unless timings are being collected."""
    seconds, start = _collecting.get(), time.perf_counter()
    try:
        yield
    finally:
        if seconds is not None:
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
