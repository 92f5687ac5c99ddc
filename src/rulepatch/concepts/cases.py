"""Case sets on disk: images with a concept in another style, and their split into exemplars and tests (paper 4).

A case is a concept and a style. A case set is a folder of many cases: images, masks, and the images with each
concept in each style, with all that made them in `manifest.json`.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np

from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import FolderError, SettingError, nearest
from rulepatch.forms import checked
from rulepatch.images import read_image
from rulepatch.masks import read_mask
from rulepatch.models.classes import Classes
from rulepatch.reading import is_regular, read_json
from rulepatch.text import Table, plural

__all__ = [
    "CELLS",
    "TRAIN_STYLE",
    "CaseSet",
    "Counterfactual",
    "Exclusions",
    "Split",
    "plain_name",
    "read_classes",
    "split",
]

SCHEMA = 1
MANIFEST, ROWS, RECORDS = "manifest.json", "cases.json", "records"

MOST_BYTES = 256 << 20
"""Of a set's rows, more than a million."""

_ROW = {
    "picture": str, "label": (str, None), "concept": str, "style": str, "index": int, "score": float, "share": float,
}  # fmt: skip
_RECORD: dict[Any, Any] = {"digest": str, ...: object}
_MANIFEST: dict[Any, Any] = {"schema": int, "settings": {str: object}, "pictures?": {str: object}, ...: object}

TRAIN_STYLE = 0
"""Which image of a style the exemplars show; all others are held out."""

CELLS = ("target, train style", "target, held-out style", "other, train style", "other, held-out style")
"""The four kinds of tests: classes of the exemplars or others, their image of the style or others (paper 4)."""

Exclusions = Mapping[str, Collection[str]]
"""For each concept the classes of which it is no part but the thing itself."""


@dataclass(frozen=True)
class Counterfactual:
    """One image with a concept in another style.

    Attributes:
        root: folder of the case set.
        picture: the image's name in the set, such as "van/0012".
        label: name of its class; None if it is not known.
        concept: what was replaced.
        style: what by.
        index: which image of the style.
        score: how sure the segmenter is of the concept, 0..1.
        share: of the image that the concept covers, 0..1.
    """

    root: Path = field(repr=False)
    picture: str
    label: str | None
    concept: str
    style: str
    index: int
    score: float
    share: float

    @property
    def image(self) -> Path:
        """The image as it is."""
        return self.root / "images" / f"{self.picture}.png"

    @property
    def mask(self) -> Path:
        """White where the concept is."""
        return self.root / "masks" / plain_name(self.concept) / f"{self.picture}.png"

    @property
    def styled(self) -> Path:
        """The image with the concept in the style."""
        return self.root / "styled" / plain_name(self.concept) / f"{plain_name(self.style)}-{self.index}" / (
            f"{self.picture}.png"
        )  # fmt: skip

    def exemplar(self) -> Exemplar:
        """The exemplar of the edit that takes the new style for the old one.

        Returns:
            The exemplar, read from the files.
        """
        return Exemplar(
            read_image(self.image),
            read_image(self.styled),
            read_mask(self.mask),
            label=self.label,
            concept=self.concept,
            replacement=self.style,
            name=f"{self.picture}, {self.concept} in {self.style}",
        )

    def to_json(self) -> dict[str, Any]:
        """All but the folder, as JSON."""
        return {key: value for key, value in vars(self).items() if key != "root"}


