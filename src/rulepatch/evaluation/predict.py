"""Predictions for single images, with and without an edit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rulepatch.core.edit import Edit
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.picture_files import pictures_in
from rulepatch.data.run import Run
from rulepatch.data.stream import ImageStream
from rulepatch.errors import ImageError, SettingError, warn
from rulepatch.files import write_file
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.models.prediction import TOP, Prediction
from rulepatch.text import Table, percent, plural
from rulepatch.tracing import capture

__all__ = ["Answer", "Answers", "pictures_of", "predict"]

MOST_ROWS = 40
"""Most rows of the printed table."""


@dataclass(frozen=True)
class Answer:
    """Prediction for an image.

    Attributes:
        picture: the image with its label, if that is known.
        before: prediction of the base model.
        after: prediction of the edited model; None without an edit.
    """

    picture: Picture
    before: Prediction
    after: Prediction | None = None

    @property
    def last(self) -> Prediction:
        """The prediction of the edited model, or of the base model without an edit."""
        return self.after or self.before

    @property
    def is_right(self) -> bool | None:
        """Whether that prediction is the image's label; None if the label is not known."""
        return None if self.picture.label is None else self.last.index == self.picture.label

    @property
    def rank(self) -> tuple[bool, float]:
        """Sort key: wrong predictions by falling confidence, then the others by rising confidence."""
        sure = self.last.probability
        return (True, sure) if self.is_right is not False else (False, -sure)


