"""Discover rules: which concepts does each class of a model rely on? (paper 5)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rulepatch.concepts.cases import CaseSet, Exclusions
from rulepatch.core.edit import base_digest
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.run import Run
from rulepatch.discovery.concept_effects import PairedPredictions, concept_effects, differences
from rulepatch.discovery.result import BeforeAndAfter, Discovery, Finding
from rulepatch.errors import FolderError, SettingError
from rulepatch.evaluation.evaluate import predictions_of
from rulepatch.models.classifier import Classifier

__all__ = ["discover"]


def discover(
    models: Classifier | Sequence[Classifier],
    cases: CaseSet | Path | str,
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    exclude: Exclusions | None = None,
    level: float = 0.05,
    least_drop: float = 0.3,
    least: int = 5,
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Discovery:
    """Find the rules of one or more models: concepts whose replacement costs a class its accuracy (paper 5).

    Images without a label get the model's prediction as their label.

    Args:
        models: one, or several on the same images.
        cases: a case set, or its folder.
        groups: classes by the name of a group that is tested as one.
        exclude: for each concept the classes of which it is the object itself; they are left out.
        level: of the false-discovery rate, 0..1.
        least_drop: least drop in accuracy of a rule, 0..1; smaller drops may be due to an unfamiliar style.
        least: least number of images of a class or group.
        run: the seed of the intervals, and progress.
        settings: single settings of `run` by name, in place of its own.

    Raises:
        FolderError: no case set, none of its images is left, or a class that a model does not have.
        SettingError: no model, or a number out of range.
    """
    run = run.but(**settings)
    given = [models] if isinstance(models, Classifier) else list(models)
    if not given or not 0 < level < 1 or not 0 <= least_drop <= 1 or least < 1:
        raise SettingError(
            f"expected a model, a level and a least drop in 0..1 and at least 1 image but got {len(given)}, {level}, "
            f"{least_drop} and {least}; choose within"
        )
    known = (cases if isinstance(cases, CaseSet) else CaseSet.read(cases)).without(exclude or {})
    if not known.counterfactuals:
        raise FolderError(f"expected counterfactuals in {known.root} but there are none left; exclude fewer")
    own = {name: tuple(labels) for name, labels in (groups or {}).items()}
    findings = []
    for model in given:
        named = {name: [model.classes[model.classes.index(label)] for label in labels] for name, labels in own.items()}
        labels, predictions = _predict(model, known, progress=run.progress)
        seen = _seen(model, known, labels, predictions)
        rows = concept_effects(seen, groups=named, least=least, seed=run.seed)
        rules = [row for row in rows if row.q <= level and row.drop >= max(least_drop, 1e-9)]
        rules.sort(key=lambda row: (-row.drop, row.q))
        digest = base_digest(model.module)
        findings.append(Finding(model.name, digest, model.classes, tuple(rows), tuple(rules), predictions, labels))
    compared = differences(findings[0].effects, findings[1].effects) if len(findings) == 2 else []
    return Discovery(known, tuple(findings), level, least_drop, own, tuple(compared))


def _predict(model: Classifier, cases: CaseSet, *, progress: bool) -> tuple[np.ndarray, BeforeAndAfter]:
    """Labels of the counterfactuals, and predictions before and after; every image is run once."""
    originals, styled = (cases.images(model.classes, styled=each) for each in (False, True))
    by_source = {picture.source: picture for picture in originals.pictures}
    distinct = ImageSet(tuple(by_source.values()), originals.name)
    place = {source: i for i, source in enumerate(by_source)}
    where = np.array([place[picture.source] for picture in originals.pictures])
    before = predictions_of(model, distinct, progress="images" if progress else None).at(where)
    given = np.array([-1 if picture.label is None else picture.label for picture in originals.pictures])
    labels = np.where(given < 0, before.predicted, given)
    own = np.where(given < 0, before.confidence, before.of_label)
    pairs = zip(styled.pictures, labels.tolist(), strict=True)
    labelled = ImageSet(tuple(Picture(picture.source, label) for picture, label in pairs), styled.name)
    after = predictions_of(model, labelled, progress="counterfactuals" if progress else None)
    return labels, (replace(before, of_label=own), after)


def _seen(model: Classifier, cases: CaseSet, labels: np.ndarray, predictions: BeforeAndAfter) -> PairedPredictions:
    before, after = predictions
    return PairedPredictions(
        np.array([each.picture for each in cases]),
        np.array([model.classes[int(label)] for label in labels]),
        np.array([each.concept for each in cases]),
        np.array([each.style for each in cases]),
        (before.predicted == labels, after.predicted == labels),
        (before.of_label, after.of_label),
    )
