"""How long the rest of many jobs will take, told by those that are done."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import exp, log

__all__ = ["Forecast"]

ROUNDS = 8

Kind = tuple[Hashable, ...]


class Forecast:
    """Time left, from how long jobs of each kind took.

    A kind is a tuple: a model, and what else tells how long a job takes, what matters most first. For a kind that was
    not seen yet speak those of all models that begin alike, at the model's own pace.

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
        """Some jobs are done, by one worker that told of them together.

        Args:
            done: kind of each, and the seconds that it took; 0 if that is not known.
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
        """Time left. Jobs in flight are as good as done in part, so what counts is not when they are told of.

        Args:
            elapsed: seconds since the start.
            workers: how many are at it.

        Returns:
            Seconds; None as long as no job is done.
        """
        if not self._done:
            return None
        return max(0.0, self._began + (self._work_done() + self.work_left()) / workers - elapsed)

    def _work_done(self) -> float:
        return sum(mean.total for mean in self._done.values())

    def work_left(self) -> float:
        """Seconds that one worker would take for all that is to be done.

        Returns:
            Seconds; 0 as long as no job is done.
        """
        pace: dict[Hashable, float] = {model: 1.0 for model, *_ in self._done}
        for _ in range(ROUNDS):  # what a job takes is its model's pace times what others like it take
            alike = self._alike(pace)
            pace = {model: pace[model] * self._slower(model, pace[model], alike) for model in pace}
        return sum(
            max(count, 0)
            * (self._done[kind].mean if kind in self._done else pace.get(kind[0], 1.0) * _like(kind, alike))
            for kind, count in self._to_do.items()
            if self._done
        )

    def _alike(self, pace: Mapping[Hashable, float]) -> dict[Kind, "_Mean"]:
        """What jobs that begin alike take, at a pace of 1."""
        alike: defaultdict[Kind, _Mean] = defaultdict(_Mean)
        for (model, *rest), mean in self._done.items():
            for length in range(len(rest) + 1):
                alike[tuple(rest[:length])].add(mean.total / pace[model], mean.count)
        return alike

    def _slower(self, model: Hashable, pace: float, alike: Mapping[Kind, "_Mean"]) -> float:
        """How much longer a model's jobs took than its pace says; short ones count as much as long ones."""
        own = [
            (mean.count, mean.mean / (pace * _like(kind, alike)))
            for kind, mean in self._done.items()
            if kind[0] == model
        ]
        return exp(sum(count * log(max(ratio, 1e-9)) for count, ratio in own) / sum(count for count, _ in own))


def _like(kind: Kind, alike: Mapping[Kind, "_Mean"]) -> float:
    """What jobs take that begin like one, the longest beginning that was seen."""
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
