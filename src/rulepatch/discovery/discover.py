"""Discover rules: which concepts does each class of a model rely on? (paper 5)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rulepatch.concepts.cases import CaseSet, Counterfactual, Exclusions, plain_name
from rulepatch.core.edit import base_digest
from rulepatch.data.exemplar_folders import write_exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.discovery.concept_effects import EVERY_CLASS, Dependence, Difference, Seen, dependences, differences
from rulepatch.errors import FolderError, SettingError
from rulepatch.evaluation.evaluate import predictions_of
from rulepatch.evaluation.outcomes import Predictions
from rulepatch.files import atomic_path
from rulepatch.models.classifier import Classifier
from rulepatch.text import command_line, percent, points, table

__all__ = ["Discovery", "Finding", "discover"]

EXEMPLARS = 3
"""Exemplars that are written for each rule."""

WRITTEN = 20
"""Rules of each model that exemplars are written for."""

Before = tuple[Predictions, Predictions]


@dataclass(frozen=True, eq=False)
class Finding:
    """What was found of one model.

    Attributes:
        model: its name.
        digest: of its weights.
        classes: names of its classes.
        dependences: every row that was tested.
        rules: the rows that count as rules, the largest drop first.
        predictions: on the picture that each counterfactual was made of, and on the counterfactual itself.
        labels: class of each counterfactual, (n,).
    """

    model: str
    digest: str
    classes: Any = field(repr=False)
    dependences: tuple[Dependence, ...] = field(repr=False)
    rules: tuple[Dependence, ...]
    predictions: Before = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def examples(self, cases: CaseSet, rule: Dependence, members: Sequence[str] | None) -> Iterator[int]:
        """Counterfactuals that tell most of a rule: right before and wrong after, the surest change first.

        Args:
            cases: the case set.
            rule: one of the rows.
            members: classes of the rule, if it is about a group.

        Yields:
            Index of a counterfactual, each of another picture.
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
    """What was discovered of one or more models on the same cases.

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
                    "tested": len(each.dependences),
                    "rules": [rule.to_json() for rule in each.rules],
                    "dependences": [row.to_json() for row in each.dependences],
                }
                for each in self.findings
            ],
            "differences": [each.to_json() for each in self.compared],
        }

    def to_text(self) -> str:
        """The rules of each model, for people."""
        parts = []
        for each in self.findings:
            rows = [
                [rule.label, rule.concept, rule.style or "any style", rule.n, percent(rule.before), percent(rule.after),
                 points(-rule.drop), f"{rule.q:.2g}"]
                for rule in each.rules[:20]
            ]  # fmt: skip
            head = (
                f"{each.model}: {len(each.rules)} rules of {len(each.dependences)} rows tested, false discoveries "
                f"at most {percent(self.level)}, accuracy lost at least {percent(self.least_drop)}"
            )
            header = ["class", "concept", "style", "pictures", "before", "after", "change", "q"]
            parts.append(head + (f"\n{table(header, rows)}" if rows else ""))
        return "\n\n".join(parts)

    def to_html(self, path: Path | str) -> None:
        """Write the report, whole or not at all.

        Args:
            path: the file.

        Raises:
            OutputError: the folder does not exist, or the path is one.
        """
        from rulepatch.discovery.report import write_discovery_report

        write_discovery_report(self, Path(path))

    def write(
        self, out: Path, *, models: Sequence[str] | None = None, options: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Write `discovery.json`, `report.html`, and exemplars of the first rules as `rulepatch edit` takes them.

        Args:
            out: a folder; made if there is none.
            models: how a command line names the models; as they call themselves if None.
            options: of the commands, such as the reference set; that is the case set's own pictures if none is named.

        Returns:
            For each rule about which exemplars can be written, the command that edits it.
        """
        out.mkdir(parents=True, exist_ok=True)
        with atomic_path(out / "discovery.json") as unfinished:
            unfinished.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")
        self.to_html(out / "report.html")
        commands = []
        names = models or [finding.model for finding in self.findings]
        for model, finding in zip(names, self.findings, strict=True):
            for rule in finding.rules[:WRITTEN]:
                exemplars = self.exemplars(finding, rule)
                if not exemplars:
                    continue
                name = plain_name(" ".join([finding.model, rule.label, rule.concept, rule.style or "any style"]))
                for number, each in enumerate(exemplars):
                    write_exemplar(each.exemplar(), out / "rules" / name / f"exemplar_{number}")
                rule_file = out / "rules" / f"{name}.safetensors"
                given = {"reference": self.cases.root / "images", **(options or {}), "site": "auto", "out": rule_file}
                commands.append(command_line("edit", {"model": model, "exemplar": out / "rules" / name, **given}))
        return commands

    def exemplars(self, finding: Finding, rule: Dependence) -> list[Counterfactual]:
        """The counterfactuals to edit a rule with: of the style's first picture where there are any.

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


def discover(
    models: Classifier | Sequence[Classifier],
    cases: CaseSet | Path | str,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    exclude: Exclusions | None = None,
    level: float = 0.05,
    least_drop: float = 0.3,
    least: int = 5,
    seed: int = 0,
    progress: bool = True,
) -> Discovery:
    """Find the rules of one or more models: concepts whose replacement costs a class its accuracy (paper 5).

    A picture without a label has the one that the model gives it as it is.

    Args:
        models: one, or several on the same pictures.
        cases: a case set, or its folder.
        groups: classes by the name of a group that is tested as one.
        exclude: for each concept the classes of which it is no part but the thing itself.
        level: of the false-discovery rate, 0..1.
        least_drop: accuracy that a rule must cost at least, 0..1; below, a network may just not know the style.
        least: pictures of a class or group from which on it is tested.
        seed: of the intervals.
        progress: whether to show bars.

    Raises:
        FolderError: no case set, none of its pictures is left, or a class that a model does not have.
        SettingError: no model, or a number out of range.
    """
    given = [models] if isinstance(models, Classifier) else list(models)
    if not given or not 0 < level < 1 or not 0 <= least_drop <= 1 or least < 1:
        raise SettingError(
            f"expected a model, a level and a least drop in 0..1 and at least 1 picture but got {len(given)}, {level}, "
            f"{least_drop} and {least}; choose within"
        )
    known = (cases if isinstance(cases, CaseSet) else CaseSet.read(cases)).without(exclude or {})
    if not known.counterfactuals:
        raise FolderError(f"expected counterfactuals in {known.root} but there are none left; exclude fewer")
    own = {name: tuple(labels) for name, labels in (groups or {}).items()}
    findings = []
    for model in given:
        named = {name: [model.classes[model.classes.index(label)] for label in labels] for name, labels in own.items()}
        labels, predictions = _predict(model, known, progress=progress)
        seen = _seen(model, known, labels, predictions)
        rows = dependences(seen, groups=named, least=least, seed=seed)
        rules = [row for row in rows if row.q <= level and row.drop >= max(least_drop, 1e-9)]
        rules.sort(key=lambda row: (-row.drop, row.q))
        digest = base_digest(model.module)
        findings.append(Finding(model.name, digest, model.classes, tuple(rows), tuple(rules), predictions, labels))
    compared = differences(findings[0].dependences, findings[1].dependences) if len(findings) == 2 else []
    return Discovery(known, tuple(findings), level, least_drop, own, tuple(compared))


def _predict(model: Classifier, cases: CaseSet, *, progress: bool) -> tuple[np.ndarray, Before]:
    """Labels of the counterfactuals, and what a model says before and after; every picture is looked at once."""
    originals, styled = (cases.images(model.classes, styled=each) for each in (False, True))
    by_source = {picture.source: picture for picture in originals.pictures}
    distinct = ImageSet(tuple(by_source.values()), originals.name)
    place = {source: i for i, source in enumerate(by_source)}
    where = np.array([place[picture.source] for picture in originals.pictures])
    before = predictions_of(model, distinct, progress="pictures" if progress else None).at(where)
    given = np.array([-1 if picture.label is None else picture.label for picture in originals.pictures])
    labels = np.where(given < 0, before.predicted, given)
    own = np.where(given < 0, before.confidence, before.of_label)
    pairs = zip(styled.pictures, labels.tolist(), strict=True)
    labelled = ImageSet(tuple(Picture(picture.source, label) for picture, label in pairs), styled.name)
    after = predictions_of(model, labelled, progress="counterfactuals" if progress else None)
    return labels, (replace(before, of_label=own), after)


def _seen(model: Classifier, cases: CaseSet, labels: np.ndarray, predictions: Before) -> Seen:
    before, after = predictions
    return Seen(
        np.array([each.picture for each in cases]),
        np.array([model.classes[int(label)] for label in labels]),
        np.array([each.concept for each in cases]),
        np.array([each.style for each in cases]),
        (before.predicted == labels, after.predicted == labels),
        (before.of_label, after.of_label),
    )
