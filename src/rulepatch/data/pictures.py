"""An image of a set, with its label."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rulepatch.digests import digest_of_bytes
from rulepatch.errors import ImageError
from rulepatch.images import as_image, image_bytes, read_image

__all__ = ["UNREADABLE", "Picture"]

UNREADABLE = "unreadable"
"""Placeholder digest of an unreadable file."""


@dataclass(frozen=True)
class Picture:
    """An image with its label.

    Attributes:
        source: a file, or an image in memory.
        label: index of its class; None if it is not known.
        framed: whether it is cropped and resized to the model's input already.
    """

    source: Path | Image.Image
    label: int | None = None
    framed: bool = False

    @property
    def name(self) -> str:
        """For messages and reports."""
        return str(self.source) if isinstance(self.source, Path) else "an image in memory"

    def read(self, *, alpha: bool = False) -> Image.Image:
        """The image itself, RGB, or RGBA if its transparency is kept; an `ImageError` if its file cannot be read."""
        if isinstance(self.source, Path):
            return read_image(self.source, alpha=alpha)
        return as_image(self.source, alpha=alpha)

    def digest(self) -> str:
        """Digest of the file's bytes, or of the pixels in memory.

        Returns:
            Hexadecimal; "unreadable" for a file that cannot be read.
        """
        if isinstance(self.source, Path):
            try:
                return digest_of_bytes(image_bytes(self.source))
            except ImageError:
                return UNREADABLE
        kind = repr(self.source.size) + (" framed" if self.framed else "")
        return digest_of_bytes(np.asarray(self.source).tobytes() + kind.encode())
