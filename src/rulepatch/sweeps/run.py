"""Sweep engine: parallel, resumable execution of jobs into one store (paper 4)."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import joblib
import numpy as np
import torch

from rulepatch.data.run import Run
from rulepatch.errors import SettingError, warn
from rulepatch.files import check_writable, writing_to
from rulepatch.parallel.workers import Lost, Workers
from rulepatch.progress import Bar, steps
from rulepatch.sweeps.eta import Forecast
from rulepatch.sweeps.jobs import Job, jobs_of
from rulepatch.sweeps.plan import Plan
from rulepatch.sweeps.store import Record, Store
from rulepatch.sweeps.worker import release, run_jobs
from rulepatch.text import Table, command_line, duration, plural

__all__ = ["Estimate", "Swept", "estimate", "sweep"]

log = logging.getLogger("rulepatch")

TOGETHER = 16
"""Most jobs of one case in a batch of a worker: they share computations, and at most these are lost on a crash."""


@dataclass(frozen=True)
class Swept:
    """Summary of a sweep.

    Attributes:
        store: the file of results.
        jobs: of the plan.
        found: number of jobs done before.
        done: number of jobs done in this run.
        failed: number of failed jobs, in this or an earlier run.
        seconds: duration of this run.
    """

    store: Path
    jobs: int
    found: int
    done: int
    failed: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {**vars(self), "store": str(self.store)}

    def to_text(self) -> str:
        """The numbers, for people."""
        told = (
            f"{plural(self.jobs, 'job')}: {self.found:,} were done before, {self.done:,} now in "
            f"{duration(self.seconds)}, {self.failed:,} failed"
        )
        why = [f"why: {command_line('sweep failures', {}, self.store)}"] if self.failed else []
        report = command_line("sweep report", {"out": self.store.with_name(f"{self.store.stem}-report")}, self.store)
        return "\n".join([told, *why, f"next: {report}"])


@dataclass(frozen=True)
class Estimate:
    """Estimated duration of a sweep.

    Attributes:
        jobs: by method.
        found: number of jobs done before.
        tried: number of jobs that were timed.
        seconds: estimated seconds for the rest.
        workers: number of workers.
    """

    jobs: dict[str, int]
    found: int
    tried: int
    seconds: float
    workers: int

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {**vars(self), "total": sum(self.jobs.values())}

    def to_text(self) -> str:
        """The numbers, for people."""
        return (
            f"{Table(['method', 'jobs'], [[method, count] for method, count in self.jobs.items()]).to_text()}\n"
            f"{plural(sum(self.jobs.values()), 'job')}, {self.found:,} done already; the rest will take about "
            f"{duration(self.seconds)} with {plural(self.workers, 'worker')}, by {plural(self.tried, 'job')} that were "
            "tried; nothing was written"
        )


def sweep(
    plan: Plan | Path | str,
    store: Path | str,
    *,
    workers: int | None = None,
    dask: str | None = None,
    device: str = "cpu",
    tries: int = 3,
    on_record: Callable[[Record], None] | None = None,
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Swept:
    """Run all jobs of a plan that a store does not have yet.

    Results do not depend on the number of workers, nor on how often the sweep was interrupted.

    Args:
        plan: the plan, or its file.
        store: the file of results; made if there is none. It must not be on a network file system.
        workers: processes; as many as there are cores, or GPUs for "cuda", if None.
        dask: address of a Dask scheduler, or "local"; see `Workers`.
        device: where jobs run; "cuda" for a GPU for each worker.
        tries: attempts of a job that fails by an unexpected exception, in one run.
        on_record: called with each record once it is stored, for instance to log to an experiment tracker.
        run: progress; seeds stand in the plan.
        settings: single settings of `run` by name, in place of its own.

    Raises:
        SettingError: the plan says something that it cannot, or a number is below 1.
        FolderError: a case set or the reference set is missing or does not fit.
        OutputError: the store is not one.
        MissingExtraError: Dask is named but not installed.
        KeyboardInterrupt: the user stopped it; what is done is kept.
    """
    run = run.but(**settings)
    if tries < 1:
        raise SettingError(f"expected at least 1 try but got {tries}; raise it")
    store = Path(store)
    check_writable(store)
    jobs = jobs_of(_plan(plan), device=device, progress=run.progress)
    start = perf_counter()
    with writing_to(store), Workers(_count(workers, device), dask=dask) as at_work, Store(store) as kept:
        if damaged := kept.mend():
            warn(f"removed {plural(damaged, 'damaged result')} of {store}; what is missing is run again")
        before, attempts = kept.done(), kept.attempts()
        pending = [job for job in jobs if job.key not in before]
        done, told = 0, 0
        try:
            with _Progress(pending, at_work, progress=run.progress) as bar:
                for records in _records(at_work, pending, tries):
                    for record in records:
                        record = replace(record, attempts=record.attempts + attempts.get(record.key, 0))
                        kept.put(record)
                        told += 1
                        done += record.status == "done"
                        if on_record is not None:
                            on_record(record)
                    bar.update(records)
        except KeyboardInterrupt:
            so_far = len(jobs) - len(pending) + told
            log.warning("%d of %d jobs are done and kept in %s; the same command goes on", so_far, len(jobs), store)
            raise
        finally:
            release()
        keys = {job.key for job in jobs}
        failed = len(keys & kept.attempts().keys())
    return Swept(store, len(jobs), len(jobs) - len(pending), done, failed, perf_counter() - start)


def estimate(
    plan: Plan | Path | str,
    store: Path | str | None = None,
    *,
    workers: int | None = None,
    dask: str | None = None,
    device: str = "cpu",
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Estimate:
    """Estimate the duration of a sweep from one job of each model, method and number of exemplars; nothing is stored.

    Args:
        plan: the plan, or its file.
        store: the file of results, to leave out what is done.
        workers: as for `sweep`.
        dask: as for `sweep`.
        device: as for `sweep`.
        run: the seed of which jobs are tried, and progress.
        settings: single settings of `run` by name, in place of its own.

    Raises:
        SettingError: as for `sweep`.
        FolderError: as for `sweep`.
        OutputError: as for `sweep`.
        MissingExtraError: as for `sweep`.
    """
    run = run.but(**settings)
    jobs = jobs_of(_plan(plan), device=device, progress=run.progress)
    with Workers(_count(workers, device), dask=dask) as at_work:
        count = at_work.count
    before: set[str] = set()
    if store is not None and Path(store).exists():
        with Store(Path(store)) as kept:
            before = kept.done()
    pending = [job for job in jobs if job.key not in before]
    order = np.random.default_rng(run.seed).permutation(len(pending))
    few = list({pending[i].kind[:3]: pending[i] for i in order}.values())
    few.sort(key=lambda job: (job.place.model, job.case))
    forecast = Forecast(job.kind for job in pending)
    try:
        for job in steps(few, "trying a few jobs", unit="job", shown=run.progress):
            run_jobs([job])  # warm up: shared computations are negligible over many jobs
            (record,) = run_jobs([job])
            forecast.add([(job.kind, record.seconds)], elapsed=0.0)
    finally:
        release()
    methods = list(dict.fromkeys(job.what["method"] for job in jobs))
    counted = {method: sum(job.what["method"] == method for job in jobs) for method in methods}
    return Estimate(counted, len(jobs) - len(pending), len(few), forecast.work_left() / count, count)


def _plan(plan: Plan | Path | str) -> Plan:
    return plan if isinstance(plan, Plan) else Plan.read(Path(plan))


def _count(workers: int | None, device: str) -> int:
    if workers is not None:
        return workers
    return max(1, torch.cuda.device_count()) if device == "cuda" else joblib.cpu_count(only_physical_cores=True)


def _records(workers: Workers, jobs: Sequence[Job], tries: int) -> Iterator[list[Record]]:
    """Records from the workers; jobs whose worker died are retried one at a time, to find the culprit."""
    run = partial(run_jobs, tries=tries)
    alone: list[list[Job]] = []
    for bundle, found in workers.run(run, _bundles(jobs, workers.count)):
        if isinstance(found, Lost):
            alone += [[job] for job in bundle]
        else:
            yield found
    for (job,), found in workers.run(run, alone):
        if isinstance(found, Lost):
            yield [Record(job.what, "failed", None, f"its worker died, such as for want of memory ({found})", tries)]
        else:
            yield found


def _bundles(jobs: Sequence[Job], workers: int) -> list[list[Job]]:
    """Return batches of jobs of one case; some jobs of each model come first, for the estimate of the time left."""
    size = max(1, min(TOGETHER, len(jobs) // (4 * workers)))
    found: list[list[Job]] = []
    for _, own in groupby(jobs, key=lambda job: (job.place, job.case)):
        rest = iter(own)
        while bundle := list(islice(rest, size)):
            found.append(bundle)
    first = {bundle[0].what["model"]: bundle for bundle in reversed(found)}
    return [*first.values(), *(bundle for bundle in found if bundle is not first[bundle[0].what["model"]])]


class _Progress:
    """A bar with the time left, by the kinds of jobs that are left."""

    def __init__(self, jobs: Iterable[Job], workers: Workers, *, progress: bool) -> None:
        self._kinds = {job.key: job.kind for job in jobs}
        self._forecast = Forecast(self._kinds.values())
        self._workers = workers
        self._start = perf_counter()
        self._bar = Bar(len(self._kinds), "sweep", unit="job", shown=progress, left=self._left)

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.__exit__(*exception)

    def update(self, records: Sequence[Record]) -> None:
        """Record finished jobs."""
        found = [(self._kinds[record.key], record.seconds) for record in records]
        self._forecast.add(found, perf_counter() - self._start)
        self._bar.update(len(records))

    def _left(self) -> float | None:
        return self._forecast.left(perf_counter() - self._start, self._workers.count)
