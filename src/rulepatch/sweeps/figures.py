"""The paper's figures of a sweep: a method keeps its colour and mark in all of them; ablations are hollow."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rulepatch.concepts.cases import CELLS
from rulepatch.escaping import for_figure
from rulepatch.sweeps.results import (
    DAMAGE_CELL,
    Measure,
    Paired,
    SelectedResult,
    Summary,
    average_by_case,
    base_of,
    compare_methods,
    corrected,
    in_order,
    net,
    of_method,
    order_of_sites,
    points_lost,
    summarise,
)
from rulepatch.text import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LOOKS", "draw_ablations", "draw_by_exemplars", "draw_by_site", "draw_cells", "draw_damage", "look_of"]

LOOKS = {
    "nothing": ("#6e6e6e", "x"),
    "rewrite": ("#0072b2", "o"),
    "projected-adam": ("#56b4e9", "s"),
    "finetune-local": ("#d55e00", "^"),
    "finetune-global": ("#e69f00", "v"),
    "last-layer": ("#009e73", "D"),
    "dense": ("#cc79a7", "P"),
}
"""Colour and mark of each editor; the colours can be told apart by the colour-blind (Okabe and Ito 2008)."""

WIDTH = 10.5
LOWEST = -1.0
"""Limit of axes of shares; net shares are unbounded below."""


def look_of(method: str) -> dict[str, Any]:
    """Colour and mark of a method; those of an ablation are hollow, without the projection half so.

    Args:
        method: a key of `METHODS`; others are black.
    """
    colour, mark = LOOKS.get(base_of(method), ("#000000", "*"))
    look = {"color": colour, "marker": mark, "markersize": 7}
    if base_of(method) == method:
        return look
    return look | ({"mfc": "white"} if method.endswith("-mask") else {"fillstyle": "left", "mfcalt": "white"})


def _errors(summaries: Sequence[Summary]) -> list[list[float]]:
    """Error bars for matplotlib, below and above, in percent."""
    ends = [each.interval or (each.mean, each.mean) for each in summaries]
    means = [each.mean or 0.0 for each in summaries]
    below = [100 * max(0.0, mean - (low or 0.0)) for mean, (low, _) in zip(means, ends, strict=True)]
    return [below, [100 * max(0.0, (high or 0.0) - mean) for mean, (_, high) in zip(means, ends, strict=True)]]


def _points(axes: "Axes", places: Sequence[float], summaries: Sequence[Summary], method: str, **more: Any) -> Any:
    """Means with their intervals, for those that there are."""
    there = [(place, each) for place, each in zip(places, summaries, strict=True) if each.mean is not None]
    if not there:
        return None
    shown = [each for _, each in there]
    means = [100 * (each.mean or 0.0) for each in shown]
    return axes.errorbar(
        [place for place, _ in there], means, yerr=_errors(shown), capsize=2.5, elinewidth=1.2, **look_of(method),
        **more,
    )  # fmt: skip


def _cases_told(summaries: Iterable[Summary]) -> str:
    """Annotate the number of cases of some means."""
    counts = [each.cases for each in summaries]
    low, high = min(counts, default=0), max(counts, default=0)
    return plural(high, "case") if low == high else f"{low} to {plural(high, 'case')}"


def _panels(down: int, across: int, height: float, title: str, **more: Any) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    figure.suptitle(for_figure(title, 120), fontsize=11)
    every = list(figure.subplots(down, across, squeeze=False, **more).ravel())
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    return figure, every


def _legend(figure: "Figure", handles: Mapping[str, Any]) -> None:
    figure.legend(
        [handles[each] for each in in_order(handles)], in_order(handles), loc="outside lower center",
        ncols=min(6, len(handles)), frameon=False, fontsize=9,
    )  # fmt: skip


def _too_little(axes: "Axes", least: int) -> None:
    axes.text(
        0.5, 0.5, f"no case with\n{plural(least, 'error')} to correct", ha="center", va="center", fontsize=9,
        color="#6e6e6e", transform=axes.transAxes,
    )  # fmt: skip


def _over_cases(results: Sequence[SelectedResult], method: str, measure: Measure) -> Summary:
    return summarise(average_by_case(of_method(results, method), measure))


def _any(summaries: Iterable[Summary]) -> bool:
    return any(each.mean is not None for each in summaries)


def draw_cells(results: Sequence[SelectedResult], *, title: str, least: int = 5) -> "Figure | None":
    """Errors corrected in the four cells by each method; diamonds show net shares (minus errors caused).

    Args:
        results: with one number of exemplars, the site chosen by validation.
        title: of the figure.
        least: errors that a result must have to count.

    Returns:
        A figure of matplotlib; None if there is nothing to show.
    """
    methods = in_order(each.method for each in results)
    found = {
        (cell, method): [_over_cases(results, method, measure(cell, least)) for measure in (corrected, net)]
        for cell in CELLS
        for method in methods
    }
    if not _any(each for pair in found.values() for each in pair):
        return None
    figure, every = _panels(1, 4, 1.5 + 0.3 * len(methods), title, sharey=True, sharex=True)
    lowest = 0.0
    for axes, cell in zip(every, CELLS, strict=True):
        for place, method in enumerate(methods):
            full, less = found[cell, method]
            if full.mean is None or less.mean is None:
                continue
            colour, whole = look_of(method)["color"], base_of(method) == method
            axes.barh(
                place, 100 * full.mean, 0.66, color=colour if whole else "white", edgecolor=colour,
                hatch=None if whole else "////" if method.endswith("-mask") else "\\\\\\\\",
                xerr=_errors([full]), error_kw={"capsize": 2.5, "elinewidth": 1.2, "ecolor": "#222222"},
            )  # fmt: skip
            axes.plot(
                100 * max(less.mean, LOWEST), place, "D", markersize=5, color="white", markeredgecolor="#222222",
                zorder=5,
            )  # fmt: skip
            lowest = min(lowest, less.mean, (full.interval or (0.0,))[0])
        counted = [found[cell, method][0] for method in methods]
        axes.set_title(f"{cell}\n{_cases_told(counted) if _any(counted) else ''}", fontsize=9)
        axes.axvline(0, color="#222222", linewidth=0.8)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        if not _any(counted):
            _too_little(axes, least)
    every[0].set_yticks(range(len(methods)), methods)
    every[0].set_ylim(len(methods) - 0.4, -0.6)
    every[0].set_xlim(100 * max(lowest, LOWEST) - 4, 104)
    figure.supxlabel("errors corrected, %", fontsize=9)
    return figure


def _draw_lines(
    rows: Mapping[str, Mapping[str, Sequence[Summary]]],
    level: Mapping[str, Mapping[str, Summary]],
    places: Sequence[str],
    *,
    title: str,
    label: str,
    least: int,
) -> "Figure | None":
    """Errors corrected in the four cells along an axis, a line for each method.

    Args:
        rows: by cell and method the summaries at the places.
        level: by cell and method the summary of those that have no place, the same at all of them.
        places: along the axis.
        title: of the figure.
        label: of the axis.
        least: errors that a result must have to count.

    Returns:
        A figure of matplotlib; None if there is nothing to show.
    """
    if not _any(each for own in rows.values() for line in own.values() for each in line):
        return None
    long = max(map(len, places)) * len(places) > 45
    figure, every = _panels(2, 2, 7.4 if long else 6.6, title, sharex=True, sharey=True)
    handles: dict[str, Any] = {}
    for number, (axes, cell) in enumerate(zip(every, CELLS, strict=True)):
        count = len(rows[cell])
        for i, (method, line) in enumerate(rows[cell].items()):
            apart = (i - (count - 1) / 2) * min(0.09, 0.6 / max(count, 1))
            style = "-" if base_of(method) == method else "--"
            drawn = _points(axes, [x + apart for x in range(len(places))], line, method, linestyle=style, linewidth=1.4)
            if drawn is not None:
                handles.setdefault(method, drawn)
        for method, one in level[cell].items():
            if one.mean is not None:
                colour = look_of(method)["color"]
                drawn = axes.axhline(100 * one.mean, color=colour, linestyle=":", linewidth=1.8)
                if one.interval is not None:
                    axes.axhspan(*(100 * end for end in one.interval), color=colour, alpha=0.12, linewidth=0)
                handles.setdefault(method, drawn)
        counted = [each for line in rows[cell].values() for each in line]
        axes.set_title(f"{cell} ({_cases_told(counted)})" if _any(counted) else cell, fontsize=9)
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        if not _any(counted):
            _too_little(axes, least)
        if number >= 2:
            names = [*map(for_figure, places)]
            axes.set_xticks(range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center")
    every[0].set_xlim(-0.5, len(places) - 0.5)
    every[0].set_ylim(min(-4, every[0].get_ylim()[0]), 103)
    for axes in every[2:]:
        axes.set_xlabel(label, fontsize=9)
    for axes in every[::2]:
        axes.set_ylabel("errors corrected, %", fontsize=9)
    _legend(figure, handles)
    return figure


def draw_by_site(
    results: Sequence[SelectedResult], *, title: str, sites: Sequence[str] = (), least: int = 5
) -> "Figure | None":
    """Errors corrected in the four cells by site; a method that finds its own site is the same at every depth.

    Args:
        results: with one number of exemplars, chosen at each site.
        title: of the figure.
        sites: in the order of the network, as far as it is known.
        least: errors that a result must have to count.

    Returns:
        A figure of matplotlib; None with fewer than two sites.
    """
    places = order_of_sites((each.site for each in results if each.site is not None), sites)
    if len(places) < 2:
        return None
    methods = in_order(each.method for each in results)
    sited = [method for method in methods if any(each.site is not None for each in of_method(results, method))]

    def at(cell: str, method: str, site: str | None) -> Summary:
        return _over_cases([each for each in results if each.site == site], method, corrected(cell, least))

    rows = {cell: {method: [at(cell, method, site) for site in places] for method in sited} for cell in CELLS}
    level = {cell: {method: at(cell, method, None) for method in methods if method not in sited} for cell in CELLS}
    return _draw_lines(rows, level, places, title=title, label="site", least=least)


def draw_by_exemplars(results: Sequence[SelectedResult], *, title: str, least: int = 5) -> "Figure | None":
    """Errors corrected in the four cells by the number of exemplars, over the cases that have results with all of them.

    Args:
        results: with any number of exemplars, the site chosen by validation.
        title: of the figure.
        least: errors that a result must have to count.

    Returns:
        A figure of matplotlib; None with fewer than two numbers.
    """
    counts = sorted({each.exemplars for each in results})
    if len(counts) < 2:
        return None
    rows: dict[str, dict[str, list[Summary]]] = {}
    for cell in CELLS:
        rows[cell] = {}
        for method in in_order(each.method for each in results):
            own = [
                average_by_case([r for r in of_method(results, method) if r.exemplars == count], corrected(cell, least))
                for count in counts
            ]
            shared = set.intersection(*(set(each) for each in own))
            rows[cell][method] = [summarise({case: each[case] for case in shared}) for each in own]
    nothing: dict[str, dict[str, Summary]] = {cell: {} for cell in CELLS}
    return _draw_lines(rows, nothing, [str(count) for count in counts], title=title, label="exemplars", least=least)


def draw_ablations(results: Sequence[SelectedResult], *, title: str, least: int = 5) -> "Figure | None":
    """Each method beside its ablations, and below the differences on the same cases, method − ablation.

    Args:
        results: with one number of exemplars, the site chosen by validation.
        title: of the figure.
        least: errors that a result must have to count.

    Returns:
        A figure of matplotlib; None if no method is there beside an ablation of it.
    """
    every_method = in_order(each.method for each in results)
    ablated = [each for each in every_method if base_of(each) != each and base_of(each) in every_method]
    shown = [each for each in every_method if each in ablated or each in map(base_of, ablated)]
    found = {(cell, method): _over_cases(results, method, corrected(cell, least)) for cell in CELLS for method in shown}
    if not _any(found.values()):
        return None
    from matplotlib.figure import Figure

    heights = [len(shown) + 1, len(ablated) + 1]
    figure = Figure(figsize=(WIDTH, 2.0 + 0.3 * sum(heights)), layout="constrained", facecolor="white")
    figure.suptitle(for_figure(title, 120), fontsize=11)
    grid = figure.subplots(2, 4, sharey="row", sharex="row", height_ratios=heights)
    for column, cell in enumerate(CELLS):
        above, below = grid[0][column], grid[1][column]
        _across(above, [(found[cell, each], each) for each in shown])
        _across(below, [(_ablation(results, each, cell, least).difference, each) for each in ablated])
        counted = [found[cell, each] for each in shown]
        above.set_title(f"{cell}\n{_cases_told(counted) if _any(counted) else ''}", fontsize=9)
        if not _any(counted):
            _too_little(above, least)
        above.set_xlabel("errors corrected, %", fontsize=8)
        below.set_xlabel("points better than the ablation", fontsize=8)
    grid[0][0].set_yticks(range(len(shown)), shown)
    grid[0][0].set_ylim(len(shown) - 0.5, -0.5)
    grid[1][0].set_yticks(range(len(ablated)), [f"{base_of(each)}\n− {each}" for each in ablated])
    grid[1][0].set_ylim(len(ablated) - 0.5, -0.5)
    return figure


def _ablation(results: Sequence[SelectedResult], ablated: str, cell: str, least: int) -> Paired:
    return compare_methods(of_method(results, base_of(ablated)), of_method(results, ablated), corrected(cell, least))


def _across(axes: "Axes", rows: Sequence[tuple[Summary, str]]) -> None:
    """Means with their intervals along the horizontal, a row each."""
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.axvline(0, color="#222222", linewidth=0.8)
    axes.grid(axis="x", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for place, (each, method) in enumerate(rows):
        if each.mean is not None:
            axes.errorbar(100 * each.mean, place, xerr=_errors([each]), capsize=2.5, elinewidth=1.2, **look_of(method))


def draw_damage(results: Sequence[SelectedResult], *, title: str, max_drop: float, least: int = 5) -> "Figure | None":
    """Net repair of other classes in the held-out style against points lost on the unseen half of the reference set.

    Args:
        results: with one number of exemplars, the site chosen by validation.
        title: of the figure.
        max_drop: the budget, 0..1.
        least: errors that a result must have to count.

    Returns:
        A figure of matplotlib; None if there is nothing to show.
    """
    measure: Measure = net(DAMAGE_CELL, least)
    counted = [each for each in results if measure(each) is not None]
    if not counted:
        return None
    figure, (axes,) = _panels(1, 1, 5.6, title)
    handles: dict[str, Any] = {}
    for method in in_order(each.method for each in counted):
        own, look = of_method(counted, method), look_of(method)
        gained, lost = average_by_case(own, measure), average_by_case(own, points_lost)
        axes.plot(
            [100 * lost[case] for case in gained], [100 * max(gained[case], LOWEST) for case in gained], ".",
            color=look["color"], alpha=0.35, markersize=6,
        )  # fmt: skip
        y, x = summarise(gained), summarise(lost)
        handles[method] = axes.errorbar(
            100 * (x.mean or 0.0), 100 * max(y.mean or 0.0, LOWEST), xerr=_errors([x]), yerr=_errors([y]), capsize=2.5,
            elinewidth=1.2, **look | {"markersize": 10}, linestyle="none", zorder=5,
        )  # fmt: skip
    axes.axvline(100 * max_drop, color="#6e6e6e", linewidth=1, linestyle=":")
    axes.annotate(
        "budget", (100 * max_drop, 1), xycoords=("data", "axes fraction"), xytext=(4, -2), textcoords="offset points",
        va="top", fontsize=8, color="#6e6e6e",
    )  # fmt: skip
    axes.axhline(0, color="#222222", linewidth=0.8)
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("points of accuracy lost on the unseen half of the reference set", fontsize=9)
    axes.set_ylabel(f"net errors corrected ({DAMAGE_CELL}), %", fontsize=9)
    _legend(figure, handles)
    return figure
