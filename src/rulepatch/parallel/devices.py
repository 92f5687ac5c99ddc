"""Assignment of GPUs to the workers of a machine."""

import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
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
    return claim(names, _own_folder())


def _own_folder() -> Path | None:
    """A folder of this user alone for locks; None if somebody else has made what is there."""
    if not hasattr(os, "getuid"):  # not on Windows
        return None
    folder = Path(tempfile.gettempdir()) / f"rulepatch-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
            return folder
    return None


def claim(names: Sequence[str], folder: Path | None) -> int:
    """Claim one of several resources for the lifetime of this process.

    Args:
        names: names of the resources, the same in all processes.
        folder: folder of lock files that nobody else can write to; None if there is none, so that nothing is claimed.

    Returns:
        Index of the first unclaimed resource; if all are claimed, or none can be, one derived from the process id.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        return os.getpid() % len(names)
    files = [] if folder is None else [folder / f"{name}.lock" for name in names]
    for index, path in enumerate(files):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:
            continue
        file = os.fdopen(descriptor, "ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _held.append(file)
        return index
    return os.getpid() % len(names)
