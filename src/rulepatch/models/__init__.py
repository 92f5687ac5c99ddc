"""Classifiers: a network with its preprocessing and class names, from many sources. One file a source, one registry."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.models.attention import call_projections
    from rulepatch.models.export import about
    from rulepatch.models.prediction import Prediction
    from rulepatch.models.registry import Request, Sourced, source, sources

__all__ = ["Prediction", "Request", "Sourced", "about", "call_projections", "source", "sources"]

__getattr__, __dir__ = exports(__name__)
