"""Timing side by side, and results on disk."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rulepatch.memory import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
DATA = Path(os.environ.get("RULEPATCH_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))


def interleaved(jobs: Mapping[str, Callable[[], object]], *, rounds: int = 11) -> dict[str, float]:
    """Median seconds of several jobs, run in turn, so that a busy moment of the machine hits all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(rounds + 1):
        for name, job in jobs.items():
            synchronise()
            start = time.perf_counter()
            job()
            synchronise()
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: median(found) for name, found in seconds.items()}


def once(job: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one run, and what it returned."""
    synchronise()
    start = time.perf_counter()
    found = job()
    synchronise()
    return time.perf_counter() - start, found


def synchronise() -> None:
    """Wait for the accelerator, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine(device: str) -> str:
    """What the numbers were measured on."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory()  # as the command line does
    return parser


def recorded(name: str, device: str) -> list[dict[str, Any]]:
    """The rows of a table that were recorded before; none if there are none."""
    path = RESULTS / f"{name}-{device.partition(':')[0]}.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def record(name: str, device: str, rows: list[dict[str, Any]], *, only: Sequence[str] = ()) -> None:
    """Keep a table as JSON and print it in Markdown.

    Args:
        name: of the table.
        device: where it was measured.
        rows: the table.
        only: methods or edits that were measured; rows of others are kept as they were recorded before.
    """
    RESULTS.mkdir(exist_ok=True)
    if only:
        before = json.loads((RESULTS / f"{name}-{device.partition(':')[0]}.json").read_text())["rows"]
        new = {_identity(row): row for row in rows}
        rows = [new.get(_identity(row), row) for row in before]
    found = {"machine": machine(device), "torch": torch.__version__, "rows": rows}
    (RESULTS / f"{name}-{device.partition(':')[0]}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"\n### {name} ({found['machine']}, torch {found['torch']})\n")
    header = list(dict.fromkeys(key for row in rows for key in row))
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(shown(row.get(key)) for key in header) + " |")


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in ("site", "method", "edit", "strength"))


def shown(value: Any) -> str:
    """A cell of a table."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
