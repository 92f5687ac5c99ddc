"""Making an exemplar's folder from an image, and looking at what a model says of it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rulepatch.concepts import typographic
from rulepatch.concepts.typographic import Box
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.exemplar_folders import read_exemplars, write_exemplar
from rulepatch.editors.agreement import check_agreement
from rulepatch.errors import ExemplarError, OutputError
from rulepatch.files import check_folder
from rulepatch.images import read_image
from rulepatch.masks import MaskValue
from rulepatch.models.classifier import Classifier
from rulepatch.models.prediction import Prediction
from rulepatch.text import percent
from rulepatch.unfinished import is_ours

__all__ = ["Look", "MadeExemplar", "Note", "look", "make_exemplar", "read_box"]

FILES = {"image.png", "mask.png", "edited.png", "exemplar.json"}
"""What an exemplar's folder holds."""


@dataclass(frozen=True)
class Note:
    """A note with a word, to be pasted on an image.

    Attributes:
        word: on it.
        box: where it lies; drawn by the seed if None.
        seed: of what is drawn.
    """

    word: str
    box: Box | None = None
    seed: int = 0


@dataclass(frozen=True)
class Look:
    """What a model says of an exemplar.

    Attributes:
        original: of the image.
        edited: of the edited image.
        target: the class that the edited image should be: the exemplar's label, or what is said of the image.
        target_name: name of that class.
    """

    original: Prediction
    edited: Prediction
    target: int
    target_name: str

    @property
    def shows_failure(self) -> bool:
        """Whether the model gets the edited image wrong."""
        return self.edited.index != self.target

    def to_json(self) -> dict[str, Any]:
        """What is said, as JSON."""
        return {
            "original": self.original.to_json(),
            "edited": self.edited.to_json(),
            "target": self.target_name,
            "shows_failure": self.shows_failure,
        }

    def to_text(self) -> str:
        """What is said and what that means, for people."""
        original, edited = (f"{each.name} {percent(each.probability)}" for each in (self.original, self.edited))
        lines = [f"original  {original}", f"edited    {edited}"]
        if self.original.index != self.target:
            lines.append(f"the model does not see {self.target_name} in the original either: check the label")
        elif self.shows_failure:
            lines.append(f"shows a failure: what is {self.target_name} is called {self.edited.name}")
        else:
            lines.append(
                f"shows no failure: the model says {self.target_name} of both, so there is nothing to repair; mark a "
                "larger area, or take another replacement or image"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class MadeExemplar:
    """An exemplar and its folder.

    Attributes:
        exemplar: the exemplar.
        folder: where it was written.
        look: what a model says of it; None if none was asked.
    """

    exemplar: Exemplar = field(repr=False)
    folder: Path
    look: Look | None = None

    @property
    def share(self) -> float:
        """Share of the image that the mask covers, 0..1."""
        return float(self.exemplar.mask.mean())

    def to_json(self) -> dict[str, Any]:
        """What was made, as JSON."""
        names = ("label", "concept", "replacement")
        about = {name: getattr(self.exemplar, name) for name in names}
        looked = None if self.look is None else self.look.to_json()
        return {"exemplar": str(self.folder), **about, "share": self.share, "look": looked}

    def to_text(self) -> str:
        """What was made, for people."""
        exemplar = self.exemplar
        rule = f"{exemplar.replacement or 'the replacement'} for {exemplar.concept or 'what the mask marks'}"
        label = f", label {exemplar.label}" if exemplar.label is not None else ""
        told = f"{self.folder}: {rule}, {percent(self.share)} of the image{label}"
        return told if self.look is None else f"{told}\n{self.look.to_text()}"


def look(model: Classifier, exemplar: Exemplar) -> Look:
    """Ask a model about both images of an exemplar.

    Args:
        model: the classifier.
        exemplar: the exemplar.

    Raises:
        SettingError: the exemplar's label is none of the model's classes.
    """
    original, edited = model([exemplar.image, exemplar.edited])
    target = original.index if exemplar.label is None else model.classes.index(exemplar.label)
    return Look(original, edited, target, model.classes[target])


def make_exemplar(
    picture: Path | str,
    out: Path | str,
    *,
    mask: Path | None = None,
    mask_value: MaskValue | None = None,
    replacement: Path | None = None,
    edited: Path | None = None,
    note: Note | None = None,
    label: int | str | None = None,
    concept: str | None = None,
    model: Classifier | None = None,
) -> MadeExemplar:
    """Make an exemplar and write its folder, as `read_exemplars` and every command takes it.

    The concept is replaced in one of three ways: a texture is painted over what the mask marks, the edited image is
    given, or a note with a word is pasted, whose blank twin is then the original.

    Args:
        picture: the image.
        out: the folder; a new or empty one, or that of an exemplar, which is replaced.
        mask: white where the concept is; needed but for a note.
        mask_value: what of a mask of several colours is the concept.
        replacement: a texture.
        edited: the image with the concept already replaced.
        note: to be pasted.
        label: what the image shows.
        concept: name of what the mask marks.
        model: to be asked about both images.

    Returns:
        The exemplar, its folder, and what the model says.

    Raises:
        ExemplarError: not one of the three ways, a mask too few or too many, or images that contradict the mask.
        ImageError: a file that is no image.
        OutputError: the folder holds other files, or cannot be made.
        SettingError: a word that cannot be written, or a label that is none of the model's classes.
    """
    picture, out = Path(picture), Path(out)
    _check_ways({"a replacement": replacement, "an edited image": edited, "a note": note}, mask)
    _check_folder(out)
    if note is not None:
        pasted = typographic.note(read_image(picture), note.word, box=note.box, seed=note.seed)
        exemplar = pasted.exemplar(label=label)
    elif edited is not None:
        exemplar = Exemplar.from_files(picture, mask=mask or "", mask_value=mask_value, edited=edited, label=label)
    else:
        masks = [mask] if mask else []
        (exemplar,) = read_exemplars(
            [picture], masks=masks, mask_value=mask_value, replacement=replacement, label=label
        )
    check_agreement(exemplar)
    exemplar = dataclasses.replace(exemplar, concept=concept or exemplar.concept, name=out.name)
    looked = None if model is None else look(model, exemplar)
    write_exemplar(exemplar, out)
    return MadeExemplar(exemplar, out, looked)


def read_box(text: str) -> Box:
    """Read a box as people write it.

    Args:
        text: left, top, right and bottom edge in pixels.

    Raises:
        ExemplarError: anything else.

    Examples:
        >>> read_box("10,20,90,60")
        (10, 20, 90, 60)
    """
    parts: Sequence[str] = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise ExemplarError(f"expected a box as LEFT,TOP,RIGHT,BOTTOM in pixels but got {text!r}; such as 10,20,90,60")
    left, top, right, bottom = map(int, parts)
    return left, top, right, bottom


def _check_ways(ways: dict[str, Any], mask: Path | None) -> None:
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise ExemplarError(
            f"expected {' or '.join(ways)} but got {' and '.join(given) or 'none of them'}; give one of "
            "--replacement, --edited and --note"
        )
    if given != ["a note"] and mask is None:
        raise ExemplarError(f"expected a mask for {given[0]} but got none; mark the concept in white")
    if given == ["a note"] and mask is not None:
        raise ExemplarError(f"expected no mask for a note, which has its own, but got {mask}; leave it out")


def _check_folder(out: Path) -> None:
    check_folder(out, parents=False)
    files = out.iterdir() if out.is_dir() else ()
    others = sorted(path.name for path in files if path.name not in FILES and not is_ours(path.name))
    if others:
        raise OutputError(
            f"expected a new or empty folder but {out} holds {others[0]}, which an exemplar does not; name another"
        )
