"""Estimate of the remaining time of many jobs from the finished ones."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import exp, log

__all__ = ["Forecast"]

ROUNDS = 8

Kind = tuple[Hashable, ...]


class Forecast:
    """Time left, from how long jobs of each kind took.

    A kind is a tuple of a model and other attributes that determine the duration, in order of importance. Unseen job
    kinds use the mean of jobs with the longest common prefix, scaled by the model's speed.

    Args:
        kinds: of all jobs to be done.

    Examples:
        >>> forecast = Forecast([("a", "solve", 1), ("a", "solve", 2), ("b", "train", 1)])
        >>> forecast.add([(("a", "solve", 1), 2.0)], elapsed=3.0)  # a second to begin, two for the job
        >>> forecast.left(elapsed=3.0, workers=2)
        1.0
    """

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._to_do = Counter(kinds)
        self._done: defaultdict[Kind, _Mean] = defaultdict(_Mean)
        self._began = 0.0

    def add(self, done: Iterable[tuple[Kind, float]], elapsed: float) -> None:
        """Record finished jobs that one worker reported together.

        Args:
            done: kind of each, and its duration in seconds; 0 if unknown.
            elapsed: seconds since the start, of which all workers lost as many before their first job as the first did.
        """
        is_first = not self._done
        for kind, seconds in done:
            self._to_do[kind] -= 1
            if seconds > 0:
                self._done[kind].add(seconds)
        if is_first:
            self._began = max(0.0, elapsed - self._work_done())

    def left(self, elapsed: float, workers: int) -> float | None:
        """Estimated time left. Jobs in flight count as partly done.

        Args:
            elapsed: seconds since the start.
            workers: number of workers.

        Returns:
            Seconds; None as long as no job is done.
        """
        if not self._done:
            return None
        return max(0.0, self._began + (self._work_done() + self.work_left()) / workers - elapsed)

    def _work_done(self) -> float:
        return sum(mean.total for mean in self._done.values())

    def work_left(self) -> float:
        """Seconds that a single worker would take for all remaining jobs.

        Returns:
            Seconds; 0 as long as no job is done.
        """
        pace: dict[Hashable, float] = {model: 1.0 for model, *_ in self._done}
        for _ in range(ROUNDS):  # alternate: duration = speed factor of the model × duration of the kind
            alike = self._alike(pace)
            pace = {model: pace[model] * self._slower(model, pace[model], alike) for model in pace}
        return sum(
            max(count, 0)
            * (self._done[kind].mean if kind in self._done else pace.get(kind[0], 1.0) * _like(kind, alike))
            for kind, count in self._to_do.items()
            if self._done
        )

    def _alike(self, pace: Mapping[Hashable, float]) -> dict[Kind, "_Mean"]:
        """Mean duration of jobs with a common prefix, at speed factor 1."""
        alike: defaultdict[Kind, _Mean] = defaultdict(_Mean)
        for (model, *rest), mean in self._done.items():
            for length in range(len(rest) + 1):
                alike[tuple(rest[:length])].add(mean.total / pace[model], mean.count)
        return alike

    def _slower(self, model: Hashable, pace: float, alike: Mapping[Kind, "_Mean"]) -> float:
        """Correction of a model's speed factor, with equal weight of short and long jobs."""
        own = [
            (mean.count, mean.mean / (pace * _like(kind, alike)))
            for kind, mean in self._done.items()
            if kind[0] == model
        ]
        return exp(sum(count * log(max(ratio, 1e-9)) for count, ratio in own) / sum(count for count, _ in own))


def _like(kind: Kind, alike: Mapping[Kind, "_Mean"]) -> float:
    """Mean duration of the jobs with the longest known prefix in common, at speed factor 1."""
    rest = kind[1:]
    return next(alike[rest[:length]].mean for length in range(len(rest), -1, -1) if rest[:length] in alike)


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, total: float, count: int = 1) -> None:
        self.total += total
        self.count += count

    @property
    def mean(self) -> float:
        return self.total / self.count
