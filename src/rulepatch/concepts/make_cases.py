"""Make a case set: images × concepts × styles, streamed, one image read and segmented once (paper 4).

What belongs to an image is written first and its record last, so whatever the moment a run is killed at, the next one
goes on with the images that have no record, and ends with the same bytes.
"""

import io
import json
import platform
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from rulepatch.concepts.case_settings import CaseSettings
from rulepatch.concepts.cases import MANIFEST, RECORDS, ROWS, SCHEMA, CaseSet, plain_name, read_manifest
from rulepatch.concepts.segment import Segmenter, concept_mask
from rulepatch.concepts.stylize import STYLES, Style, Stylizer
from rulepatch.concepts.stylize import styles as styles_named
from rulepatch.concepts.stylizers.playground import own_styles
from rulepatch.data.folders import ImageSet, Picture, name_of_class
from rulepatch.data.run import Run, with_settings
from rulepatch.data.stream import Skipped, ahead
from rulepatch.digests import digest_of_bytes, digest_of_json
from rulepatch.errors import FolderError, ImageError, SettingError, nearest
from rulepatch.files import atomic_path
from rulepatch.forms import checked
from rulepatch.images import read_image
from rulepatch.models.classes import Classes
from rulepatch.progress import Bar
from rulepatch.reading import read_bytes, read_json

__all__ = ["make_cases", "propose_exclusions", "styles_for"]

PROPOSED = "proposed-exclusions.json"

AHEAD = 8
"""Images that are read before, and written after, the one that is segmented."""


@dataclass(frozen=True, eq=False)
class _Read:
    """An image as it goes into the set.

    Attributes:
        picture: where it comes from.
        name: in the set.
        label: name of its class.
        image: read, and reduced.
        digest: of the file.
    """

    picture: Picture
    name: str
    label: str | None
    image: Image.Image
    digest: str


@dataclass(frozen=True)
class _Maker:
    """What makes the files of one image."""

    out: Path
    segmenter: Segmenter
    stylizer: Stylizer
    concepts: tuple[str, ...]
    styles: Mapping[str, Sequence[Style]]
    how: CaseSettings
    seed: int
    names: Mapping[int, str] = field(repr=False)

    def settings(self) -> dict[str, Any]:
        """All that determines the bytes, but for the images."""
        return {
            "concepts": list(self.concepts),
            "styles": {
                concept: [{"name": each.name, "index": each.index, "digest": each.digest()} for each in styles]
                for concept, styles in self.styles.items()
            },
            "segmenter": self.segmenter.describe(),
            "stylizer": self.stylizer.describe(),
            **self.how.describe(),
            "seed": self.seed,
        }

    def read(self, item: tuple[Picture, str]) -> _Read | ImageError | None:
        """Read an image; None if it has a record."""
        picture, name = item
        if self.record(name).is_file():
            return None
        try:
            source = picture.source
            content = read_bytes(source, ImageError, most=1 << 30) if isinstance(source, Path) else b""
            image = read_image(content) if isinstance(source, Path) else picture.read()
        except (ImageError, OSError) as error:
            return ImageError(str(error).replace("the image", picture.name))
        digest = digest_of_bytes(content) if content else picture.digest()
        label = None if picture.label is None else self.names[picture.label]
        return _Read(picture, name, label, _reduced(image, self.how.size), digest)

    def find(self, found: _Read) -> dict[str, tuple[NDArray[np.float32], float]]:
        """Masks and scores of the concepts that an image holds."""
        wanted = [each for each in self.concepts if found.label not in self.how.exclude.get(each, ())]
        regions = self.segmenter.segment(found.picture, found.image, wanted) if wanted else {}
        size = (found.image.height, found.image.width)
        masks = {concept: concept_mask(each, self.segmenter.threshold, size) for concept, each in regions.items()}
        low, high = self.how.smallest, self.how.largest
        return {
            concept: (mask, score)
            for concept, (mask, score) in masks.items()
            if mask is not None and low <= mask.mean() <= high
        }

    def write(self, found: _Read, masks: Mapping[str, tuple[NDArray[np.float32], float]]) -> None:
        """Write an image, its masks, itself in every style, and last its record."""
        rows = []
        for concept, (mask, score) in masks.items():
            self._save(Image.fromarray((mask * 255).astype(np.uint8)), "masks", plain_name(concept), found.name)
            for style in self.styles[concept]:
                seed = int(digest_of_json([self.seed, found.digest, concept, style.name, style.index])[:8], 16)
                styled = self.stylizer(found.image, mask, style, seed=seed)
                where = f"{plain_name(style.name)}-{style.index}"
                self._save(styled, "styled", plain_name(concept), where, found.name)
                rows.append(
                    {"picture": found.name, "label": found.label, "concept": concept, "style": style.name,
                     "index": style.index, "score": round(score, 6), "share": round(float(mask.mean()), 6)}
                )  # fmt: skip
        if rows:
            self._save(found.image, "images", found.name)
        self.close(found.name, {"digest": found.digest, "label": found.label, "rows": rows})

    def close(self, name: str, record: Mapping[str, Any]) -> None:
        """Write the record of an image: whatever it has is there."""
        self.record(name).parent.mkdir(parents=True, exist_ok=True)
        _write_json(self.record(name), record)

    def record(self, name: str) -> Path:
        """Where the record of an image is."""
        return self.out / RECORDS / f"{name}.json"

    def _save(self, image: Image.Image, *parts: str) -> None:
        path = self.out.joinpath(*parts[:-1], f"{parts[-1]}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", compress_level=1)  # twice as large as the tightest, and ten times as fast
        with atomic_path(path) as unfinished:
            unfinished.write_bytes(buffer.getvalue())


