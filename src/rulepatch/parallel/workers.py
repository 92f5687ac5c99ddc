"""One function of many items, side by side: in this process, in several (loky), or on a Dask cluster.

All engines are executors of `concurrent.futures`, so that there is one way through. `joblib.Parallel`, which covers the
same engines, ends everything where one worker dies, and on Dask waits for ever.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack
from itertools import islice
from typing import Any, Self, TypeVar

from joblib.externals.loky import ProcessPoolExecutor, process_executor
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm import tqdm

from rulepatch.errors import MissingExtraError, SettingError, reason_of

__all__ = ["LOCAL", "Lost", "Workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")

LOCAL = "local"
"""In place of a scheduler's address: a Dask cluster on this machine that lives as long as the workers are needed."""

TRIES = 2
"""How often an item whose worker died is done again, with nothing beside it that could be to blame."""


class Lost(Exception):  # noqa: N818 - it is never raised
    """In place of a result: whoever worked on the item died, each time."""


class Workers:
    """Processes that work side by side. A context manager.

    Args:
        count: how many processes; this one alone if 1 and without Dask. A cluster at an address has its own number.
        dask: address of a Dask scheduler, such as "tcp://10.0.0.1:8786"; "local" for a cluster on the loopback address
            of this machine; None for processes without Dask. Dask knows no passwords: whoever reaches the scheduler
            can run programs on its workers, so keep it within a network that you trust.

    Raises:
        MissingExtraError: dask is named but not installed.
        SettingError: a number below 1, or no scheduler at the address.

    Examples:
        >>> with Workers() as workers:
        ...     list(workers.run(abs, [-1, 2]))
        [(-1, 1), (2, 2)]
    """

    def __init__(self, count: int = 1, *, dask: str | None = None) -> None:
        if count < 1:
            raise SettingError(f"expected at least 1 worker but got {count}; raise it")
        self._count = count
        self._client: Any = None
        self._executor: Executor | None = None
        with ExitStack() as begun:
            if dask is not None:
                self._client = _connect(begun, count, dask)
                self._executor = self._client.get_executor()
            self._stack = begun.pop_all()

    @property
    def count(self) -> int:
        """How many workers there are; those of a cluster may come and go."""
        return self._count if self._client is None else max(1, sum(self._client.nthreads().values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._executor, ProcessPoolExecutor):
            self._executor.shutdown(wait=True, kill_workers=True)
        self._stack.close()

    def run(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result | Lost]]:
        """Call a function of each item.

        Args:
            function: of a module, as it goes to other processes; what it raises ends the run.
            items: what to call it of; taken only as workers become free.

        Yields:
            An item and its result, as they come.
        """
        if self._executor is None and self._count == 1:
            for item in items:
                yield item, function(item)
            return
        died: list[Item] = []
        for item, found in self._flight(function, items):
            if isinstance(found, Lost) and self._client is None:  # who is to blame is not known, all were lost together
                died.append(item)
            else:
                yield item, found
        for item in died:
            found = Lost()
            for _ in range(TRIES):
                if isinstance(found, Lost):
                    ((_, found),) = self._flight(function, [item])
            yield item, found

    def _flight(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result | Lost]]:
        """Two items for each worker at a time, so that none waits for its next."""
        upcoming = iter(items)
        flying: dict[Future[Result], Item] = {}
        try:
            while True:
                for item in islice(upcoming, max(0, 2 * self.count - len(flying))):
                    flying[self._submit(function, item)] = item
                if not flying:
                    return
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    item, error = flying.pop(future), future.exception()
                    if error is not None and not isinstance(error, _deaths(dask=self._client is not None)):
                        raise error
                    yield item, future.result() if error is None else Lost(reason_of(error))  # type: ignore[arg-type]
        finally:
            for future in flying:
                future.cancel()

    def _submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        try:
            if self._executor is not None:
                return self._executor.submit(function, item)
        except BrokenProcessPool:
            pass  # and the next is as good
        self._executor = ProcessPoolExecutor(self._count, initializer=_begin)
        return self._executor.submit(function, item)


def _begin() -> None:
    """What a worker process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize  # what it keeps for its items is no leak to end it for
    tqdm.set_lock(threading.RLock())  # its own lock is shared by processes, and outlives a worker that is killed


def _connect(stack: ExitStack, count: int, address: str) -> Any:
    """Reach a Dask cluster, or start one."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise MissingExtraError(
            "expected Dask to be installed to use a cluster but it is not; pip install 'rulepatch[dask]'"
        ) from None
    if address == LOCAL:
        settings = {
            "n_workers": count,
            "threads_per_worker": 1,
            "host": "127.0.0.1",
            "dashboard_address": "127.0.0.1:0",
        }
        return stack.enter_context(Client(stack.enter_context(LocalCluster(**settings))))
    try:
        return stack.enter_context(Client(address, timeout=20))
    except (OSError, ValueError, TypeError) as error:
        raise SettingError(
            f"expected a Dask scheduler at {address!r} but none answers ({reason_of(error)}); start one, or say local"
        ) from None


def _deaths(*, dask: bool) -> tuple[type[BaseException], ...]:
    """What executors say of an item whose worker died."""
    if not dask:
        return (BrokenProcessPool,)
    from distributed import KilledWorker

    return (KilledWorker,)
