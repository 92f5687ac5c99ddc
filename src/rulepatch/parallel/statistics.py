"""Statistics of a large reference set ahead of time: by this process, by those of torchrun, or by workers."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from rulepatch.collectives import rank, size
from rulepatch.core.moments import KeyStatistics
from rulepatch.data.cache import Cache
from rulepatch.data.folders import ImageSet
from rulepatch.data.processes import process_group, run_on_all_ranks
from rulepatch.data.run import Run
from rulepatch.data.statistics import (
    Measure,
    PartialStatistics,
    StatisticsConfig,
    StatisticsResult,
    find_statistics,
    identity_of,
    part_of,
)
from rulepatch.digests import digest_of_json
from rulepatch.errors import FolderError, OutputError, SettingError, WorkerError
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.parallel.workers import LOCAL, Lost, Workers
from rulepatch.progress import Bar
from rulepatch.text import Table, plural
from rulepatch.timing import collect_timings
from rulepatch.tracing.model_sites import sites_of
from rulepatch.tracing.sites import Site

__all__ = ["StatisticsSummary", "gather_statistics", "merge_as_tree"]

Whole = TypeVar("Whole")


@dataclass(frozen=True)
class StatisticsSummary:
    """Statistics that the cache has now.

    Attributes:
        found: the statistics.
        pictures: how many the reference set has.
        processes: how many shared the work.
        cache: the folder of the cache.
        seconds: what it took.
    """

    found: StatisticsResult
    pictures: int
    processes: int
    cache: Path
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """What the cache has now, as JSON."""
        return {
            "sites": [
                {
                    "site": path,
                    "channels": len(statistics.moment.total),
                    "keys": statistics.moment.count,
                    "sample": len(statistics.sample.keys),
                    "computed": path in self.found.computed,
                }
                for path, statistics in self.found.statistics.items()
            ],
            "pictures": self.pictures,
            "processes": self.processes,
            "cache": str(self.cache),
            "seconds": self.seconds,
        }

    def to_text(self) -> str:
        """What the cache has now, for people."""
        rows = [
            [
                each["site"],
                each["channels"],
                f"{each['keys']:,}",
                each["sample"],
                "new" if each["computed"] else "found",
            ]
            for each in self.to_json()["sites"]
        ]
        told = Table(["site", "channels", "keys", "sample", "in the cache"], rows).to_text()
        shared = "1 process" if self.processes == 1 else f"{self.processes} processes"
        return f"{told}\n{plural(self.pictures, 'image')}, {shared}, {self.seconds:.1f} s\n{self.cache}"


def gather_statistics(
    name: str,
    reference: Path | tuple[Path, ...],
    sites: Sequence[str],
    *,
    weights: Path | None = None,
    leave_out: Sequence[int | str] = (),
    architecture: int = 1,
    device: str = "cpu",
    workers: int = 1,
    dask: str | None = None,
    run: Run = Run(),  # noqa: B008 - it is frozen
) -> StatisticsSummary | None:
    """Fill the cache with the statistics that an edit at some sites will look for.

    What is computed does not depend on who computes it: batches and samples are the same to the bit, and the second
    moments differ by the order of float64 sums alone.

    Args:
        name: of the model, as `load_model` takes it.
        reference: folder of the reference set, or several; every process reads its own part of it.
        sites: where the edit will be, all of them.
        weights: local weights instead of the model's own.
        leave_out: classes to leave out of the reference set.
        architecture: of the edit, 1 or 2.
        device: that the edit will be made on; with torchrun, "cuda" is a GPU for each process.
        workers: processes to share the images among.
        dask: address of a Dask scheduler to have the workers of, or "local"; see `Workers`.
        run: seed of the edit, cache and progress.

    Returns:
        What the cache has now. None in all processes of torchrun but the first.

    Raises:
        FolderError: some images cannot be read, so that nothing is kept.
        OutputError: the cache's folder cannot be written to.
        SettingError: a setting out of its range, or workers and torchrun at once.
        WorkerError: another process or a worker gave up.
    """
    if architecture not in {1, 2}:
        raise SettingError(f"expected architecture 1 or 2 but got {architecture}; choose one")
    cache, by_workers = run.store, dask is not None or workers > 1
    if cache is None:
        raise SettingError("expected a cache to fill but got none; leave it out")
    with collect_timings() as seconds, process_group(device) as own:
        if by_workers and size() > 1:
            raise SettingError("expected torchrun or workers but got both; leave one out")
        task = _Task(name, weights, own, reference, tuple(leave_out))
        model, images = run_on_all_ranks(task.load)
        site_list = sites_of(model)
        wanted = [site_list.site(path) for path in dict.fromkeys(sites)]
        with Workers(workers, dask=dask) as crew:
            measure = _by_workers(task, model, crew, dask, run.progress) if by_workers else None
            config = StatisticsConfig.of(model, wanted, architecture=architecture, seed=run.seed)
            found = find_statistics(model, images, wanted, config, run=run, measure=measure)
            processes, is_first = crew.count if by_workers else size(), rank() == 0
    if is_first:
        _check_kept(found, cache, reference)
    return StatisticsSummary(found, len(images), processes, cache.folder, seconds["total"]) if is_first else None


def _check_kept(found: StatisticsResult, cache: Cache, reference: object) -> None:
    if found.skipped:
        raise FolderError(
            f"expected images in {reference} that can all be read, as statistics that lack some are not kept, but "
            f"got {plural(found.skipped, 'unreadable one')}; mend or remove what is named above"
        )
    if not found.kept:
        raise OutputError(f"expected a cache that can be written to but got {cache.folder}; set RULEPATCH_CACHE to one")


@dataclass(frozen=True)
class _Task:
    """What to look at, by name, so that it can go to other machines."""

    model: str
    weights: Path | None
    device: str
    reference: Path | tuple[Path, ...]
    leave_out: tuple[int | str, ...]

    def load(self) -> tuple[Classifier, ImageSet]:
        model = load_model(self.model, weights=self.weights, device=self.device)
        return model, ImageSet.of(self.reference, model.classes, leave_out=self.leave_out)


@dataclass(frozen=True)
class _Share:
    """A worker's part of a task, and the digest of what it must find there."""

    task: _Task
    sites: tuple[str, ...]
    config: StatisticsConfig
    part: int
    parts: int
    digest: str
    threads: int | None


