"""Doing nothing, as a baseline: whatever is compared must be better than this."""

from rulepatch.core.changes import WeightChange
from rulepatch.editors.problem import Problem
from rulepatch.editors.registry import editor
from rulepatch.methods import NoEdit

__all__ = ["nothing"]


@editor(NoEdit)
def nothing(problem: Problem, how: NoEdit) -> list[WeightChange]:
    """Change nothing, so that the edit has the same report as any other."""
    return []
