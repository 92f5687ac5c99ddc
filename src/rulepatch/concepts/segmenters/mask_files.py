"""Masks from files: `FOLDER/CONCEPT/PICTURE.png`, white where the concept is."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from rulepatch.concepts.segment import Region, Request, regions_of, segmenter
from rulepatch.concepts.segmenters.bases import ClosedVocabulary, Entries
from rulepatch.data.folders import Picture
from rulepatch.digests import digest_of_bytes, digest_of_json
from rulepatch.errors import FolderError, ImageError, SettingError
from rulepatch.masks import read_mask
from rulepatch.reading import read_bytes

__all__ = ["MaskFiles", "load"]


@dataclass(frozen=True, eq=False)
class MaskFiles(ClosedVocabulary):
    """A segmenter that reads masks from files.

    The mask of an image `val/van/003.jpg` is `CONCEPT/val/van/003.png`, `CONCEPT/van/003.png` or `CONCEPT/003.png` in
    its folder, the first of them that is there. An image without a file does not hold the concept. A mask that would
    be that of two images, as `CONCEPT/003.png` of `van/003.jpg` and `bus/003.jpg`, is refused.

    Attributes:
        folder: has a folder for each concept.
        threshold: of the mask, 0 for black to 1 for white.
    """

    folder: Path
    threshold: float = 0.5
    kind = "files"
    _owners: dict[Path, Picture] = field(default_factory=dict, repr=False)
    """The image that each mask was read for, to detect ambiguous masks."""

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Names of the folders."""
        return tuple(sorted(path.name for path in self.folder.iterdir() if path.is_dir() and path.name[0] != "."))

    def describe(self) -> dict[str, Any]:
        """What its answers depend on."""
        files = sorted(path for concept in self.vocabulary for path in (self.folder / concept).rglob("*.png"))
        with ThreadPoolExecutor() as pool:
            digests = list(pool.map(lambda path: digest_of_bytes(read_bytes(path, ImageError, what="a mask")), files))
        names = [path.relative_to(self.folder).as_posix() for path in files]
        masks = digest_of_json([list(self.vocabulary), names, digests])
        return {**super().describe(), "masks": masks, "files": len(files)}

    def find(self, picture: Picture, image: Image.Image, queries: Entries) -> dict[str, list[Region]]:
        """The masks of an image.

        Raises:
            ImageError: the image is no file, or a mask cannot be read, is of another size or another image's.
        """
        if not isinstance(picture.source, Path):
            raise ImageError(
                "expected an image that is a file, whose name its masks have, but got one in memory; write it down"
            )
        vocabulary = self.vocabulary
        found: dict[str, list[Region]] = {}
        for concept, entries in queries.items():
            found[concept] = []
            for path in filter(None, (self._path(vocabulary[entry], picture.source) for entry in entries)):
                self._claim(path, picture)
                mask = read_mask(path, size=image.size)
                found[concept] += regions_of(mask[None], self.threshold, [1.0])
        return found

    def _claim(self, path: Path, picture: Picture) -> None:
        owner = self._owners.setdefault(path, picture)
        if owner.source != picture.source and owner.digest() != picture.digest():
            raise ImageError(
                f"expected one image for the mask {path} but got two, {owner.name} and {picture.name}; "
                "put the masks into folders as the images are"
            )

    def _path(self, concept: str, source: Path) -> Path | None:
        parts = source.with_suffix(".png").parts[1 if source.is_absolute() else 0 :]
        candidates = (self.folder.joinpath(concept, *parts[start:]) for start in range(len(parts)))
        return next((path for path in candidates if path.is_file()), None)


@segmenter("files")
def load(request: Request) -> MaskFiles:
    """`files/FOLDER`.

    Raises:
        FolderError: there is no such folder, or no folder in it.
        SettingError: no folder is named.
    """
    if not request.name:
        raise SettingError("expected a folder of masks, files/FOLDER, but got none; name it")
    folder = Path(request.name).expanduser()
    if not folder.is_dir():
        raise FolderError(f"expected a folder of masks at {folder} but there is none; check the path")
    masks = MaskFiles(folder, request.threshold or MaskFiles.threshold)
    if not masks.vocabulary:
        raise FolderError(
            f"expected a folder for each concept in {folder} but found none; put CONCEPT/PICTURE.png there"
        )
    return masks
