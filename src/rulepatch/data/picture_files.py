"""Which files of a folder are pictures."""

from pathlib import Path

from rulepatch.images import SUFFIXES

__all__ = ["pictures_in"]


def pictures_in(folder: Path, pattern: str) -> list[Path]:
    """The picture files of a folder, but hidden ones.

    Args:
        folder: the folder.
        pattern: of their names, as `Path.glob` takes it.

    Returns:
        Files, sorted.
    """

    def is_hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    pictures = (path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in pictures if not is_hidden(path) and not path.is_dir())
