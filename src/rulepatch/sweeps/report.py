"""The page of a sweep: its figures, each with how to read it, and the tables beside them."""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rulepatch.concepts.cases import CELLS
from rulepatch.evaluation.page import render, svg_of
from rulepatch.sweeps.captions import (
    HEADINGS,
    READINGS,
    told_difference,
    told_exemplars,
    told_points,
    told_share,
)
from rulepatch.sweeps.figures import (
    draw_ablations,
    draw_by_exemplars,
    draw_by_site,
    draw_cells,
    draw_damage,
)
from rulepatch.sweeps.plot_style import DAMAGE_CELL, base_of
from rulepatch.sweeps.results import Chosen, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rulepatch.sweeps.analysis import SweepReport

__all__ = ["Drawing", "drawings_of", "page_of"]


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
        """The figure as SVG, the same to the byte whenever it is drawn."""
        return svg_of(self.figure, salt=self.name)

    @property
    def address(self) -> str:
        """The figure as the address of itself, as parts of several in one page would have the same names."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


def drawings_of(report: "SweepReport") -> dict[Study, list[Drawing]]:
    """Every figure in which there is something to show.

    Args:
        report: what a sweep found.
    """
    names = _file_names(report.titles)
    return {study: list(_drawings(report, study, names[study])) for study in report.titles}


def _drawings(report: "SweepReport", study: Study, name: str) -> "Iterable[Drawing]":
    title, least = report.titles[study], report.least
    for count in report.numbers_of_exemplars(study):
        results, sited = report.part(study, count), report.part(study, count, by_site=True)
        about = f"{title}, {told_exemplars(count)}"
        figures = {
            "cells": draw_cells(results, title=about, least=least),
            "sites": draw_by_site(_plain(sited), title=about, sites=report.sites, least=least),
            "ablations": draw_ablations(results, title=about, least=least),
            "ablations-by-site": draw_by_site(_ablated(sited), title=about, sites=report.sites, least=least),
            "damage": draw_damage(results, title=about, max_drop=study.max_drop, least=least),
        }
        for kind, figure in figures.items():
            if figure is not None:
                heading = f"{HEADINGS[kind]}, {told_exemplars(count)}"
                yield Drawing(f"{name}-{kind}-{count}", heading, READINGS[kind], figure)
    every = _plain([each for each in report.best if each.study == study])
    figure = draw_by_exemplars(every, title=title, least=least)
    if figure is not None:
        yield Drawing(f"{name}-exemplars", HEADINGS["exemplars"], READINGS["exemplars"], figure)


def _plain(results: Sequence[Chosen]) -> list[Chosen]:
    """Results without those of ablations."""
    return [each for each in results if base_of(each.method) == each.method]


def _ablated(results: Sequence[Chosen]) -> list[Chosen]:
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


def page_of(report: "SweepReport", drawings: Mapping[Study, Sequence[Drawing]]) -> str:
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
        damage_cell=DAMAGE_CELL, share=told_share, lost=told_points, difference=told_difference,
    )  # fmt: skip


def _by_pair(compared: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Mapping[str, Any]]]]:
    """Comparisons by measure, by what is compared, and by cell."""
    found: dict[str, dict[str, dict[str, Mapping[str, Any]]]] = {}
    for each in compared:
        pair = f"{each['first']} − {each['second']}"
        name = f"{each['method']}: {pair} exemplars" if "method" in each else pair
        found.setdefault(each["measure"], {}).setdefault(name, {})[each["cell"]] = each
    return found
