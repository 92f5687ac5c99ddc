"""What the report of a sweep says of its figures and numbers."""

from collections.abc import Mapping
from typing import Any

from rulepatch.text import plural

__all__ = ["HEADINGS", "READINGS", "told_difference", "told_exemplars", "told_points", "told_share"]

HEADINGS: Mapping[str, str] = {
    "cells": "Errors corrected in the four cells",
    "sites": "By site",
    "ablations": "Ablations",
    "ablations-by-site": "Ablations by site",
    "damage": "Repair against accuracy lost",
    "exemplars": "By number of exemplars",
}
"""What each kind of figure shows."""

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
        "Above, each method and its ablations: -mask learns from the whole picture instead of the marked region, "
        "-proj leaves out the projection onto the directions of the rule, and +proj adds it to fine-tuning. Below, "
        "the method minus its ablation on the same cases: right of zero the method is better, left of it the "
        "ablation; where the interval holds zero they cannot be told apart."
    ),
    "ablations-by-site": ("The same by site, with ablations dashed."),
    "damage": (
        "Up and to the left is best: net repair on classes and pictures of the style that no exemplar showed, "
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
"""How to read each kind of figure."""


def told_exemplars(count: int) -> str:
    """A number of exemplars in words."""
    return plural(count, "exemplar")


def told_share(summary: Mapping[str, Any]) -> str:
    """A mean share over cases, with its interval and the number of cases.

    Examples:
        >>> told_share({"mean": 0.5, "interval": (0.25, 0.75), "cases": 4})
        '50 % (25 to 75; 4)'
        >>> told_share({"mean": 0.5, "interval": None, "cases": 1}), told_share({"mean": None, "cases": 0})
        ('50 % (1)', 'n/a (0)')
    """
    return _told(summary, "{:.0f}", " %")


def told_points(summary: Mapping[str, Any]) -> str:
    """Mean points lost over cases.

    Examples:
        >>> told_points({"mean": 0.0012, "interval": (-0.001, 0.002), "cases": 4})
        '0.12 (-0.10 to 0.20; 4)'
    """
    return _told(summary, "{:.2f}", "")


def told_difference(paired: Mapping[str, Any]) -> str:
    """A difference over cases, in points, with its interval, wins, losses and the sign test.

    Examples:
        >>> told_difference({"mean": 0.25, "interval": (0.1, 0.4), "cases": 5, "wins": 5, "losses": 0, "p": 0.0625})
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
    """A number without a sign that rounding left to zero."""
    told = form.format(value)
    return told.replace("-", "+" if "+" in form else "") if float(told) == 0 else told
