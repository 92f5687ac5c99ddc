"""The form that the records of a sweep have: other jobs may lie in a store, too, and anybody can write one."""

from collections.abc import Iterator, Mapping
from typing import Any

from rulepatch.concepts.cases import CELLS
from rulepatch.errors import SettingError
from rulepatch.forms import checked
from rulepatch.sweeps.jobs import TRIED
from rulepatch.sweeps.store import Record

__all__ = ["check_record"]

NEEDED = frozenset({"model", "case", "target", "exemplars", "seed", "reference", "max_drop", "validation", *TRIED})

MOST = 10**9
"""Images that are counted."""

_JOB: dict[Any, Any] = {
    "model": str, "case": {"concept": str, "style": str, "digest": str, ...: object}, "target": str, "exemplars": int,
    "seed": int, "reference": str, "max_drop": float, "validation": float, "method": str, "settings": {str: object},
    "site": (str, None), "versions?": {str: str}, "device?": str, ...: object,
}  # fmt: skip
_COUNTS: dict[Any, Any] = dict.fromkeys(("n", "right", "repaired", "broken", "flips"), int)
_CELL = _COUNTS | dict.fromkeys(("errors", "left", "caused"), int)
_RESULT: dict[Any, Any] = {
    "model": str,
    "cases": str,
    "chosen": ({"strength": float, "validation": _COUNTS, "reference": _COUNTS}, None),
    "cells": dict.fromkeys(CELLS, _CELL),
    "reference": (_COUNTS, None),
}


def check_record(record: Record) -> None:
    """Make sure that a record is one of a sweep.

    Raises:
        SettingError: it is none, or says what no job does.
    """
    job, result = record.job, record.result
    if not job.keys() >= NEEDED or (result is not None and not result.keys() >= {"cells", "chosen"}):
        raise SettingError(
            f"expected results of a sweep but got a record of {', '.join(sorted(job))[:200] or 'nothing'}; "
            "name the file that the command `sweep` wrote"
        )
    advice = "run the sweep again into another file"
    checked(job, _JOB, f"the job {record.key[:12]}", SettingError, advice=advice)
    if result is None:
        return
    checked(result, _RESULT, f"the result of {record.key[:12]}", SettingError, advice=advice)
    if (result["chosen"] is None) != (result["reference"] is None):
        raise SettingError(
            f"expected an edit and what it did to the reference set, or neither, in the result of {record.key[:12]} "
            f"but got one of them; {advice}"
        )
    for counts, least in _counts(result):
        if counts["n"] < least or not all(abs(each) <= MOST for each in counts.values()):
            raise SettingError(
                f"expected counts of {least} to {MOST:,} images in the result of {record.key[:12]} but got {counts}; "
                f"{advice}"
            )


def _counts(result: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, int], int]]:
    """The counts of a result, each with the least number of images that it is of."""
    yield from ((counts, 0) for counts in result["cells"].values())
    if result["chosen"] is not None and result["reference"] is not None:
        yield from ((each, 1) for each in (result["chosen"]["reference"], result["reference"]))
        yield result["chosen"]["validation"], 0
