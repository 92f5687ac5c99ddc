"""A picture of a set, with its label."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rulepatch.digests import digest_of_bytes
from rulepatch.images import read_image

__all__ = ["UNREADABLE", "Picture"]

UNREADABLE = "unreadable"
"""In place of the digest of a file that cannot be read."""


@dataclass(frozen=True)
class Picture:
    """A picture with its label.

    Attributes:
        source: a file, or a picture in memory (RGB).
        label: index of its class; None if it is not known.
    """

    source: Path | Image.Image
    label: int | None = None

    @property
    def name(self) -> str:
        """For messages and reports."""
        return str(self.source) if isinstance(self.source, Path) else "a picture in memory"

    def read(self) -> Image.Image:
        """The picture itself, RGB; an `ImageError` if its file cannot be read."""
        return read_image(self.source) if isinstance(self.source, Path) else self.source

    def digest(self) -> str:
        """Digest of the file's bytes, or of the pixels in memory.

        Returns:
            Hexadecimal; "unreadable" for a file that cannot be read.
        """
        if isinstance(self.source, Path):
            try:
                return digest_of_bytes(self.source.read_bytes())
            except OSError:
                return UNREADABLE
        return digest_of_bytes(np.asarray(self.source).tobytes() + repr(self.source.size).encode())
