"""Adding a class and keeping it: what the command line and other faces call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rulepatch.core.changes import NewClass
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.editors.new_class import new_class
from rulepatch.files import check_writable
from rulepatch.models.classifier import Classifier

__all__ = ["Added", "add_class"]


@dataclass(frozen=True)
class Added:
    """A new class and where it was written.

    Attributes:
        edit: the edit.
        path: the file.
    """

    edit: Edit
    path: Path

    def to_json(self) -> dict[str, Any]:
        """What was added, as JSON.

        Returns:
            A dictionary.
        """
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
        }

    def to_text(self) -> str:
        """What was added, for people.

        Returns:
            Lines of text.
        """
        (change,) = self.edit.changes
        assert isinstance(change, NewClass)
        about, told = self.edit.provenance, self.edit.provenance["calibration"]
        return (
            f"{self.path}\nclass {change.name}: {about['settings']['method']} at {change.site}, beside {change.head}\n"
            f"logit = {change.scale:.4g} · response {change.bias:+.4g}; costs {100 * told['drop']:.2f} points of "
            f"accuracy on the {told['pictures']} reference pictures that set it, at most "
            f"{100 * told['expected']:.2f} on others, as expected\n"
            f"next: rulepatch evaluate {self.path} --model … --tests … --reference …"
        )


def add_class(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    name: str,
    *,
    out: Path,
    reference: Any,
    settings: Mapping[str, Any],
    progress: bool = True,
) -> Added:
    """Add a class by `new_class` and save the edit.

    Args:
        model: the classifier.
        exemplars: pictures of the class with its silhouette.
        name: of the class.
        out: the file to write.
        reference: pictures of the old classes.
        settings: of `new_class`; None stands for what was not given.
        progress: whether to show bars.

    Returns:
        The edit, and where it was written.

    Raises:
        OutputError: the folder to write in does not exist.
    """
    check_writable(out)
    given = {key: value for key, value in settings.items() if value is not None}
    edit = new_class(model, exemplars, name, reference=reference, progress=progress, **given)
    edit.save(out)
    return Added(edit, out)
