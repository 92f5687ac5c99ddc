"""What a model says of an edit's own exemplars, before the edit and after it, and what that says of the edit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from rulepatch.text import Table, plural

__all__ = ["ExemplarOutcome", "ExemplarOutcomes", "ExemplarPrediction", "Usefulness", "usefulness"]

Usefulness = Literal["repairs", "changes", "useless", "unproven", "untested"]
"""What an edit does for its own exemplars, in a word."""

LEAST_CHANGE = 1e-3
"""Total variation between what is said before and after an edit below which nothing was changed."""

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
    """What a model says of a picture.

    Attributes:
        index: of the class that it is surest of.
        name: of that class.
        confidence: probability of that class, 0..1.
        of_target: probability of the class that it should be, 0..1.
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
    """What a model says of one exemplar of an edit.

    Attributes:
        exemplar: its name.
        target: index of the class that the edited picture should be: the exemplar's label, or, if it has none, what
            the untouched model says of the original picture.
        target_name: name of that class.
        original: what the untouched model says of the original picture.
        edited: what it says of the edited picture.
        after: what the edited model says of the edited picture.
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
        """Whether the untouched model is wrong of the edited picture."""
        return self.edited.index != self.target

    @property
    def is_misread(self) -> bool:
        """Whether the untouched model is wrong of the original picture already."""
        return self.original.index != self.target

    @property
    def verdict(self) -> Literal["repaired", "nearer", "wrong", "broken", "right"]:
        """What became of the edited picture; "nearer": it is no longer what it was called, and likelier what it is."""
        if self.after.index == self.target:
            return "repaired" if self.shows_failure else "right"
        if not self.shows_failure:
            return "broken"
        is_nearer = self.after.index != self.edited.index and self.after.of_target > self.edited.of_target
        return "nearer" if is_nearer and not self.is_misread else "wrong"

    def to_json(self) -> dict[str, Any]:
        """What is said of the exemplar, as JSON."""
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
    """What an edit does for its own exemplars.

    It repairs if more of them are repaired than broken. It changes something if one that fails is no longer called what
    it was, and likelier what it is. It is useless if they show failures and it does neither, if it breaks as many as it
    repairs, or if it does not change what the model says. Where no exemplar shows a failure and something changed, they
    cannot tell.

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
    """What a model says of an edit's own exemplars.

    Attributes:
        outcomes: one for each exemplar; none if it was not looked at, or if they have no edited pictures.
    """

    outcomes: tuple[ExemplarOutcome, ...] = field(default=())

    @property
    def verdict(self) -> Usefulness:
        """What the edit does for its own exemplars, in a word."""
        return usefulness(self.outcomes)

    @property
    def why(self) -> str:
        """The verdict in a sentence; what to do, too, unless the edit repairs."""
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
        """What is said of each exemplar, and the verdict, for people."""
        rows = [
            [each.exemplar, each.target_name, each.original, each.edited, each.after, _told(each)]
            for each in self.outcomes
        ]
        header = ["exemplar", "should be", "original", "edited", "after the edit", ""]
        return "\n".join([*([Table(header, rows).to_text()] if rows else []), self.why])

    def to_json(self) -> list[dict[str, Any]]:
        """What is said of each exemplar, as JSON."""
        return [{"name": each.exemplar, **each.to_json()} for each in self.outcomes]

    @classmethod
    def from_provenance(cls, provenance: Mapping[str, Any]) -> Self:
        """Read what stands in the provenance of an edit."""
        told = [each for each in provenance.get("exemplars") or () if "said" in each]
        return cls(tuple(ExemplarOutcome.from_json(each["name"], each["said"]) for each in told))

    def within(self, provenance: Mapping[str, Any]) -> dict[str, Any]:
        """An edit's provenance with what is said of its exemplars, in their order.

        Args:
            provenance: it names the exemplars.
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
            "the exemplars show no failure: the model is right of every edited picture, before the edit and after it "
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
                f"the model is wrong of the original picture of {other.exemplar} already ({other.original}, not "
                f"{other.target_name}): check its label, or take a picture that the model gets right"
            )
        return (
            f"the edit repairs 0 of {plural(len(wrong), 'failing exemplar')} ({one.exemplar} is {one.target_name}, "
            f"called {one.edited} before and {one.after} after); {advice}"
        )


def _told(outcome: ExemplarOutcome) -> str:
    told = WORDS[outcome.verdict]
    return f"{told}; the original is misread" if outcome.is_misread else told
