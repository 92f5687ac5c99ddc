"""Finding the image files of a folder, and reporting files that look like images but are skipped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from rulepatch.images import FORMATS, SUFFIXES
from rulepatch.reading import is_regular
from rulepatch.text import plural

__all__ = ["LeftOut", "Tree", "pictures_in", "pictures_under"]

PROGRAMS_OWN = frozenset({".ipynb_checkpoints", ".thumbnails", ".cache", ".git", ".dvc", ".svn", ".Trash", ".trash"})
"""Hidden folders with cached copies of images."""

_UNREADABLE = (
    (0, b"8BPS"), (0, b"%!PS"), (0, b"\xc5\xd0\xd3\xc6"), (0, b"\x76\x2f\x31\x01"), (0, b"#?RADIANCE"),
    (0, b"gimp xcf"), (0, b"qoif"), (0, b"\xff\x0a"), (0, b"\x00\x00\x00\x0cJXL "), (0, b"<svg"), (4, b"ftyphei"),
    (4, b"ftyphev"), (4, b"ftypmif1"), (4, b"ftypmsf1"), (4, b"ftypavi"), (4, b"ftypcrx"), (0, b"FUJIFILM"),
    (0, b"IIRO"), (0, b"IIU\x00"), (128, b"DICM"), (0, b"DDS "), (0, b"\x00\x00\x01\x00"), (0, b"SIMPLE  ="),
    (0, b"\x00\x00\x00\x0cjP  "), (0, b"\xff\x4f\xff\x51"), (8, b"WEBP"),
)  # fmt: skip
"""Signatures, with their offsets, of image formats that are not read (Photoshop, HEIC, DICOM, icons, …)."""

_SIGNED = [kind for kind in FORMATS if kind not in {"TGA", "PCX"}]
"""Formats that are recognised by the beginning of a file."""


@dataclass
class LeftOut:
    """Skipped files of an image folder, by kind.

    Attributes:
        paths: for each kind, a noun and an explanation.
    """

    paths: dict[tuple[str, str], list[Path]] = field(default_factory=dict)

    def add(self, path: Path, noun: str, more: str = "") -> None:
        """Add a file or folder.

        Args:
            path: the file or folder.
            noun: its kind.
            more: explanation that follows the noun.
        """
        self.paths.setdefault((noun, more), []).append(path)

    def told(self, root: Path) -> str:
        """Summary of skipped files, counted by kind, with examples.

        Args:
            root: paths are relative to it.

        Returns:
            Part of a sentence; empty if nothing was skipped.
        """
        return ", ".join(
            f"{' '.join([plural(len(paths), noun), *more.split()])} ({_examples(root, paths)})"
            for (noun, more), paths in sorted(self.paths.items())
        )

    def __bool__(self) -> bool:
        return bool(self.paths)


@dataclass(frozen=True)
class Tree:
    """Result of scanning a folder.

    Attributes:
        pictures: the image files, sorted.
        left_out: skipped files that may be images.
    """

    pictures: list[Path]
    left_out: LeftOut


def pictures_in(folder: Path, pattern: str) -> list[Path]:
    """The image files of one folder whose names match a pattern, without hidden ones.

    Args:
        folder: the folder.
        pattern: of their names, as `Path.glob` takes it.

    Returns:
        Files, sorted.
    """
    found = (path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if not path.name.startswith(".") and not path.is_dir())


def pictures_under(root: Path) -> Tree:
    """The image files at any depth below a folder.

    Files with a known extension are images, and files without an extension whose contents are. Links are followed, but
    a folder is read once, however many links lead to it. Other files are ignored silently.

    Args:
        root: the folder.

    Returns:
        The images, and skipped files that may be images: those with another extension or in an unsupported format,
        hidden files, broken or circular links, unreadable folders.
    """
    pictures: list[Path] = []
    left_out = LeftOut()
    seen = {_identity(root)}
    folders: list[Path] = [root]
    links: list[Path] = []
    while folders or links:
        folder = folders.pop() if folders else links.pop()  # links last, so that a folder is listed under its own path
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
                    left_out.add(path, "hidden folder", "with images")
            elif path.is_symlink():
                links.append(path)
            else:
                seen.add(_identity(path))
                folders.append(path)
    return Tree(sorted(pictures), left_out)


def _sorted_out(path: Path, left_out: LeftOut) -> Iterator[Path]:
    """The file if it is an image; otherwise it is reported as skipped if it may be one."""
    is_known = path.suffix.lower() in SUFFIXES
    if path.name.startswith("."):
        if _begins_like_a_picture(path):
            left_out.add(path, "hidden image")
    elif is_known and (path.is_file() or path.is_symlink()):  # unreadable files are reported when they are used
        yield path
    elif path.is_symlink() and not path.exists():
        left_out.add(path, "link", "to nothing")
    elif not path.suffix and _is_picture(path):
        yield path
    elif _begins_like_a_picture(path):
        left_out.add(path, "image", "of an ending that is not read")


def _is_picture(path: Path) -> bool:
    """Whether a file is an image by its contents."""
    if not is_regular(path):  # to open a pipe would wait for whoever writes to it
        return False
    try:
        with Image.open(path, formats=[kind for kind in _SIGNED if kind in Image.OPEN]):
            return True
    except Exception:  # Pillow may raise anything
        return False


def _begins_like_a_picture(path: Path) -> bool:
    """Whether a file begins with the signature of an image format, supported or not."""
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
    """Identity of a folder, shared by all links to it."""
    try:
        found = folder.stat()
    except OSError:
        return str(folder)
    return (found.st_dev, found.st_ino) if found.st_ino else str(folder.resolve())


def _examples(root: Path, paths: Sequence[Path]) -> str:
    named = [path.relative_to(root).as_posix() for path in sorted(paths)[:3]]
    return ", ".join([*named, *(["…"] if len(paths) > len(named) else [])])
