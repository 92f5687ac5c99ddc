"""The one door through which files are written: whole or not at all, only over regular files, one writer a folder."""

import errno
import os
import secrets
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rulepatch.errors import OutputError, RulepatchError
from rulepatch.unfinished import LOCK, MARK, is_locked_here, locked, sweep_leftovers, temporary_name, unfinished_file

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "atomic_path",
    "check_folder",
    "check_writable",
    "make_folder",
    "write_file",
    "write_somewhere",
    "write_tensors",
    "write_texts",
    "writing_in",
    "writing_to",
]

_TRIED = 4096
"""Bytes that are written to see whether anything can be."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_writable(target: Path, *, size: int = 0) -> None:
    """Try whether a file can be written where it is wanted, before the work that it is to hold is done.

    Args:
        target: the file; links are followed.
        size: bytes that will be needed, as far as that is known.

    Raises:
        OutputError: there is no folder for it, nothing can be written there or too little, or something that is no
            regular file has its name.

    Examples:
        >>> check_writable(Path("no such folder") / "edit.safetensors")
        Traceback (most recent call last):
        rulepatch.errors.OutputError: expected a folder at no such folder to write edit.safetensors in ...
    """
    with _told(target, max(size, _TRIED)):
        final, _ = _place_of(target)
        sweep_leftovers(final.parent)
        _try(final.parent, length=len(os.fsencode(final.name)))
        if shutil.disk_usage(final.parent).free < size:
            raise OutputError(_no_room(target, size, os.strerror(errno.ENOSPC)))


def check_folder(folder: Path, *, parents: bool = True) -> None:
    """Try whether files can be written to a folder, and whether it can be made if there is none.

    Args:
        folder: it is left as it was found.
        parents: whether folders that it is in may be made, too.

    Raises:
        OutputError: it, or one that it is in, is a file, or nothing can be written there.
    """
    with _told(folder, _TRIED):
        made = make_folder(folder, parents=parents)
        try:
            _try(folder)
        finally:
            _remove_empty(made)


def make_folder(folder: Path, *, parents: bool = True) -> list[Path]:
    """Make a folder, and those that it is in; of one that is there, remove what killed processes left in it.

    Args:
        folder: links are followed.
        parents: whether to make those that it is in.

    Returns:
        The folders that were made, the innermost first.

    Raises:
        OutputError: it, or one that it is in, is a file, or it cannot be made.
    """
    with _told(folder), ExitStack() as undo:
        folder = Path(os.path.realpath(_spelt(folder)))
        missing = []
        for there in (folder, *folder.parents):
            if os.path.lexists(there):
                break
            missing.append(there)
        if not there.is_dir():
            raise OutputError(f"expected a folder to write to but {there} is a file; name another")
        if len(missing) > 1 and not parents:
            raise OutputError(
                f"expected a folder at {folder.parent} to make {folder.name} in but there is none; make it"
            )
        undo.callback(_remove_empty, missing)
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
        undo.pop_all()
        if not missing:
            sweep_leftovers(folder)
    return missing


@contextmanager
def atomic_path(target: Path, *, size: int | None = None) -> Iterator[Path]:
    """Give a path to write to; move it to `target` if the block ends well, else leave `target` as it was.

    A file that is replaced keeps its permissions, and a link goes on leading to it; a new one is as public as any.

    Args:
        target: the file to write; its folder must exist.
        size: bytes that will be written, for messages.

    Yields:
        A path in the same folder, with the same suffix.

    Raises:
        OutputError: the folder does not exist, the target is no regular file, or it cannot be written.

    Examples:
        >>> target = Path(getfixture("tmp_path")) / "numbers.txt"
        >>> with atomic_path(target) as path:
        ...     _ = path.write_text("1 2 3")
        >>> target.read_text()
        '1 2 3'
    """
    with _told(target, size):
        final, mode = _place_of(target)
        with unfinished_file(final.parent, final.suffix) as path:
            mode = stat.S_IMODE(path.stat().st_mode) if mode is None else mode
            yield path
            path.chmod(mode)  # a library may have put a file of its own there
            path.replace(final)


def write_file(target: Path, content: bytes | str) -> None:
    """Write a file, whole or not at all; text as UTF-8.

    Args:
        target: the file; its folder must exist.
        content: all of it: what libraries write goes through memory, as some of them end the process on a full disk.

    Raises:
        OutputError: the folder does not exist, the target is no regular file, or it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    with atomic_path(target, size=len(data)) as path:
        path.write_bytes(data)


