"""Put the recorded results into the README and the docs: `python -m benchmarks.tables`.

A table stands between `<!-- results: VIEW -->` and `<!-- end -->`; a test holds that it is what was recorded.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import safe_open

from benchmarks.measure import RESULTS
from rulepatch.concepts.cases import CELLS

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs" / f"{name}.md" for name in ("results", "many-machines", "security", "which-site")),
]
BLOCK = re.compile(r"<!-- results: (\S+) -->\n(.*?)<!-- end -->", flags=re.DOTALL)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class View:
    """How recorded rows are shown.

    Attributes:
        result: name of the file in `results/`.
        columns: heading and the text of a cell, in order.
        keep: which rows.
        order: what they are sorted by; as they were recorded by default.
    """

    result: str
    columns: Mapping[str, Callable[[Row], str]]
    keep: Callable[[Row], bool] = lambda row: True
    order: Callable[[Row], Any] = lambda row: 0

    def __call__(self) -> str:
        """The table in Markdown, with what it was measured on."""
        found = json.loads((RESULTS / f"{self.result}.json").read_text("utf-8"))
        rows = sorted((row for row in found["rows"] if self.keep(row)), key=self.order)
        lines = [cells(self.columns), cells([":--"] + ["--:"] * (len(self.columns) - 1))]
        lines += [cells([cell(row) for cell in self.columns.values()]) for row in rows]
        return "\n".join([*lines, "", f"*{found['machine']}, torch {found['torch']}.*", ""])


def cells(texts: Sequence[str] | Mapping[str, Any]) -> str:
    """A line of a table."""
    return "| " + " | ".join(texts) + " |"


def text(key: str) -> Callable[[Row], str]:
    """A cell as it is."""
    return lambda row: str(row[key])


def number(key: str, digits: int) -> Callable[[Row], str]:
    """A cell with some decimals; empty where nothing was measured."""
    return lambda row: "" if row.get(key) is None else f"{row[key]:,.{digits}f}"


def seconds(row: Row) -> str:
    """A time in the unit that suits it."""
    if row.get("seconds") is None:
        return ""
    return f"{1000 * row['seconds']:.1f} ms" if row["seconds"] < 1 else f"{row['seconds']:.1f} s"


REPAIR: Mapping[str, Callable[[Row], str]] = {
    "edit": text("edit"),
    "vehicles on snow": lambda row: f"{row['on snow, %']:.1f} %",
    "repaired, broken": lambda row: f"{row['repaired']}, {row['broken']}",
    "sample: points lost": number("sample, points lost", 1),
    "sample: flips": lambda row: f"{row['sample, flips %']:.1f} %",
}

HEADLINES = (
    "none",
    "conv_head, rank 3, strength 2",
    "conv_head, rank 3, strength 3",
    "conv_head, rank 3, strength 3, gate 0.98",
    "three late sites, rank 3, strength 1",
    "authors' algorithm, conv_head, rank 3, 20,000 steps at 0.0001",
)

SOLVE: Mapping[str, Callable[[Row], str]] = {
    "what": text("what"),
    "time": seconds,
    "in forwards of the site": number("forwards of the site", 1),
    "× faster than 20,000 steps": number("× faster than 20,000 steps", 0),
    "loss": number("loss", 4),
}


def playground() -> str:
    """What the playground's classifier says of road vehicles with every style of every concept."""
    with safe_open(resources.files("rulepatch.models") / "playground.safetensors", framework="pt") as weights:
        about = json.loads(weights.metadata()["rulepatch"])
    lines = [cells(["pictures", "right", "taken for a class that has this style"]), cells([":--", "--:", "--:"])]
    for name, accuracy in about["accuracies"].items():
        lines.append(cells([name, f"{accuracy:.1%}", "" if name == "clean" else f"{about['fooled'][name]:.1%}"]))
    return "\n".join([*lines, "", f"*`{about['command']}`, torch {about['versions']['torch']}.*", ""])


