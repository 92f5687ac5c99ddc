import pytest

from tests.fixtures.noise import exemplars, model, reference  # noqa: F401

SAYS_WHAT_IT_IS_WORTH = pytest.mark.filterwarnings("ignore:the (edit|exemplars) (repairs|breaks|changes|show) ")


def pytest_itemcollected(item):
    """Noise and random networks show no failure that is repaired; test_judging.py is about what is said of that."""
    if item.path.name != "test_judging.py":
        item.add_marker(SAYS_WHAT_IT_IS_WORTH)
