import pytest

from tests.fixtures.noise import exemplars, model, reference  # noqa: F401

SAYS_WHAT_IT_IS_WORTH = pytest.mark.filterwarnings("ignore:the (edit|exemplars) (repairs|breaks|changes|show) ")


def pytest_itemcollected(item):
    """Noise and random networks show no failure that is repaired."""
    item.add_marker(SAYS_WHAT_IT_IS_WORTH)
