"""The time left is told by the jobs that are done, of their own kind where there are any."""

import numpy as np
import pytest

from rulepatch.sweeps.eta import Forecast


def test_kinds_that_were_seen_speak_for_themselves_and_others_for_their_like():
    forecast = Forecast([("m", "a", 1)] * 3 + [("m", "a", 2), ("m", "b", 1), ("n", "a", 1), ("n", "b", 1)])
    assert forecast.left(elapsed=5.0, workers=1) is None
    forecast.add([(("m", "a", 1), 2.0)], 2.0)
    assert forecast.work_left() == 6 * 2.0
    forecast.add([(("m", "b", 1), 10.0)], 12.0)
    assert forecast.work_left() == 2 * 2.0 + 2.0 + 2.0 + 10.0  # (a, 2) as (a, 1), and n as m
    forecast.add([(("n", "a", 1), 6.0)], 18.0)  # n takes three times as long as m
    assert forecast.work_left() == pytest.approx(2 * 2.0 + 2.0 + 3 * 10.0, rel=0.01)
    assert forecast.left(elapsed=20.0, workers=1) == pytest.approx(18.0 + forecast.work_left() - 20.0)
    assert forecast.left(elapsed=20.0, workers=4) == 0.0  # they must be nearly done


def test_time_to_begin_and_jobs_whose_time_is_not_known():
    forecast = Forecast([("m", "a")] * 10)
    forecast.add([(("m", "a"), 1.0), (("m", "a"), 1.0)], elapsed=7.0)  # five seconds to start the workers
    assert forecast.left(elapsed=7.0, workers=2) == pytest.approx(5.0 + 10.0 / 2 - 7.0)
    forecast.add([(("m", "a"), 0.0)], elapsed=7.5)
    assert forecast.work_left() == 7.0


def swept(kinds, seconds, *, workers, bundle, begin):
    """What is told when, as workers that take some jobs at a time come back."""
    free, told = [begin] * workers, []
    for first in range(0, len(kinds), bundle):
        worker = int(np.argmin(free))
        jobs = list(zip(kinds[first : first + bundle], seconds[first : first + bundle], strict=True))
        free[worker] += sum(taken for _, taken in jobs)
        told.append((free[worker], jobs))
    return sorted(told, key=lambda each: each[0])


@pytest.mark.parametrize("bundle", [1, 16])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_after_a_tenth_of_the_jobs_it_is_right_within_a_quarter(workers, bundle):
    """Kinds differ a hundredfold, models tenfold, and come in blocks, as in a sweep; once a model's first are back."""
    rng = np.random.default_rng(0)
    kinds = [(f"model {m}", method, n) for m in range(2) for _ in range(40) for n in (3, 10) for method in "aaabbbcc"]
    kinds = [*kinds[640:656], *kinds[:640], *kinds[656:]]  # some of the second model come first
    cost = {"a": 0.1, "b": 1.0, "c": 10.0}
    seconds = [cost[kind[1]] * kind[2] * {"0": 1, "1": 10}[kind[0][-1]] * rng.lognormal(0, 0.3) for kind in kinds]
    told = swept(kinds, seconds, workers=workers, bundle=bundle, begin=20.0)
    end, forecast, count, models = told[-1][0], Forecast(kinds), 0, set()
    for elapsed, jobs in told:
        forecast.add(jobs, elapsed)
        count += len(jobs)
        models |= {kind[0] for kind, _ in jobs}
        if len(kinds) // 10 <= count <= len(kinds) // 2 and len(models) == 2:
            left = forecast.left(elapsed, workers)
            assert left == pytest.approx(end - elapsed, rel=0.25), (count, left, end - elapsed)


def test_jobs_unlike_all_that_came_before_cannot_be_foreseen():
    """The negative control: jobs of one length first, then others a hundred times as long."""
    forecast = Forecast([("m", "short")] * 10 + [("m", "long")] * 10)
    for number in range(10):
        forecast.add([(("m", "short"), 0.1)], 0.1 * (number + 1))
    assert forecast.left(elapsed=1.0, workers=1) == pytest.approx(1.0)  # all it can know
    forecast.add([(("m", "long"), 10.0)], 11.0)
    assert forecast.left(elapsed=11.0, workers=1) == pytest.approx(90.0)
