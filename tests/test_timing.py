import threading
import time

import pytest

from rulepatch.timing import collected, stretch


def test_stretches_of_one_name_are_summed_and_total_holds_them_all():
    with collected() as seconds:
        for _ in range(3):
            with stretch("solve"):
                time.sleep(0.005)
        with stretch("statistics"):
            pass
    assert set(seconds) == {"solve", "statistics", "total"}
    assert seconds["total"] >= seconds["solve"] >= 0.015
    assert seconds["statistics"] < 0.005


def test_nobody_collects_outside():
    with stretch("before"):
        pass
    with collected() as seconds:
        pass
    with stretch("after"):
        pass
    assert set(seconds) == {"total"}


def test_the_inner_collector_takes_what_is_inside_it():
    with collected() as outer:
        with collected() as inner, stretch("a"):
            pass
        with stretch("b"):
            pass
    assert set(inner) == {"a", "total"}
    assert set(outer) == {"b", "total"}


def test_time_until_an_error_counts_and_collecting_ends_with_it():
    with pytest.raises(ValueError, match="stop"), collected() as seconds, stretch("solve"):
        raise ValueError("stop")
    assert set(seconds) == {"solve", "total"}
    with stretch("later"):
        pass
    assert set(seconds) == {"solve", "total"}


def test_another_thread_does_not_collect_here():
    def work():
        with stretch("elsewhere"):
            pass

    with collected() as seconds:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert set(seconds) == {"total"}
