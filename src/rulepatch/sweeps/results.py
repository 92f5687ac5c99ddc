"""Results of a sweep: settings selected on validation images, and their outcomes on the tests (paper 4).

Settings are selected without the tests and the unseen half of the reference set. The independent units are the cases
(case set × concept × style): targets and seeds of one case are averaged first.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rulepatch.concepts.cases import CELLS
from rulepatch.discovery.concept_effects import bootstrap_mean
from rulepatch.evaluation.metrics import Corrected, mcnemar
from rulepatch.experiments.grids import METHODS
from rulepatch.sweeps.jobs import split_key
from rulepatch.sweeps.record_forms import check_record
from rulepatch.sweeps.store import Record

__all__ = [
    "DAMAGE_CELL",
    "Case",
    "Measure",
    "Paired",
    "SelectedResult",
    "Study",
    "Summary",
    "average_by_case",
    "base_of",
    "chosen_results",
    "compare_methods",
    "compare_values",
    "corrected",
    "in_order",
    "names_of",
    "net",
    "of_method",
    "order_of_sites",
    "points_lost",
    "study_of",
    "summarise",
]

ROUNDING = 1e-12
"""Differences below it are rounding errors of sums."""

DAMAGE_CELL = "other, held-out style"
"""The hardest cell: neither the class nor the image of the style was in the exemplars."""

Measure = Callable[["SelectedResult"], float | None]
"""A measure of a result; None where it is undefined or based on too few errors."""


@dataclass(frozen=True, order=True)
class Study:
    """Attributes that jobs must share for their results to be comparable.

    Attributes:
        model: its name.
        digest: of the model.
        max_drop: accuracy that an edit may lose on the known half of the reference set, 0..1.
        validation: share of each case's images that settings are chosen on, 0..1.
        device: where the jobs ran.
        versions: of the libraries.
    """

    model: str
    digest: str
    max_drop: float
    validation: float
    device: str
    versions: str


@dataclass(frozen=True, order=True)
class Case:
    """A concept in a style, in a case set.

    Attributes:
        cases: name of the case set.
        concept: what was replaced.
        style: what by.
    """

    cases: str
    concept: str
    style: str


@dataclass(frozen=True)
class SelectedResult:
    """Result of a method on a case with settings selected on validation images; without an edit if none was selected.

    Attributes:
        study: model, budget and the like.
        case: the case.
        target: class of the exemplars, or a group of classes.
        exemplars: how many.
        seed: of the split and the method.
        split: stands for all that other methods' results on the same tests share.
        method: a key of `METHODS`.
        site: where the edit is; None if the method finds its own, or no edit was chosen among several sites.
        key: of the job; None if no setting repaired validation images within the budget.
        settings: of the edit; None without one.
        strength: of the edit; None without one.
        validation: counts of the validation images; None without an edit.
        known: counts of the half of the reference set that settings were chosen on; None without an edit.
        cells: counts by the names in `CELLS`.
        unseen: counts of the other half; None without an edit.
        tried: jobs that were done.
        failed: jobs that failed; the choice is without them.
    """

    study: Study
    case: Case
    target: str
    exemplars: int
    seed: int
    split: str
    method: str
    site: str | None
    key: str | None
    settings: Mapping[str, Any] | None
    strength: float | None
    validation: Mapping[str, int] | None
    known: Mapping[str, int] | None
    cells: Mapping[str, Mapping[str, int]]
    unseen: Mapping[str, int] | None
    tried: int
    failed: int

    def of(self, cell: str) -> Corrected:
        """Corrected errors of a cell."""
        counts = self.cells[cell]
        return Corrected(counts["errors"], counts["left"], counts["caused"])


def base_of(method: str) -> str:
    """The method that one is an ablation of, or itself.

    Returns:
        A key of `METHODS`, or the name as it is if there is none.

    Examples:
        >>> base_of("projected-adam-proj"), base_of("rewrite")
        ('projected-adam', 'rewrite')
    """
    return METHODS[method].name if method in METHODS and METHODS[method].given() else method


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods in the order of `METHODS`, each once; unknown ones last."""
    known = list(METHODS)
    return sorted(set(methods), key=lambda each: (known.index(each) if each in known else len(known), each))


def order_of_sites(sites: Iterable[str], first: Sequence[str] = ()) -> list[str]:
    """Sites in the order given, then the others by name, numbers by their value.

    Args:
        sites: dotted paths.
        first: those whose order is known.

    Examples:
        >>> order_of_sites(["layer10.conv", "layer2.conv", "stem"], first=["stem"])
        ['stem', 'layer2.conv', 'layer10.conv']
    """
    names = set(sites)
    known = [each for each in dict.fromkeys(first) if each in names]
    return known + sorted(names - set(known), key=_natural)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)|\.", name) if part]


