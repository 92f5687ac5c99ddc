"""Assignment of GPUs to the workers of a machine."""

import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO

import torch

__all__ = ["claim", "own_device"]

_held: list[IO[bytes]] = []
"""Locks held by this process; the operating system releases them when it ends."""


def own_device(device: str) -> str:
    """The device of this process.

    Args:
        device: name of the device; "cuda" for any GPU.

    Returns:
        The device; for "cuda" a GPU that no other worker of this machine uses, if there is one.
    """
    if device != "cuda" or torch.cuda.device_count() < 2:
        return device
    return f"cuda:{_own_gpu()}"


@cache
def _own_gpu() -> int:
    """Index of the GPU that this process has claimed; cached."""
    names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    return claim(names, Path(tempfile.gettempdir()))


def claim(names: Sequence[str], folder: Path) -> int:
    """Claim one of several resources for the lifetime of this process.

    Args:
        names: names of the resources, the same in all processes.
        folder: folder of lock files.

    Returns:
        Index of the first unclaimed resource; if all are claimed, an index derived from the process id.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return os.getpid() % len(names)
    for index, name in enumerate(names):
        file = (folder / f"rulepatch-{name}.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _held.append(file)
        return index
    return os.getpid() % len(names)
