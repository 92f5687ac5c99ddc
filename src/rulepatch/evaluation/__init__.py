"""What an edit did: predictions before and after, in numbers and in a report with images."""

from typing import TYPE_CHECKING

from rulepatch.lazy import exports

if TYPE_CHECKING:
    from rulepatch.evaluation.evaluate import evaluate_all
    from rulepatch.evaluation.outcomes import Outcomes
    from rulepatch.evaluation.predict import Answers
    from rulepatch.evaluation.report import render_frame
    from rulepatch.evaluation.verification import Verification

__all__ = ["Answers", "Outcomes", "Verification", "evaluate_all", "render_frame"]

__getattr__, __dir__ = exports(__name__)
