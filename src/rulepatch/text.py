"""Text formatting: tables, shares, counts and commands."""

import csv
import io
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from rulepatch.errors import SettingError
from rulepatch.escaping import for_csv, for_markdown, one_line, shortened
from rulepatch.trust import is_trusted

__all__ = [
    "Result",
    "Table",
    "are_numbers",
    "brief",
    "command_line",
    "duration",
    "option_value",
    "percent",
    "plural",
    "points",
    "quoted",
    "read_pairs",
    "read_share",
]


@runtime_checkable
class Result(Protocol):
    """Protocol of results that commands print."""

    def to_json(self) -> dict[str, Any]:
        """The result for programs."""

    def to_text(self) -> str:
        """The result as human-readable text."""


@dataclass(frozen=True)
class Table:
    r"""Rows under a header, in each of the forms that tables are given in.

    Attributes:
        header: of each column.
        rows: cells, as many as the header has.

    Examples:
        >>> table = Table(["site", "rank", "gain"], [["conv_head", 3, None], ["fc", 12, "+2 %"]])
        >>> print(table.to_text())
        site       rank  gain
        conv_head     3  None
        fc           12  +2 %
        >>> print(table.to_markdown())
        | site | rank | gain |
        | :-- | --: | --: |
        | conv_head | 3 |  |
        | fc | 12 | +2 % |
        >>> table.to_csv()
        'site,rank,gain\nconv_head,3,\nfc,12,+2 %\n'
        >>> table.to_json()[1]
        {'site': 'fc', 'rank': 12, 'gain': '+2 %'}
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]]) -> Self:
        """A table of rows that have the same keys, at least one."""
        return cls(list(rows[0]), [list(row.values()) for row in rows])

    def to_text(self) -> str:
        """Rows in columns; numbers stand to the right."""
        cells = [[one_line(str(cell)) for cell in row] for row in [self.header, *self.rows]]
        widths = [max(len(row[column]) for row in cells) for column in range(len(self.header))]
        right = [all(isinstance(row[column], int | float) for row in self.rows) for column in range(len(self.header))]
        lines = (
            "  ".join(
                cell.rjust(width) if to_right else cell.ljust(width)
                for cell, width, to_right in zip(row, widths, right, strict=True)
            )
            for row in cells
        )
        return "\n".join(line.rstrip() for line in lines)

    def to_markdown(self) -> str:
        """The table in Markdown; numbers, and what begins with one, stand to the right."""
        cells = [["" if cell is None else for_markdown(str(cell)) for cell in row] for row in self.rows]
        marks = ["--:" if are_numbers(column) else ":--" for column in zip(*cells, strict=True)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [[*map(for_markdown, self.header)], marks, *cells])

    def to_csv(self) -> str:
        """The table as comma-separated values; None is empty, and no text is a formula."""
        text = io.StringIO()
        rows = [[for_csv(cell) if isinstance(cell, str) else cell for cell in row] for row in [self.header, *self.rows]]
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()

    def to_json(self) -> list[dict[str, object]]:
        """A dictionary for each row."""
        return [dict(zip(self.header, row, strict=True)) for row in self.rows]


def are_numbers(cells: Iterable[str]) -> bool:
    """Whether there is a number, and every cell is one, begins with one, is empty or "n/a".

    Examples:
        >>> are_numbers(["42.7 %", "-1", "", "n/a (0)"]), are_numbers(["3", "none"]), are_numbers(["n/a", ""])
        (True, False, False)
    """
    told = [cell.lstrip("+-−") for cell in cells if cell and not cell.startswith("n/a")]
    return bool(told) and all(cell[:1].isdecimal() for cell in told)


def brief(kind: str, *parts: str, most: int = 120) -> str:
    """One-line `repr` of an object.

    Args:
        kind: of the object.
        parts: descriptions, the most important first; empty ones are left out.
        most: characters of the line.

    Examples:
        >>> brief("ImageSet", "3 images", "", "labelled")
        'ImageSet(3 images, labelled)'
    """
    inside = ", ".join(part for part in parts if part)
    plain = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in inside)
    room = most - len(kind) - 2
    return f"{kind}({plain if len(plain) <= room else plain[: room - 1] + '…'})"


def quoted(name: object, *, most: int = 36) -> str:
    """A name for a prompt, in quotation marks; of a long one the beginning and the end.

    Args:
        name: text, or what stands for itself, such as an index.
        most: characters of it.

    Examples:
        >>> quoted("van"), quoted(7), quoted("photographs/snow/van.png", most=13)
        ("'van'", '7', "'photog…an.png'")
    """
    text = shortened(str(name), most)
    return repr(text) if isinstance(name, str) else text


def percent(share: float | None) -> str:
    """Write a share of 0..1 in percent.

    Returns:
        Text with one decimal; "n/a" for None.

    Examples:
        >>> percent(0.4267), percent(None)
        ('42.7 %', 'n/a')
    """
    return "n/a" if share is None else f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """Write a difference of shares in percentage points, with its sign.

    Examples:
        >>> points(-0.004)
        '-0.4 points'
    """
    return f"{100 * difference:+.1f} points"


def plural(count: int, noun: str, several: str = "") -> str:
    """Write a count of things.

    Args:
        count: how many.
        noun: for one of them.
        several: for several; the noun with an s if empty.

    Examples:
        >>> plural(1, "image"), plural(3, "image"), plural(1000, "class", "classes")
        ('1 image', '3 images', '1,000 classes')
    """
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"


def duration(seconds: float) -> str:
    """Format a duration.

    Examples:
        >>> duration(42.3), duration(75), duration(7500)
        ('42 s', '1 min 15 s', '2 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def read_share(text: str) -> float:
    """Read a share as people write it.

    Args:
        text: a percentage such as "0.25%", or a number in 0..1.

    Returns:
        0..1.

    Raises:
        SettingError: anything else.

    Examples:
        >>> read_share("0.25%"), read_share("0.0025")
        (0.0025, 0.0025)
    """
    plain = text.strip().removesuffix("%")
    try:
        share = float(plain) / (100 if plain != text.strip() else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise SettingError(f"expected a share such as 0.25% or 0.0025 but got {text!r}")
    return share


def read_pairs(texts: Iterable[str]) -> dict[str, str]:
    """Read settings as people write them on a command line, `NAME=VALUE`.

    Raises:
        SettingError: there is no `=`.

    Examples:
        >>> read_pairs(["balance=3", "projected-adam=paper"])
        {'balance': '3', 'projected-adam': 'paper'}
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise SettingError(f"expected NAME=VALUE but got {text!r}")
        found[name.strip()] = value.strip()
    return found


def command_line(command: str, options: Mapping[str, Any], *arguments: object) -> str:
    """Format a command so that it can be pasted into a shell.

    Args:
        command: its name.
        options: their values by name; those that are None or False are left out, lists are repeated, True is a switch.
        arguments: what comes before the options.

    Examples:
        >>> command_line("evaluate", {"model": "net.py:build", "tests": "on snow", "rank": 2.0, "seed": None}, "a.st")
        "rulepatch evaluate a.st --model net.py:build --tests 'on snow' --rank 2"
    """
    words = ["rulepatch", *command.split(), *map(str, arguments)]
    for name, value in options.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if each is not None and each is not False:
                words += [f"--{name.replace('_', '-')}", *([] if each is True else [option_value(each)])]
    if is_trusted() and any(word.endswith((".toml", ".yaml")) for word in words):
        words.append("--trust")
    return shlex.join(words)


def option_value(value: object) -> str:
    """Format a setting; numbers in the shortest unique form.

    Examples:
        >>> option_value(2.0), option_value(0.98), option_value("a b")
        ('2', '0.98', 'a b')
    """
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)
