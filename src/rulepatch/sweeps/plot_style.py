"""In what order the report of a sweep tells methods and sites, and how it draws them."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rulepatch.experiments.grids import METHODS
from rulepatch.sweeps.results import Chosen

__all__ = ["DAMAGE_CELL", "LOOKS", "base_of", "in_order", "look_of", "of_method", "order_of_sites"]

DAMAGE_CELL = "other, held-out style"
"""Where repair is hardest: neither the class nor the picture of the style was in the exemplars."""

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


def of_method(results: Iterable[Chosen], method: str) -> list[Chosen]:
    """Results of one method."""
    return [each for each in results if each.method == method]


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