def of_method(results: Iterable[SelectedResult], method: str) -> list[SelectedResult]:
    """Results of one method."""
    return [each for each in results if each.method == method]


def corrected(cell: str, least: int = 5) -> Measure:
    """The share of a cell's errors that is corrected.

    Args:
        cell: one of `CELLS`.
        least: errors that a result must have to count.
    """
    return lambda each: each.of(cell).share if each.of(cell).errors >= max(least, 1) else None


def net(cell: str, least: int = 5) -> Measure:
    """The net share: errors corrected minus errors caused."""
    return lambda each: each.of(cell).net if each.of(cell).errors >= max(least, 1) else None


def points_lost(each: SelectedResult) -> float:
    """Accuracy lost on the unseen half of the reference set.

    Returns:
        −1..1; 0 without an edit.
    """
    return 0.0 if each.unseen is None else (each.unseen["broken"] - each.unseen["repaired"]) / each.unseen["n"]


def names_of(records: Iterable[Record]) -> dict[str, str]:
    """Names of models and case sets, which jobs know by their digests; a failed job has none of its own.

    Raises:
        SettingError: a record is none of a sweep.
    """
    found: dict[str, str] = {}
    for each in sorted(records, key=lambda each: each.key):
        result = each.result
        check_record(each)
        if result is not None:
            found.setdefault(each.job["model"], result["model"])
            found.setdefault(each.job["case"]["digest"], result["cases"])
    return found


def study_of(job: Mapping[str, Any], names: Mapping[str, str]) -> Study:
    """The study that a job belongs to.

    Args:
        job: what determines its result.
        names: as `names_of` gives them.
    """
    versions = ", ".join(f"{name} {number}" for name, number in sorted(job.get("versions", {}).items()))
    digest = job["model"]
    return Study(
        names.get(digest, digest[:12]), digest, job["max_drop"], job["validation"], job.get("device", "cpu"), versions
    )


def chosen_results(records: Iterable[Record], *, by_site: bool = False) -> list[SelectedResult]:
    """The results of the settings that gained most on validation images, for each split case and method.

    Among the settings that kept to the budget the one is chosen that gained most validation images, repaired −
    broken; of several the one that flipped least of the known half of the reference set; then the first by key.

    Args:
        records: of a sweep, in any order.
        by_site: whether to choose at each site; else the site is chosen like any other setting.

    Returns:
        Results, in an order that does not depend on that of the records; none where every job failed.

    Raises:
        SettingError: a record is none of a sweep.
    """
    records = list(records)
    names = names_of(records)
    splits: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda each: each.key):
        splits.setdefault(split_key(record.job), []).append(record)
    found: list[SelectedResult] = []
    for split, own in splits.items():
        groups: dict[tuple[str, str | None], list[Record]] = {}
        for record in own:
            groups.setdefault((record.job["method"], record.job["site"] if by_site else None), []).append(record)
        found += [
            _chosen(split, group, names, site)
            for (_, site), group in groups.items()
            if any(each.result is not None for each in group)
        ]
    return sorted(found, key=_order)


def _order(each: SelectedResult) -> tuple[Any, ...]:
    return each.study, each.exemplars, each.case, each.target, each.seed, each.split, each.method, each.site or ""


def _chosen(split: str, group: Sequence[Record], names: Mapping[str, str], site: str | None) -> SelectedResult:
    """The result of a group of jobs that differ in settings, and in the site if that is chosen too."""
    done = [(each, each.result) for each in group if each.result is not None]
    within = [(each, result) for each, result in done if result["chosen"] is not None]
    job = done[0][0].job
    case = Case(names[job["case"]["digest"]], job["case"]["concept"], job["case"]["style"])
    about = (
        study_of(job, names), case, job["target"], job["exemplars"], job["seed"], split, job["method"]
    )  # fmt: skip
    counts = len(done), len(group) - len(done)
    if not within:
        return SelectedResult(
            *about, site, None, None, None, None, None, _untouched(done[0][1]["cells"]), None, *counts
        )
    best, result = min(within, key=lambda each: _rank(*each))
    choice = result["chosen"]
    return SelectedResult(
        *about, best.job["site"], best.key, best.job["settings"], choice["strength"], choice["validation"],
        choice["reference"], result["cells"], result["reference"], *counts,
    )  # fmt: skip


