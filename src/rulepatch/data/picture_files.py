"""Which files of a folder are pictures, and which of the others a person may have taken for some."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from rulepatch.images import FORMATS, SUFFIXES
from rulepatch.text import plural

__all__ = ["LeftOut", "Tree", "pictures_in", "pictures_under"]

PROGRAMS_OWN = frozenset({".ipynb_checkpoints", ".thumbnails", ".cache", ".git", ".dvc", ".svn", ".Trash", ".trash"})
"""Hidden folders that programs fill with copies of pictures."""

_UNREADABLE = (
    (0, b"8BPS"), (0, b"%!PS"), (0, b"\xc5\xd0\xd3\xc6"), (0, b"\x76\x2f\x31\x01"), (0, b"#?RADIANCE"),
    (0, b"gimp xcf"), (0, b"qoif"), (0, b"\xff\x0a"), (0, b"\x00\x00\x00\x0cJXL "), (0, b"<svg"), (4, b"ftyphei"),
    (4, b"ftyphev"), (4, b"ftypmif1"), (4, b"ftypmsf1"), (4, b"ftypavi"), (4, b"ftypcrx"), (0, b"FUJIFILM"),
    (0, b"IIRO"), (0, b"IIU\x00"), (128, b"DICM"), (0, b"DDS "), (0, b"\x00\x00\x01\x00"), (0, b"SIMPLE  ="),
    (0, b"\x00\x00\x00\x0cjP  "), (0, b"\xff\x4f\xff\x51"), (8, b"WEBP"),
)  # fmt: skip
"""Where files of pictures begin with what that Pillow, or this Pillow, does not read: Photoshop, HEIC, DICOM, icons…"""

_SIGNED = [kind for kind in FORMATS if kind not in {"TGA", "PCX"}]
"""Formats that say at the beginning of a file what it is."""


@dataclass
class LeftOut:
    """What is left out of a folder of pictures, by kind.

    Attributes:
        paths: of each kind, in words: a noun, and what is to be said after it.
    """

    paths: dict[tuple[str, str], list[Path]] = field(default_factory=dict)

    def add(self, path: Path, noun: str, more: str = "") -> None:
        """Add a file or folder.

        Args:
            path: which.
            noun: what it is.
            more: what else is to be said of its kind, after the noun.
        """
        self.paths.setdefault((noun, more), []).append(path)

    def told(self, root: Path) -> str:
        """Everything that is left out, counted by kind, with examples.

        Args:
            root: paths are told from here.

        Returns:
            Words for a sentence; empty if nothing is left out.
        """
        return ", ".join(
            f"{' '.join([plural(len(paths), noun), *more.split()])} ({_examples(root, paths)})"
            for (noun, more), paths in sorted(self.paths.items())
        )

    def __bool__(self) -> bool:
        return bool(self.paths)


@dataclass(frozen=True)
class Tree:
    """A folder as it was walked.

    Attributes:
        pictures: the picture files, sorted.
        left_out: what a person may have taken for a picture.
    """

    pictures: list[Path]
    left_out: LeftOut


def pictures_in(folder: Path, pattern: str) -> list[Path]:
    """The picture files of one folder whose names fit a pattern, but hidden ones.

    Args:
        folder: the folder.
        pattern: of their names, as `Path.glob` takes it.

    Returns:
        Files, sorted.
    """
    found = (path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if not path.name.startswith(".") and not path.is_dir())


def pictures_under(root: Path) -> Tree:
    """The picture files at any depth below a folder.

    Files of a known ending are pictures, and files without an ending whose contents are. Links are followed, but a
    folder is read once, however many links lead to it. Files that are no pictures go without a word.

    Args:
        root: the folder.

    Returns:
        The pictures, and what a person may have taken for one: pictures with another ending or of a format that is not
        read, hidden ones, links that lead nowhere or back, folders that cannot be read.
    """
    pictures: list[Path] = []
    left_out = LeftOut()
    seen = {_identity(root)}
    folders: list[Path] = [root]
    links: list[Path] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop()  # links last, so that a folder counts where it is
        if folder.is_symlink() and folder != root:
            if _identity(folder) in seen:
                left_out.add(folder, "link", "to what is read already")
                continue
            seen.add(_identity(folder))
        try:
            inside = sorted(folder.iterdir(), reverse=True)
        except OSError:
            left_out.add(folder, "folder", "that cannot be read")
            continue
        for path in inside:
            if not path.is_dir():
                pictures += _sorted_out(path, left_out)
            elif path.name.startswith("."):
                if path.name not in PROGRAMS_OWN and _holds_pictures(path):
                    left_out.add(path, "hidden folder", "with pictures")
            elif path.is_symlink():
                links.append(path)
            else:
                seen.add(_identity(path))
                folders.append(path)
    return Tree(sorted(pictures), left_out)


def _sorted_out(path: Path, left_out: LeftOut) -> Iterator[Path]:
    """The file if it is a picture; it is counted if it is left out though somebody may take it for one."""
    is_known = path.suffix.lower() in SUFFIXES
    if path.name.startswith("."):
        if _begins_like_a_picture(path):
            left_out.add(path, "hidden picture")
    elif is_known and (path.is_file() or path.is_symlink()):  # one that cannot be read is reported when it is needed
        yield path
    elif path.is_symlink() and not path.exists():
        left_out.add(path, "link", "to nothing")
    elif not path.suffix and _is_picture(path):
        yield path
    elif _begins_like_a_picture(path):
        left_out.add(path, "picture", "of an ending that is not read")


def _is_picture(path: Path) -> bool:
    """Whether a file is a picture by its contents."""
    try:
        with Image.open(path, formats=[kind for kind in _SIGNED if kind in Image.OPEN]):
            return True
    except Exception:  # whatever Pillow makes of a file that is none
        return False


def _begins_like_a_picture(path: Path) -> bool:
    """Whether a file begins like one of the pictures that are read or of those that are not."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return any(head.startswith(magic, start) for start, magic in _UNREADABLE) or _is_picture(path)


def _holds_pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES and _begins_like_a_picture(path) for path in folder.rglob("*"))


def _identity(folder: Path) -> tuple[int, int] | str:
    """What a folder and all links to it have in common."""
    try:
        found = folder.stat()
    except OSError:
        return str(folder)
    return (found.st_dev, found.st_ino) if found.st_ino else str(folder.resolve())


def _examples(root: Path, paths: Sequence[Path]) -> str:
    named = [path.relative_to(root).as_posix() for path in sorted(paths)[:3]]
    return ", ".join([*named, *(["…"] if len(paths) > len(named) else [])])
