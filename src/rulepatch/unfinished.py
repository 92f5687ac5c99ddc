"""Files that are there only for a while: what is being written, and locks. Who made them may have been killed.

Their names begin with a mark of ours, `.rulepatch-`, and they are locked for as long as their process lives. Whoever
comes next to the same folder removes what killed processes left there, and nothing else.
"""

import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from rulepatch.errors import OutputError

if sys.platform != "win32":  # there nothing is locked, and what is left behind goes when it is old
    import fcntl

__all__ = [
    "MARK",
    "ScratchFolder",
    "is_locked_here",
    "is_ours",
    "locked",
    "remove_unfinished",
    "sweep_leftovers",
    "temporary_name",
    "unfinished_file",
]

MARK = ".rulepatch-"
"""Beginning of all their names."""

HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
"""Part of temporary names: locks of other machines may not be seen here."""

LOCK = f"{MARK}lock"
"""In a folder that is kept for one command, or one process."""

OLD = 24 * 3600
"""Seconds after which nobody writes to a temporary file any more, where its lock says nothing."""

NEW = 10
"""Seconds within which whoever made a folder has locked it."""

_TEMPORARY = re.compile(rf"{re.escape(MARK)}([0-9a-f]{{8}})[0-9a-f]{{16}}(x*|\..*)")

_held: ContextVar[frozenset[Path]] = ContextVar("_held", default=frozenset())
"""Locks that the command that is running holds."""

_unfinished: set[Path] = set()
"""Files that this process is writing."""


def is_ours(name: str) -> bool:
    """Whether a file has the mark of those that are there only for a while."""
    return name.startswith(MARK)


def temporary_name(suffix: str = "") -> str:
    """A new name for what is there only for a while."""
    return f"{MARK}{HOST}{secrets.token_hex(8)}{suffix}"


@contextmanager
def unfinished_file(folder: Path, suffix: str = "") -> Iterator[Path]:
    """Make a new empty file to write to, which others leave alone; it is removed in the end, if it is still there.

    Args:
        folder: where to make it.
        suffix: of its name.

    Yields:
        Its path.
    """
    path, descriptor = _made(folder, suffix if len(suffix) < 20 else "")
    _unfinished.add(path)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        _unfinished.discard(path)
        os.close(descriptor)


def remove_unfinished() -> None:
    """Remove the files that this process is writing, as it is about to end."""
    for path in list(_unfinished):
        path.unlink(missing_ok=True)


def sweep_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing into a folder, but not what another one is writing.

    Args:
        folder: folders in it are not looked into.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if found and entry.is_file(follow_symlinks=False):
                _remove_if_dead(Path(entry.path), here=found[1] == HOST)


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder; the next one that is made removes those of killed processes."""

    def __init__(self) -> None:
        start = f"rulepatch-{HOST}-"
        for folder in Path(tempfile.gettempdir()).glob(f"{start}*"):
            _remove_folder_if_dead(folder)
        super().__init__(prefix=start, ignore_cleanup_errors=True)
        if sys.platform != "win32":
            descriptor = os.open(self.name, os.O_RDONLY)
            _locks(descriptor)
            weakref.finalize(self, os.close, descriptor)


def is_locked_here(path: Path) -> bool:
    """Whether the command that is running holds the lock of a file or folder."""
    return path in _held.get()


@contextmanager
def locked(path: Path, lock: Path) -> Iterator[None]:
    """Hold a lock; the system lets go of it if the process is killed, and the next command takes it over.

    Args:
        path: the file or folder that is kept for the command that is running; within it this can be repeated.
        lock: the file that is locked.

    Raises:
        OutputError: another command holds it.
    """
    if is_locked_here(path):
        yield
        return
    descriptor = _taken(path, lock)
    token = _held.set(_held.get() | {path})
    try:
        yield
    finally:
        _held.reset(token)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    """Open a file, but not what a link leads to, nor a pipe that nobody writes to."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)


def _made(folder: Path, suffix: str) -> tuple[Path, int]:
    while True:
        path = folder / temporary_name(suffix)
        descriptor = _open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        if _locks(descriptor) is not False and _is_at(descriptor, path):  # nobody took it for a leftover
            return path, descriptor
        os.close(descriptor)


def _taken(path: Path, lock: Path) -> int:
    while True:
        descriptor = _open(lock, os.O_CREAT | os.O_RDWR)
        if _locks(descriptor) is False:
            os.close(descriptor)
            raise OutputError(
                f"expected {path} for this command alone but another one is writing to it; wait until it ends, or name "
                "another"
            )
        if _is_at(descriptor, lock):  # and was not removed by the one that held it
            return descriptor
        os.close(descriptor)


def _locks(descriptor: int) -> bool | None:
    """Lock a file; False if somebody else has it, None if files cannot be locked there."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still what is found under its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _remove_if_dead(path: Path, *, here: bool) -> None:
    """Remove a temporary file whose process is dead: its lock says so if it is one of this machine, or its age."""
    with suppress(OSError):
        descriptor = _open(path, os.O_RDWR)
        try:
            free, old = _locks(descriptor), time.time() - os.fstat(descriptor).st_mtime > OLD
            if free is not False and (old or (here and free)) and _is_at(descriptor, path):
                path.unlink()
        finally:
            os.close(descriptor)


def _remove_folder_if_dead(folder: Path) -> None:
    with suppress(OSError):
        descriptor = _open(folder, os.O_RDONLY)
        try:
            if time.time() - os.fstat(descriptor).st_mtime > NEW and _locks(descriptor):
                shutil.rmtree(folder)
        finally:
            os.close(descriptor)