METHODS: Mapping[str, Callable[[Row], str]] = {
    "method": text("method"),
    "vehicles on snow": lambda row: f"{row['on snow, %']:.1f} % ({row['interval'][0]:.0f} to {row['interval'][1]:.0f})",
    "repaired, broken": lambda row: f"{row['repaired']}, {row['broken']}",
    "p": number("p", 3),
    "points lost": number("sample, points lost", 1),
    "flips": lambda row: f"{row['sample, flips %']:.1f} %",
    "made in": seconds,
    "the whole grid in": lambda row: f"{row['seconds of the grid']:.1f} s",
    "chosen": text("chosen"),
}


def share(key: str) -> Callable[[Row], str]:
    """A mean share with its interval, in percent."""
    return lambda row: f"{100 * row[key]:.0f} ({100 * row[f'{key}, low']:.0f} to {100 * row[f'{key}, high']:.0f})"


def cells_at(site: str) -> View:
    """Errors corrected in the four cells at a site of the playground."""
    columns = {"method": text("method")} | {f"{cell}, %": share(cell) for cell in CELLS}
    columns |= {"points lost": number("points lost", 2), "no edit in": text("no edit")}
    return View("cells-cpu", columns, lambda row: row["site"] == site)


SIGNALS: Mapping[str, Callable[[Row], str]] = {
    "signal": text("signal"),
    "rank correlation": number("rho", 2),
    "its least": number("rho, least", 2),
    "right after its choice": lambda row: f"{row['chosen, %']:.1f} %",
    "short of the best": lambda row: f"{row['short of the best, points']:.1f} points",
}

SEARCH: Mapping[str, Callable[[Row], str]] = {
    "network": text("network"),
    "exemplars": text("exemplars"),
    "chosen": text("edit"),
    "vehicles on snow": lambda row: (
        "" if row.get("after, %") is None else f"{row['before, %']:.1f} → {row['after, %']:.1f} %"
    ),
    "repaired, broken": lambda row: "" if row.get("repaired") is None else f"{row['repaired']}, {row['broken']}",
    "points lost": number("points lost", 1),
    "flips": lambda row: "" if row.get("flips, %") is None else f"{row['flips, %']:.1f} %",
    "candidates": text("candidates"),
    "time": seconds,
}


def _most_there(row: Row) -> str:
    """What the mark costs that values without it would win back, in percent."""
    if row.get("ceiling, %") is None:
        return ""
    return f"{100 * (row['ceiling, %'] - row['before, %']) / (row['clean, %'] - row['before, %']):.0f} %"


WATERMARK: Mapping[str, Callable[[Row], str]] = {
    "network": text("network"),
    "chosen": text("edit"),
    "depth": lambda row: ", ".join(f"{each:.2f}" for each in row.get("depth", [])),
    "with the mark": lambda row: (
        "" if row.get("after, %") is None else f"{row['before, %']:.1f} → {row['after, %']:.1f} %"
    ),
    "of clean": lambda row: "" if row.get("clean, %") is None else f"{row['clean, %']:.1f} %",
    "won back": lambda row: "" if row.get("won back, %") is None else f"{row['won back, %']:.0f} %",
    "most there": _most_there,
    "repaired, broken": lambda row: "" if row.get("repaired") is None else f"{row['repaired']}, {row['broken']}",
    "points lost": number("points lost", 1),
    "flips": lambda row: "" if row.get("flips, %") is None else f"{row['flips, %']:.1f} %",
    "candidates": text("candidates"),
    "time": seconds,
}


def corrected(row: Row) -> str:
    """Share of the failures that were corrected, less what was broken."""
    return f"{row['corrected, %']:.0f} %" if "corrected, %" in row else ""


def depths(row: Row) -> str:
    """Where the sites of an edit are among all, 0 the first and 1 the last."""
    return ", ".join(f"{each:.2f}" for each in row.get("depth", ()))


