"""Ways to make an edit: one file for each, one registry.

An editor is a function of a problem and of the settings of its method that returns changes. `rulepatch.edit` builds the
problem, measures the edit and tries it on its exemplars.
"""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.editors.edit import front, solve
    from rulepatch.editors.problem import Problem, build_problem
    from rulepatch.editors.registry import Editor, Solution, editor, editor_named
    from rulepatch.editors.subspace import check_rank, low_rank_change

__all__ = [
    "Editor",
    "Problem",
    "Solution",
    "build_problem",
    "check_rank",
    "editor",
    "editor_named",
    "front",
    "low_rank_change",
    "solve",
]

__getattr__, __dir__ = exports(__name__)
