"""Predictions before and after an edit, on test pictures and on a reference set."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from rulepatch.core import capture
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.installation import Installation
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.stream import ImageStream
from rulepatch.errors import FolderError, SettingError
from rulepatch.models.classifier import Classes, Classifier
from rulepatch.text import percent, table

__all__ = ["Evaluation", "Outcome", "Outcomes", "evaluate"]


@dataclass(frozen=True)
class Outcome:
    """What a model says of one picture before and after an edit.

    Attributes:
        picture: the picture with its label.
        before: class predicted before.
        after: class predicted after.
        confidence: of these two predictions, 0..1.
    """

    picture: Picture
    before: int
    after: int
    confidence: tuple[float, float]

    @property
    def is_flip(self) -> bool:
        """Whether the prediction changed."""
        return self.before != self.after

    @property
    def is_repaired(self) -> bool:
        """Whether the prediction was wrong and is right."""
        return self.is_flip and self.after == self.picture.label

    @property
    def is_broken(self) -> bool:
        """Whether the prediction was right and is wrong."""
        return self.is_flip and self.before == self.picture.label


@dataclass(frozen=True)
class Outcomes:
    """What a model says of a set of pictures before and after an edit.

    Attributes:
        name: of the set.
        outcomes: one for each picture that could be read.
        skipped: names of the pictures that could not.
    """

    name: str
    outcomes: tuple[Outcome, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.outcomes)

    @property
    def is_labelled(self) -> bool:
        """Whether right and wrong are known."""
        return all(outcome.picture.label is not None for outcome in self.outcomes)

    @property
    def before(self) -> float | None:
        """Accuracy before, 0..1; None without labels."""
        return self._share([outcome.before == outcome.picture.label for outcome in self.outcomes])

    @property
    def after(self) -> float | None:
        """Accuracy after, 0..1; None without labels."""
        return self._share([outcome.after == outcome.picture.label for outcome in self.outcomes])

    @property
    def repaired(self) -> tuple[Outcome, ...]:
        """Pictures that were wrong and are right."""
        return tuple(outcome for outcome in self.outcomes if outcome.is_repaired)

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """Pictures that were right and are wrong."""
        return tuple(outcome for outcome in self.outcomes if outcome.is_broken)

    @property
    def flips(self) -> tuple[Outcome, ...]:
        """Pictures whose prediction changed."""
        return tuple(outcome for outcome in self.outcomes if outcome.is_flip)

    def by_class(self) -> "dict[int, Outcomes]":
        """The outcomes of each class.

        Returns:
            For each label, in order, its own outcomes; empty without labels.
        """
        labels = sorted({outcome.picture.label for outcome in self.outcomes if outcome.picture.label is not None})
        return {
            label: Outcomes(self.name, tuple(o for o in self.outcomes if o.picture.label == label)) for label in labels
        }

    def to_json(self, classes: Classes) -> dict[str, Any]:
        """The numbers, as JSON; accuracies and the share of flips in 0..1.

        Returns:
            A dictionary.
        """
        numbers, found = self._numbers(), self.by_class()
        often = Counter(classes[label] for label in found)  # some classes share their first name
        numbers["classes"] = {
            classes[label] if often[classes[label]] == 1 else f"{classes[label]} ({label})": own._numbers()
            for label, own in found.items()
        }
        numbers["skipped"] = list(self.skipped)
        return numbers

    def _numbers(self) -> dict[str, Any]:
        return {
            "n": len(self),
            "before": self.before,
            "after": self.after,
            "repaired": len(self.repaired),
            "broken": len(self.broken),
            "flips": len(self.flips) / len(self),
            "flipped": len(self.flips),
        }

    def _share(self, right: Sequence[bool]) -> float | None:
        return sum(right) / len(right) if self.is_labelled else None


@dataclass(frozen=True)
class Evaluation:
    """What an edit did.

    Attributes:
        edit: the edit.
        model_name: of the model that was edited.
        classes: names of its classes.
        tests: on pictures that the edit should repair; None if there were none.
        reference: on pictures whose treatment should stay; None if there were none.
        exemplars: what the edit was made from, for the report.
    """

    edit: Edit
    model_name: str
    classes: Classes
    tests: Outcomes | None
    reference: Outcomes | None
    exemplars: tuple[Exemplar, ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON.

        Returns:
            A dictionary with `tests` and `reference`, as far as they were measured.
        """
        sets = {"tests": self.tests, "reference": self.reference}
        return {name: found.to_json(self.classes) for name, found in sets.items() if found is not None}

    def to_text(self) -> str:
        """The numbers, for people.

        Returns:
            Lines of text.
        """
        rows: list[list[object]] = []
        for name, found in {"tests": self.tests, "reference": self.reference}.items():
            if found is None:
                continue
            classes = found.by_class() if name == "tests" else {}
            named = [(name, found), *((f"  {self.classes[label]}", own) for label, own in classes.items())]
            rows += [
                [
                    title,
                    len(own),
                    percent(own.before),
                    percent(own.after),
                    len(own.repaired),
                    len(own.broken),
                    percent(len(own.flips) / len(own)),
                ]
                for title, own in named
            ]
        return table(["", "pictures", "before", "after", "repaired", "broken", "flips"], rows)

    def to_html(self, path: Path | str) -> None:
        """Write a self-contained report with pictures.

        Args:
            path: the file.
        """
        from rulepatch.evaluation.report import write_report

        write_report(self, Path(path))


