"""Atomic writing of files."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rulepatch.errors import OutputError

__all__ = ["atomic_path", "check_folder", "check_writable", "write_texts"]


def check_writable(target: Path) -> None:
    """Make sure that a file can be written where it is wanted, before the work that it is to hold is done.

    Args:
        target: the file.

    Raises:
        OutputError: its folder does not exist, or it is a folder itself.

    Examples:
        >>> check_writable(Path("no such folder") / "edit.safetensors")
        Traceback (most recent call last):
        rulepatch.errors.OutputError: expected a folder at no such folder to write edit.safetensors in ...
    """
    if not target.parent.is_dir():
        raise OutputError(f"expected a folder at {target.parent} to write {target.name} in but there is none; make it")
    if target.is_dir():
        raise OutputError(f"expected a file to write but {target} is a folder; name a file in it")


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a path to write to; move it to `target` if the block ends well, else leave `target` as it was.

    Args:
        target: the file to write; its folder must exist.

    Yields:
        A path in the same folder, with the same suffix.

    Raises:
        OutputError: the folder does not exist, or the target is a folder.

    Examples:
        >>> target = Path(getfixture("tmp_path")) / "numbers.txt"
        >>> with atomic_path(target) as path:
        ...     _ = path.write_text("1 2 3")
        >>> target.read_text()
        '1 2 3'
    """
    check_writable(target)
    path = target.with_name(f".{target.name}.{secrets.token_hex(8)}{target.suffix}")
    path.touch(exist_ok=False)  # by this and not as a temporary file, so that it is as public as any other
    try:
        yield path
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)


def check_folder(folder: Path) -> None:
    """Make sure that a folder can be made where it is wanted, or is there.

    Raises:
        OutputError: it, or one that it is in, is a file.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise OutputError(f"expected a folder to write to but {there} is a file; name another")


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write text files into a folder, each atomically.

    Args:
        folder: made if there is none.
        texts: what each file holds, by its name; they are written in this order.

    Raises:
        OutputError: the folder, or one that it is in, is a file.
    """
    check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with atomic_path(folder / name) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
