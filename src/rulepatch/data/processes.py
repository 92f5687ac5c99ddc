"""Process groups started by torchrun, on one machine or several."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch

from rulepatch.collectives import all_reduce_sum, group_scope, rank, size
from rulepatch.errors import SettingError, WorkerError, reason_of

__all__ = ["PATIENCE", "assert_same_on_all_ranks", "failing_together", "process_group", "run_on_all_ranks"]

Result = TypeVar("Result")

PATIENCE = timedelta(hours=2)
"""Timeout of collectives. The exit of a process is noticed sooner."""


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Initialise the process group from torchrun's environment variables; a context manager.

    An existing group is used; without torchrun there is a single process.

    Args:
        device: "cuda" for one GPU per process with the nccl backend; gloo otherwise.

    Yields:
        The device of this process.

    Raises:
        SettingError: the environment is incomplete, a process does not come, or has no GPU of its own.

    Examples:
        >>> with process_group("cpu") as device:
        ...     device
        'cpu'
    """
    from torch import distributed

    if distributed.is_initialized() or os.environ.get("WORLD_SIZE", "1") == "1":
        with group_scope():
            yield device
        return

    if device.startswith("cuda:"):
        raise SettingError(f"expected a GPU for each process but got {device!r} for all of them; say cuda")
    gpu = device == "cuda"
    try:
        if gpu:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if gpu and distributed.is_nccl_available() else "gloo", timeout=PATIENCE)
    except (KeyError, ValueError, AssertionError, RuntimeError) as error:  # torch defines no exception type for it
        raise SettingError(
            "expected processes as torchrun starts them, each with a device of its own, but they cannot meet "
            f"({reason_of(error)}); start them with torchrun, or unset WORLD_SIZE"
        ) from None
    try:
        with group_scope():
            yield device
    finally:
        distributed.destroy_process_group()


def run_on_all_ranks(function: Callable[[], Result]) -> Result:
    """Call a function on every rank, and raise on every rank if it fails on any.

    Args:
        function: a function without collectives.

    Raises:
        Exception: raised by the function on this rank.
        WorkerError: the function failed on another rank.

    Examples:
        >>> run_on_all_ranks(lambda: 3)
        3
    """
    with failing_together():
        return function()


@contextmanager
def failing_together() -> Iterator[None]:
    """Run a block on every rank, and raise on every rank if it fails on any.

    Yields:
        Nothing; the block has no collectives.

    Raises:
        Exception: raised by the block on this rank.
        WorkerError: the block failed on another rank.
    """
    if size() == 1:
        yield
        return
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    failed = int(all_reduce_sum(torch.tensor(int(failure is not None))))
    if failure is not None:
        raise failure
    if failed:
        raise WorkerError(
            f"expected {size()} processes to do their parts but {failed} of them failed; see their own messages"
        )


def assert_same_on_all_ranks(what: str, digest: str) -> None:
    """Check that all ranks have the same value.

    Args:
        what: description of the value, for the message.
        digest: hexadecimal, SHA-256.

    Raises:
        SettingError: (on all ranks) the digests differ.
    """
    digests = torch.zeros(size(), 32, dtype=torch.uint8)
    digests[rank()] = torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8)
    digests = all_reduce_sum(digests)
    others = [str(process) for process, each in enumerate(digests) if not each.equal(digests[0])]
    if others:
        raise SettingError(
            f"expected the same {what} in all {size()} processes but got others in {', '.join(others)} than in 0; "
            "start all of them with the same command, files and kind of device"
        )
