"""Predictions for an edit's own exemplars before and after the edit, and the verdict on the edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from rulepatch.text import Table, plural

__all__ = ["ExemplarOutcome", "ExemplarOutcomes", "ExemplarPrediction", "Usefulness", "usefulness"]

Usefulness = Literal["repairs", "changes", "useless", "unproven", "untested"]
"""Verdict on an edit from its own exemplars."""

LEAST_CHANGE = 1e-3
"""Total variation between predictions before and after an edit below which they count as unchanged."""

MEASURE = "measure it on labelled failures (--tests of `rulepatch evaluate`)"

WORDS = {
    "repaired": "repaired",
    "nearer": "still wrong, but nearer",
    "wrong": "still wrong",
    "broken": "broken",
    "right": "shows no failure",
}


@dataclass(frozen=True)
class ExemplarPrediction:
    """Prediction of a model for an image.

    Attributes:
        index: index of the top class.
        name: name of the top class.
        confidence: probability of the top class, 0..1.
        of_target: probability of the target class, 0..1.
    """

    index: int
    name: str
    confidence: float
    of_target: float

    def __str__(self) -> str:
        return f"{self.name} {self.confidence:.2f}"

    def to_json(self) -> dict[str, Any]:
        """The prediction, as JSON."""
        return {"index": self.index, "class": self.name, "confidence": self.confidence, "of_target": self.of_target}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        return cls(found["index"], found["class"], found["confidence"], found["of_target"])


@dataclass(frozen=True)
class ExemplarOutcome:
    """Predictions for one exemplar of an edit.

    Attributes:
        exemplar: its name.
        target: index of the target class of the edited image: the exemplar's label, or, without one, the base model's
            prediction for the original image.
        target_name: name of the target class.
        original: prediction of the base model for the original image.
        edited: prediction of the base model for the edited image.
        after: prediction of the edited model for the edited image.
        change: total variation between the last two, over all classes, 0..1.
    """

    exemplar: str
    target: int
    target_name: str
    original: ExemplarPrediction
    edited: ExemplarPrediction
    after: ExemplarPrediction
    change: float

    @property
    def shows_failure(self) -> bool:
        """Whether the base model misclassifies the edited image."""
        return self.edited.index != self.target

    @property
    def is_misread(self) -> bool:
        """Whether the base model misclassifies the original image already."""
        return self.original.index != self.target

    @property
    def verdict(self) -> Literal["repaired", "nearer", "wrong", "broken", "right"]:
        """Outcome for the edited image; "nearer": another top class than before, and a likelier target class."""
        if self.after.index == self.target:
            return "repaired" if self.shows_failure else "right"
        if not self.shows_failure:
            return "broken"
        is_nearer = self.after.index != self.edited.index and self.after.of_target > self.edited.of_target
        return "nearer" if is_nearer and not self.is_misread else "wrong"

    def to_json(self) -> dict[str, Any]:
        """The outcome, as JSON."""
        return {
            "target": {"index": self.target, "class": self.target_name},
            "original": self.original.to_json(),
            "edited": self.edited.to_json(),
            "after": self.after.to_json(),
            "change": self.change,
            "verdict": self.verdict,
        }

    @classmethod
    def from_json(cls, exemplar: str, found: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        original, edited, after = (
            ExemplarPrediction.from_json(found[when]) for when in ("original", "edited", "after")
        )
        target, name = found["target"]["index"], found["target"]["class"]
        return cls(exemplar, target, name, original, edited, after, found["change"])


def usefulness(outcomes: Sequence[ExemplarOutcome]) -> Usefulness:
    """Verdict on an edit from its own exemplars.

    The edit "repairs" if it repairs more exemplars than it breaks. It "changes" something if a failing exemplar gets
    another top class and a likelier target class. It is "useless" if exemplars fail and it does neither, if it breaks
    as many as it repairs, or if no prediction changes. It is "unproven" if no exemplar fails and predictions change.

    Args:
        outcomes: one for each exemplar.

    Returns:
        "repairs", "changes", "useless" or "unproven"; "untested" of no outcomes.

    Examples:
        >>> van, plow = ExemplarPrediction(0, "van", 0.9, 0.9), ExemplarPrediction(1, "snowplow", 0.8, 0.1)
        >>> [usefulness([ExemplarOutcome("a", 0, "van", van, *pair, 0.5)]) for pair in [(plow, van), (plow, plow)]]
        ['repairs', 'useless']
    """
    if not outcomes:
        return "untested"
    verdicts = [each.verdict for each in outcomes]
    repaired, broken = verdicts.count("repaired"), verdicts.count("broken")
    if repaired > broken:
        return "repairs"
    if not broken and "nearer" in verdicts:
        return "changes"
    if broken or "wrong" in verdicts or max(each.change for each in outcomes) < LEAST_CHANGE:
        return "useless"
    return "unproven"


@dataclass(frozen=True)
class ExemplarOutcomes:
    """Predictions for an edit's own exemplars.

    Attributes:
        outcomes: one for each exemplar; empty if they were not evaluated, or have no edited images.
    """

    outcomes: tuple[ExemplarOutcome, ...] = field(default=())

    @property
    def verdict(self) -> Usefulness:
        """Verdict on the edit."""
        return usefulness(self.outcomes)

    @property
    def why(self) -> str:
        """The verdict in a sentence, with advice unless the edit repairs."""
        match self.verdict:
            case "repairs":
                return self._told_of_repair()
            case "changes":
                return self._told_of_change()
            case "useless":
                return self._told_of_uselessness()
            case "unproven":
                return self._told_of_no_failure()
            case "untested":
                return f"the edit was not tried on exemplars; {MEASURE}"

    def to_text(self) -> str:
        """Human-readable table of outcomes, and the verdict."""
        rows = [
            [each.exemplar, each.target_name, each.original, each.edited, each.after, _told(each)]
            for each in self.outcomes
        ]
        header = ["exemplar", "should be", "original", "edited", "after the edit", ""]
        return "\n".join([*([Table(header, rows).to_text()] if rows else []), self.why])

    def to_json(self) -> list[dict[str, Any]]:
        """The outcomes, as JSON."""
        return [{"name": each.exemplar, **each.to_json()} for each in self.outcomes]

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any]) -> Self:
        """Read the outcomes from the provenance of an edit."""
        told = [each for each in provenance.get("exemplars") or () if "said" in each]
        return cls(tuple(ExemplarOutcome.from_json(each.get("name") or "", each["said"]) for each in told))

    def within(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """An edit's provenance with the outcomes of its exemplars, in their order.

        Args:
            provenance: provenance that names the exemplars.
        """
        told = [{name: value for name, value in each.items() if name != "said"} for each in provenance["exemplars"]]
        said = [{"said": each.to_json()} for each in self.outcomes] or [{}] * len(told)
        return {**provenance, "exemplars": [entry | own for entry, own in zip(told, said, strict=True)]}

    def _of(self, verdict: str) -> list[ExemplarOutcome]:
        return [each for each in self.outcomes if each.verdict == verdict]

    def _told_of_repair(self) -> str:
        failing, broken = sum(each.shows_failure for each in self.outcomes), len(self._of("broken"))
        also = f" and breaks {broken}" if broken else ""
        return f"the edit repairs {len(self._of('repaired'))} of {plural(failing, 'failing exemplar')}{also}"

    def _told_of_change(self) -> str:
        failing, (one, *_) = sum(each.shows_failure for each in self.outcomes), self._of("nearer")
        return (
            f"the edit repairs 0 of {plural(failing, 'failing exemplar')} but brings it nearer ({one.exemplar} is "
            f"{one.target_name}, called {one.edited} before and {one.after} after); {MEASURE}"
        )

    def _told_of_no_failure(self) -> str:
        least = min(self.outcomes, key=lambda each: each.edited.confidence)
        return (
            "the exemplars show no failure: the model is right of every edited image, before the edit and after it "
            f"({least.exemplar}: {least.edited}, then {least.after}), so they cannot tell whether it repairs anything; "
            f"{MEASURE}, or give an exemplar that the model gets wrong"
        )

    def _told_of_uselessness(self) -> str:
        wrong, broken, repaired = (self._of(verdict) for verdict in ("wrong", "broken", "repaired"))
        if broken:
            (one, *_) = broken
            advice = "take less strength or rank, a gate, or another site"
            if one.is_misread:
                advice = f"its original is called {one.original}: check the label"
            return (
                f"the edit breaks {plural(len(broken), 'exemplar')} and repairs {len(repaired)} ({one.exemplar} is "
                f"{one.target_name}, called {one.edited} before and {one.after} after); {advice}"
            )
        (one, *_) = wrong or self.outcomes
        if not wrong:
            return (
                "the edit changes nothing of what the model says of its exemplars, which show no failure "
                f"({one.exemplar}: {one.edited} before and after); take exemplars that the model gets wrong, more "
                "strength, a lower gate or none, or another site"
            )
        misread = [each for each in wrong if each.is_misread]
        advice = "take another site, more strength or rank, or a lower gate"
        if misread:
            (other, *_) = misread
            advice = (
                f"the model is wrong of the original image of {other.exemplar} already ({other.original}, not "
                f"{other.target_name}): check its label, or take an image that the model gets right"
            )
        return (
            f"the edit repairs 0 of {plural(len(wrong), 'failing exemplar')} ({one.exemplar} is {one.target_name}, "
            f"called {one.edited} before and {one.after} after); {advice}"
        )


def _told(outcome: ExemplarOutcome) -> str:
    told = WORDS[outcome.verdict]
    return f"{told}; the original is misread" if outcome.is_misread else told
