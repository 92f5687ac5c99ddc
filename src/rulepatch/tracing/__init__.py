"""Tracing networks: every tensor operation of a forward pass, and what can be edited; it knows nothing of edits."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.tracing.sites import Site, SiteList

__all__ = ["Site", "SiteList"]

__getattr__, __dir__ = exports(__name__)
