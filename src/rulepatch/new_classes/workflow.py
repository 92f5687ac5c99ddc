"""Workflow of adding a class and saving the edit."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rulepatch.core.changes import NewClass
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.errors import FolderError
from rulepatch.files import check_writable, write_somewhere
from rulepatch.models.classifier import Classifier
from rulepatch.new_classes.editor import new_class
from rulepatch.new_classes.evaluate import NewClassEvaluation, evaluate_new_class

__all__ = ["NewClassRun", "add_class"]


@dataclass(frozen=True)
class NewClassRun:
    """Result of adding a class.

    Attributes:
        edit: the edit.
        path: the file.
        evaluation: evaluation on test images, if any.
    """

    edit: Edit
    path: Path
    evaluation: NewClassEvaluation | None = None

    def to_json(self) -> dict[str, Any]:
        """The result, as JSON."""
        (change,) = self.edit.changes
        about = self.edit.provenance
        return {
            "edit": str(self.path),
            "class": about["class"],
            "method": about["settings"]["method"],
            "site": change.site,
            "change": change.describe(),
            "calibration": about["calibration"],
            "base": self.edit.base,
            "tests": None if self.evaluation is None else self.evaluation.to_json(),
        }

    def to_text(self) -> str:
        """Human-readable summary."""
        (change,) = self.edit.changes
        assert isinstance(change, NewClass)
        about, told = self.edit.provenance, self.edit.provenance["calibration"]
        lines = [
            f"{self.path}",
            f"class {change.name}: {about['settings']['method']} at {change.site}, beside {change.head}",
            f"logit = {change.scale:.4g} · response {change.bias:+.4g}; costs {100 * told['drop']:.2f} points of "
            f"accuracy on the {told['pictures']} reference images that set it, at most "
            f"{100 * told['expected']:.2f} on others, as expected",
        ]
        if self.evaluation is not None:
            lines.append(self.evaluation.to_text())
        return "\n".join([*lines, self.edit.note])


def add_class(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    name: str,
    *,
    out: Path,
    tests: Any = None,
    run: Run = Run(),  # noqa: B008 - it is frozen
    **further: Any,
) -> NewClassRun:
    """Add a class by `new_class` and save the edit.

    Args:
        model: the classifier.
        exemplars: images of the class with its silhouette.
        name: of the class.
        out: the file to write.
        tests: labelled images of the new class and of old ones, to measure it on: a folder with one for each.
        run: seed and progress.
        further: the reference set and all else that `new_class` takes, by name.

    Returns:
        The edit, and where it was written.

    Raises:
        FolderError: the tests do not show the new class and others.
        OutputError: the folder to write in does not exist.
    """
    check_writable(out)
    sides = None if tests is None else _sides(model, name, tests)
    edit = new_class(model, exemplars, name, run=run, **further)
    write_somewhere(edit.save, out)
    if sides is None:
        return NewClassRun(edit, out)
    positives, others = sides
    found = evaluate_new_class(model, edit, positives=positives, others=others, progress=run.progress)
    return NewClassRun(edit, out, found)


def _sides(model: Classifier, name: str, tests: Any) -> tuple[ImageSet, ImageSet]:
    """Split the tests into images of the new class and others."""
    images = ImageSet.of(tests, model.with_module(model.module, [name]).classes)
    new = len(model.classes)
    shown, others = (
        ImageSet(tuple(each for each in images.pictures if (each.label == new) is wanted), images.name)
        for wanted in (True, False)
    )
    if not len(shown) or not len(others) or not images.is_labelled:
        raise FolderError(
            f"expected test images of {name} and of other classes in a folder for each but {images.name} has "
            f"{len(shown)} of it and {len(others)} others; put those of the new class into {images.name}/{name}"
        )
    return shown, others
