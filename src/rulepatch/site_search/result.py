"""What a search found."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rulepatch.core.edit import Edit
from rulepatch.errors import DamageError, RulepatchError, UselessEditError
from rulepatch.site_search.budget import USUAL
from rulepatch.site_search.candidates import Candidate, Trial
from rulepatch.site_search.report import figure_of, panel_of, text_of
from rulepatch.site_search.selection import name_of
from rulepatch.text import brief, quoted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Search"]


@dataclass(frozen=True)
class Search:
    """Result of a search.

    Attributes:
        edit: the chosen edit; None if nothing within the budget helps.
        chosen: the candidate that was selected.
        candidates: all evaluated candidates, in order.
        why: reason for the choice, or for selecting none.
        validation: description of the validation images.
        max_drop: the budget, 0..1.
        reference_size: images on which damage was measured.
        model_name: of the model.
        make: makes the edit of any candidate's trial, to use another than the chosen one.
        by_shift: flips for each unit of changed probability, by which damage on other images is expected.
    """

    edit: Edit | None
    chosen: Candidate | None
    candidates: tuple[Candidate, ...] = field(repr=False)
    why: str
    validation: str
    max_drop: float
    reference_size: int
    model_name: str
    make: Callable[[Trial], Edit] = field(repr=False)
    by_shift: float = USUAL

    def is_within(self, candidate: Candidate) -> bool:
        """Whether a candidate was measured on all images and is within the budget."""
        return candidate.measured >= self.reference_size and candidate.is_within(self.max_drop, self.by_shift)

    def refusal(self, advice: str) -> RulepatchError:
        """The error of a search that found nothing.

        Args:
            advice: what to do.

        Returns:
            A `DamageError` if no candidate is within the budget, a `UselessEditError` if none within it helps.
        """
        error = UselessEditError if any(map(self.is_within, self.candidates)) else DamageError
        points = f"{100 * self.max_drop:.2f} points"
        return error(f"expected an edit that helps and loses at most {points} but {self.why}; {advice}")

    def to_json(self) -> dict[str, Any]:
        """The search, as JSON."""
        return {
            "model": self.model_name,
            "why": self.why,
            "validation": self.validation,
            "max_drop": self.max_drop,
            "reference": self.reference_size,
            "chosen": None if self.chosen is None else self.chosen.to_json(),
            "candidates": [candidate.to_json() for candidate in self.candidates],
        }

    def __repr__(self) -> str:
        chosen = "nothing chosen" if self.chosen is None else f"chosen {name_of(self.chosen.trial)}"
        return brief("Search", chosen, f"{len(self.candidates)} tried", quoted(self.model_name))

    def _repr_html_(self) -> str:
        """HTML for notebooks: the best candidates, with the chosen one marked, and a figure of all."""
        return panel_of(self)

    def to_text(self) -> str:
        """The best candidates, and the reason for the choice."""
        return text_of(self)

    def figure(self) -> "Figure":
        """Repair on the validation images against damage on the reference set, by site."""
        return figure_of(self)