def _by_workers(task: _Task, model: Classifier, crew: Workers, dask: str | None, progress: bool) -> Measure:
    """Return a way to compute statistics that gives each worker a part and merges what comes back."""

    def measure(sites: Sequence[Site], config: StatisticsConfig, digests: Sequence[str]) -> PartialStatistics:
        parts = crew.count
        threads = (
            max(1, (os.cpu_count() or 1) // parts) if dask in {None, LOCAL} else None
        )  # a cluster's machines know themselves
        shares = []
        for part in range(parts):
            read = [digests[index] for index in part_of(len(digests), part, parts, config.batch_size)]
            digest = digest_of_json([identity, read])
            shares.append(_Share(task, tuple(site.path for site in sites), config, part, parts, digest, threads))

        def done() -> Iterable[tuple[int, PartialStatistics]]:
            with Bar(parts, "statistics", unit="part", shown=progress) as bar:
                for share, found in crew.run(_work, shares):
                    if isinstance(found, Lost):
                        raise WorkerError(
                            f"expected part {share.part + 1} of {parts} of the images but whoever worked on it died "
                            f"({found}); take fewer workers, or give them more memory"
                        )
                    bar.update()
                    yield share.part, _unpacked(found)

        return merge_as_tree(done(), parts, PartialStatistics.merge)

    identity = identity_of(model)
    return measure


def _work(share: _Share) -> dict[str, Any]:
    """Do a share; what comes back is arrays, which every engine carries."""
    if share.threads is not None:
        torch.set_num_threads(share.threads)
    model, images = share.task.load()
    own = [images.pictures[index] for index in part_of(len(images), share.part, share.parts, share.config.batch_size)]
    if share.digest != digest_of_json([identity_of(model), ImageSet(tuple(own), "").digests()]):
        raise WorkerError(
            f"expected the same model {share.task.model} and images in {share.task.reference} wherever workers "
            f"are but part {share.part + 1} of {share.parts} has others; give all machines the same files"
        )
    site_list = sites_of(model)
    sites, part = [site_list.site(path) for path in share.sites], (share.part, share.parts)
    found = find_statistics(model, images, sites, share.config, run=Run(cache=None, progress=False), part=part)
    states = {
        path: {name: tensor.cpu().numpy().copy() for name, tensor in statistics.state().items()}
        for path, statistics in found.statistics.items()
    }
    return {"states": states, "skipped": found.skipped}


def _unpacked(found: dict[str, Any]) -> PartialStatistics:
    statistics = {
        path: KeyStatistics.from_state({name: torch.as_tensor(array) for name, array in state.items()})
        for path, state in found["states"].items()
    }
    return PartialStatistics(statistics, found["skipped"])


def merge_as_tree(parts: Iterable[tuple[int, Whole]], count: int, merge: Callable[[Whole, Whole], None]) -> Whole:
    """Merge parts pairwise, neighbours first and pairs of them next: in that order whichever comes first.

    Two neighbours are merged as soon as both are there, so that few wait.

    Args:
        parts: the number of each, 0..count, and the part, in any order.
        count: how many there are.
        merge: adds the second to the first.

    Returns:
        The first part, with all others in it.

    Examples:
        >>> parts = [(2, ["c"]), (0, ["a"]), (1, ["b"])]
        >>> merge_as_tree(parts, 3, list.extend)
        ['a', 'b', 'c']
    """
    waiting: dict[tuple[int, int], Whole] = {}
    for first, part in parts:
        span = 1
        while span < count:
            other = first ^ span  # the neighbour at this height of the tree
            if other < count and (other, span) not in waiting:
                break
            if other < count:
                pair = (part, waiting.pop((other, span)))
                left, right = pair if first < other else pair[::-1]
                merge(left, right)
                first, part = min(first, other), left
            span *= 2
        waiting[first, span] = part
    ((_, whole),) = waiting.items()
    return whole
