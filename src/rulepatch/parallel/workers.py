"""Parallel map: in this process, in several processes (loky), or on a Dask cluster.

All backends are executors of `concurrent.futures`. `joblib.Parallel`, which supports the same backends, aborts the run
if one worker dies, and on Dask hangs.
"""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import ExitStack
from itertools import islice
from typing import Any, Self, TypeVar

from joblib.externals.loky import ProcessPoolExecutor, process_executor
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm import tqdm

from rulepatch.errors import MissingExtraError, RulepatchWarning, SettingError, WorkerError, reason_of
from rulepatch.unfinished import remove_unfinished

__all__ = ["LOCAL", "Lost", "Workers"]

Item = TypeVar("Item")
Result = TypeVar("Result")

LOCAL = "local"
"""In place of a scheduler's address: a temporary Dask cluster on this machine."""

MOST_WORKERS = 4096

TRIES = 2
"""Retries of an item whose worker process died, without other items in flight."""


PATIENCE = 20
"""Seconds without a result after which a cluster that has no worker is warned of."""


class Lost(Exception):  # noqa: N818 - never raised
    """Sentinel for an item whose worker process died on every attempt."""


class Workers:
    """Pool of worker processes; a context manager.

    Args:
        count: number of processes; 1 without Dask runs in this process. A cluster at an address has its own number.
        dask: address of a Dask scheduler, such as "tcp://10.0.0.1:8786"; "local" for a cluster on the loopback address
            of this machine; None for processes without Dask. Dask has no authentication: anyone who can reach the
            scheduler can run code on its workers, so use it in a trusted network only.

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
        if count > MOST_WORKERS:
            raise SettingError(
                f"expected at most {MOST_WORKERS:,} workers but got {count}; one for each core is enough"
            )
        self._count, self._address = count, dask
        self._has_warned = False
        self._client: Any = None
        self._executor: Executor | None = None
        with ExitStack() as begun:
            if dask is not None:
                self._client = _connect(begun, count, dask)
                self._executor = self._client.get_executor(pure=False)  # a failure is not the answer to the next try
            self._stack = begun.pop_all()

    @property
    def count(self) -> int:
        """Number of workers, which may change on a cluster."""
        return self._count if self._client is None else max(1, sum(self._client.nthreads().values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._executor, ProcessPoolExecutor):
            self._executor.shutdown(wait=True, kill_workers=True)
        self._stack.close()

    def run(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result | Lost]]:
        """Call a function on each item.

        Args:
            function: module-level function, so that it can be pickled; its exceptions end the run.
            items: arguments, consumed as workers become free.

        Yields:
            Items with their results, in order of completion.

        Raises:
            WorkerError: the Dask scheduler is gone.
        """
        if self._executor is None and self._count == 1:
            for item in items:
                yield item, function(item)
            return
        died: list[Item] = []
        for item, found in self._flight(function, items):
            if isinstance(found, Lost):  # so are others that waited on the worker: unclear whose fault
                died.append(item)
            else:
                yield item, found
        for item in died:
            found = Lost()
            for _ in range(TRIES if self._client is None else 1):  # Dask tries several workers by itself
                if isinstance(found, Lost):
                    ((_, found),) = self._flight(function, [item])
            yield item, found

    def _flight(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result | Lost]]:
        """Submit two items per worker, so that no worker is idle."""
        upcoming = iter(items)
        flying: dict[Future[Result], Item] = {}
        try:
            while True:
                for item in islice(upcoming, max(0, 2 * self.count - len(flying))):
                    flying[self._submit(function, item)] = item
                if not flying:
                    return
                for future in self._first_done(flying):
                    item, error = flying.pop(future), self._error_of(future)
                    if error is not None and not isinstance(error, _deaths(dask=self._client is not None)):
                        raise error
                    yield item, future.result() if error is None else Lost(reason_of(error))  # type: ignore[arg-type]
        finally:
            for future in flying:
                future.cancel()

    def _first_done(self, flying: Iterable[Future[Result]]) -> set[Future[Result]]:
        """Wait until something is done; a cluster that nobody works for is warned of, once."""
        patience = None if self._client is None else PATIENCE
        while not (done := wait(flying, timeout=patience, return_when=FIRST_COMPLETED).done):
            if not self._has_warned and not self._client.nthreads():
                self._has_warned = True
                warnings.warn(
                    f"the Dask scheduler at {self._address} has no worker, so nothing is done; start some, with "
                    f"`dask worker {self._address}`",
                    RulepatchWarning,
                    stacklevel=2,
                )
        return done

    def _error_of(self, future: Future[Result]) -> BaseException | None:
        try:
            return future.exception()
        except CancelledError:  # so Dask ends all futures of a scheduler that it has lost
            raise WorkerError(
                f"expected the Dask scheduler at {self._address} to stay but it is gone; results that were stored are "
                "kept: start it again, and then the same command"
            ) from None

    def _submit(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        try:
            if self._executor is not None:
                return self._executor.submit(function, item)
        except BrokenProcessPool:
            pass  # and the next is as good
        self._executor = ProcessPoolExecutor(self._count, initializer=_begin)
        return self._executor.submit(function, item)


def _begin() -> None:
    """Initializer of worker processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    signal.signal(signal.SIGTERM, _end)
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize  # caches are not a memory leak
    tqdm.set_lock(threading.RLock())  # tqdm's own is shared and stays locked if a worker dies


def _end(number: int, _: object) -> None:
    """End this process at once, but for what it is writing; the main process tells that its work is lost."""
    remove_unfinished()
    os._exit(128 + number)


def _connect(stack: ExitStack, count: int, address: str) -> Any:
    """Connect to a Dask cluster, or start one."""
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
    log = logging.getLogger("distributed.client")
    stack.callback(log.setLevel, log.level)
    log.setLevel(logging.CRITICAL)  # a lost connection is told in a sentence
    try:
        return stack.enter_context(Client(address, timeout=20))
    except (OSError, ValueError, TypeError) as error:
        raise SettingError(
            f"expected a Dask scheduler at {address!r} but none answers ({reason_of(error)}); start one, or say local"
        ) from None


def _deaths(*, dask: bool) -> tuple[type[BaseException], ...]:
    """Exceptions of executors for an item whose worker died."""
    if not dask:
        return (BrokenProcessPool,)
    from distributed import KilledWorker

    return (KilledWorker,)