@dataclass(frozen=True)
class CaseSet:
    """A folder of cases.

    Attributes:
        root: the folder.
        counterfactuals: every one of them, by image, concept, style and index.
        manifest: every setting and digest that made them.
    """

    root: Path
    counterfactuals: tuple[Counterfactual, ...] = field(repr=False)
    manifest: Mapping[str, Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.counterfactuals)

    def __iter__(self) -> Iterator[Counterfactual]:
        return iter(self.counterfactuals)

    @classmethod
    def read(cls, root: Path | str) -> Self:
        """Read what `make_cases` wrote.

        Args:
            root: the folder.

        Raises:
            FolderError: there is none, or it is unfinished or damaged.
        """
        root = Path(root)
        manifest = read_manifest(root)
        if manifest is None:
            raise FolderError(f"expected a case set at {root} but it has no {MANIFEST}; make it by the command `cases`")
        if not is_regular(root / ROWS):
            raise FolderError(
                f"expected a finished case set at {root} but it was interrupted; run the same command `cases` again"
            )
        rows = read_json(root / ROWS, FolderError, what="the rows of a case set", most=MOST_BYTES)
        checked(rows, [_ROW], str(root / ROWS), FolderError, advice="make it anew")
        for row in rows:
            _refuse_escape(row["picture"], root)
            if row["index"] < 0 or not 0 <= row["score"] <= 1 or not 0 <= row["share"] <= 1:
                raise FolderError(
                    f"expected an index from 0 on and shares in 0..1 in {root / ROWS} but got {row['index']}, "
                    f"{row['score']:g} and {row['share']:g}; make it anew"
                )
        places = Counter((row["picture"], row["concept"], row["style"], row["index"]) for row in rows)
        if twice := [place for place, count in places.items() if count > 1]:
            raise FolderError(f"expected every row of {root / ROWS} once but got {twice[0]} twice; make it anew")
        return cls(root, tuple(Counterfactual(root=root, **row) for row in rows), manifest)

    @cached_property
    def cases(self) -> tuple[tuple[str, str], ...]:
        """Every case that has images: concept and style."""
        return tuple(dict.fromkeys((each.concept, each.style) for each in self.counterfactuals))

    def where(self, *, concept: str | None = None, style: str | None = None) -> "CaseSet":
        """Those of a concept, a style, or both.

        Raises:
            SettingError: there are none.
        """
        for wanted, known in ((concept, {c for c, _ in self.cases}), (style, {s for _, s in self.cases})):
            if wanted is not None and wanted not in known:
                raise SettingError(
                    f"expected a concept or style of {self.root} but got {wanted!r}; "
                    f"the nearest are {nearest(wanted, sorted(known))}"
                )
        return self.only(
            each for each in self if concept in {None, each.concept} and style in {None, each.style}
        )  # fmt: skip

    def without(self, exclusions: Exclusions) -> "CaseSet":
        """All but the images of classes of which a concept is the thing itself.

        Args:
            exclusions: classes by concept.

        Returns:
            A case set, perhaps empty.
        """
        return self.only(each for each in self if each.label not in exclusions.get(each.concept, ()))

    def sources(self) -> dict[str, str]:
        """Digest of the file that each image of the set was made of, as it was then.

        Returns:
            Digests by the names of images.

        Raises:
            FolderError: a record is missing or damaged.
        """
        found = {}
        for picture in sorted({each.picture for each in self}):
            path = self.root / RECORDS / f"{picture}.json"
            record = read_json(path, FolderError, what="the record of an image")
            found[picture] = checked(record, _RECORD, str(path), FolderError, advice="make the case set anew")["digest"]
        return found

    def to_json(self) -> dict[str, Any]:
        """What is in the set, as JSON."""
        counted = Counter((each.concept, each.style) for each in self)
        return {
            "cases": str(self.root),
            "pictures": len({each.picture for each in self}),
            "counterfactuals": len(self),
            "by_case": [{"concept": c, "style": s, "counterfactuals": n} for (c, s), n in counted.items()],
            "settings": dict(self.manifest["settings"]),
        }

    def to_text(self) -> str:
        """What is in the set, for people."""
        found = self.to_json()
        rows = [[each["concept"], each["style"], each["counterfactuals"]] for each in found["by_case"]]
        head = f"{self.root}: {len(self):,} counterfactuals of {plural(found['pictures'], 'image')}"
        return f"{head}\n{Table(['concept', 'style', 'counterfactuals'], rows).to_text()}"

    def only(self, chosen: Iterable[Counterfactual]) -> "CaseSet":
        """Some counterfactuals of the set.

        Returns:
            A case set, perhaps empty.
        """
        return CaseSet(self.root, tuple(chosen), self.manifest)

    def images(self, classes: Classes, *, styled: bool) -> ImageSet:
        """The counterfactuals, or the image that each was made of, as a set of images in the same order.

        Args:
            classes: of the model that will see them.
            styled: whether with the concept in its style.

        Returns:
            The set; an image stands in it once for each counterfactual.

        Raises:
            FolderError: a class that the model does not have.
        """
        labels: dict[str | None, int | None] = {None: None}
        for label in dict.fromkeys(each.label for each in self if each.label is not None):
            try:
                labels[label] = classes.index(label)
            except SettingError as error:
                raise FolderError(f"expected the classes of {self.root} to be the model's but {error}") from None
        name = f"{self.root}, {'styled' if styled else 'as they are'}"
        return ImageSet(
            tuple(Picture(each.styled if styled else each.image, labels[each.label]) for each in self), name
        )  # fmt: skip


def read_manifest(root: Path) -> dict[str, Any] | None:
    """The manifest of a case set, finished or not.

    Returns:
        The manifest; None if there is none.

    Raises:
        FolderError: it is damaged, or of another version.
    """
    path = root / MANIFEST
    if not is_regular(path):
        return None
    found: dict[str, Any] = checked(
        read_json(path, FolderError), _MANIFEST, str(path), FolderError, advice="choose another folder"
    )
    if found["schema"] != SCHEMA:
        raise FolderError(f"expected a case set of schema {SCHEMA} in {path} but got something else; make it anew")
    return found


