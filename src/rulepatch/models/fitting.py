"""Fitting a checkpoint's names to a network's: whatever wrappers a training script put before or between them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from rulepatch.models.checkpoints import Entry

__all__ = ["Fit", "fits"]

Tree: TypeAlias = "dict[str | None, Any]"
"""Names by their parts; None leads to the name that ends there."""


@dataclass(frozen=True)
class Fit:
    """A set of names in a checkpoint that a network's own were found in.

    Attributes:
        place: where the network begins in the checkpoint, such as `state_dict.model`.
        pairs: entries by the network's own names; perhaps not of all.
        extra: further entries below the place, in the same mappings.
        beside: further entries in the same mappings that are not below the place.
    """

    place: str
    pairs: Mapping[str, Entry]
    extra: Sequence[Entry]
    beside: Sequence[Entry]


def fits(names: Iterable[str], entries: Sequence[Entry]) -> list[Fit]:
    """Every place of a checkpoint where a network may begin.

    Names are paired part by part, as trees. Where a module of the network is not found under its name, it may lie in
    one of the modules there: `blocks._orig_mod.0.weight` is `blocks.0.weight` within a wrapper. Numbers are positions
    of a sequence and no wrappers, except at the place where the whole network begins. It may be the network that is
    wrapped as well.

    Args:
        names: of the network's state.
        entries: of the checkpoint.

    Returns:
        Those with most pairs first, down to half as many, and then those with fewest others below their place.

    Examples:
        >>> saved = [Entry(f"net.{name}", "", None) for name in ("0.module.weight", "0.module.bias", "epoch")]
        >>> [first, *_] = fits(["0.weight", "0.bias"], saved)
        >>> first.place, {name: entry.name for name, entry in first.pairs.items()}, [one.name for one in first.extra]
        ('net', {'0.weight': 'net.0.module.weight', '0.bias': 'net.0.module.bias'}, ['net.epoch'])
    """
    own = _tree((name, name) for name in names)
    found = list(_places(_tree((entry.name, entry) for entry in entries), ""))
    roots = [own]
    while len(roots[-1]) == 1 and None not in roots[-1]:  # the network itself is in a wrapper
        roots.extend(roots[-1].values())
    best: dict[frozenset[str], tuple[str, dict[str, Entry]]] = {}
    for root in reversed(roots):
        for place, branch in found:  # of places that lead to the same pairs, the innermost of the whole network is kept
            pairs = _pairs(root, branch)
            best[frozenset(entry.name for entry in pairs.values())] = place, pairs
    most = max(len(pairs) for _, pairs in best.values())
    good = [_fit(place, pairs, entries) for place, pairs in best.values() if 2 * len(pairs) >= max(most, 1)]
    return sorted(good, key=lambda fit: (-len(fit.pairs), len(fit.extra)))


def _fit(place: str, pairs: Mapping[str, Entry], entries: Sequence[Entry]) -> Fit:
    taken, mappings = {entry.name for entry in pairs.values()}, {entry.place for entry in pairs.values()}
    others = [entry for entry in entries if entry.place in mappings and entry.name not in taken]
    start = f"{place}." if place else ""
    below = [entry.name.startswith(start) for entry in others]
    return Fit(
        place,
        pairs,
        [entry for entry, inside in zip(others, below, strict=True) if inside],
        [entry for entry, inside in zip(others, below, strict=True) if not inside],
    )


def _tree(items: Iterable[tuple[str, Any]]) -> Tree:
    tree: Tree = {}
    for name, value in items:
        branch = tree
        for part in name.split("."):
            branch = branch.setdefault(part, {})
        branch[None] = value
    return tree


def _places(found: Tree, place: str) -> Iterator[tuple[str, Tree]]:
    yield place, found
    for part, branch in found.items():
        if part is not None:
            yield from _places(branch, f"{place}.{part}" if place else part)


def _pairs(own: Tree, found: Tree) -> dict[str, Entry]:
    """As many pairs of a branch of the network's names and one of the checkpoint's as there are."""
    pairs: dict[str, Entry] = {}
    rest: Tree = {}
    for part, branch in own.items():
        if part is None:
            if None in found:
                pairs[branch] = found[None]
        elif part in found and (below := _pairs(branch, found[part])):
            pairs |= below
        else:
            rest[part] = branch
    if rest:
        inside = [_pairs(rest, branch) for part, branch in found.items() if _may_wrap(part) and part not in own]
        if len(own) == 1 and all(_may_wrap(part) and None not in branch for part, branch in rest.items()):
            inside.append(_pairs(next(iter(rest.values())), found))
        most: dict[str, Entry] = max(inside, key=len, default={})
        pairs |= most
    return pairs


def _may_wrap(part: str | None) -> bool:
    return part is not None and not part.isdigit()
