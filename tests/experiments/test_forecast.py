"""The time left is told by the jobs that are done, of their own kind where there are any."""

import numpy as np
import pytest

from rulepatch.experiments.sweeps.forecast import Forecast


def test_kinds_that_were_seen_speak_for_themselves_and_others_for_their_like():
    forecast = Forecast([("m", "a", 1)] * 3 + [("m", "a", 2), ("m", "b", 1), ("n", "a", 1), ("n", "b", 1)])
    assert forecast.left(elapsed=5.0) is None
    forecast.add(("m", "a", 1), 2.0)
    assert forecast.work_left() == 6 * 2.0
    forecast.add(("m", "b", 1), 10.0)
    assert forecast.work_left() == 2 * 2.0 + 2.0 + 2.0 + 10.0  # (a, 2) as (a, 1), and n as m
    forecast.add(("n", "a", 1), 6.0)  # n takes three times as long as m
    assert forecast.work_left() == pytest.approx(2 * 2.0 + 2.0 + 3 * 10.0, rel=0.01)
    assert forecast.left(elapsed=9.0) == pytest.approx(9.0 / 18.0 * forecast.work_left())


def test_after_a_tenth_of_the_jobs_it_is_right_within_a_quarter():
    """Kinds differ a hundredfold, models tenfold, and come in blocks, as in a sweep; two workers share the work."""
    rng = np.random.default_rng(0)
    kinds = [(f"model {m}", method, n) for m in range(2) for _ in range(20) for n in (3, 10) for method in "aaabbbc"]
    kinds = [*kinds[280:296], *kinds[:280], *kinds[296:]]  # some of the second model come first
    cost = {"a": 0.1, "b": 1.0, "c": 10.0}
    seconds = [cost[kind[1]] * kind[2] * {"0": 1, "1": 10}[kind[0][-1]] * rng.lognormal(0, 0.3) for kind in kinds]
    forecast, elapsed = Forecast(kinds), 0.0
    for number, (kind, took) in enumerate(zip(kinds, seconds, strict=True)):
        forecast.add(kind, took)
        elapsed += took / 2
        if len(kinds) // 10 <= number + 1 < len(kinds):
            told, true = forecast.left(elapsed), (sum(seconds) / 2 - elapsed)
            assert told == pytest.approx(true, rel=0.25, abs=100), (number, told, true)


def test_a_plain_count_would_not_be():
    """The negative control: jobs of one length first, then others a hundred times as long."""
    kinds = [("m", "short")] * 10 + [("m", "long")] * 10
    forecast = Forecast(kinds)
    for _ in range(10):
        forecast.add(("m", "short"), 0.1)
    assert forecast.left(elapsed=1.0) == pytest.approx(1.0)  # all it can know
    forecast.add(("m", "long"), 10.0)
    assert forecast.left(elapsed=11.0) == pytest.approx(90.0)
