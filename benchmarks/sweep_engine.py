"""What the engine of a sweep costs beside the bare network: `python -m benchmarks.sweep_engine`.

Jobs of about a second in the playground. In one process, time is told apart by what it is spent in: passes of the
network, making edits, everything else (driver, store, reading, counting). In two processes, how busy they are, and how
right the time left is that was told after each tenth of the jobs.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from torch import nn

from benchmarks.measure import arguments, record
from benchmarks.sweeps import playground
from rulepatch.evaluation.activations import Activations
from rulepatch.sweeps import worker
from rulepatch.sweeps.eta import Forecast
from rulepatch.sweeps.plan import Plan
from rulepatch.sweeps.run import sweep

METHODS = {
    "rewrite": {"rank": [1, 3], "gate": ["none", 0.98]},
    "finetune-local": {"learning_rate": [0.001, 0.0001], "steps": 60},
    "projected-adam": {"rank": 1, "learning_rate": 0.001, "steps": 300},
}


class Stopwatch:
    """Seconds spent in functions, the outermost alone."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.pictures = 0
        self._busy = False

    def counted(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        """The predictions of an edit, of which the pictures are counted."""

        def call(activations: Activations, site: str) -> Any:
            self.pictures += len(activations)
            return predict(activations, site)

        return call

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed unless another is."""

        def call(*given: Any, **settings: Any) -> Any:
            if self._busy:
                return function(*given, **settings)
            self._busy, start = True, time.perf_counter()
            try:
                return function(*given, **settings)
            finally:
                self._busy = False
                self.seconds[name] += time.perf_counter() - start

        return call


@contextmanager
def watched(stopwatch: Stopwatch) -> Iterator[None]:
    """Every pass of a network and every edit is timed."""
    passes = stopwatch.timed("passes of the network", nn.Module.__call__)
    edits = stopwatch.timed("making edits", worker.edit_by)
    tails = stopwatch.counted(Activations._predictions)
    with (
        mock.patch.object(nn.Module, "__call__", passes),
        mock.patch.object(worker, "edit_by", edits),
        mock.patch.object(Activations, "_predictions", tails),
    ):
        yield


def plan_of(folder: Path, styles: list[str]) -> Plan:
    """Road vehicles on other grounds, at three sites."""
    return Plan.of({
        "models": "playground", "cases": "cases", "reference": "reference", "concepts": "road", "styles": styles,
        "sites": ["blocks.1.conv", "blocks.3.conv", "blocks.5.conv"], "exemplars": 3, "methods": METHODS,
    }, root=folder)  # fmt: skip


def alone(folder: Path, device: str) -> dict[str, Any]:
    """One process: what the time goes into."""
    stopwatch, seconds = Stopwatch(), list[float]()
    plan = plan_of(folder, ["snow", "leaves", "grass"])
    start = time.perf_counter()
    with watched(stopwatch):
        found = sweep(
            plan, folder / "alone.sqlite", workers=1, device=device, on_record=lambda r: seconds.append(r.seconds)
        )
    wall = time.perf_counter() - start
    bare = sum(stopwatch.seconds.values())
    return {
        "workers": 1,
        "jobs": found.jobs,
        "seconds a job": sum(seconds) / len(seconds),
        "jobs/s": found.jobs / wall,
        "pictures through the rest of the network, a job": stopwatch.pictures / found.jobs,
        **{f"{name}, %": 100 * spent / wall for name, spent in stopwatch.seconds.items()},
        "everything else, %": 100 * (wall - bare) / wall,
        "outside of jobs, %": 100 * (wall - sum(seconds)) / wall,
        "overhead over passes and edits, %": 100 * (wall - bare) / bare,
    }


def together(folder: Path, device: str) -> dict[str, Any]:
    """Two processes: how busy they are, and how right the time left was."""
    plan = plan_of(folder, ["snow", "sand", "grass", "water", "wood", "brick", "leaves", "ice"])
    seconds, said, left = list[float](), list[tuple[int, float, float]](), Forecast.left

    def told(forecast: Forecast, elapsed: float, workers: int) -> float | None:
        said.append((len(seconds), elapsed, left(forecast, elapsed, workers) or 0.0))
        return said[-1][-1]

    with mock.patch.object(Forecast, "left", told):
        found = sweep(
            plan, folder / "together.sqlite", workers=2, device=device, on_record=lambda r: seconds.append(r.seconds)
        )
    end = said[-1][1]
    wrong = {}
    for tenth in range(1, 9):
        elapsed, guess = next((when, guess) for count, when, guess in said if count >= found.jobs * tenth / 10)
        wrong[tenth] = 100 * (guess - (end - elapsed)) / (end - elapsed)
    return {
        "workers": 2,
        "jobs": found.jobs,
        "seconds a job": sum(seconds) / len(seconds),
        "jobs/s": found.jobs / found.seconds,
        "busy, %": 100 * sum(seconds) / (2 * found.seconds),
        **{f"time left after {tenth}/10, wrong by %": value for tenth, value in wrong.items()},
    }


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--folder", type=Path, help="that benchmarks.sweeps has made; a temporary one by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        playground(folder)
        for name in ("alone", "together"):
            for path in folder.glob(f"{name}.sqlite*"):
                path.unlink()
        rows = [alone(folder, given.device), together(folder, given.device)]
    record("sweep-engine", given.device, rows)


if __name__ == "__main__":
    main()
