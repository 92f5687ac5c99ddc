"""Progress of long work: a bar on a terminal, and whoever else wants to see it or to stop it."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self, TypeVar

from tqdm.auto import tqdm

__all__ = ["Bar", "Watcher", "steps", "watched"]

Item = TypeVar("Item")

Watcher = Callable[[str, int, int], None]
"""Told what is being done, how much of it is, and of how much; to stop the work it raises."""

_watching: ContextVar[Watcher | None] = ContextVar("_watching", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Have someone watch all work of a block, in this thread.

    Args:
        watcher: told of every step, and once before the first; what it raises goes through the work to the caller.

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
    """A bar on standard error, for work of more than two seconds and if that is a terminal; use it in a `with` block.

    Args:
        total: how many steps there are.
        what: is being done.
        unit: what a step is called.
        shown: whether to show it; whoever watches is told in any case.
        leave: whether it stays when all is done.
    """

    def __init__(self, total: int, what: str, *, unit: str = "step", shown: bool = True, leave: bool = True) -> None:
        self.what, self.total, self.done = what, total, 0
        self._bar = tqdm(total=total, desc=what, unit=unit, delay=2, leave=leave, disable=None if shown else True)

    def __enter__(self) -> Self:
        try:
            self._tell()
        except BaseException:
            self._bar.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """Say that some steps are done."""
        self.done += count
        self._bar.update(count)
        self._tell()

    def _tell(self) -> None:
        if (watcher := _watching.get()) is not None:
            watcher(self.what, self.done, self.total)


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
