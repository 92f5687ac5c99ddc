"""Several workers on a machine with several GPUs take one each."""

import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO

import torch

__all__ = ["claim", "own_device"]

_held: list[IO[bytes]] = []
"""Locks that this process holds; the system lets them go when it ends, however it ends."""


def own_device(device: str) -> str:
    """The device that this process works on.

    Args:
        device: as people name it; "cuda" stands for any GPU.

    Returns:
        The same; for "cuda" a GPU that no other worker of this machine has, as long as there is one.
    """
    if device != "cuda" or torch.cuda.device_count() < 2:
        return device
    return f"cuda:{_own_gpu()}"


@cache
def _own_gpu() -> int:
    """Index of the GPU that this process has claimed, once and for all."""
    names = [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
    return claim(names, Path(tempfile.gettempdir()))


def claim(names: Sequence[str], folder: Path) -> int:
    """Claim one of some things for as long as this process lives.

    Args:
        names: of the things, the same for all processes.
        folder: for a file to lock for each of them.

    Returns:
        Index of the first that no other process has claimed; where all are, one by the number of the process.
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
