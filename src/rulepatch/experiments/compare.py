"""Several methods on the same exemplars, tests and damage budget: what else would have worked?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run, with_settings
from rulepatch.escaping import for_figure, json_text
from rulepatch.evaluation.evaluate import evaluate_all
from rulepatch.evaluation.page import svg_of
from rulepatch.evaluation.result import Evaluation
from rulepatch.experiments.grids import METHODS, Tried, check_method, edit_by, grid_of, strengths_of
from rulepatch.experiments.settings import CompareSettings
from rulepatch.files import check_folder, write_texts
from rulepatch.models.classifier import Classifier
from rulepatch.notebook import drawing, panel, remark
from rulepatch.notebook import table as html_table
from rulepatch.progress import steps
from rulepatch.text import Table, brief, percent, plural, quoted
from rulepatch.timing import collect_timings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Comparison", "Result", "compare"]


@dataclass(frozen=True)
class Candidate:
    """An edit of a method's grid.

    Attributes:
        method: a key of `METHODS`.
        settings: what was tried, the strength included.
        edit: the edit.
        seconds: that making it took, without the statistics of the reference set.
    """

    method: str
    settings: Tried
    edit: Edit
    seconds: float


@dataclass(frozen=True)
class Result:
    """What came of a method.

    Attributes:
        method: a key of `METHODS`.
        settings: those chosen on the validation images; None if no edit kept to the budget and repaired anything.
        evaluation: of the chosen edit, on the tests and on reference images that the choice did not see.
        seconds: that making the chosen edit took, without the statistics of the reference set.
        seconds_of_grid: that making all edits of the grid took.
        tried: how many edits were made, and how many of them, at some strength, kept to the budget.
    """

    method: str
    settings: Tried | None
    evaluation: Evaluation
    seconds: float
    seconds_of_grid: float
    tried: tuple[int, int]

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        tests, reference = self.evaluation.tests, self.evaluation.reference
        assert tests is not None and reference is not None
        return {
            "method": self.method,
            "settings": None if self.settings is None else dict(self.settings),
            "tests": tests.numbers(),
            "reference": reference.numbers() | {"drop": reference.drop},
            "predicted_damage": self.evaluation.predicted_damage,
            "seconds": self.seconds,
            "seconds_of_grid": self.seconds_of_grid,
            "tried": self.tried[0],
            "within_budget": self.tried[1],
        }


@dataclass(frozen=True)
class Comparison:
    """Several methods, compared.

    Attributes:
        results: one for each method.
        model_name: of the model that was edited.
        max_drop: the damage budget, 0..1.
        sizes: images of the validation set, of the tests, and of the reference set's two halves.
        seed: of the splits.
    """

    results: tuple[Result, ...]
    model_name: str
    max_drop: float
    sizes: Mapping[str, int]
    seed: int

    def __repr__(self) -> str:
        best = [f"best {row['method']}, {row['tests']} of the tests right" for row in self.rows()[:1]]
        return brief("Comparison", plural(len(self.results), "method"), *best, quoted(self.model_name))

    def _repr_html_(self) -> str:
        """The table, the best method first, and the figure."""
        found = self._table()
        told = html_table(found.header, found.rows)
        figure = drawing(svg_of(self.figure()), "repair against damage")
        return panel(f"Comparison: {self.model_name}", remark(self._told()), told, figure)

    def _told(self) -> str:
        before = percent(_of(self.results[0], "tests").before)
        return (
            f"{self.model_name}: {before} of {self.sizes['tests']} test images are right before; "
            f"chosen on {self.sizes['validation']} others to lose at most {100 * self.max_drop:.2f} points"
        )

    def to_json(self) -> dict[str, Any]:
        """The comparison, as JSON."""
        return {
            "model": self.model_name,
            "max_drop": self.max_drop,
            "pictures": dict(self.sizes),
            "seed": self.seed,
            "results": [result.to_json() for result in self.results],
        }

    def rows(self) -> list[dict[str, str]]:
        """The table, as text.

        Returns:
            A row for each method, the best on the tests first.
        """
        found = []
        for result in sorted(self.results, key=lambda result: -(_of(result, "tests").after or 0)):
            tests, reference = _of(result, "tests"), _of(result, "reference")
            found.append(
                {
                    "method": result.method,
                    "tests": percent(tests.after),
                    "repaired": str(len(tests.repaired)),
                    "broken": str(len(tests.broken)),
                    "points lost": f"{100 * reference.drop:.2f}",
                    "flips": percent(len(reference.flips) / len(reference)),
                    "seconds": f"{result.seconds:.2f}",
                    "chosen": _described(result.settings),
                }
            )
        return found

    def _table(self) -> Table:
        return Table.of(self.rows())

    def to_text(self) -> str:
        """The table, for people."""
        return f"{self._told()}\n{self._table().to_text()}"

    def to_markdown(self) -> str:
        """The table in Markdown."""
        return self._table().to_markdown() + "\n"

    def to_csv(self) -> str:
        """The table as comma-separated values."""
        return self._table().to_csv()

    def figure(self) -> "Figure":
        """Repair against damage, a point for each method."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        for result in self.results:
            tests, reference = _of(result, "tests"), _of(result, "reference")
            x, y = 100 * len(reference.flips) / len(reference), 100 * (tests.after or 0)
            (point,) = axes.plot(x, y, "o", markersize=8)
            name, colour = for_figure(result.method), point.get_color()
            axes.annotate(name, (x, y), xytext=(7, 4), textcoords="offset points", color=colour)
            if interval := tests.numbers()["intervals"]:
                axes.vlines(x, *(100 * end for end in interval["after"]), color=point.get_color(), alpha=0.3)
        axes.axhline(100 * (_of(self.results[0], "tests").before or 0), color="grey", linewidth=1, linestyle=":")
        axes.set(
            xlabel="reference predictions changed, %",
            ylabel="test images right, %",
            title=for_figure(self.model_name),
        )
        axes.margins(x=0.15, y=0.1)
        return figure

    def write(self, folder: Path) -> None:
        """Write the comparison to a folder: `comparison.json`, `.csv`, `.md`, `.svg`.

        Args:
            folder: made if there is none.

        Raises:
            OutputError: another process is writing to the folder, or it cannot be written to.
        """
        check_folder(folder)
        texts = {
            "json": json_text(self.to_json()) + "\n",
            "csv": self.to_csv(),
            "md": self.to_markdown(),
            "svg": svg_of(self.figure()),
        }
        write_texts(folder, {f"comparison.{suffix}": text for suffix, text in texts.items()})