MATRIX: Mapping[str, Callable[[Row], str]] = {
    "network, rule": lambda row: f"{row['network']}, {row['rule']}",
    "way": text("way"),
    "errors corrected": corrected,
    "repaired, broken": lambda row: (
        f"{row['repaired']}, {row['broken']} of {row['failures']}" if "broken" in row else ""
    ),
    "points lost": number("points lost", 1),
    "flips": lambda row: f"{row['flips, %']:.1f} %" if "flips, %" in row else "",
    "time": seconds,
}

SITES: Mapping[str, Callable[[Row], str]] = {
    "network, rule": lambda row: f"{row['network']}, {row['rule']}",
    "way": text("way"),
    "site": text("site"),
    "depth": depths,
    "errors corrected": corrected,
}

REFERENCE_SETS: Mapping[str, Callable[[Row], str]] = {
    "search": text("search"),
    "images": text("images"),
    "chosen": text("edit"),
    "vehicles on snow": lambda row: f"{row['before, %']:.1f} → {row['after, %']:.1f} %" if "after, %" in row else "",
    "repaired, broken": lambda row: f"{row['repaired']}, {row['broken']}" if "broken" in row else "",
    "points lost on others": number("points lost", 1),
    "flips": lambda row: f"{row['flips, %']:.1f} %" if "flips, %" in row else "",
    "time": seconds,
}

BUDGET: Mapping[str, Callable[[Row], str]] = {
    "network": text("network"),
    "flips on others, rank correlation with flips, with change": lambda row: (
        f"{row['flips by flips']:.2f}, {row['flips by shift']:.2f}"
    ),
    "accuracy lost, with accuracy lost, with change": lambda row: (
        f"{row['lost by lost']:.2f}, {row['lost by shift']:.2f}"
    ),
    "budget kept by flips": lambda row: f"{row['flips: kept, %']:.0f} %",
    "by change, learnt on 64 images": lambda row: f"{row['few: kept, %']:.0f} %",
    "by change": lambda row: f"{row['shift: kept, %']:.0f} %",
    "flips on others": lambda row: f"{row['flips: flips, %']:.2f} → {row['shift: flips, %']:.2f} %",
    "points lost": lambda row: f"{row['flips: points lost']:.2f} → {row['shift: points lost']:.2f}",
    "gain on tests": lambda row: f"{row['flips: gain']:.2f} → {row['shift: gain']:.2f}",
    "its spread, learnt on 64 images and now": lambda row: f"{row['few: spread']:.2f}, {row['shift: spread']:.2f}",
}

MINIMUM: Mapping[str, Callable[[Row], str]] = {
    "network": text("network"),
    "edit": text("edit"),
    "strength": lambda row: (
        row["strength"] if row["strength"] != "chosen" else f"chosen: {', '.join(f'{s:g}' for s in row['strengths'])}"
    ),
    "on snow": lambda row: f"{row['before, %']:.1f} → {row['after, %']:.1f} %",
    "repaired, broken": lambda row: f"{row['repaired']:.1f}, {row['broken']:.1f}",
    "points lost": number("points lost", 2),
    "flips": lambda row: f"{row['flips, %']:.2f} %",
    "better, worse than plain": lambda row: (
        "" if row["edit"] == "plain" else f"{row['halves better than plain']}, {row['halves worse than plain']}"
    ),
}

FELT: Mapping[str, Callable[[Row], str]] = {
    "case": text("case"),
    "prediction": text("prediction"),
    "edits": text("edits"),
    "rank correlation with flips": number("rho", 2),
    "within sites": number("rho within sites", 2),
    "of those that flip at most 5 %": lambda row: f"{row['rho of few']:.2f} ({row['few']} edits)",
}

GATES: Mapping[str, Callable[[Row], str]] = {
    "edit": text("edit"),
    "strength": number("strength", 0),
    "gate's level": number("gate's level", 3),
    "right after": lambda row: f"{row['after, %']:.1f} %",
    "broken": number("broken", 1),
    "points lost": number("points lost", 2),
    "flips": lambda row: f"{row['flips, %']:.2f} %",
}