def make_cases(
    images: Any,
    out: Path | str,
    *,
    concepts: Sequence[str],
    styles: Sequence[Style] | Mapping[str, Sequence[Style]],
    segmenter: Segmenter,
    stylizer: Stylizer,
    classes: Classes | None = None,
    how: CaseSettings = CaseSettings(),  # noqa: B008 - it is frozen
    run: Run = Run(),  # noqa: B008
    **settings: Any,
) -> CaseSet:
    """Make a case set, or go on with one that was interrupted.

    Args:
        images: a folder with a folder for each class, or anything that `ImageSet.of` takes.
        out: folder of the set; made if there is none.
        concepts: what to replace, by names that the segmenter understands.
        styles: what to replace it by, or that for each concept; `cases.TRAIN_STYLE` of each is that of the exemplars.
        segmenter: finds the concepts.
        stylizer: gives a region a style.
        classes: names of the classes; those of the class folders if None.
        how: which images and regions are taken.
        run: seed of what a stylizer draws, and progress.
        settings: single settings of `how` and of `run` by name, in place of theirs.

    Raises:
        FolderError: no images, more than 1 % of them unreadable, or a folder that holds something else.
        SettingError: no concept or style, a name twice, a number out of range, or other settings than those of the
            interrupted run.
    """
    how, run = with_settings(how, run, settings)
    by_concept = {each: tuple(styles[each] if isinstance(styles, Mapping) else styles) for each in concepts}
    _check(concepts, by_concept)
    found, names = _pictures(images, classes)
    maker = _Maker(Path(out), segmenter, stylizer, tuple(concepts), by_concept, how, run.seed, names)
    named = list(zip(found.pictures, _names(found, names), strict=True))
    manifest = {
        "schema": SCHEMA,
        "settings": maker.settings(),
        "pictures": {"n": len(named), "digest": digest_of_json([name for _, name in named])},
        "versions": {"python": platform.python_version(), "pillow": PIL.__version__}
        | {name: version(name) for name in ("rulepatch", "numpy", "torch")},
    }
    _open(maker.out, manifest)
    _run(maker, found, named, progress=run.progress)
    return _finish(maker, named)


