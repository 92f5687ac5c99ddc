"""How long the rest of many jobs will take, told by those that are done."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable

__all__ = ["Forecast", "duration"]

Kind = tuple[Hashable, ...]


class Forecast:
    """Time left, from how long jobs of each kind took.

    A kind is a tuple, what matters most first. Of kinds that were not seen yet, those that begin alike speak.

    Args:
        kinds: of all jobs to be done.

    Examples:
        >>> forecast = Forecast([("solve", 1), ("solve", 2), ("train", 1)])
        >>> forecast.add(("solve", 1), 2.0)
        >>> forecast.left(elapsed=1.0)  # two workers seem to be at it
        2.0
    """

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._to_do = Counter(kinds)
        self._seen: defaultdict[Kind, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, kind: Kind, seconds: float) -> None:
        """A job of a kind is done and took so long."""
        self._to_do[kind] -= 1
        for length in range(len(kind) + 1):
            seen = self._seen[kind[:length]]
            seen[0] += seconds
            seen[1] += 1

    def left(self, elapsed: float) -> float | None:
        """Time left, at the rate of the time gone by.

        Args:
            elapsed: seconds since the start.

        Returns:
            Seconds; None as long as no job is done.
        """
        seconds, _ = self._seen[()]
        if seconds == 0:
            return None
        return elapsed / seconds * self.work_left()

    def work_left(self) -> float:
        """Seconds that one worker would take for all that is to be done.

        Returns:
            Seconds; 0 as long as no job is done.
        """
        return sum(count * self._expected(kind) for kind, count in self._to_do.items() if count > 0)

    def _expected(self, kind: Kind) -> float:
        for length in range(len(kind), -1, -1):
            seconds, count = self._seen.get(kind[:length], (0.0, 0.0))
            if count:
                return seconds / count
        return 0.0


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
