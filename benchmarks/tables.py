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

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "docs" / "results.md"]
BLOCK = re.compile(r"<!-- results: (\S+) -->\n(.*?)<!-- end -->", flags=re.DOTALL)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class View:
    """How recorded rows are shown.

    Attributes:
        result: name of the file in `results/`.
        columns: heading and the text of a cell, in order.
        keep: which rows.
    """

    result: str
    columns: Mapping[str, Callable[[Row], str]]
    keep: Callable[[Row], bool] = lambda row: True

    def __call__(self) -> str:
        """The table in Markdown, with what it was measured on."""
        found = json.loads((RESULTS / f"{self.result}.json").read_text("utf-8"))
        rows = [row for row in found["rows"] if self.keep(row)]
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


VIEWS: Mapping[str, Callable[[], str]] = {
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
