"""Selection of the site and the settings of an edit."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.site_search.candidates import Candidate, Trial
    from rulepatch.site_search.result import Search

__all__ = ["Candidate", "Search", "Trial"]

__getattr__, __dir__ = exports(__name__)
