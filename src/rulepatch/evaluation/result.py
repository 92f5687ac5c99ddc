"""The result of an evaluation: a model's predictions before and after an edit, as numbers and as text."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.evaluation.suppressed import Suppressed, suppressed_by, told_of
from rulepatch.evaluation.verdict import EditVerdict, verdict_on
from rulepatch.models.classes import Classes
from rulepatch.notebook import line, panel
from rulepatch.notebook import table as html_table
from rulepatch.text import Table, brief, percent, quoted

__all__ = ["Evaluation"]

MOST_CLASSES = 20
"""Most classes that are listed of each set without an edit."""


@dataclass(frozen=True)
class Evaluation:
    """Evaluation of an edit, or, for an empty edit, of the model itself.

    Attributes:
        edit: the edit.
        model_name: of the model that was edited.
        classes: names of its classes.
        tests: outcomes on images that the edit should repair, if any.
        reference: outcomes on images whose predictions should not change, if any.
        exemplars: the edit's exemplars, for the report.
    """

    edit: Edit
    model_name: str
    classes: Classes
    tests: Outcomes | None
    reference: Outcomes | None
    exemplars: tuple[Exemplar, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        told = [f"{name} {found.told()}" for name, found in self._sets]
        return brief("Evaluation", *told, quoted(self.model_name))

    @property
    def predicted_damage(self) -> float | None:
        """Damage predicted from the second moment, 0..1, the maximum over sites; None if not computed."""
        found = [report.predicted_damage for report in self.edit.reports]
        return max((damage for damage in found if damage is not None), default=None)

    @cached_property
    def suppressed(self) -> tuple[Suppressed, ...]:
        """Classes that failing test images were taken for and are no longer, the most first, and others it forgets."""
        taken = [(each.before, each.after, each.picture.label) for each in self.tests or ()]
        return suppressed_by(taken, self.reference, self.classes)

    @property
    def verdict(self) -> EditVerdict | None:
        """Whether to trust the edit; None without one."""
        if not self.edit.changes:
            return None
        return verdict_on(self.tests, self.reference, self.suppressed)

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON.

        Returns:
            A dictionary with `tests` and `reference`, if measured, `predicted_damage`, `suppressed` and `verdict`;
            without an edit only with the values before.
        """
        if not self.edit.changes:
            return {name: found.to_json_before(self.classes) for name, found in self._sets}
        measured = {name: found.to_json(self.classes) for name, found in self._sets}
        assert self.verdict is not None
        return {
            **measured,
            "predicted_damage": self.predicted_damage,
            "suppressed": [each.to_json() for each in self.suppressed],
            "verdict": self.verdict.to_json(),
        }

    def to_text(self) -> str:
        """Human-readable summary."""
        return "\n".join([*self._head(), self._table().to_text(), *self._remarks()])

    def _repr_html_(self) -> str:
        """Summary for notebooks."""
        found = self._table()
        return panel(
            f"Evaluation: {self.model_name}",
            *map(line, self._head()),
            html_table(found.header, found.rows),
            *map(line, self._remarks()),
        )

    @property
    def _sets(self) -> list[tuple[str, Outcomes]]:
        return [(n, found) for n, found in (("tests", self.tests), ("reference", self.reference)) if found is not None]

    def _table(self) -> Table:
        """Each set, and the classes of the tests; without an edit the classes of all sets, the least accurate first."""
        rows: list[list[object]] = []
        for name, found in self._sets:
            classes = [(f"  {self.classes[label]}", own) for label, own in found.by_class().items()]
            if self.edit.changes:
                named = [(name, found), *(classes if name == "tests" else [])]
                rows += [[title, *_cells(own)] for title, own in named]
                continue
            classes.sort(key=lambda each: each[1].before or 0)
            named = [(name, found), *classes[:MOST_CLASSES]]
            rows += [[title, len(own), percent(own.before)] for title, own in named]
            if len(classes) > MOST_CLASSES:
                rows.append([f"  … {len(classes) - MOST_CLASSES} classes more", "", ""])
        header = ["before", "after", "repaired", "broken", "flips"] if self.edit.changes else ["right"]
        return Table(["", "images", *header], rows)

    def _head(self) -> Iterator[str]:
        """The verdict, if there is an edit."""
        if self.verdict is not None:
            yield self.verdict.text

    def _remarks(self) -> Iterator[str]:
        """Remarks: where the failures went and what was lost most; without an edit the most frequent confusions."""
        if self.edit.changes:
            yield from told_of(self.suppressed)
            lost = [e for e in self.reference.class_impacts() if e.right[1] < e.right[0]] if self.reference else []
            if lost:
                named = ", ".join(f"{self.classes[e.label]} {e.right[0]} → {e.right[1]} of {e.n}" for e in lost[:8])
                yield f"lost most (right before and after): {named}{', …' if len(lost) > 8 else ''}"
            return
        for name, found in self._sets:
            most = [f"{self.classes[a]} as {self.classes[b]} ({count})" for a, b, count in found.confusions()[:8]]
            if most:
                yield f"most often confused in the {name}: {', '.join(most)}"


def _cells(found: Outcomes) -> list[object]:
    numbers = [len(found.repaired), len(found.broken), percent(len(found.flips) / len(found))]
    return [len(found), percent(found.before), percent(found.after), *numbers]
