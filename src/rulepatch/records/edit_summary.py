"""Summaries of an edit from its changes and its provenance: a line, a table, HTML for notebooks.

The provenance comes from a file that may be hand-written: missing or non-numeric entries are left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from rulepatch.notebook import Html, panel, remark, table
from rulepatch.text import brief, percent, plural, quoted

__all__ = ["COLUMNS", "line_of", "panel_of", "rows_of"]


class Change(Protocol):
    """A change of a site."""

    @property
    def site(self) -> str: ...
    @property
    def strength(self) -> float: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def gate(self) -> Any: ...
    def describe(self) -> dict[str, Any]: ...


COLUMNS = ("where", "matched at", "weight", "rank", "strength", "gate")

MOST_EXEMPLARS = 12
"""Most exemplars that are listed by name."""


def rows_of(changes: Sequence[Change]) -> list[list[object]]:
    """A table of changes, with the columns `COLUMNS`."""
    return [
        [
            described.get("parameter", change.site),
            described.get("value_point", described.get("head", "")),
            "×".join(map(str, change.shape)),
            described.get("rank", f"class {described['name']}" if "name" in described else "full"),
            change.strength,
            ("none" if change.gate is None else f"{change.gate.kind} {change.gate.level}")
            + (", minimum" if described["kind"] == "minimum" else ""),
        ]
        for change in changes
        for described in [change.describe()]
    ]


def line_of(changes: Sequence[Change], base: str, provenance: Mapping[str, Any]) -> str:
    """An edit in a line.

    Args:
        changes: its changes.
        base: digest of the model that it was computed on.
        provenance: its provenance.
    """
    names = [change.describe().get("name") for change in changes]  # of new classes
    weights = [row for row, name in zip(rows_of(changes), names, strict=True) if name is None]
    added = [quoted(name) for name in names if name is not None]
    return brief(
        "Edit",
        f"{_methods(provenance)} at {_few([change.site for change in changes])}" if changes else "no change",
        f"new class {_few(added)}" if added else "",
        f"rank {_few([row[3] for row in weights])}" if weights else "",
        f"strength {_few([f'{change.strength:g}' for change in changes])}" if changes else "",
        f"gate {_few([row[5] for row in weights])}" if weights else "",
        f"base {base[:8]}",
    )


def panel_of(changes: Sequence[Change], base: str, provenance: Mapping[str, Any]) -> str:
    """HTML of an edit for notebooks.

    Args:
        changes: its changes.
        base: digest of the model that it was computed on.
        provenance: its provenance.
    """
    rows = [[*row, *measured] for row, measured in zip(rows_of(changes), _measured(changes, provenance), strict=True)]
    parts = [table([*COLUMNS, "masked error", "predicted damage"], rows), *_remarks(changes, provenance)]
    exemplars = [entry for leaf in _leaves(provenance) for entry in _entries(leaf, "exemplars")]
    if exemplars:
        named = [[each.get(key) for key in ("name", "label", "concept", "replacement")] for each in exemplars]
        told = [row for place, row in enumerate(named) if row not in named[:place]]
        parts.append(table(["made from", "labelled", "concept", "replaced by"], told[:MOST_EXEMPLARS]))
        if len(told) > MOST_EXEMPLARS:
            parts.append(remark(f"and from {plural(len(told) - MOST_EXEMPLARS, 'more exemplar')}"))
    models = dict.fromkeys(str(leaf["model"]) for leaf in _leaves(provenance) if "model" in leaf)
    of_model = f" of {_few(models)}" if models else ""
    return panel(f"Edit: {_methods(provenance)}{of_model}", *parts, remark(f"base {base}"))


def _methods(provenance: Mapping[str, Any]) -> str:
    return _few([leaf.get("method", "change") for leaf in _leaves(provenance)])


def _few(names: Iterable[object]) -> str:
    """Names, each once, at most three of them."""
    different = list(dict.fromkeys(map(str, names)))
    return " + ".join(different if len(different) <= 3 else [*different[:2], f"{len(different) - 2} more"])


def _leaves(provenance: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Provenance of each edit of which this one is composed, or of this one itself."""
    if composed := _entries(provenance, "composed"):
        for each in composed:
            yield from _leaves(each)
    else:
        yield provenance


def _entries(provenance: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = provenance.get(key)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _measured(changes: Sequence[Change], provenance: Mapping[str, Any]) -> Iterator[tuple[str | None, str | None]]:
    """Masked error and predicted damage of each change, where they can be attributed to it."""
    sites = [entry for leaf in _leaves(provenance) for entry in _entries(leaf, "sites")]
    for number, change in enumerate(changes):
        own = [entry for entry in sites if entry.get("site") == change.site]
        at_site = [place for place, other in enumerate(changes) if other.site == change.site]
        if len(own) not in {1, len(at_site)}:
            yield None, None
            continue
        found = own[0] if len(own) == 1 else own[at_site.index(number)]
        loss, damage = found.get("loss"), found.get("predicted_damage")
        ends = [loss.get(when) for when in ("before", "after")] if isinstance(loss, Mapping) else []
        error = " → ".join(f"{end:.3g}" for end in ends) if ends and all(map(_is_number, ends)) else None
        yield error, percent(damage) if _is_number(damage) else None


def _remarks(changes: Sequence[Change], provenance: Mapping[str, Any]) -> Iterator[Html]:
    """Caveats on the numbers."""
    for leaf in _leaves(provenance):
        settings = leaf.get("settings")
        strength = settings.get("strength") if isinstance(settings, Mapping) else None
        if _is_number(strength) and _entries(leaf, "sites") and any(each.strength != strength for each in changes):
            yield remark(f"Masked error and damage were measured at strength {strength:g}.")
            return


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
