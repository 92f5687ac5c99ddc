"""Work that is shared out: over processes, devices and machines."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.parallel.statistics import Gathered, gather_statistics

__all__ = ["Gathered", "gather_statistics"]

__getattr__, __dir__ = exports(__name__)
