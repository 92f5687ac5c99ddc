"""End-to-end workflows of the command line: making an edit within a budget, applying it, composing several."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.workflows.apply import write_edited
    from rulepatch.workflows.compose import Composition

__all__ = ["Composition", "write_edited"]

__getattr__, __dir__ = exports(__name__)