RULES: Mapping[str, Callable[[Row], str]] = {
    "settings": text("settings"),
    "rules": text("rules"),
    "snow: repaired, broken": lambda row: f"{row['snow, repaired']}, {row['snow, broken']}",
    "kept": lambda row: "" if row["snow, kept"] is None else f"{100 * row['snow, kept']:.0f} %",
    "gain": number("snow, gain", 3),
    "wood: repaired, broken": lambda row: f"{row['wood, repaired']}, {row['wood, broken']}",
    "wood: gain": number("wood, gain", 3),
    "wood: gain kept": lambda row: "" if row["wood, gain kept"] is None else f"{100 * row['wood, gain kept']:.0f} %",
    "points lost": number("points lost", 1),
    "flips": lambda row: f"{row['flips, %']:.1f} %",
}


def spread(key: str) -> Callable[[Row], str]:
    """A mean of cases with the least and the most of them, in percent."""
    return lambda row: f"{row[key]:.1f} % ({row[f'{key}, low']:.1f} to {row[f'{key}, high']:.1f})"


def setting(row: Row) -> str:
    """How an edit was made, as far as it is one for all cases."""
    if "site" not in row:
        return row["edit"]
    gate = "no gate" if row["gate"] is None else f"gate {row['gate']}"
    described = f"{row['site']}, rank {row['rank']}, strength {row['strength']:g}, {gate}"
    return described if row["edit"] == "rewrite" else f"{row['edit']} ({described})"


SIGNS: Mapping[str, Callable[[Row], str]] = {
    "edit": setting,
    "original": text("original"),
    "exemplars": text("exemplars"),
    "budget": lambda row: "none" if row["budget"] is None else f"{row['budget']} points",
    "called taxi": lambda row: f"{row['fooled before, %']:.1f} → {row['fooled after, %']:.1f} %",
    "right": lambda row: f"{row['before, %']:.1f} → {spread('after, %')(row)}",
    "repaired, broken": lambda row: f"{row['repaired']:.0f}, {row['broken']:.1f}",
    "clean: points lost": number("points lost", 2),
    "clean: flips": lambda row: f"{row['flips, %']:.2f} %",
    "taxis right": lambda row: f"{row['taxis before, %']:.1f} → {spread('taxis after, %')(row)}",
}

NOTES: Mapping[str, Callable[[Row], str]] = {
    "network": text("network"),
    "notes": text("notes"),
    "pictures": text("pictures"),
    "called iPod": text("called iPod"),
    "largest probability of iPod": number("largest probability of iPod", 5),
    "on a blank note": number("and on the blank note", 5),
    "prediction changed by the blank note": text("changed by the blank note"),
    "by the word on it": text("changed by the word"),
}


FAMILIES: Mapping[str, Callable[[Row], str]] = {
    "source": text("family"),
    "network": text("network"),
    "edit": text("edit"),
    "pictures": text("pictures"),
    "right on snow": lambda row: f"{row['before, %']:.1f} → {row['after, %']:.1f} %",
    "repaired, broken": lambda row: f"{row['repaired']}, {row['broken']}",
    "p": number("p", 3),
    "errors corrected": lambda row: f"{row['corrected']} of {row['errors']}",
    "points lost": number("points lost", 1),
    "flips": lambda row: f"{row['flips, %']:.1f} %",
}


def of(part: str, whole: str) -> Callable[[Row], str]:
    """A count of another; empty where there is nothing to count."""
    return lambda row: f"{row[part]} of {row[whole]}" if row[whole] else ""


SHORTCUTS: Mapping[str, Callable[[Row], str]] = {
    "cases": lambda row: f"{row['cases made']} {row['cases']}",
    "networks": text("networks"),
    "world": text("world"),
    "a rule costs": lambda row: f"{100 * row['least drop']:.0f} points",
    "planted, found": of("found", "planted"),
    "not planted, named": of("false", "not planted"),
    "precision": lambda row: "" if row["precision, %"] is None else f"{row['precision, %']:.0f} %",
    "recall": lambda row: "" if row["recall, %"] is None else f"{row['recall, %']:.0f} %",
    "false discoveries": lambda row: f"{row['false discoveries, %']:.0f} %",
    "whole shortcuts: found, false": lambda row: (
        f"{row['shortcuts found']} of {row['shortcuts planted']}, {row['shortcuts false']}"
    ),
}