def write_tensors(target: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
    """Write tensors as a safetensors file, whole or not at all.

    Args:
        target: the file; its folder must exist.
        tensors: by name.
        metadata: what else the file says.

    Raises:
        OutputError: the folder does not exist, the target is no regular file, or it cannot be written.
    """
    from safetensors.torch import save  # its save_file leaves files with names of its own if it is killed

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_file(target, save(contiguous, metadata=dict(metadata) or None))


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write text files into a folder, all of them or none.

    Args:
        folder: made if there is none.
        texts: what each file holds, by its name; they appear in this order, once all are written.

    Raises:
        OutputError: the folder, or one that it is in, is a file, or it cannot be written to.
    """
    with writing_in(folder), ExitStack() as unfinished:
        for name, text in reversed(list(texts.items())):
            data = text.encode()
            unfinished.enter_context(atomic_path(folder / name, size=len(data))).write_bytes(data)


def write_somewhere(write: Callable[[Path], None], target: Path) -> None:
    """Write what took long to make; where its file cannot be written, write it to any place that takes it.

    Args:
        write: writes to a path.
        target: where it is wanted.

    Raises:
        OutputError: it could not be written there; the message says where it is instead.
    """
    try:
        write(target)
    except OutputError as error:
        name = f"{target.stem[:60]}-{secrets.token_hex(4)}{target.suffix}"
        for place in (Path.cwd, tempfile.gettempdir, Path.home):
            try:
                kept = Path(place()) / name
                write(kept)
            except (OSError, RuntimeError):  # there may be no such place
                continue
            raise OutputError(f"{error}; it was saved as {kept} instead") from None
        raise


@contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Make a folder and keep it for the command that is running; another one that wants to write there is refused.

    Args:
        folder: removed in the end if it was made and nothing is in it.

    Raises:
        OutputError: another command is writing there, or nothing can be written there.
    """
    with _told(folder, _TRIED):
        final = Path(os.path.realpath(_spelt(folder)))
    made = [] if is_locked_here(final) else make_folder(folder)
    try:
        with _kept(final, final / LOCK):
            yield
    finally:
        _remove_empty(made)


@contextmanager
def writing_to(target: Path) -> Iterator[None]:
    """Keep a file that is written bit by bit for the command that is running; another one is refused.

    Args:
        target: the file; its folder must exist.

    Raises:
        OutputError: another command is writing to it, or it cannot be written.
    """
    check_writable(target)
    final, _ = _place_of(target)
    with _kept(final, final.with_name(f"{MARK}lock-{zlib.crc32(os.fsencode(final.name)):08x}")):
        yield


def _spelt(target: Path) -> Path:
    """A path that the system can be asked about."""
    try:
        if b"\0" not in os.fsencode(target):
            return target
    except UnicodeEncodeError:
        pass
    raise OutputError(f"expected the name of a file but {str(target)!r} can be none; name another") from None


def _place_of(target: Path) -> tuple[Path, int | None]:
    """Where a file really is, and its permissions if there is one."""
    try:
        found = _spelt(target).stat()
    except (FileNotFoundError, NotADirectoryError):
        found = None
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise OutputError(f"expected a file to write but {target} is a folder; name a file in it")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise OutputError(f"expected a regular file to write but {target} is a device, pipe or socket; name another")
    final = Path(os.path.realpath(target))
    if not final.parent.is_dir():
        parent = target.parent if final.name == target.name else final.parent
        what = "that is a file; name another" if os.path.lexists(parent) else "there is none; make it"
        raise OutputError(f"expected a folder at {parent} to write {target.name} in but {what}")
    if found is None:
        return final, None
    if not os.access(final, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected")
    return final, stat.S_IMODE(found.st_mode) & 0o777


def _try(folder: Path, *, length: int = 0) -> None:
    """Write a file with a name of some length, and remove it."""
    path = folder / temporary_name().ljust(length, "x")
    try:
        path.write_bytes(bytes(_TRIED))
    finally:
        path.unlink(missing_ok=True)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _told(target: Path, size: int | None = None) -> Iterator[None]:
    """Say in one sentence what the system says of a path."""
    try:
        yield
    except RulepatchError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise OutputError(_no_room(target, size, reason)) from error
        raise OutputError(
            f"expected to write {target} but the system refuses ({reason}); name another, or make it writable"
        ) from error


@contextmanager
def _kept(path: Path, lock: Path) -> Iterator[None]:
    with ExitStack() as stack:
        with _told(path, _TRIED):
            stack.enter_context(locked(path, lock))
        yield


def _no_room(target: Path, size: int | None, reason: str) -> str:
    needed = "" if size is None else f" for {_amount(size)}"
    return f"expected room{needed} to write {target} but the disk takes no more ({reason}); free some, or name another"


def _amount(size: int) -> str:
    power = max(0, min(3, (size.bit_length() - 1) // 10))
    return f"{size / 1024**power:.3g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"