def compare(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    site: str | Sequence[str],
    tests: Any,
    reference: Any,
    validation: Any = None,
    leave_out: Sequence[int | str] = (),
    how: CompareSettings = CompareSettings(),  # noqa: B008 - it is frozen
    run: Run = Run(),  # noqa: B008
    **settings: Any,
) -> Comparison:
    """Compare methods, the hyper-parameters of each chosen on validation images under one damage budget (paper 4).

    Of each method the edit is chosen that gets most validation images right among those that lose no more than the
    budget on one half of the reference set; the chosen ones are then measured once, on the tests and on the other half.
    Statistics come from the first half.

    Args:
        model: the classifier; it is not changed.
        exemplars: what to learn from, the same for all.
        site: dotted path of the layer to edit, or of several; the last layer's method finds its own.
        tests: labelled images that an edit should repair.
        reference: images whose treatment should stay; without labels, flips count against the budget.
        validation: labelled images to choose on; a share of the tests, which then no longer counts, if None.
        leave_out: classes to leave out of the reference set, such as those of the exemplars.
        how: methods (keys of `METHODS`), names of their grids (`GRIDS`), the budget.
        run: seed of the splits and of the methods, cache and progress.
        settings: single settings of `how` and of `run` by name, in place of theirs.

    Raises:
        SettingError: an unknown method or grid, or a share out of range.
        FolderError: a folder is missing or too small to be split.
    """
    how, run = with_settings(how, run, settings)
    methods = tuple(METHODS) if how.methods is None else how.methods
    for method in methods:
        check_method(method)
    known, unseen = ImageSet.of(reference, model.classes, leave_out=leave_out).split(0.5, seed=run.seed)
    held = ImageSet.of(tests, model.classes)
    if validation is None:
        chosen_on, held = held.split(how.validation_share, seed=run.seed)
    else:
        chosen_on = ImageSet.of(validation, model.classes)
    sites = [site] if isinstance(site, str) else list(site)
    candidates = _candidates(model, exemplars, sites, methods, known, how.grids, run)
    edits = [candidate.edit for candidate in candidates]
    measured = evaluate_all(model, edits, tests=chosen_on, reference=known, exemplars=exemplars, progress=run.progress)
    chosen = {method: _choose(method, candidates, measured, how.max_drop) for method in methods}
    nothing = Edit((), base_digest(model.module), {"method": "nothing", "sites": []})
    final = [nothing if (pick := chosen[method]) is None else pick.edit for method in methods]
    evaluations = evaluate_all(model, final, tests=held, reference=unseen, exemplars=exemplars, progress=run.progress)
    results = tuple(
        _result(method, chosen[method], evaluation, candidates, measured, how.max_drop)
        for method, evaluation in zip(methods, evaluations, strict=True)
    )
    sizes = {"validation": len(chosen_on), "tests": len(held), "reference": len(known), "reference unseen": len(unseen)}
    return Comparison(results, model.name, how.max_drop, sizes, run.seed)