def evaluate(
    model: Classifier,
    edit: Edit,
    *,
    tests: Any = None,
    reference: Any = None,
    leave_out: Sequence[int | str] = (),
    exemplars: Sequence[Exemplar] = (),
    any_base: bool = False,
    batch_size: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Measure what an edit repairs and what it costs.

    The network runs once; from the first edited site on it runs twice, before and after.

    Args:
        model: the classifier; it is edited for a while and then as it was.
        edit: the edit.
        tests: pictures that the edit should repair: a folder with a folder for each class, or (picture, label) pairs.
        reference: pictures whose treatment should stay; labels are welcome but not needed.
        leave_out: classes to leave out of the reference set, such as those of the exemplars.
        exemplars: what the edit was made from, to be shown in the report.
        any_base: accept another base than the one that the edit was computed on.
        batch_size: pictures in a pass; what suits the device if None.
        progress: whether to show bars on standard error.

    Returns:
        The evaluation.

    Raises:
        FolderError: a folder is missing, empty or does not match the classes, or the tests have no labels.
        BaseMismatchError: the model is not the edit's base.
        SettingError: there is nothing to evaluate on, or a class to leave out is unknown.

    Example:
        >>> from rulepatch.core.edit import Edit, base_digest
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import training_images
        >>> model = load_model("playground")
        >>> nothing = Edit((), base_digest(model.module))
        >>> evaluate(model, nothing, reference=training_images(8, seed=3)).to_json()["reference"]["flips"]
        0.0
    """
    if tests is None and reference is None:
        raise SettingError("expected test pictures or a reference set to evaluate on but got neither; give one of them")
    edit.check(model.module, any_base=any_base)
    sets: dict[str, ImageSet] = {}
    if tests is not None:
        sets["tests"] = ImageSet.of(tests, model.classes)
        if not sets["tests"].is_labelled:
            raise FolderError(
                f"expected test pictures in a folder for each class but {sets['tests'].name} has some without; "
                "name the folders by class"
            )
    if reference is not None:
        left_out = {model.classes.index(label) for label in leave_out}
        sets["reference"] = ImageSet.of(reference, model.classes).without(left_out)
    found = {
        name: _outcomes(
            model, edit, images, batch_size=batch_size or model.batch_size, progress=name if progress else None
        )
        for name, images in sets.items()
    }
    return Evaluation(edit, model.name, model.classes, found.get("tests"), found.get("reference"), tuple(exemplars))


def _outcomes(model: Classifier, edit: Edit, images: ImageSet, *, batch_size: int, progress: str | None) -> Outcomes:
    outcomes: list[Outcome] = []
    stream = ImageStream(images, model.preprocess, batch_size=batch_size, progress=progress)
    both = _both_ways(model, edit)
    for batch in stream:
        (before, sure), (after, surer) = (_predictions(logits) for logits in both(model.inputs(batch.pixels)))
        outcomes += map(Outcome, batch.pictures, before, after, zip(sure, surer, strict=True))
    return Outcomes(images.name, tuple(outcomes), tuple(picture.name for picture in stream.skipped))


def _both_ways(model: Classifier, edit: Edit) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Logits before and after, as a function of inputs; what comes before the first edited site is computed once."""
    traced = capture.trace(model.module, model.example())
    starts = {traced.calls_of(site)[0]: site for site in edit.sites if traced.calls_of(site)}
    first = starts[min(starts)] if starts else traced.calls[1].path  # an edit of nothing may start anywhere
    plan = capture.plan_tail(traced, first)

    def run(inputs: Tensor) -> tuple[Tensor, Tensor]:
        output, start = capture.checkpoint(model.module, plan, inputs)
        with Installation(model.module, edit.changes):
            edited = capture.resume(model.module, plan, start)
        return model.logits_of(output), model.logits_of(edited)

    return run


def _predictions(logits: Tensor) -> tuple[list[int], list[float]]:
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    return predicted.tolist(), confidence.tolist()
