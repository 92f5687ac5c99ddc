import threading
import time

import pytest

from rulepatch.timing import collect_timings, section


def test_stretches_of_one_name_are_summed_and_total_holds_them_all():
    with collect_timings() as seconds:
        for _ in range(3):
            with section("solve"):
                time.sleep(0.005)
        with section("statistics"):
            pass
    assert set(seconds) == {"solve", "statistics", "total"}
    assert seconds["total"] >= seconds["solve"] >= 0.015
    assert seconds["statistics"] < 0.005


def test_nobody_collects_outside():
    with section("before"):
        pass
    with collect_timings() as seconds:
        pass
    with section("after"):
        pass
    assert set(seconds) == {"total"}


def test_the_inner_collector_takes_what_is_inside_it():
    with collect_timings() as outer:
        with collect_timings() as inner, section("a"):
            pass
        with section("b"):
            pass
    assert set(inner) == {"a", "total"}
    assert set(outer) == {"b", "total"}


def test_time_until_an_error_counts_and_collecting_ends_with_it():
    with pytest.raises(ValueError, match="stop"), collect_timings() as seconds, section("solve"):
        raise ValueError("stop")
    assert set(seconds) == {"solve", "total"}
    with section("later"):
        pass
    assert set(seconds) == {"solve", "total"}


def test_another_thread_does_not_collect_here():
    def work():
        with section("elsewhere"):
            pass

    with collect_timings() as seconds:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert set(seconds) == {"total"}