def _candidates(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    sites: Sequence[str],
    methods: Sequence[str],
    reference: ImageSet,
    grids: Mapping[str, str],
    run: Run,
) -> list[Candidate]:
    """Every edit of every grid, at every strength."""
    wanted = [(method, settings) for method in methods for settings in grid_of(method, grids.get(method, "default"))]
    found = []
    for method, settings in steps(wanted, "edits", unit="edit", shown=run.progress):
        with collect_timings() as seconds:
            edit = edit_by(method, model, exemplars, settings=settings, sites=sites, reference=reference, run=run)
        taken = seconds.get("solve", 0.0)
        found += [
            Candidate(method, {**settings, "strength": strength}, edit.with_strength(strength), taken)
            for strength in strengths_of(method)
        ]
    return found


def _choose(
    method: str, candidates: Sequence[Candidate], measured: Sequence[Evaluation], max_drop: float
) -> Candidate | None:
    """The candidate that repairs most within the budget; the one of fewer flips, then the first, of several."""
    best, best_score = None, (0.0, 0.0)
    for candidate, evaluation in zip(candidates, measured, strict=True):
        tests, reference = evaluation.tests, evaluation.reference
        assert tests is not None and reference is not None
        if candidate.method != method or reference.drop > max_drop:
            continue
        score = (tests.drop, len(reference.flips) / len(reference))
        if tests.drop < 0 and (best is None or score < best_score):
            best, best_score = candidate, score
    return best


def _result(
    method: str,
    chosen: Candidate | None,
    evaluation: Evaluation,
    candidates: Sequence[Candidate],
    measured: Sequence[Evaluation],
    max_drop: float,
) -> Result:
    own = [(c, e) for c, e in zip(candidates, measured, strict=True) if c.method == method]
    made = {json.dumps({**c.settings, "strength": None}, sort_keys=True): c.seconds for c, _ in own}
    within = sum(e.reference is not None and e.reference.drop <= max_drop for _, e in own)
    settings = None if chosen is None else chosen.settings
    seconds = 0.0 if chosen is None else chosen.seconds
    return Result(method, settings, evaluation, seconds, sum(made.values()), (len(own), within))


def _of(result: Result, name: str) -> Any:
    found = getattr(result.evaluation, name)
    assert found is not None
    return found


def _described(settings: Tried | None) -> str:
    if settings is None:
        return "no edit"
    return ", ".join(
        f"{key} {value}" if isinstance(value, str) else f"{key} {value:g}"
        for key, value in settings.items()
        if value is not None
    )
