"""Result of a discovery: the rules of each model, as text and as JSON, and exemplars for editing them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rulepatch.concepts.cases import CaseSet, Counterfactual
from rulepatch.discovery.concept_effects import EVERY_CLASS, ConceptEffect, Difference
from rulepatch.evaluation.outcomes import Predictions
from rulepatch.text import Table, percent, points

__all__ = ["BeforeAndAfter", "Discovery", "Finding"]

EXEMPLARS = 3
"""Exemplars that are written for each rule."""

BeforeAndAfter = tuple[Predictions, Predictions]


@dataclass(frozen=True, eq=False)
class Finding:
    """Findings for one model.

    Attributes:
        model: its name.
        digest: of its weights.
        classes: names of its classes.
        effects: every row that was tested.
        rules: the rows that count as rules, the largest drop first.
        predictions: on the image that each counterfactual was made of, and on the counterfactual itself.
        labels: class of each counterfactual, (n,).
    """

    model: str
    digest: str
    classes: Any = field(repr=False)
    effects: tuple[ConceptEffect, ...] = field(repr=False)
    rules: tuple[ConceptEffect, ...]
    predictions: BeforeAndAfter = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def examples(self, cases: CaseSet, rule: ConceptEffect, members: Sequence[str] | None) -> Iterator[int]:
        """Example counterfactuals of a rule: right before and wrong after, the largest change first.

        Args:
            cases: the case set.
            rule: one of the rows.
            members: classes of the rule, if it is about a group.

        Yields:
            Index of a counterfactual, each of another image.
        """
        before, after = self.predictions
        broken = (before.predicted == self.labels) & (after.predicted != self.labels)
        sure = np.minimum(before.of_label, after.confidence)
        shown: set[str] = set()
        for index in np.argsort(-sure, kind="stable").tolist():
            each = cases.counterfactuals[index]
            of_rule = rule.concept == each.concept and rule.style in {None, each.style}
            label = self.classes[int(self.labels[index])]
            mine = rule.label == EVERY_CLASS or (label == rule.label if members is None else label in members)
            if broken[index] and of_rule and mine and each.picture not in shown:
                shown.add(each.picture)
                yield index


@dataclass(frozen=True, eq=False)
class Discovery:
    """Result of a discovery for one or more models on the same cases.

    Attributes:
        cases: the case set.
        findings: of each model.
        level: of the false-discovery rate that rules keep to, 0..1.
        least_drop: accuracy that a rule must cost at least, 0..1.
        groups: names of classes by the name of a group.
        compared: for two models, where they differ.
    """

    cases: CaseSet
    findings: tuple[Finding, ...]
    level: float
    least_drop: float
    groups: Mapping[str, Sequence[str]]
    compared: tuple[Difference, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All rows, as JSON."""
        return {
            "cases": str(self.cases.root),
            "counterfactuals": len(self.cases),
            "level": self.level,
            "least_drop": self.least_drop,
            "groups": {name: list(labels) for name, labels in self.groups.items()},
            "models": [
                {
                    "model": each.model,
                    "digest": each.digest,
                    "tested": len(each.effects),
                    "rules": [rule.to_json() for rule in each.rules],
                    "dependences": [row.to_json() for row in each.effects],
                }
                for each in self.findings
            ],
            "differences": [each.to_json() for each in self.compared],
        }

    def to_text(self) -> str:
        """The rules of each model, as text."""
        parts = []
        for each in self.findings:
            rows = [
                [rule.label, rule.concept, rule.style or "any style", rule.n, percent(rule.before), percent(rule.after),
                 points(-rule.drop), f"{rule.q:.2g}"]
                for rule in each.rules[:20]
            ]  # fmt: skip
            head = (
                f"{each.model}: {len(each.rules)} rules of {len(each.effects)} rows tested, false discoveries "
                f"at most {percent(self.level)}, accuracy lost at least {percent(self.least_drop)}"
            )
            header = ["class", "concept", "style", "images", "before", "after", "change", "q"]
            parts.append(head + (f"\n{Table(header, rows).to_text()}" if rows else ""))
        return "\n\n".join(parts)

    def exemplars(self, finding: Finding, rule: ConceptEffect) -> list[Counterfactual]:
        """The counterfactuals to edit a rule with: of the style's first image where there are any.

        Args:
            finding: of a model.
            rule: one of its rules.

        Returns:
            At most `EXEMPLARS` of them, all of one style.
        """
        examples = finding.examples(self.cases, rule, self.groups.get(rule.label))
        found = [self.cases.counterfactuals[index] for index in examples]
        if not found:
            return []
        style = rule.style or max(sorted({each.style for each in found}), key=[e.style for e in found].count)
        own = [each for each in found if each.style == style]
        return sorted(own, key=lambda each: each.index)[:EXEMPLARS]