def styles_for(
    concepts: Sequence[str],
    wanted: Sequence[str] = (),
    *,
    stylizer: str = "paste",
    folder: Path | None = None,
    instances: int = 2,
) -> dict[str, list[Style]]:
    """The styles of each concept, as people write them.

    Args:
        concepts: what is replaced.
        wanted: `STYLE` for every concept, or `CONCEPT=STYLE` for one; all that there are if empty.
        stylizer: name of the stylizer; one that works by words takes any words, the playground's its own styles.
        folder: holds a folder of images for each style; the eight that come with rulepatch if None.
        instances: images of each style, at least 1.

    Raises:
        FolderError: the folder is missing or holds no images.
        SettingError: no such concept or style, or a number out of range.

    Examples:
        >>> found = styles_for(["wheel", "road"], ["snow", "wheel=wood"], instances=1)
        >>> {concept: [style.name for style in own] for concept, own in found.items()}
        {'wheel': ['snow', 'wood'], 'road': ['snow']}
    """
    if instances < 1:
        raise SettingError(f"expected at least 1 image of each style but got {instances}; raise it")
    named: dict[str, list[str]] = {concept: [] for concept in concepts}
    for text in wanted:
        concept, equals, name = text.rpartition("=")
        if equals and concept not in named:
            raise SettingError(
                f"expected STYLE or CONCEPT=STYLE but got {text!r}; the nearest concepts are {nearest(concept, named)}"
            )
        for own in [concept] if equals else concepts:
            named[own].append(name)
    kind = stylizer.partition("/")[0]
    if kind == "playground":
        return {c: own_styles(c, names, count=instances) for c, names in named.items()}
    if kind == "inpainting":
        return {c: [Style(name) for name in names or STYLES] for c, names in named.items()}
    return {
        concept: [style for style in styles_named(names or None, folder=folder) if style.index < instances]
        for concept, names in named.items()
    }


def propose_exclusions(
    rows: Sequence[Mapping[str, Any]], seen: Mapping[str | None, int], *, share: float = 0.9, least: int = 5
) -> dict[str, dict[str, str]]:
    """Propose concept–class pairs to leave out, for somebody to look through: the concept may be the class itself.

    Args:
        rows: an image's name, label and concept each.
        seen: how many images there are of each class.
        share: of a class's images that hold the concept, from which on it is proposed.
        least: images that a class must have for its share to say anything.

    Returns:
        For each concept the classes, and why.

    Examples:
        >>> rows = [{"picture": str(i), "label": "car wheel", "concept": "wheel"} for i in range(2)]
        >>> propose_exclusions(rows, {"car wheel": 4, "van": 9})
        {'wheel': {'car wheel': 'the name, and 2 of 4 images'}}
    """
    holding: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row["label"] is not None:
            holding.setdefault((row["concept"], row["label"]), set()).add(row["picture"])
    proposed: dict[str, dict[str, str]] = {}
    for (concept, label), pictures in sorted(holding.items()):
        named = plain_name(concept) in plain_name(label).split("-")
        often = seen[label] >= least and len(pictures) >= share * seen[label]
        if named or often:
            reason = f"{'the name, and ' if named else ''}{len(pictures)} of {seen[label]} images"
            proposed.setdefault(concept, {})[label] = reason
    return proposed


def _check(concepts: Sequence[str], styles: Mapping[str, Sequence[Style]]) -> None:
    if not concepts or not all(styles.values()):
        raise SettingError("expected a concept and a style for it but got none; name at least one of each")
    for name in (*concepts, *(each.name for own in styles.values() for each in own)):
        if _text(name) != name:
            raise SettingError(f"expected concepts and styles in UTF-8 but got {name!a}; rename it")
    names = [[plain_name(each) for each in concepts]]
    names += [[f"{plain_name(each.name)}-{each.index}" for each in own] for own in styles.values()]
    for group in names:
        twice = {name for name in group if group.count(name) > 1}
        if twice:
            raise SettingError(f"expected every concept and style once but got {min(twice)!r} twice; leave one out")


def _pictures(images: Any, classes: Classes | None) -> tuple[ImageSet, dict[int, str]]:
    """The images, and the names of their classes: as the model has them, or else as the folders are called."""
    if classes is not None:
        found = ImageSet.of(images, classes)
        known = {picture.label for picture in found.pictures if picture.label is not None}
        return found, {label: name_of_class(label, classes) for label in known}
    if not isinstance(images, str | Path):
        if isinstance(images, ImageSet) and not any(picture.label is not None for picture in images.pictures):
            return images, {}
        raise SettingError("expected a folder, or the names of the classes, but got images alone; give classes")
    root = Path(images)
    folders = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    return ImageSet.from_folder(root, Classes(tuple(folders))), dict(enumerate(map(_text, folders)))


