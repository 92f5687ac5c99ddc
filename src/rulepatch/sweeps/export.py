"""Tables of records, for other programs: nested JSON made flat, as Parquet or comma-separated values."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rulepatch.errors import MissingExtraError, SettingError
from rulepatch.files import atomic_path, check_writable
from rulepatch.sweeps.store import Record, read_records
from rulepatch.text import Table

__all__ = ["export_records", "flattened", "rows_of"]

AS_TEXT = ("settings",)
"""What differs in its keys from method to method: one column of JSON, as a column for each would be mostly empty."""


def flattened(rows: Sequence[Mapping[str, Any]], *, as_text: Collection[str] = AS_TEXT) -> list[dict[str, Any]]:
    """Make nested rows flat: the names of what is within are joined by dots, and every row gets all columns.

    Args:
        rows: JSON objects.
        as_text: names of what is written as JSON text, as lists always are.

    Returns:
        Rows of text, numbers, truth values and None; a column with a fraction anywhere has fractions everywhere.

    Examples:
        >>> flattened([{"seed": 0, "cells": {"n": 1}}, {"seed": 1, "cells": None}])
        [{'seed': 0, 'cells.n': 1}, {'seed': 1, 'cells.n': None}]
    """
    flat = [_flat(row, "", as_text) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    holders = {name[:i] for name in columns for i, letter in enumerate(name) if letter == "."}
    fractions = {name for row in flat for name, value in row.items() if isinstance(value, float)}
    return [
        {
            name: float(value) if name in fractions and isinstance(value := row.get(name), int) else row.get(name)
            for name in columns
            if name not in holders  # None where others hold more
        }
        for row in flat
    ]


def _flat(value: Mapping[str, Any], start: str, as_text: Collection[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, own in value.items():
        if isinstance(own, Mapping) and name not in as_text:
            found |= _flat(own, f"{start}{name}.", as_text)
        elif isinstance(own, Mapping | list | tuple):
            found[start + name] = json.dumps(own, sort_keys=True, ensure_ascii=False)
        else:
            found[start + name] = own
    return found


def rows_of(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Records as flat rows: key, status, error, attempts, seconds, and all of job and result by dotted names.

    Returns:
        A row for each, all with the same keys.

    Examples:
        >>> rows = rows_of([Record({"seed": 0, "settings": {"rank": 3}}, "done", {"cells": {"n": 7}})])
        >>> {name: rows[0][name] for name in ("status", "job.seed", "job.settings", "result.cells.n")}
        {'status': 'done', 'job.seed': 0, 'job.settings': '{"rank": 3}', 'result.cells.n': 7}
    """
    return flattened([
        {
            "key": each.key, "status": each.status, "error": each.error, "attempts": each.attempts,
            "seconds": float(each.seconds), "job": each.job, "result": each.result,
        }
        for each in records
    ])  # fmt: skip


def export_records(store: Path | str, path: Path | str) -> int:
    """Write all records of a store as a table, whole or not at all.

    Args:
        store: the file of results; it is left as it is.
        path: the table, `.parquet` or `.csv`.

    Returns:
        How many records there are.

    Raises:
        SettingError: another suffix, or no results.
        OutputError: the store is none of ours, or the table's folder does not exist.
        MissingExtraError: Parquet without the extra `tables`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in {".parquet", ".csv"}:
        raise SettingError(f"expected a table named .parquet or .csv but got {path.name}; rename it")
    check_writable(path)
    arrow = _arrow() if suffix == ".parquet" else None
    records = read_records(Path(store))
    rows = rows_of(records)
    with atomic_path(path) as unfinished:
        if arrow is None:
            unfinished.write_text(Table.of(rows).to_csv(), encoding="utf-8", errors="backslashreplace")
        else:
            table, write = arrow
            write(table.from_pylist(rows), unfinished)
    return len(records)


def _arrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(
            "expected the library pyarrow to write Parquet but it is not installed; "
            "pip install 'rulepatch[tables]', or name a .csv file"
        ) from None
    return pyarrow.Table, parquet.write_table