def _rank(record: Record, result: Mapping[str, Any]) -> tuple[float, float, str]:
    """Sort key of the selection (smallest is best), from validation images and the known half only."""
    validation, known = result["chosen"]["validation"], result["chosen"]["reference"]
    return validation["broken"] - validation["repaired"], known["flips"] / known["n"], record.key


def _untouched(cells: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Counts of the tests without an edit, which do not depend on settings."""
    return {
        cell: {"n": counts["n"], "right": counts["right"], "repaired": 0, "broken": 0, "flips": 0}
        | {"errors": counts["errors"], "left": counts["errors"], "caused": 0}
        for cell in CELLS
        for counts in [cells[cell]]
    }


@dataclass(frozen=True)
class Summary:
    """A measure over cases.

    Attributes:
        mean: of the cases; None without any.
        interval: 95 %, by resampling cases; None with fewer than two, of which resampling can tell nothing.
        cases: that count.
    """

    mean: float | None
    interval: tuple[float, float] | None
    cases: int

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return dict(vars(self))


@dataclass(frozen=True)
class Paired:
    """How two methods, or one with more and with fewer exemplars, differ on the same cases: the first − the second.

    Attributes:
        difference: its mean and interval over cases.
        wins: cases on which the first is better.
        losses: cases on which the second is.
        p: of the exact sign test; 1 of no difference.
    """

    difference: Summary
    wins: int
    losses: int
    p: float

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {**self.difference.to_json(), "wins": self.wins, "losses": self.losses, "p": self.p}


def average_by_case(results: Iterable[SelectedResult], measure: Measure) -> dict[Case, float]:
    """A measure of each case: the mean of its targets and seeds, without those of which it is not defined.

    Returns:
        Means by case, in the cases' order.
    """
    found: dict[Case, list[float]] = {}
    for each in sorted(results, key=_order):  # sums must not depend on the order of the records
        value = measure(each)
        if value is not None:
            found.setdefault(each.case, []).append(value)
    return {case: sum(values) / len(values) for case, values in sorted(found.items())}


def summarise(values: Mapping[Case, float], *, seed: int = 0) -> Summary:
    """The mean over cases, with its interval.

    Args:
        values: by case.
        seed: of the resampling.

    Examples:
        >>> found = summarise({Case("set", "road", style): value for style, value in [("snow", 0.5), ("sand", 1.0)]})
        >>> found.mean, found.interval, found.cases
        (0.75, (0.5, 1.0), 2)
        >>> summarise({})
        Summary(mean=None, interval=None, cases=0)
    """
    numbers = np.array([values[case] for case in sorted(values)])
    if not len(numbers):
        return Summary(None, None, 0)
    interval = bootstrap_mean(numbers, np.random.default_rng(seed)) if len(numbers) > 1 else None
    return Summary(float(numbers.mean()), interval, len(numbers))


def compare_values(first: Mapping[Case, float], second: Mapping[Case, float], *, seed: int = 0) -> Paired:
    """Compare two measures on the cases that both have.

    Args:
        first: by case.
        second: by case.
        seed: of the resampling.

    Returns:
        The first − the second.

    Examples:
        >>> cases = [Case("set", "road", str(i)) for i in range(5)]
        >>> found = compare_values(dict.fromkeys(cases, 0.5), dict.fromkeys(cases, 0.25))
        >>> found.difference.mean, found.wins, found.losses, found.p
        (0.25, 5, 0, 0.0625)
    """
    differences = {case: first[case] - second[case] for case in sorted(first.keys() & second.keys())}
    wins = sum(each > ROUNDING for each in differences.values())
    losses = sum(each < -ROUNDING for each in differences.values())
    return Paired(summarise(differences, seed=seed), wins, losses, mcnemar(wins, losses))


def compare_methods(
    first: Iterable[SelectedResult], second: Iterable[SelectedResult], measure: Measure, *, seed: int = 0
) -> Paired:
    """Compare two methods on the splits of cases that both were tried on, so that both face the same tests.

    Args:
        first: results of one method, one for each split.
        second: results of the other.
        measure: what is compared.
        seed: of the resampling.

    Returns:
        The first − the second.
    """
    first, second = list(first), list(second)
    shared = {each.split for each in first} & {each.split for each in second}
    one, two = (
        average_by_case([each for each in own if each.split in shared], measure) for own in (first, second)
    )  # fmt: skip
    return compare_values(one, two, seed=seed)