def _text(name: str) -> str:
    r"""The name of a file as text: bytes that are no UTF-8 are written as percent signs and digits.

    Examples:
        >>> _text("café"), _text("caf\udce9")
        ('café', 'caf%E9')
    """
    return re.sub("[\ud800-\udfff]", lambda found: f"%{ord(found[0]) & 0xFF:02X}", name)


def _names(images: ImageSet, labels: Mapping[int, str]) -> Iterator[str]:
    """A name for every image, by class and file; a number tells those apart that share it."""
    taken: set[str] = set()
    for number, picture in enumerate(images.pictures):
        stem = _text(picture.source.stem) if isinstance(picture.source, Path) else f"{number:06}"
        name = stem if picture.label is None else f"{plain_name(labels[picture.label])}/{stem}"
        if name in taken:
            name = f"{name}-{number:06}"
        taken.add(name)
        yield name


def _reduced(image: Image.Image, size: int | None) -> Image.Image:
    if size is None or min(image.size) <= size:
        return image
    scale = size / min(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


def _open(out: Path, manifest: Mapping[str, Any]) -> None:
    """Begin a set, or make sure that the one that is there was begun with the same settings."""
    before = read_manifest(out)
    if before is None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise FolderError(f"expected an empty folder at {out} but there is something else in it; choose another")
        out.mkdir(parents=True, exist_ok=True)
        _write_json(out / MANIFEST, manifest)
        return
    for part, what in (("settings", "settings"), ("pictures", "images")):
        if before.get(part) != manifest[part]:
            old, new = before.get(part) or {}, manifest[part]
            key = next(key for key in {**new, **old} if old.get(key) != new.get(key))
            raise SettingError(
                f"expected the {what} that {out} was begun with but {key} was {old.get(key)} and is {new.get(key)}; "
                "choose another folder, or the same settings"
            )
    for path in out.rglob(".*.*"):  # what a killed run was writing
        if path.is_file():
            path.unlink()


def _run(maker: _Maker, images: ImageSet, named: Sequence[tuple[Picture, str]], *, progress: bool) -> None:
    """Read ahead in threads, segment one after the other, stylize and write in threads."""
    skipped = Skipped(images)
    writing: deque[Future[None]] = deque()
    bar = Bar(len(named), "making cases", unit="image", shown=progress)
    with bar, ThreadPoolExecutor(max_workers=2) as pool:
        try:
            for (picture, name), found in zip(named, ahead(maker.read, named, AHEAD), strict=True):
                if isinstance(found, ImageError):
                    skipped.add(picture, found)
                    maker.close(name, {"skipped": True, "rows": []})
                elif found is not None:
                    writing.append(pool.submit(maker.write, found, maker.find(found)))
                while len(writing) > AHEAD:
                    writing.popleft().result()
                bar.update()
            while writing:
                writing.popleft().result()
        finally:
            for future in writing:
                future.cancel()


_RECORD: dict[Any, Any] = {"label?": (str, None), "rows": [{"label": (str, None), ...: object}], ...: object}


def _finish(maker: _Maker, named: Sequence[tuple[Picture, str]]) -> CaseSet:
    """Gather the records of all images."""
    seen: dict[str | None, int] = {}
    rows: list[dict[str, Any]] = []
    for _, name in named:
        path = maker.record(name)
        record = checked(read_json(path, FolderError), _RECORD, str(path), FolderError, advice=f"remove {path}")
        seen[record.get("label")] = seen.get(record.get("label"), 0) + 1
        rows += record["rows"]
    _write_json(maker.out / PROPOSED, propose_exclusions(rows, seen))
    _write_json(maker.out / ROWS, rows)
    return CaseSet.read(maker.out)


def _write_json(path: Path, value: Any) -> None:
    with atomic_path(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
