"""Sets of pictures: folders with a class folder each, flat folders without labels, or pictures in memory."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from rulepatch.data.exemplar_folders import read_exemplars, write_exemplar
from rulepatch.data.picture_files import pictures_in
from rulepatch.digests import digest_of_bytes, digest_of_json
from rulepatch.errors import FolderError, SettingError
from rulepatch.images import as_read, read_image, write_image
from rulepatch.models.classes import Classes
from rulepatch.progress import steps
from rulepatch.text import brief, plural, quoted

__all__ = ["ImageSet", "Picture", "Snapshot", "name_of_class", "read_exemplars", "write_exemplar"]

UNREADABLE = "unreadable"
"""In place of the digest of a file that cannot be read."""


@dataclass(frozen=True)
class Picture:
    """A picture with its label.

    Attributes:
        source: a file, or a picture in memory.
        label: index of its class; None if it is not known.
        framed: whether it is the part that a network sees, at its input size, which is not to be cut out again.
    """

    source: Path | Image.Image
    label: int | None = None
    framed: bool = False

    @property
    def name(self) -> str:
        """For messages and reports."""
        return str(self.source) if isinstance(self.source, Path) else "a picture in memory"

    def read(self, *, alpha: bool = False) -> Image.Image:
        """The picture itself, RGB, or RGBA if its transparency is kept; an `ImageError` if its file cannot be read."""
        if isinstance(self.source, Path):
            return read_image(self.source, alpha=alpha)
        return as_read(self.source, alpha=alpha)

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
        kind = repr(self.source.size) + (" framed" if self.framed else "")
        return digest_of_bytes(np.asarray(self.source).tobytes() + kind.encode())


@dataclass(frozen=True)
class ImageSet:
    """Pictures in a fixed order.

    Attributes:
        pictures: the pictures.
        name: where they come from, for messages.
    """

    pictures: tuple[Picture, ...]
    name: str

    def __repr__(self) -> str:
        labels = {picture.label for picture in self.pictures}
        of_classes = f"labelled, {plural(len(labels), 'class', 'classes')}"
        known = of_classes if None not in labels else "partly labelled" if len(labels) > 1 else "without labels"
        return brief(type(self).__name__, plural(len(self), "picture"), known, quoted(self.name, most=60))

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def is_labelled(self) -> bool:
        """Whether every picture has a label."""
        return all(picture.label is not None for picture in self.pictures)

    @classmethod
    def of(cls, source: Any, classes: Classes) -> "ImageSet":
        """Pictures from a folder, or from anything that yields pictures or (picture, label) pairs.

        Args:
            source: a folder, an `ImageSet`, or an iterable such as a torchvision data set without a transform.
            classes: of the model, to understand labels.

        Returns:
            The set.

        Raises:
            FolderError: the folder is missing, holds no pictures, or has a folder that no class matches.
        """
        if isinstance(source, ImageSet):
            return source
        if isinstance(source, str | Path):
            return cls.from_folder(Path(source), classes)
        pictures = tuple(_picture(entry, classes) for entry in source)
        if not pictures:
            raise FolderError("expected pictures but got an empty sequence; give at least one")
        return cls(pictures, f"{len(pictures)} pictures in memory")

    @classmethod
    def from_folder(cls, root: Path, classes: Classes) -> Self:
        """Pictures of a folder that has a folder for each class (index, name or WordNet id), or none at all.

        Args:
            root: the folder.
            classes: of the model.

        Returns:
            The set, in the order of paths.

        Raises:
            FolderError: the folder is missing, holds no pictures, or has a folder that no class matches.
        """
        if not root.is_dir():
            raise FolderError(f"expected a folder of pictures at {root} but there is none; check the path")
        pictures = [Picture(path) for path in pictures_in(root, "*")]
        for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            inside = pictures_in(folder, "**/*")
            if not inside:
                continue
            try:
                label = classes.index(folder.name)
            except SettingError as error:
                raise FolderError(f"expected a class folder at {folder} but no class matches it: {error}") from None
            pictures += [Picture(path, label) for path in inside]
        if not pictures:
            raise FolderError(
                f"expected pictures in {root} but found none; put them there, or in a folder for each class"
            )
        return cls(tuple(pictures), str(root))

    def without(self, labels: Collection[int]) -> "ImageSet":
        """The pictures of all other classes.

        Returns:
            A new set.

        Raises:
            FolderError: nothing is left, or the pictures have no labels.
        """
        if labels and not any(picture.label is not None for picture in self.pictures):
            raise FolderError(
                f"expected class folders in {self.name} to leave classes out of but its pictures have no labels; "
                "put them in a folder for each class"
            )
        kept = tuple(picture for picture in self.pictures if picture.label not in labels)
        if not kept:
            raise FolderError(
                f"expected pictures of other classes in {self.name} but all are left out; leave out fewer"
            )
        return ImageSet(kept, self.name)

    def sample(self, count: int, *, seed: int) -> "ImageSet":
        """A random part of the set, in the same order; all of it if it is no larger.

        Returns:
            A new set.
        """
        if count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), size=count, replace=False))
        return ImageSet(tuple(self.pictures[i] for i in chosen), self.name)

    def split(self, share: float, *, seed: int) -> "tuple[ImageSet, ImageSet]":
        """Two parts that have no picture in common, each class divided in the same proportion as far as it can be.

        Args:
            share: of the first part, 0..1.
            seed: which pictures go where.

        Returns:
            The first part and the rest, in the same order.

        Raises:
            SettingError: the share is not between 0 and 1.
            FolderError: there are too few pictures for both parts.
        """
        if not 0 < share < 1:
            raise SettingError(f"expected a share between 0 and 1 but got {share}; 0.3 is usual")
        rng = np.random.default_rng(seed)
        rank = rng.random(len(self))
        by_class: dict[int | None, list[int]] = {}
        for index, picture in enumerate(self.pictures):
            by_class.setdefault(picture.label, []).append(index)
        for members in by_class.values():  # the k-th of a class stands at the same place in each class
            offset = rng.random()
            for place, index in enumerate(sorted(members, key=lambda member: rank[member])):
                rank[index] = (place + offset) / len(members)
        first = set(np.argsort(rank, kind="stable")[: round(share * len(self))].tolist())
        if not 0 < len(first) < len(self):
            raise FolderError(
                f"expected enough pictures in {self.name} to put {share:.0%} aside but got {len(self)}; add some"
            )
        parts = ([p for i, p in enumerate(self.pictures) if (i in first) == wanted] for wanted in (True, False))
        return tuple(ImageSet(tuple(part), self.name) for part in parts)  # type: ignore[return-value]

    def write(self, root: Path, classes: Classes) -> None:
        """Write the pictures as PNG files into a folder for each class, as `from_folder` reads them.

        Args:
            root: the folder; made if there is none. Files of the same names are replaced, others stay.
            classes: of the model, to name the class folders.

        Raises:
            FolderError: a picture has no label.
        """
        for number, picture in enumerate(self.pictures):
            if picture.label is None:
                raise FolderError(f"expected labels to write {self.name} in class folders but {picture.name} has none")
            folder = root / name_of_class(picture.label, classes)
            folder.mkdir(parents=True, exist_ok=True)
            write_image(picture.read(alpha=True), folder / f"{number:05}.png")

    def digests(self, *, progress: bool = False) -> list[str]:
        """Digest of the contents of each picture.

        Args:
            progress: whether to show a bar; many files take long to read.

        Returns:
            Hexadecimals.
        """
        with ThreadPoolExecutor() as pool:
            reading = [pool.submit(picture.digest) for picture in self.pictures]
            try:
                return [each.result() for each in steps(reading, "digests", unit="image", shown=progress)]
            finally:
                pool.shutdown(cancel_futures=True)

    def digest(self, *, progress: bool = False) -> str:
        """Digest of the contents of all pictures, in order; labels do not count.

        Args:
            progress: whether to show a bar.

        Returns:
            Hexadecimal.
        """
        return digest_of_json(self.digests(progress=progress))


@dataclass(frozen=True, repr=False)
class Snapshot(ImageSet):
    """Pictures that nobody will change while they are used.

    Attributes:
        taken: the digest of each, which was taken once.
    """

    taken: tuple[str, ...]

    def digests(self, *, progress: bool = False) -> list[str]:
        """The digests that were taken.

        Args:
            progress: nothing takes long.

        Returns:
            Hexadecimals.
        """
        return list(self.taken)


def name_of_class(label: int, classes: Classes) -> str:
    """A class's name as a folder may be called, or its index where the name would not do or names several classes.

    Returns:
        What `Classes.index` understands.
    """
    name = classes[label]
    is_plain = name.replace(" ", "").replace("-", "").isalnum() and not name.isdecimal()
    try:
        return name if is_plain and classes.index(name) == label else str(label)
    except SettingError:  # several classes share it
        return str(label)


def _picture(entry: Any, classes: Classes) -> Picture:
    if isinstance(entry, Picture):
        return entry
    source, label = entry if isinstance(entry, tuple) else (entry, None)
    if not isinstance(source, Image.Image | Path | str):
        raise FolderError(f"expected pictures (PIL) or paths but got {type(source).__name__}; leave out the transform")
    source = as_read(source, alpha=True) if isinstance(source, Image.Image) else Path(source)
    return Picture(source, None if label is None else classes.index(label))