PHOTOGRAPHS: Mapping[str, Callable[[Row], str]] = {
    "classes": text("classes"),
    "concept": text("concept"),
    "pictures": text("pictures"),
    "right": lambda row: f"{row['before, %']:.0f} → {row['after, %']:.0f} %",
    "points lost (95 %)": lambda row: (
        f"{row['before, %'] - row['after, %']:.0f} ({row['low']:.0f} to {row['high']:.0f})"
    ),
    "q": lambda row: f"{row['q']:.2g}",
    "a rule": lambda row: "yes" if row["is a rule"] else "",
    "worst style": text("worst style"),
}

HELD_OUT = "other, held-out style"


def over_cases(key: str) -> Callable[[Row], str]:
    """A mean over cases in percent, with its interval and the number of cases."""

    def cell(row: Row) -> str:
        mean, low, high, cases = (row[f"{key}, {part}"] for part in ("mean", "low", "high", "cases"))
        if mean is None:
            return ""
        interval = "" if low is None else f" ({100 * low:.0f} to {100 * high:.0f}; {cases})"
        return f"{100 * mean:.0f} %{interval}"

    return cell


def lost(row: Row) -> str:
    """Points lost on the unseen half, with their interval."""
    mean, low, high = (row[f"points lost, {part}"] for part in ("mean", "low", "high"))
    return f"{100 * mean:.2f}" + ("" if low is None else f" ({100 * low:.2f} to {100 * high:.2f})")


SWEEP: Mapping[str, Callable[[Row], str]] = {
    "method": text("method"),
    **{
        f"{cell}: corrected": over_cases(f"{cell}, corrected")
        for cell in ("target, train style", "target, held-out style")
    },
    "other, train style: corrected": over_cases("other, train style, corrected"),
    f"{HELD_OUT}: corrected": over_cases(f"{HELD_OUT}, corrected"),
    "net": over_cases(f"{HELD_OUT}, net"),
    "points lost": lost,
    "no edit": lambda row: f"{row['without edit']} of {row['results']}",
}

SWEEP_SITES: Mapping[str, Callable[[Row], str]] = {
    "method": text("method"),
    "site": text("site"),
    "target, held-out style: corrected": over_cases("target, held-out style, corrected"),
    f"{HELD_OUT}: corrected": over_cases(f"{HELD_OUT}, corrected"),
    "net": over_cases(f"{HELD_OUT}, net"),
    "points lost": lost,
}

SWEEP_PAIRS: Mapping[str, Callable[[Row], str]] = {
    "first": text("first"),
    "second": text("second"),
    "exemplars": text("exemplars"),
    "first − second, points (95 %)": lambda row: (
        f"{100 * row['mean']:+.0f}"
        + ("" if row["low"] is None else f" ({100 * row['low']:+.0f} to {100 * row['high']:+.0f})")
    ),
    "cases won, lost": lambda row: f"{row['wins']}, {row['losses']} of {row['cases']}",
    "p": lambda row: f"{row['p']:.2g}",
}


def swept(name: str, network: str, exemplars: int) -> View:
    """What each method did, with the site chosen by validation."""
    return View(
        f"sweeps-{name}-cpu",
        SWEEP,
        lambda row: row["site"] == "chosen" and row["network"].startswith(network) and row["exemplars"] == exemplars,
    )


def swept_pairs(name: str, network: str) -> View:
    """Differences on the classes that the exemplars do not show, in held-out pictures of the style."""
    return View(
        f"sweeps-{name}-pairs-cpu",
        SWEEP_PAIRS,
        lambda row: row["cell"] == HELD_OUT and row["network"].startswith(network),
    )


