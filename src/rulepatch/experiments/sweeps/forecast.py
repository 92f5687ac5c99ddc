"""How long the rest of many jobs will take, told by those that are done."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from math import exp, log

__all__ = ["Forecast", "duration"]

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
        >>> forecast.add(("a", "solve", 1), 2.0)
        >>> forecast.left(elapsed=1.0)  # two workers seem to be at it
        2.0
    """

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._to_do = Counter(kinds)
        self._done: defaultdict[Kind, _Mean] = defaultdict(_Mean)

    def add(self, kind: Kind, seconds: float) -> None:
        """A job of a kind is done and took so long; 0 if that is not known."""
        self._to_do[kind] -= 1
        if seconds > 0:
            self._done[kind].add(seconds)

    def left(self, elapsed: float) -> float | None:
        """Time left, at the rate of the time gone by.

        Args:
            elapsed: seconds since the start.

        Returns:
            Seconds; None as long as no job is done.
        """
        seconds = sum(mean.total for mean in self._done.values())
        return elapsed / seconds * self.work_left() if seconds else None

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


def duration(seconds: float) -> str:
    """Write a duration for people.

    Returns:
        Text.

    Examples:
        >>> duration(42.3), duration(75), duration(7500)
        ('42 s', '1 min 15 s', '2 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
