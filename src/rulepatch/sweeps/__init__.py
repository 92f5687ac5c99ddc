"""Sweeps: plans, jobs, the engine, the store of results, and reports."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.sweeps.analysis import SweepReport
    from rulepatch.sweeps.failures import Failures
    from rulepatch.sweeps.plan import Plan
    from rulepatch.sweeps.report import write_report
    from rulepatch.sweeps.results import Study, Summary
    from rulepatch.sweeps.run import Estimate, Swept, estimate, sweep
    from rulepatch.sweeps.store import Record, Store, read_records

__all__ = [
    "Estimate",
    "Failures",
    "Plan",
    "Record",
    "Store",
    "Study",
    "Summary",
    "SweepReport",
    "Swept",
    "estimate",
    "read_records",
    "sweep",
    "write_report",
]

__getattr__, __dir__ = exports(__name__)
