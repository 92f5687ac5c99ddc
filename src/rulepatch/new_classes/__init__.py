"""Adding a class from exemplars (thesis ch. 4)."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.new_classes.evaluate import NewClassEvaluation, evaluate_new_class, evaluate_new_classes
    from rulepatch.new_classes.settings import NewClassSettings
    from rulepatch.new_classes.workflow import NewClassRun, add_class

__all__ = [
    "NewClassEvaluation",
    "NewClassRun",
    "NewClassSettings",
    "add_class",
    "evaluate_new_class",
    "evaluate_new_classes",
]

__getattr__, __dir__ = exports(__name__)
