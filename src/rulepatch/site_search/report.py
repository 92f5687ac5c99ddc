"""Reports of a search: its best candidates as text, HTML for notebooks, and a figure."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from rulepatch.escaping import for_figure
from rulepatch.evaluation.page import svg_of
from rulepatch.notebook import drawing, line, panel, remark
from rulepatch.notebook import table as html_table
from rulepatch.settings import written
from rulepatch.site_search.candidates import Candidate
from rulepatch.text import Table, percent, plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure_of", "panel_of", "text_of"]

COLUMNS = ("site", "rank", "strength", "gate", "validation", "points lost", "flips")

MOST_ROWS = 12


class Search(Protocol):
    """What is shown of a search."""

    @property
    def chosen(self) -> Candidate | None: ...
    @property
    def candidates(self) -> Sequence[Candidate]: ...
    @property
    def why(self) -> str: ...
    @property
    def validation(self) -> str: ...
    @property
    def max_drop(self) -> float: ...
    @property
    def reference_size(self) -> int: ...
    @property
    def model_name(self) -> str: ...
    def is_within(self, candidate: Candidate) -> bool: ...


def text_of(search: Search) -> str:
    """The best candidates, and the reason for the choice."""
    return "\n".join([_counted(search), Table(COLUMNS, _rows(_best(search))).to_text(), search.why])


def panel_of(search: Search) -> str:
    """HTML for notebooks: the best candidates, with the chosen one marked, and a figure of all."""
    shown = _best(search)
    if search.chosen is not None and search.chosen not in shown:
        shown = [*shown, search.chosen]
    marked = None if search.chosen is None else shown.index(search.chosen)
    parts = [line(search.why), remark(_counted(search)), html_table(COLUMNS, _rows(shown), marked=marked)]
    if search.candidates:
        parts.append(drawing(svg_of(figure_of(search)), "gain on the validation images against flips"))
    return panel(f"Search: {search.model_name}", *parts)


def _counted(search: Search) -> str:
    within = sum(map(search.is_within, search.candidates))
    return (
        f"{plural(len(search.candidates), 'candidate')}, {within} within the budget of {100 * search.max_drop:.2f} "
        f"points on {plural(search.reference_size, 'reference image')}; {search.validation}"
    )


def _best(search: Search) -> list[Candidate]:
    within = [each for each in search.candidates if search.is_within(each)]
    return sorted(within, key=lambda each: -each.score)[:MOST_ROWS]


def _rows(candidates: Sequence[Candidate]) -> list[list[object]]:
    return [
        [
            "+".join(each.trial.sites),
            each.trial.how.rank,
            f"{each.trial.how.strength:g}",
            written(each.trial.how.gate),
            f"{each.score:+.3f}",
            f"{100 * each.drop:+.2f}",
            percent(each.flips),
        ]
        for each in candidates
    ]


def figure_of(search: Search) -> "Figure":
    """Repair on the validation images against damage on the reference set, by site."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    paths = list(dict.fromkeys("+".join(each.trial.sites) for each in search.candidates))
    for number, path in enumerate(paths):
        own = [each for each in search.candidates if "+".join(each.trial.sites) == path]
        axes.scatter(
            [100 * each.flips for each in own],
            [each.score for each in own],
            s=[30 if search.is_within(each) else 8 for each in own],
            marker="os^Dv"[number // 10 % 5],
            color=f"C{number % 10}",
            alpha=0.7,
            label=for_figure(path),
        )
    if search.chosen is not None:
        at = (100 * search.chosen.flips, search.chosen.score)
        axes.scatter(*at, s=160, facecolors="none", edgecolors="black", label="chosen")
    axes.axhline(0, color="grey", linewidth=1, linestyle=":")
    axes.set(
        xlabel="reference predictions changed, % (small marks: beyond the budget, or measured on few images)",
        ylabel="mean gain of validation images, log-probability",
        title=for_figure(search.model_name),
        xscale="symlog",
    )
    axes.xaxis.set_major_formatter("{x:g}")
    figure.legend(loc="outside right upper", fontsize="x-small")
    return figure
