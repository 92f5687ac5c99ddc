"""Work that is shared out: over processes, devices and machines."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.parallel.statistics import StatisticsSummary, gather_statistics

__all__ = ["StatisticsSummary", "gather_statistics"]

__getattr__, __dir__ = exports(__name__)