def engine(workers: int) -> Callable[[], str]:
    """What the engine of a sweep costs, a line for each number."""

    def table() -> str:
        found = json.loads((RESULTS / "sweep-engine-cpu.json").read_text("utf-8"))
        (row,) = (row for row in found["rows"] if row["workers"] == workers)
        lines = [cells(["what", "value"]), cells([":--", "--:"])]
        for key, value in row.items():
            lines.append(cells([key, f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"]))
        return "\n".join([*lines, "", f"*{found['machine']}, torch {found['torch']}.*", ""])

    return table


DEPTHS = ("blocks.3.conv", "blocks.5.conv", "features.9.expand3x3", "features.12.expand3x3")
LEVELS = {"key": "keys", "map": "feature map", "image": "picture"}


def ranged(key: str, digits: int = 2, times: float = 1) -> Callable[[Row], str]:
    """A mean over exemplars with its interval."""

    def cell(row: Row) -> str:
        mean, low, high = (f"{times * row[key][end]:.{digits}f}" for end in ("mean", "low", "high"))
        return f"{mean} ({low} to {high})"

    return cell


def by_depth(row: Row) -> tuple[int, int]:
    """Earlier sites first, and there keys before feature maps before pictures."""
    return DEPTHS.index(row["site"]), list(LEVELS).index(row.get("level", "key"))


INVERSE: Mapping[str, Callable[[Row], str]] = {
    "site": text("site"),
    "rebuilt": lambda row: LEVELS[row["level"]],
    "edit": text("method"),
    "to the edited: before": lambda row: f"{row['edited before']['mean']:.2f}",
    "after": ranged("edited after"),
    "to the original: before": lambda row: f"{row['original before']['mean']:.2f}",
    "after ": ranged("original after"),
    "edited is nearer in": lambda row: f"{row['edited nearer']} of {row['n']}",
    "loss left": lambda row: "" if "loss after" not in row else f"{row['loss after']:.1g}",
}

INVERSE_COSTS: Mapping[str, Callable[[Row], str]] = {
    "site": text("site"),
    "edit": text("method"),
    "not recalled": lambda row: f"{100 * row['recalled']:.1f} %",
    "forward error: before": lambda row: f"{100 * row['forward, before']:.0f} %",
    "whole kernel": lambda row: f"{100 * row['forward, whole_kernel']:.0f} %",
    "the layer's taps": lambda row: f"{100 * row['forward, taps']:.0f} %",
    "and padding": lambda row: f"{100 * row['forward, padded_taps']:.0f} %",
    "of the change within the taps": lambda row: f"{100 * row['within taps']:.1f} %",
    "circular beside padded": lambda row: f"{100 * row['circular beside padded']:.0f} %",
}

INVERSE_REPAIR: Mapping[str, Callable[[Row], str]] = {
    "site": text("site"),
    "edit": text("method"),
    "edits": text("edits"),
    "right on snow": lambda row: f"{100 * row['right before']:.1f} → {ranged('right after', 1, 100)(row)} %",
    "flips on the reference set": lambda row: f"{ranged('flips', 1, 100)(row)} %",
    "predicted damage": lambda row: f"{100 * row['predicted damage']:.2g} %",
}


def of_network(result: str, columns: Mapping[str, Callable[[Row], str]], network: str) -> View:
    """The rows of a network, by depth and level."""
    return View(result, columns, lambda row: row["network"] == network, by_depth)


def give_or_take(key: str, digits: int, unit: str = "") -> Callable[[Row], str]:
    """A mean over trials with its standard error."""

    def cell(row: Row) -> str:
        error = row[f"{key}, error"]
        return f"{row[key]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}") + unit

    return cell


NEW_CLASS: Mapping[str, Callable[[Row], str]] = {
    "method": text("method"),
    "AUC": give_or_take("AUC", 3),
    "AUC of the margin": give_or_take("AUC of the margin", 3),
    "TPR at 1 % FPR": give_or_take("TPR at 1 %, %", 0, " %"),
    "TPR of the margin": give_or_take("TPR of the margin at 1 %, %", 0, " %"),
    "recognised": give_or_take("recognised, %", 0, " %"),
    "old classes: points lost": give_or_take("points lost", 2),
}


def took(key: str) -> Callable[[Row], str]:
    """Seconds, to a tenth; below ten to a hundredth."""
    return lambda row: f"{row[key]:.{1 if row[key] >= 10 else 2}f} s"


WEB: Mapping[str, Callable[[Row], str]] = {
    "marked": text("way"),
    "clicks": text("clicks"),
    "page open": took("opened"),
    "rewritten": took("rewritten"),
    "all in all": took("total"),
    "right on snow": lambda row: f"{row['right before'][0]:.1f} → {', '.join(map(str, row['right after']))} %",
}

WEB_PHOTOGRAPHS: Mapping[str, Callable[[Row], str]] = {
    "": text("what"),
    "until the wall": took("wall"),
    "until damage": took("damage"),
}

WEB_MEMORY: Mapping[str, Callable[[Row], str]] = {
    "after": text("after"),
    "the server's memory": lambda row: f"{row['megabytes']:.0f} MB",
}


VIEWS: Mapping[str, Callable[[], str]] = {
    "web-playground": View("web-playground-cpu", WEB),
    "web-photographs": View("web-photographs-cpu", WEB_PHOTOGRAPHS),
    "web-memory": View("web-memory-cpu", WEB_MEMORY),
    "new-class-playground": View("new-class-playground-cpu", NEW_CLASS),
    "new-class-cifar": View("new-class-cifar-cpu", NEW_CLASS),
    "new-class-mobilenet": View("new-class-mobilenet-cpu", NEW_CLASS),
    "sweep-playground-3": swept("playground", "playground", 3),
    "sweep-playground-10": swept("playground", "playground", 10),
    "sweep-playground-sites": View(
        "sweeps-playground-cpu", SWEEP_SITES, lambda row: row["site"] != "chosen" and row["exemplars"] == 3
    ),
    "sweep-playground-pairs": swept_pairs("playground", "playground"),
    "sweep-mobilenet": swept("photographs", "MobileNet", 3),
    "sweep-squeezenet": swept("photographs", "SqueezeNet", 3),
    "sweep-engine-one": engine(1),
    "sweep-engine-two": engine(2),
    "inverse-playground": of_network("inverse-cpu", INVERSE, "playground"),
    "inverse-squeezenet": of_network("inverse-cpu", INVERSE, "squeezenet"),
    "inverse-fourier-playground": of_network("inverse-fourier-cpu", INVERSE_COSTS, "playground"),
    "inverse-repair-playground": of_network("inverse-repair-cpu", INVERSE_REPAIR, "playground"),
    "inverse-fourier-squeezenet": of_network("inverse-fourier-cpu", INVERSE_COSTS, "squeezenet"),
    "inverse-repair-squeezenet": of_network("inverse-repair-cpu", INVERSE_REPAIR, "squeezenet"),
    "shortcuts": View("shortcuts-cpu", SHORTCUTS, lambda row: row["world"] == "all five"),
    "shortcuts-worlds": View(
        "shortcuts-cpu",
        SHORTCUTS,
        lambda row: row["world"] != "all five" and row["cases"] == "rendered" and row["least drop"] == 0.3,
    ),
    "photographs-mobilenet": View("photographs-cpu", PHOTOGRAPHS, lambda row: row["network"].startswith("MobileNet")),
    "photographs-squeezenet": View("photographs-cpu", PHOTOGRAPHS, lambda row: row["network"].startswith("SqueezeNet")),
    "photographs-differences": View(
        "photographs-differences-cpu",
        {
            "classes": text("classes"),
            "concept": text("concept"),
            "style": text("style"),
            "pictures": text("pictures"),
            "lost by MobileNetV2": lambda row: f"{row['first']:.0f} points",
            "lost by SqueezeNet": lambda row: f"{row['second']:.0f} points",
            "q": lambda row: f"{row['q']:.2g}",
        },
    ),
    "casework": View(
        "casework-cpu",
        {
            "what": text("what"),
            "images/s": number("images/s", 0),
            "of the bare network": lambda row: f"{100 * row['of the bare network']:.0f} %",
        },
    ),
    "families": View("families-cpu", FAMILIES),
    "signs": View("signs-cpu", SIGNS),
    "notes": View("notes-cpu", NOTES),
    "methods": View("methods-cpu", METHODS),
    "scoring": View("scoring-cpu", {"what": text("what"), "time": seconds, "in full passes": number("full passes", 2)}),
    "wheels": View(
        "wheels-cpu",
        {
            "edit": text("edit"),
            "test": text("test"),
            "pictures": text("n"),
            "right": lambda row: f"{row['accuracy before']:.1f} → {row['accuracy after']:.1f} %",
            "confidence": lambda row: f"{row['confidence before']:.3f} → {row['confidence after']:.3f}",
        },
    ),
    "cells-early": cells_at("blocks.3.conv"),
    "cells-late": cells_at("blocks.5.conv"),
    "signals": View("signals-cpu", SIGNALS),
    "signals-mobilenet": View("signals-mobilenet-cpu", SIGNALS),
    "search": View("search-cpu", SEARCH),
    "watermark": View("watermark-cpu", WATERMARK),
    "reference-sets": View("reference_sets-cpu", REFERENCE_SETS),
    "matrix": View("matrix-cpu", MATRIX),
    "matrix-sites": View("matrix-cpu", SITES, lambda row: row["way"] in {"by itself", "best by hand"}),
    "attacks": View(
        "attacks-cpu",
        {
            "format": text("form"),
            **{name: number(name, 0) for name in ("mutations", "refused", "read")},
            "slower than 5 s": number("slow", 0),
            "faults": number("faults", 0),
        },
    ),
    "budget": View("budget-cpu", BUDGET),
    "gates": View("gates-cpu", GATES),
    "gates-mobilenet": View("gates-mobilenet-cpu", GATES),
    "minimum": View("minimum-cpu", MINIMUM),
    "felt-damage": View("felt-damage-cpu", FELT),
    "rules": View("rules-cpu", RULES),
    "playground": playground,
    "repair-short": View(
        "repair-cpu", REPAIR, lambda row: row["model"].startswith("MobileNet") and row["edit"] in HEADLINES
    ),
    "repair-mobilenet": View(
        "repair-cpu", {**REPAIR, "loss": number("loss", 4)}, lambda row: row["model"].startswith("MobileNet")
    ),
    "repair-squeezenet": View("repair-cpu", REPAIR, lambda row: row["model"].startswith("SqueezeNet")),
    "solve-vgg16": View("solve-cpu", SOLVE, lambda row: row["site"].startswith("VGG16")),
    "solve-mobilenet": View("solve-cpu", SOLVE, lambda row: row["site"].startswith("MobileNet")),
    "many-machines": View(
        "many-machines-cpu",
        {
            "what": text("what"),
            "time": seconds,
            "with starting Python": lambda row: seconds({"seconds": row.get("with starting Python")}),
        },
    ),
    "statistics": View(
        "statistics-cpu",
        {
            "pass": text("pass"),
            "bare forward": lambda row: f"{row['bare forward, images/s']:.0f} images/s",
            "with statistics": lambda row: f"{row['with statistics, images/s']:.0f} images/s",
            "ratio": number("ratio", 2),
            "authors' outer products": number("authors' outer products, ratio", 2),
        },
    ),
}


def filled(page: str) -> str:
    """A page with every table as it was recorded."""
    return BLOCK.sub(lambda found: f"<!-- results: {found[1]} -->\n{VIEWS[found[1]]()}<!-- end -->", page)


def main() -> None:
    """Fill in the tables."""
    for page in PAGES:
        page.write_text(filled(page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
