"""The time left is told by the jobs that are done, of their own kind where there are any."""

import numpy as np
import pytest

from rulepatch.experiments.forecast import Forecast


def test_kinds_that_were_seen_speak_for_themselves_and_others_for_their_like():
    forecast = Forecast([("a", 1)] * 3 + [("a", 2), ("b", 1)])
    assert forecast.left(elapsed=5.0) is None
    forecast.add(("a", 1), 2.0)
    assert forecast.work_left() == 2 * 2.0 + 2.0 + 2.0
    forecast.add(("b", 1), 10.0)
    assert forecast.work_left() == 2 * 2.0 + 2.0  # (a, 2) as (a, 1)
    assert forecast.left(elapsed=6.0) == pytest.approx(6.0 * 6 / 12)


def test_after_a_tenth_of_the_jobs_it_is_right_within_a_quarter():
    """Kinds differ a hundredfold and come in blocks, as in a sweep; two workers share the work."""
    rng = np.random.default_rng(0)
    kinds = [(f"model {m}", method, n) for m in range(2) for _ in range(20) for method in "abc" for n in (3, 10)]
    seconds = [{"a": 0.1, "b": 1.0, "c": 10.0}[kind[1]] * kind[2] / 3 * rng.lognormal(0, 0.3) for kind in kinds]
    forecast, elapsed = Forecast(kinds), 0.0
    for number, (kind, took) in enumerate(zip(kinds, seconds, strict=True)):
        forecast.add(kind, took)
        elapsed += took / 2
        if number + 1 >= len(kinds) // 10:
            told, true = forecast.left(elapsed), (sum(seconds) / 2 - elapsed)
            assert told == pytest.approx(true, rel=0.25, abs=5), number


def test_a_plain_count_would_not_be():
    """The negative control: jobs of one length first, then others a hundred times as long."""
    kinds = [("short",)] * 10 + [("long",)] * 10
    forecast = Forecast(kinds)
    for _ in range(10):
        forecast.add(("short",), 0.1)
    assert forecast.left(elapsed=1.0) == pytest.approx(1.0)  # all it can know
    forecast.add(("long",), 10.0)
    assert forecast.left(elapsed=11.0) == pytest.approx(90.0)
