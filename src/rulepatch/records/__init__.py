"""Typed records of what was measured of an edit and of its exemplars, and how they are shown."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.records.exemplar_outcomes import ExemplarOutcome, ExemplarOutcomes, ExemplarPrediction
    from rulepatch.records.exemplar_predictions import ExemplarPredictions
    from rulepatch.records.site_reports import Certificate, SiteReport

__all__ = [
    "Certificate",
    "ExemplarOutcome",
    "ExemplarOutcomes",
    "ExemplarPrediction",
    "ExemplarPredictions",
    "SiteReport",
]

__getattr__, __dir__ = exports(__name__)
