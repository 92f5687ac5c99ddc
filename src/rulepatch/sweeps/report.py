"""Report of a sweep: figures with explanations, tables, and data files."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rulepatch.concepts.cases import CELLS
from rulepatch.escaping import json_text
from rulepatch.evaluation.page import render, svg_of
from rulepatch.files import check_folder, write_texts
from rulepatch.sweeps.analysis import SweepReport, format_difference, format_exemplars, format_points, format_share
from rulepatch.sweeps.figures import (
    draw_ablations,
    draw_by_exemplars,
    draw_by_site,
    draw_cells,
    draw_damage,
)
from rulepatch.sweeps.results import DAMAGE_CELL, SelectedResult, Study, base_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawing", "drawings_of", "page_of", "write_report"]

HEADINGS: Mapping[str, str] = {
    "cells": "Errors corrected in the four cells",
    "sites": "By site",
    "ablations": "Ablations",
    "ablations-by-site": "Ablations by site",
    "damage": "Repair against accuracy lost",
    "exemplars": "By number of exemplars",
}
"""Heading of each kind of figure."""

READINGS: Mapping[str, str] = {
    "cells": (
        "Longer bars are better: the share of the errors that the style makes which the edit corrects, with the "
        "site chosen by validation like any other setting. Lines are 95 % intervals. A white diamond is the same "
        "less the errors that the edit causes; one at -100 % may stand for less. Hatched bars are ablations."
    ),
    "sites": (
        "Higher is better: errors corrected with the best settings by validation at each site. A dotted line with "
        "a band is a method that finds its own site, the same at every depth. Points stand beside each other so "
        "that their intervals can be seen."
    ),
    "ablations": (
        "Above, each method and its ablations: -mask learns from the whole image instead of the marked region, "
        "-proj leaves out the projection onto the directions of the rule, and +proj adds it to fine-tuning. Below, "
        "the method minus its ablation on the same cases: right of zero the method is better, left of it the "
        "ablation; where the interval holds zero they cannot be told apart."
    ),
    "ablations-by-site": ("The same by site, with ablations dashed."),
    "damage": (
        "Up and to the left is best: net repair on classes and images of the style that no exemplar showed, "
        "against accuracy lost on the half of the reference set that nothing was chosen on. Large marks are means "
        "with 95 % intervals, faint dots are cases, both of those that count in that cell alone; those at -100 % "
        "may stand for less. The dotted line is the budget, which was enforced on the other half."
    ),
    "exemplars": (
        "Errors corrected with fewer and with more exemplars, over the cases that have results with each number, "
        "which larger numbers of exemplars leave fewer of. The site is chosen by validation; ablations are left "
        "out."
    ),
}
"""Explanation of each kind of figure."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure of a report.

    Attributes:
        name: of its file, without the suffix.
        heading: what it shows.
        reading: how to read it.
        figure: of matplotlib.
    """

    name: str
    heading: str
    reading: str
    figure: "Figure"

    @cached_property
    def svg(self) -> str:
        """The figure as reproducible SVG."""
        return svg_of(self.figure, salt=self.name)

    @property
    def address(self) -> str:
        """The figure as a data URI, which avoids clashes of element ids in a page."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


def write_report(report: SweepReport, folder: Path) -> list[Path]:
    """Write page, figures, results and summaries to a folder, each file atomically.

    Args:
        report: what a sweep found.
        folder: made if there is none.

    Returns:
        The files, the page first.

    Raises:
        OutputError: the folder, or one that it is in, is a file.
    """
    check_folder(folder)
    drawings = drawings_of(report)
    texts = {
        "results.csv": report.to_csv(),
        "summary.json": json_text(report.to_json()) + "\n",
        "summary.md": report.to_markdown(),
        **{f"{each.name}.svg": each.svg for own in drawings.values() for each in own},
    }
    write_texts(folder, texts | {"report.html": page_of(report, drawings)})  # the page last, as it refers to the others
    return [folder / name for name in ("report.html", *texts)]


def drawings_of(report: SweepReport) -> dict[Study, list[Drawing]]:
    """Every figure in which there is something to show.

    Args:
        report: what a sweep found.
    """
    names = _file_names(report.titles)
    return {study: list(_drawings(report, study, names[study])) for study in report.titles}


def _drawings(report: SweepReport, study: Study, name: str) -> Iterable[Drawing]:
    title, least = report.titles[study], report.least
    for count in report.numbers_of_exemplars(study):
        results, sited = report.part(study, count), report.part(study, count, by_site=True)
        about = f"{title}, {format_exemplars(count)}"
        figures = {
            "cells": draw_cells(results, title=about, least=least),
            "sites": draw_by_site(_plain(sited), title=about, sites=report.sites, least=least),
            "ablations": draw_ablations(results, title=about, least=least),
            "ablations-by-site": draw_by_site(_ablated(sited), title=about, sites=report.sites, least=least),
            "damage": draw_damage(results, title=about, max_drop=study.max_drop, least=least),
        }
        for kind, figure in figures.items():
            if figure is not None:
                heading = f"{HEADINGS[kind]}, {format_exemplars(count)}"
                yield Drawing(f"{name}-{kind}-{count}", heading, READINGS[kind], figure)
    every = _plain([each for each in report.best if each.study == study])
    figure = draw_by_exemplars(every, title=title, least=least)
    if figure is not None:
        yield Drawing(f"{name}-exemplars", HEADINGS["exemplars"], READINGS["exemplars"], figure)


def _plain(results: Sequence[SelectedResult]) -> list[SelectedResult]:
    """Results without those of ablations."""
    return [each for each in results if base_of(each.method) == each.method]


def _ablated(results: Sequence[SelectedResult]) -> list[SelectedResult]:
    """Results of ablations and of what they are ablations of."""
    bases = {base_of(each.method) for each in results if base_of(each.method) != each.method}
    return [each for each in results if base_of(each.method) in bases]


def _file_names(titles: Mapping[Study, str]) -> dict[Study, str]:
    """Names for the files of each study, all different."""
    found: dict[Study, str] = {}
    for study, title in titles.items():
        plain = re.sub(r"[^A-Za-z0-9._+]+", "-", title).strip("-.")[-80:] or "model"
        taken = sum(name.casefold() == plain.casefold() for name in found.values())
        found[study] = f"{plain}-{study.digest[:8]}-{len(found)}" if taken else plain
    return found


def page_of(report: SweepReport, drawings: Mapping[Study, Sequence[Drawing]]) -> str:
    """The page.

    Args:
        report: what a sweep found.
        drawings: of each study.

    Returns:
        HTML that needs nothing but itself.
    """
    studies = []
    for study in report.titles:
        parts = []
        for count in report.numbers_of_exemplars(study):
            part = report.part(study, count)
            compared = _by_pair(report.comparisons(part))
            parts.append({"exemplars": count, "methods": report.methods(part), "compared": compared})
        more = _by_pair(report.by_exemplars(study))
        studies.append({"about": report.about(study), "drawings": drawings[study], "parts": parts, "more": more})
    return render(
        "sweep.html.jinja", title="results of a sweep", report=report, studies=studies, cells=CELLS,
        damage_cell=DAMAGE_CELL, share=format_share, lost=format_points, difference=format_difference,
    )  # fmt: skip


def _by_pair(compared: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Mapping[str, Any]]]]:
    """Comparisons by measure, by what is compared, and by cell."""
    found: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = {}
    for each in compared:
        pair = f"{each['first']} − {each['second']}"
        name = f"{each['method']}: {pair} exemplars" if "method" in each else pair
        found.setdefault(each["measure"], {}).setdefault(name, {})[each["cell"]] = each
    return found
