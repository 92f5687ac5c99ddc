"""Analysis of a sweep: summary statistics and the tables of the paper (paper 4)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Self

from rulepatch.concepts.cases import CELLS
from rulepatch.errors import SettingError
from rulepatch.escaping import for_markdown
from rulepatch.sweeps.export import flattened
from rulepatch.sweeps.results import (
    DAMAGE_CELL,
    Measure,
    SelectedResult,
    Study,
    average_by_case,
    base_of,
    chosen_results,
    compare_methods,
    compare_values,
    corrected,
    in_order,
    names_of,
    net,
    of_method,
    order_of_sites,
    points_lost,
    study_of,
    summarise,
)
from rulepatch.sweeps.store import Record, read_records
from rulepatch.text import Table, command_line, plural

__all__ = ["SweepReport", "format_difference", "format_exemplars", "format_points", "format_share"]

HEADLINE = "rewrite"
"""Method with which the others are compared, if present."""


@dataclass(frozen=True, eq=False)
class SweepReport:
    """Analysis of a sweep.

    Attributes:
        store: name of the file of results.
        records: that it holds.
        least: least number of errors in a cell for a result to be included.
        sites: sites in the order of the network, if known; others are sorted by name.
    """

    store: str
    records: Sequence[Record]
    least: int = 5
    sites: Sequence[str] = ()

    @classmethod
    def read(cls, store: Path | str, *, least: int = 5, sites: Sequence[str] = ()) -> Self:
        """Read the results of a sweep, which may still be running.

        Args:
            store: the file of results; it is not changed.
            least: least number of errors in a cell for a result to be included.
            sites: sites in the order of the network, if known; others are sorted by name.

        Raises:
            SettingError: there is no file, no result in it that can be reported, or a number is below 1.
            OutputError: the file is none of ours.
        """
        if least < 1:
            raise SettingError(f"expected at least 1 error for a result to count but got {least}; raise it")
        report = cls(Path(store).name, read_records(Path(store)), least, tuple(sites))
        if not report.best:
            raise SettingError(
                f"expected a job in {store} that was done but all {len(report.records)} failed; "
                f"see why: {command_line('sweep failures', {}, store)}"
            )
        return report

    @cached_property
    def best(self) -> list[SelectedResult]:
        """The results with settings and site selected on validation images."""
        return chosen_results(self.records)

    @cached_property
    def by_site(self) -> list[SelectedResult]:
        """The results with settings selected on validation images at each site."""
        return chosen_results(self.records, by_site=True)

    @cached_property
    def titles(self) -> dict[Study, str]:
        """Title of each study: its model, and other attributes where needed to distinguish it."""
        studies = list(dict.fromkeys(each.study for each in self.best))
        return {study: _title(study, [other for other in studies if other.model == study.model]) for study in studies}

    def numbers_of_exemplars(self, study: Study) -> list[int]:
        """The numbers of exemplars that a study has results with.

        Returns:
            Numbers, rising.
        """
        return sorted({each.exemplars for each in self.best if each.study == study})

    def part(self, study: Study, exemplars: int, *, by_site: bool = False) -> list[SelectedResult]:
        """The results of a study with a number of exemplars."""
        every = self.by_site if by_site else self.best
        return [each for each in every if each.study == study and each.exemplars == exemplars]

    @cached_property
    def parts(self) -> list[tuple[Study, int]]:
        """Every study with every number of exemplars."""
        return [(study, count) for study in self.titles for count in self.numbers_of_exemplars(study)]

    def _measures(self) -> Iterator[tuple[str, str, Measure]]:
        for cell in CELLS:
            yield cell, "corrected", corrected(cell, self.least)
            yield cell, "net", net(cell, self.least)

    def methods(self, results: Sequence[SelectedResult]) -> list[dict[str, Any]]:
        """Each method's measures over cases.

        Args:
            results: one for each split case and method.

        Returns:
            JSON, a row for each method.
        """
        rows = []
        for method in in_order(each.method for each in results):
            own = of_method(results, method)
            cells: dict[str, dict[str, Any]] = {cell: {} for cell in CELLS}
            for cell, name, measure in self._measures():
                cells[cell][name] = summarise(average_by_case(own, measure)).to_json()
            rows.append({
                "method": method,
                "results": len(own),
                "without_edit": sum(each.key is None for each in own),
                "with_failures": sum(each.failed > 0 for each in own),
                "cells": cells,
                "points_lost": summarise(average_by_case(own, points_lost)).to_json(),
            })  # fmt: skip
        return rows

    def comparisons(self, results: Sequence[SelectedResult]) -> list[dict[str, Any]]:
        """The headline method against each other one, and each method against its ablations, on the same cases.

        Args:
            results: one for each split case and method.

        Returns:
            JSON, a row for each pair and cell.
        """
        methods = in_order(each.method for each in results)
        first = HEADLINE if HEADLINE in methods else methods[0]
        pairs = [(first, each) for each in methods if each != first]
        pairs += [(base_of(each), each) for each in methods if base_of(each) in methods and base_of(each) != each]
        return [
            {"first": one, "second": two, "cell": cell, "measure": name}
            | compare_methods(of_method(results, one), of_method(results, two), measure).to_json()
            for one, two in dict.fromkeys(pairs)
            for cell, name, measure in self._measures()
        ]

    def by_exemplars(self, study: Study) -> list[dict[str, Any]]:
        """Each method with more exemplars against fewer, on the cases that have both.

        Args:
            study: the study.

        Returns:
            JSON, a row for each method, pair of numbers and cell.
        """
        rows = []
        for fewer, more in combinations(self.numbers_of_exemplars(study), 2):
            few, many = self.part(study, fewer), self.part(study, more)
            for method in in_order({each.method for each in few} & {each.method for each in many}):
                for cell, name, measure in self._measures():
                    pair = (average_by_case(of_method(own, method), measure) for own in (many, few))
                    about = {"method": method, "first": more, "second": fewer, "cell": cell, "measure": name}
                    rows.append(about | compare_values(*pair).to_json())
        return rows

    def about(self, study: Study) -> dict[str, Any]:
        """The settings that were swept in a study.

        Args:
            study: the study.
        """
        names = names_of(self.records)
        own = [each for each in self.records if study_of(each.job, names) == study]
        results = [each for each in self.best if each.study == study]
        cases = sorted({each.case for each in results})
        methods = in_order(each.job["method"] for each in own)
        places = (each.job["site"] for each in own if each.job["site"] is not None)
        return {
            "title": self.titles[study],
            **vars(study),
            "jobs": len(own),
            "failed": sum(each.result is None for each in own),
            "cases": [vars(each) for each in cases],
            "case_sets": sorted({each.cases for each in cases}),
            "targets": len({(each.case, each.target) for each in results}),
            "exemplars": self.numbers_of_exemplars(study),
            "seeds": sorted({each.seed for each in results}),
            "sites": order_of_sites(places, self.sites),
            "methods": methods,
            "failed_by_method": {
                method: sum(each.result is None and each.job["method"] == method for each in own) for method in methods
            },
            "unfinished": [method for method in methods if not of_method(results, method)],
        }

    def to_json(self) -> dict[str, Any]:
        """Every number of the report."""
        return {
            "store": self.store,
            "jobs": len(self.records),
            "failed": sum(each.result is None for each in self.records),
            "least": self.least,
            "studies": [
                self.about(study)
                | {
                    "results": [self._part_json(study, count) for count in self.numbers_of_exemplars(study)],
                    "by_exemplars": self.by_exemplars(study),
                }
                for study in self.titles
            ],
        }

    def _part_json(self, study: Study, exemplars: int) -> dict[str, Any]:
        results, sited = self.part(study, exemplars), self.part(study, exemplars, by_site=True)
        places = order_of_sites((each.site for each in sited if each.site is not None), self.sites)
        return {
            "exemplars": exemplars,
            "methods": self.methods(results),
            "comparisons": self.comparisons(results),
            "by_site": [
                {"site": site} | row
                for site in [*places, None]
                for row in self.methods([each for each in sited if each.site == site])
            ],
        }

    def rows(self) -> list[dict[str, Any]]:
        """Every chosen result, flat: those at each site, and which of them is that of the method.

        Returns:
            A row for each, all with the same keys.
        """
        best = {(each.split, each.method): each.key for each in self.best}
        rows: list[dict[str, Any]] = []
        told: set[tuple[str, str]] = set()
        for each in self.by_site:
            which = each.split, each.method
            is_best = each.key == best[which] and which not in told  # without any edit the first site stands for all
            told |= {which} if is_best else set()
            rows.append({
                "title": self.titles[each.study], **vars(each.study), **vars(each.case),
                "target": each.target, "exemplars": each.exemplars, "seed": each.seed, "split": each.split,
                "method": each.method, "site": each.site, "best_site": is_best, "edit": each.key is not None,
                "job": each.key, "settings": each.settings, "strength": each.strength, "tried": each.tried,
                "failed": each.failed, "lost": points_lost(each), "validation": each.validation,
                "known": each.known, "unseen": each.unseen, "cells": each.cells,
            })  # fmt: skip
        return flattened(rows)

    def to_csv(self) -> str:
        """The chosen results as comma-separated values."""
        return Table.of(self.rows()).to_csv()

    def tables(self) -> Iterator[tuple[str, Table]]:
        """The tables of methods, each with its heading, for each study and number of exemplars."""
        for study, count in self.parts:
            rows = [
                [each["method"]]
                + [format_share(each["cells"][cell]["corrected"]) for cell in CELLS]
                + [format_share(each["cells"][DAMAGE_CELL]["net"]), format_points(each["points_lost"])]
                for each in self.methods(self.part(study, count))
            ]
            header = ["method", *CELLS, f"net, {DAMAGE_CELL}", "points lost"]
            yield f"{self.titles[study]}, {format_exemplars(count)}", Table(header, rows)

    def to_text(self) -> str:
        """The tables, as text."""
        return "\n\n".join(f"{heading}\n{found.to_text()}" for heading, found in self.tables()) + (
            f"\nerrors corrected with 95 % intervals over cases; cases with at least {self.least} errors count"
        )

    def to_markdown(self) -> str:
        """The tables, as Markdown."""
        told = [f"## {for_markdown(heading)}\n\n{found.to_markdown()}\n" for heading, found in self.tables()]
        return (
            "# Results of a sweep\n\n"
            "Errors corrected on the tests, with 95 % intervals over cases and the number of cases that count, which "
            f"have at least {self.least} errors. Settings and site were chosen on validation images within the "
            "budget.\n\n"
        ) + "\n".join(told)


def format_exemplars(count: int) -> str:
    """Format a number of exemplars."""
    return plural(count, "exemplar")


def format_share(summary: Mapping[str, Any]) -> str:
    """Format a mean share over cases, with its interval and the number of cases.

    Examples:
        >>> format_share({"mean": 0.5, "interval": (0.25, 0.75), "cases": 4})
        '50 % (25 to 75; 4)'
        >>> format_share({"mean": 0.5, "interval": None, "cases": 1}), format_share({"mean": None, "cases": 0})
        ('50 % (1)', 'n/a (0)')
    """
    return _told(summary, "{:.0f}", " %")


def format_points(summary: Mapping[str, Any]) -> str:
    """Format mean points lost over cases.

    Examples:
        >>> format_points({"mean": 0.0012, "interval": (-0.001, 0.002), "cases": 4})
        '0.12 (-0.10 to 0.20; 4)'
    """
    return _told(summary, "{:.2f}", "")


def format_difference(paired: Mapping[str, Any]) -> str:
    """Format a difference over cases, in points, with its interval, wins, losses and the sign test.

    Examples:
        >>> format_difference({"mean": 0.25, "interval": (0.1, 0.4), "cases": 5, "wins": 5, "losses": 0, "p": 0.0625})
        '+25 (+10 to +40; 5), 5 : 0, p = 0.062'
    """
    if paired["mean"] is None:
        return "n/a (0)"
    return f"{_told(paired, '{:+.0f}', '')}, {paired['wins']} : {paired['losses']}, p = {paired['p']:.2g}"


def _told(summary: Mapping[str, Any], form: str, unit: str) -> str:
    if summary["mean"] is None:
        return f"n/a ({summary['cases']})"
    ends = summary["interval"]
    between = "" if ends is None else " to ".join(_number(100 * end, form) for end in ends) + "; "
    return f"{_number(100 * summary['mean'], form)}{unit} ({between}{summary['cases']})"


def _number(value: float, form: str) -> str:
    """Format a number, without the sign of a rounded zero."""
    told = form.format(value)
    return told.replace("-", "+" if "+" in form else "") if float(told) == 0 else told


def _title(study: Study, others: Sequence[Study]) -> str:
    """A model's name, with distinguishing attributes if it has several studies."""
    told = {
        "digest": f"model {study.digest[:8]}",
        "max_drop": f"budget {100 * study.max_drop:g} %",
        "validation": f"validation {100 * study.validation:g} %",
        "device": f"on {study.device}",
        "versions": study.versions,
    }
    apart = [words for name, words in told.items() if len({getattr(other, name) for other in others}) > 1]
    return ", ".join([study.model, *apart])