@dataclass(frozen=True)
class Answers:
    """Predictions for several images: wrong ones first, then the least confident.

    Attributes:
        model_name: of the model.
        classes: names of its classes, those of the edit included.
        answers: predictions for the readable images.
        skipped: names of the unreadable images.
    """

    model_name: str
    classes: Classes = field(repr=False)
    answers: tuple[Answer, ...] = field(repr=False)
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.answers)

    def __repr__(self) -> str:
        return f"Answers({self._summary()}, {self.model_name!r})"

    def __getitem__(self, index: int) -> Answer:
        return self.answers[index]

    @property
    def labelled(self) -> tuple[Answer, ...]:
        """The predictions for labelled images."""
        return tuple(answer for answer in self.answers if answer.is_right is not None)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each image, all with the same columns.

        Returns:
            Dictionaries with `picture`, `label`, `predicted`, `probability` and `right`, then the next likeliest
            classes; with an edit also with the prediction `before` it.
        """
        return [self._row(answer) for answer in self.answers]

    def _row(self, answer: Answer) -> dict[str, Any]:
        row = {
            "picture": answer.picture.name,
            "label": self._label(answer),
            "predicted": answer.last.name,
            "probability": round(answer.last.probability, 6),
            "right": answer.is_right,
        }
        if answer.after is not None:
            row |= {"before": answer.before.name, "before_probability": round(answer.before.probability, 6)}
        for place, guess in enumerate(answer.last.top[1:], start=2):
            row |= {f"predicted_{place}": guess.name, f"probability_{place}": round(guess.probability, 6)}
        return row

    def _label(self, answer: Answer) -> str | None:
        return None if answer.picture.label is None else self.classes[answer.picture.label]

    def to_csv(self) -> str:
        """The rows as comma-separated values."""
        return Table.of(self.rows()).to_csv()

    def write_csv(self, path: Path) -> None:
        """Write the rows to a file.

        Args:
            path: the file.

        Raises:
            OutputError: it cannot be written there.
        """
        write_file(path, self.to_csv())

    def to_json(self) -> dict[str, Any]:
        """All predictions, as JSON.

        Returns:
            A dictionary with the counts, and `pictures`: the predictions (with an edit: of the edited model, and
            `before` it), their probabilities, and whether they are right.
        """
        known = self.labelled
        right = sum(bool(answer.is_right) for answer in known)
        pictures = [
            {
                "picture": answer.picture.name,
                "label": self._label(answer),
                **answer.last.to_json(),
                "right": answer.is_right,
                **({} if answer.after is None else {"before": answer.before.to_json()}),
            }
            for answer in self.answers
        ]
        return {
            "model": self.model_name,
            "n": len(self),
            "labelled": len(known),
            "right": right if known else None,
            "wrong": len(known) - right if known else None,
            "accuracy": right / len(known) if known else None,
            "pictures": pictures,
            "skipped": list(self.skipped),
        }

    def to_text(self) -> str:
        """The likeliest classes of a single image, or a table of the first images."""
        told = self._single() if len(self) == 1 else self._several()
        return "\n".join([*told, *self._counts()])

    def _single(self) -> list[str]:
        (answer,) = self.answers
        title = f"{answer.picture.name}: {self._label(answer) or ''}".rstrip(" :")
        columns = [[f"{guess.name}", percent(guess.probability)] for guess in answer.before.top]
        header = [self.model_name, ""]
        if answer.after is not None:
            columns = [
                [*row, guess.name, percent(guess.probability)]
                for row, guess in zip(columns, answer.after.top, strict=False)
            ]
            header = ["before", "", "after", ""]
        return [title, Table(header, columns).to_text()]

    def _several(self) -> list[str]:
        edited = self.answers[0].after is not None
        header = ["", "image", "label", *(["before", "", "after"] if edited else ["prediction"]), "", "then"]
        rows: list[list[object]] = []
        for answer in self.answers[:MOST_ROWS]:
            before = [answer.before.name, percent(answer.before.probability)] if edited else []
            then = answer.last.top[1:2]
            rows.append([
                "wrong" if answer.is_right is False else "",
                answer.picture.name,
                self._label(answer) or "",
                *before,
                answer.last.name,
                percent(answer.last.probability),
                f"{then[0].name} {percent(then[0].probability)}" if then else "",
            ])  # fmt: skip
        kept = [i for i in range(len(header)) if any(row[i] for row in rows)]
        told = [Table([header[i] for i in kept], [[row[i] for i in kept] for row in rows]).to_text()]
        if len(self) > MOST_ROWS:
            told.append(f"… and {len(self) - MOST_ROWS:,} more; --csv - prints them all")
        return told

    def _summary(self) -> str:
        known = self.labelled
        right = sum(bool(answer.is_right) for answer in known)
        counts = [f"{right:,} right, {len(known) - right:,} wrong ({percent(right / len(known))})"] if known else []
        if 0 < len(known) < len(self):
            counts.append(f"{len(self) - len(known):,} without a label")
        return plural(len(self), "image") + (f": {', '.join(counts)}" if counts else "")

    def _counts(self) -> list[str]:
        told = []
        if len(self) > 1:
            told.append(self._summary())
        changes = [answer.after.index != answer.before.index for answer in self.answers if answer.after is not None]
        if len(changes) > 1:
            told.append(f"the edit changes what is said of {plural(sum(changes), 'image')}")
        if self.skipped:
            told.append(f"{plural(len(self.skipped), 'image')} could not be read: {', '.join(self.skipped[:10])}")
        return told


def predict(
    model: Classifier,
    pictures: Any,
    *,
    edit: Edit | None = None,
    top: int = TOP,
    any_base: bool = False,
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Answers:
    """Predict the classes of images, with and without an edit.

    Args:
        model: the classifier; it is not changed.
        pictures: files and folders (see `pictures_of`), or anything that `ImageSet.of` takes.
        edit: an edit of the model.
        top: number of likeliest classes.
        any_base: accept another base than the one that the edit was computed on.
        run: progress.
        settings: single settings of `run` by name, in place of its own.

    Returns:
        The predictions, wrong ones first, then the least confident.

    Raises:
        BaseMismatchError: the model is not the edit's base.
        FolderError: a folder holds no images, or of the folders in it only some are called as classes.
        ImageError: there is no such file, or none of the images can be read.
        SettingError: `top` is below 1.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import training_images
        >>> found = predict(load_model("playground"), training_images(8, seed=3), progress=False)
        >>> len(found), found.to_json()["labelled"]
        (8, 8)
    """
    if top < 1:
        raise SettingError(f"expected to be told of at least 1 class but got top {top}; 5 is usual")
    edited = None if edit is None else edit.apply(model, any_base=any_base)
    classes = (edited or model).classes
    sources = [pictures] if isinstance(pictures, str | Path) else pictures
    are_paths = isinstance(sources, list | tuple) and all(isinstance(each, str | Path) for each in sources)
    images = pictures_of(sources, classes) if are_paths else ImageSet.of(pictures, classes)
    stream = ImageStream.of(model, images, "images", progress=run.but(**settings).progress, unreadable=1.0)
    answers: list[Answer] = []
    for batch in stream:
        inputs = model.inputs(batch.pixels)
        before = _predictions(model, inputs, top)
        after: Sequence[Prediction | None] = [None] * len(before)
        if edited is not None:
            after = _predictions(edited, inputs, top)
        answers += map(Answer, batch.pictures, before, after)
    if not answers:
        raise ImageError(
            f"expected images but none of the {len(images)} of {images.name} can be read; replace the files"
        )
    skipped = tuple(picture.name for picture in stream.skipped)
    ranked = tuple(sorted(answers, key=lambda answer: answer.rank))
    return Answers(model.name, classes, ranked, skipped)


def _predictions(model: Classifier, inputs: Any, top: int) -> list[Prediction]:
    with capture.inference(model.module):
        return Prediction.of(model.logits(inputs), model.classes, top=top)


def pictures_of(sources: Sequence[Path | str], classes: Classes) -> ImageSet:
    """Combine images and image folders into one set.

    A folder's class folders label its images, and so does the name of a folder that is itself named after a class
    (`tests/*` in a shell). Other subfolders are read as well if none of them is named after a class.

    Args:
        sources: files and folders.
        classes: of the model.

    Returns:
        The set, in the order of the sources.

    Raises:
        FolderError: a folder holds no images, or of the folders in it only some are called as classes.
        ImageError: there is neither a file nor a folder.
    """
    pictures: list[Picture] = []
    for source in map(Path, sources):
        if source.is_dir():
            pictures += _of_folder(source, classes)
        elif source.is_file():
            pictures.append(Picture(source))
        else:
            raise ImageError(f"expected an image or a folder of them at {source} but there is none; check the path")
    return ImageSet(tuple(pictures), ", ".join(map(str, sources[:3])) + (", …" if len(sources) > 3 else ""))


def _of_folder(folder: Path, classes: Classes) -> list[Picture]:
    inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and pictures_in(path, "**/*")]
    if inside and not any(_is_class(path.name, classes) for path in inside):
        warn(
            f"expected folders in {folder} that are called as classes but got {', '.join(p.name for p in inside[:3])}; "
            "their images are taken without labels"
        )
        return [Picture(path) for path in pictures_in(folder, "**/*")]
    found = ImageSet.from_folder(folder, classes).pictures
    name = folder.resolve().name
    if not inside and not name.isdecimal() and _is_class(name, classes):
        return [Picture(picture.source, classes.index(name)) for picture in found]
    return list(found)


def _is_class(name: str, classes: Classes) -> bool:
    try:
        classes.index(name)
    except SettingError:
        return False
    return True
