"""Progress of long work: a bar on a terminal or in a notebook, lines elsewhere; callbacks can observe and stop it."""

import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from time import monotonic
from typing import Any, Self, TypeVar

from tqdm import TqdmWarning

from rulepatch.escaping import one_line
from rulepatch.text import duration, plural

with warnings.catch_warnings():
    warnings.simplefilter("ignore", TqdmWarning)  # in a notebook without ipywidgets its bar is text, which does
    from tqdm.auto import tqdm

__all__ = ["Bar", "Watcher", "steps", "watched"]

DELAY = 2
"""Seconds of work before a bar is shown."""

EVERY = 10
"""Seconds between lines where there can be no bar."""

FORECAST = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"
"""Bar format with a given estimate of the time left."""

Item = TypeVar("Item")

Watcher = Callable[[str, int, int], None]
"""Progress callback: description, steps done, total steps. It may raise to stop the work."""

_watching: ContextVar[Watcher | None] = ContextVar("_watching", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Register a progress callback in this context.

    Args:
        watcher: called before the first step and after every step; exceptions that it raises propagate to the caller.

    Examples:
        >>> seen = []
        >>> with watched(lambda what, done, total: seen.append(f"{what} {done}/{total}")):
        ...     for letter in steps("ab", "letters"):
        ...         pass
        >>> seen
        ['letters 0/2', 'letters 1/2', 'letters 2/2']
    """
    token = _watching.set(watcher)
    try:
        yield
    finally:
        _watching.reset(token)


class Bar:
    """Progress on standard error of work that takes more than two seconds; a context manager.

    On a terminal and in a notebook that is a bar; elsewhere (a pipe, a log) a line every ten seconds.

    Args:
        total: how many steps there are.
        what: is being done.
        unit: what a step is called.
        shown: whether to show it; callbacks are called in any case.
        leave: whether the bar stays when the work is complete.
        left: estimate of the seconds left, if there is a better one than from the steps done so far; returns None while
            there is none.
    """

    def __init__(
        self,
        total: int,
        what: str,
        *,
        unit: str = "step",
        shown: bool = True,
        leave: bool = True,
        left: Callable[[], float | None] | None = None,
    ) -> None:
        self.what, self.total, self.done = one_line(what), total, 0
        self._left = left
        self._shown: Any = None
        if shown and _draws():
            form = None if left is None else FORECAST
            self._shown = tqdm(
                total=total, desc=self.what, unit=unit, delay=DELAY, leave=leave, bar_format=form, disable=False
            )
        elif shown:
            self._shown = _Lines(total, self.what, unit)

    def __enter__(self) -> Self:
        try:
            self._tell()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._shown is not None:
            self._shown.close()

    def update(self, count: int = 1) -> None:
        """Advance by some steps."""
        self.done += count
        if self._shown is not None:
            if self._left is not None and (seconds := self._left()) is not None:
                self._shown.set_postfix_str(f"{duration(seconds)} left", refresh=False)
            self._shown.update(count)
        self._tell()

    def _tell(self) -> None:
        if (watcher := _watching.get()) is not None:
            watcher(self.what, self.done, self.total)


def _draws() -> bool:
    """Whether a bar can be drawn: on a terminal or in a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") or (sys.stderr is not None and sys.stderr.isatty())


class _Lines:
    """Line output with the part of tqdm's interface that `Bar` needs; silent for work of less than ten seconds."""

    def __init__(self, total: int, what: str, unit: str) -> None:
        self._total, self._what, self._unit = total, what, unit
        self._done, self._left = 0, ""
        self._began = self._told = monotonic()

    def set_postfix_str(self, text: str, *, refresh: bool) -> None:
        self._left = text

    def update(self, count: int) -> None:
        self._done += count
        now = monotonic()
        if now - self._told < EVERY or not 0 < self._done < self._total:
            return
        self._told = now
        left = self._left or f"{duration((now - self._began) / self._done * (self._total - self._done))} left"
        self._write(f"{self._done:,} of {plural(self._total, self._unit)}, {left}")

    def close(self) -> None:
        if self._told > self._began and self._done >= self._total:
            self._write(f"{plural(self._total, self._unit)}, done in {duration(monotonic() - self._began)}")

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError, AttributeError):  # a closed standard error must not stop the work
            sys.stderr.write(f"{self._what}: {text}\n")
            sys.stderr.flush()


def steps(items: Collection[Item], what: str, *, unit: str = "step", shown: bool = True) -> Iterator[Item]:
    """Each of some items, with a bar.

    Args:
        items: what is gone through.
        what: is being done.
        unit: what a step is called.
        shown: whether to show the bar.

    Yields:
        The items.
    """
    with Bar(len(items), what, unit=unit, shown=shown) as bar:
        for item in items:
            yield item
            bar.update()
