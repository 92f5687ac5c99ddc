"""Sets of images: folders with a class folder each, flat folders without labels, or images in memory."""

import unicodedata
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from rulepatch.data.exemplar_folders import read_exemplars, write_exemplar
from rulepatch.data.picture_files import pictures_under
from rulepatch.data.pictures import UNREADABLE, Picture
from rulepatch.data.sources import pictures_of
from rulepatch.digests import digest_of_json
from rulepatch.errors import FolderError, SettingError, warn
from rulepatch.files import make_folder
from rulepatch.images import write_image
from rulepatch.models.classes import Classes
from rulepatch.progress import steps
from rulepatch.text import brief, plural, quoted

__all__ = ["UNREADABLE", "ImageSet", "Picture", "Snapshot", "name_of_class", "read_exemplars", "write_exemplar"]


@dataclass(frozen=True)
class ImageSet:
    """Images in a fixed order.

    Attributes:
        pictures: the images.
        name: where they come from, for messages.
    """

    pictures: tuple[Picture, ...]
    name: str

    def __repr__(self) -> str:
        labels = {picture.label for picture in self.pictures}
        of_classes = f"labelled, {plural(len(labels), 'class', 'classes')}"
        known = of_classes if None not in labels else "partly labelled" if len(labels) > 1 else "without labels"
        return brief(type(self).__name__, plural(len(self), "image"), known, quoted(self.name, most=60))

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def is_labelled(self) -> bool:
        """Whether every image has a label."""
        return all(picture.label is not None for picture in self.pictures)

    @classmethod
    def of(cls, source: Any, classes: Classes, *, leave_out: Collection[int | str] = ()) -> "ImageSet":
        """Images from folders, or from anything that yields images or (image, label) pairs.

        Args:
            source: a folder or a list of them, an `ImageSet`, or an iterable such as a torchvision data set without a
                transform.
            classes: of the model, to understand labels.
            leave_out: classes whose images do not count, by name or index.

        Raises:
            FolderError: the folder is missing, holds no images, or has a folder that no class matches; or nothing is
                left.
            SettingError: a class to leave out is unknown.
        """
        if leave_out:
            left_out = {classes.index(label) for label in leave_out}
            return cls.of(source, classes).without(left_out)
        if isinstance(source, ImageSet):
            return source
        if isinstance(source, str | Path):
            return cls.from_folder(Path(source), classes)
        if isinstance(source, list | tuple) and any(isinstance(e, str | Path) and Path(e).is_dir() for e in source):
            parts = [cls.of(each, classes) for each in source]
            return cls(sum((part.pictures for part in parts), ()), ", ".join(part.name for part in parts))
        pictures = tuple(pictures_of(source, classes))
        if not pictures:
            raise FolderError("expected images but got an empty sequence; give at least one")
        return cls(pictures, f"{len(pictures)} images in memory")

    @classmethod
    def from_folder(cls, root: Path, classes: Classes) -> Self:
        """Images of a folder that has a folder for each class (index, name or WordNet id), or none at all.

        Args:
            root: the folder.
            classes: of the model.

        Returns:
            The set, in the order of paths.

        Raises:
            FolderError: the folder is missing, holds no images, or has a folder that no class matches.
        """
        if not root.is_dir():
            raise FolderError(f"expected a folder of images at {root} but there is none; check the path")
        tree = pictures_under(root)
        loose = [path for path in tree.pictures if path.parent == root]
        inside: dict[str, list[Path]] = {}
        for path in tree.pictures:
            if path.parent != root:
                inside.setdefault(path.relative_to(root).parts[0], []).append(path)
        if not tree.pictures:
            told = f" (left out: {tree.left_out.told(root)})" if tree.left_out else ""
            raise FolderError(
                f"expected images in {root} but found none{told}; put them there, or in a folder for each class"
            )
        labels = _labels(root, list(inside), classes)
        labelled = [Picture(path, labels[name]) for name, paths in inside.items() for path in paths]
        if len(loose) < len(labelled):
            for path in loose:
                tree.left_out.add(path, "image", "beside the class folders")
            loose = []
        elif labelled:
            warn(
                f"{root} counts as a set without labels, as {len(loose)} of its images lie beside the class folders "
                f"and {len(labelled)} in them; put all of them in class folders"
            )
        if tree.left_out:
            warn(f"left out of {root}: {tree.left_out.told(root)}; convert, move or rename what should count")
        return cls((*(Picture(path) for path in loose), *labelled), str(root))

    def without(self, labels: Collection[int]) -> "ImageSet":
        """The images of all other classes.

        Raises:
            FolderError: nothing is left, or the images have no labels.
        """
        if labels and not any(picture.label is not None for picture in self.pictures):
            raise FolderError(
                f"expected class folders in {self.name} to leave classes out of but its images have no labels; "
                "put them in a folder for each class"
            )
        kept = tuple(picture for picture in self.pictures if picture.label not in labels)
        if not kept:
            raise FolderError(f"expected images of other classes in {self.name} but all are left out; leave out fewer")
        return ImageSet(kept, self.name)

    def without_labels(self) -> "ImageSet":
        """The same images with nothing said of what they show."""
        return ImageSet(tuple(replace(picture, label=None) for picture in self.pictures), self.name)

    def sample(self, count: int, *, seed: int) -> "ImageSet":
        """A random part of the set, in the same order; all of it if it is no larger."""
        if count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), size=count, replace=False))
        return ImageSet(tuple(self.pictures[i] for i in chosen), self.name)

    def split(self, share: float, *, seed: int) -> "tuple[ImageSet, ImageSet]":
        """Two parts that have no image in common, each class divided in the same proportion as far as it can be.

        Args:
            share: of the first part, 0..1.
            seed: which images go where.

        Returns:
            The first part and the rest, in the same order.

        Raises:
            SettingError: the share is not between 0 and 1.
            FolderError: there are too few images for both parts.
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
                f"expected enough images in {self.name} to put {share:.0%} aside but got {len(self)}; add some"
            )
        parts = ([p for i, p in enumerate(self.pictures) if (i in first) == wanted] for wanted in (True, False))
        return tuple(ImageSet(tuple(part), self.name) for part in parts)  # type: ignore[return-value]

    def write(self, root: Path, classes: Classes) -> None:
        """Write the images as PNG files into a folder for each class, as `from_folder` reads them.

        Args:
            root: the folder; made if there is none. Files of the same names are replaced, others stay.
            classes: of the model, to name the class folders.

        Raises:
            FolderError: an image has no label.
            OutputError: the folder cannot be written to.
        """
        made: set[Path] = set()
        for number, picture in enumerate(self.pictures):
            if picture.label is None:
                raise FolderError(f"expected labels to write {self.name} in class folders but {picture.name} has none")
            folder = root / name_of_class(picture.label, classes)
            if folder not in made:
                make_folder(folder)
                made.add(folder)
            write_image(picture.read(alpha=True), folder / f"{number:05}.png")

    def digests(self, *, progress: bool = False) -> list[str]:
        """Digest of the contents of each image.

        Args:
            progress: whether to show a bar; many files take long to read.
        """
        with ThreadPoolExecutor() as pool:
            reading = [pool.submit(picture.digest) for picture in self.pictures]
            try:
                return [each.result() for each in steps(reading, "digests", unit="image", shown=progress)]
            finally:
                pool.shutdown(cancel_futures=True)

    def digest(self, *, progress: bool = False) -> str:
        """Digest of the contents of all images, in order; labels do not count.

        Args:
            progress: whether to show a bar.
        """
        return digest_of_json(self.digests(progress=progress))


@dataclass(frozen=True, repr=False)
class Snapshot(ImageSet):
    """An image set with precomputed digests, for images that do not change while they are used.

    Attributes:
        taken: the digest of each image.
    """

    taken: tuple[str, ...]

    def digests(self, *, progress: bool = False) -> list[str]:
        """The precomputed digests.

        Args:
            progress: unused.
        """
        return list(self.taken)


LONGEST = 200
"""Bytes of the name of a class folder, well within what every file system allows."""


def name_of_class(label: int, classes: Classes) -> str:
    """Folder name of a class that is valid on any system: its name, or its index where the name is not."""
    name = _composed(classes[label])
    all_numbers = all(each.isdecimal() for each in classes.names)
    is_plain = name.replace(" ", "").replace("-", "").isalnum() and (all_numbers or not name.isdecimal())
    is_plain = is_plain and name == name.strip() and len(name.encode()) < LONGEST and name.casefold() not in _RESERVED
    # names that differ in case only are the same folder on some file systems
    same = [i for i in range(len(classes)) if _composed(classes[i]).casefold() == name.casefold()]
    candidates = [*([name] if is_plain and same == [label] else []), *([] if all_numbers else [str(label)])]
    return next((each for each in candidates if _means(classes, each, label)), f"({label})")


_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}
"""Reserved file names on Windows."""


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _means(classes: Classes, name: str, label: int) -> bool:
    try:
        return classes.index(name) == label
    except SettingError:  # several classes share it
        return False


def _labels(root: Path, names: Sequence[str], classes: Classes) -> dict[str, int]:
    """The classes that folder names refer to."""
    labels = {}
    for name, found in classes.indices(names).items():
        if isinstance(found, SettingError):
            folders = [path.name for path in (root / name).iterdir() if path.is_dir()]
            deeper = any(isinstance(each, int) for each in classes.indices(folders).values())
            advice = f"; the classes may be in {root / name}: give that folder" if deeper else ""
            raise FolderError(f"expected a class folder at {root / name} but no class matches it: {found}{advice}")
        labels[name] = found
    return labels