def plain_name(name: str) -> str:
    """A name as a folder's name.

    Returns:
        Letters, digits and dashes.

    Examples:
        >>> plain_name("Black and white"), plain_name("../sky")
        ('black-and-white', 'sky')
    """
    words = "".join(letter if letter.isalnum() else " " for letter in name.casefold()).split()
    return "-".join(words) or "-"


def read_classes(path: Path) -> dict[str, list[str]]:
    """Read lists of classes: those to leave out by concept, `{"wheel": ["car wheel"]}`, or those that form a group.

    Args:
        path: a JSON file: for each name a list of classes, or an object whose keys are classes, as exclusions are
            proposed.

    Raises:
        SettingError: the file is missing or says something else.
    """
    found = read_json(path, SettingError)
    if not isinstance(found, dict) or not all(isinstance(each, list | dict) and each for each in found.values()):
        raise SettingError(f'expected {{"name": ["class", …]}} in {path} but got something else; mend it')
    for name, labels in found.items():
        checked(list(labels), [(str, int)], f"{name} in {path}", SettingError)
    return {name: [str(label) for label in labels] for name, labels in found.items()}


def _refuse_escape(picture: str, root: Path) -> None:
    """Refuse the name of an image that leads out of the folder."""
    if PurePosixPath(picture).is_absolute() or {"..", ""} & set(picture.split("/")):
        raise FolderError(f"expected names of images in {root / ROWS} but got {picture!r}; make it anew")


@dataclass(frozen=True)
class Split:
    """A case as the paper's protocol uses it; no image stands in two parts.

    Attributes:
        exemplars: of the target class, in the train style.
        validation: to choose settings on.
        cells: tests by the names in `CELLS`.
    """

    exemplars: tuple[Counterfactual, ...]
    validation: tuple[Counterfactual, ...]
    cells: Mapping[str, tuple[Counterfactual, ...]]


def split(
    case: Sequence[Counterfactual],
    target: str | Collection[str],
    *,
    exemplars: int = 3,
    validation: float = 0.3,
    seed: int = 0,
) -> Split:
    """Split a case into exemplars, validation and the four cells of tests (paper 4).

    Args:
        case: the counterfactuals of one concept and style.
        target: class of the exemplars, or several that count as one.
        exemplars: how many, at least 1; the paper has 3 or 10.
        validation: share of the other images that settings are chosen on, 0..1, each class in proportion.
        seed: which images go where.

    Raises:
        SettingError: counterfactuals of several cases, a number out of range, or too few images of the target.
    """
    cases = {(each.concept, each.style) for each in case}
    if len(cases) != 1 or exemplars < 1 or not 0 <= validation < 1:
        raise SettingError(
            f"expected one concept in one style, an exemplar and a share in 0..1 but got {sorted(cases)}, {exemplars} "
            f"and {validation}; choose within"
        )
    targets = {target} if isinstance(target, str) else set(target)
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys((each.picture, each.label) for each in case))
    order = [names[i] for i in rng.permutation(len(names))]
    of_target = [name for name, label in order if label in targets]
    if len(of_target) <= exemplars:
        raise SettingError(
            f"expected more than {exemplars} images of {' or '.join(sorted(targets))} to take exemplars of but got "
            f"{len(of_target)}; take fewer exemplars or another class"
        )
    taken = set(of_target[:exemplars])
    aside = _aside([pair for pair in order if pair[0] not in taken], validation)
    tests = [each for each in case if each.picture not in taken and each.picture not in aside]
    cells: dict[str, list[Counterfactual]] = {cell: [] for cell in CELLS}
    for each in tests:
        whose = "target" if each.label in targets else "other"
        cells[f"{whose}, {'train' if each.index == TRAIN_STYLE else 'held-out'} style"].append(each)
    return Split(
        tuple(each for each in case if each.picture in taken and each.index == TRAIN_STYLE),
        tuple(each for each in case if each.picture in aside),
        {cell: tuple(found) for cell, found in cells.items()},
    )


def _aside(order: Sequence[tuple[str, str | None]], share: float) -> set[str]:
    """Names of the share of images of each class that is put aside: what rounding leaves goes to the next class."""
    by_class: dict[str, list[str]] = {}
    for name, label in order:
        by_class.setdefault(label or "", []).append(name)
    aside: set[str] = set()
    seen = 0
    for label in sorted(by_class):
        members = by_class[label]
        seen += len(members)
        aside.update(members[: max(0, round(share * seen) - len(aside))])
    return aside
