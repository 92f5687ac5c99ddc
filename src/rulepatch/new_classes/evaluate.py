"""Evaluation of a new class: discrimination by its logit, and accuracy lost on the other classes (thesis 4.1.4)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rulepatch.core.edit import Edit
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.data.stream import ImageStream
from rulepatch.errors import FolderError, SettingError
from rulepatch.evaluation import metrics
from rulepatch.models.classifier import Classifier
from rulepatch.text import Table, percent, plural
from rulepatch.tracing import capture

__all__ = ["NewClassEvaluation", "evaluate_new_class", "evaluate_new_classes"]


@dataclass(frozen=True, eq=False)
class NewClassEvaluation:
    """Predictions of a model with a new class for n images.

    Attributes:
        name: of the class.
        label: its index.
        labels: of the images, (n,).
        logits: of the new class, (n,).
        rivals: largest logit of the other classes, (n,).
        before: predictions without the class, (n,); predictions with it differ only where it wins.
    """

    name: str
    label: int
    labels: NDArray[np.int64] = field(repr=False)
    logits: NDArray[np.float64] = field(repr=False)
    rivals: NDArray[np.float64] = field(repr=False)
    before: NDArray[np.int64] = field(repr=False)

    @property
    def shows(self) -> NDArray[np.bool_]:
        """Which images show the class, (n,)."""
        return self.labels == self.label

    @property
    def taken(self) -> NDArray[np.bool_]:
        """Which images are predicted as the class, (n,)."""
        return self.logits > self.rivals

    @cached_property
    def roc(self) -> metrics.Roc | None:
        """Class-balanced ROC curve of its logit (thesis 4.1.4); None without positives or without negatives."""
        return metrics.roc(self.logits, self.shows, metrics.balanced_weights(self.labels))

    @cached_property
    def roc_of_margin(self) -> metrics.Roc | None:
        """ROC curve of its logit minus the largest other logit, the margin of the prediction."""
        return metrics.roc(self.logits - self.rivals, self.shows, metrics.balanced_weights(self.labels))

    @property
    def recognised(self) -> float | None:
        """Recall of the class, 0..1; None without its images."""
        return float(self.taken[self.shows].mean()) if self.shows.any() else None

    @property
    def drop(self) -> float | None:
        """Accuracy lost on images of the other classes, 0..1; None without any."""
        others = ~self.shows
        return float((self.taken & (self.before == self.labels))[others].mean()) if others.any() else None

    @property
    def flips(self) -> float | None:
        """Share of the other classes' predictions that changed, 0..1; None without any."""
        return float(self.taken[~self.shows].mean()) if (~self.shows).any() else None

    def to_json(self, *, false_positives: float = 0.01) -> dict[str, Any]:
        """The numbers, as JSON; shares in 0..1, None where not defined.

        Args:
            false_positives: false positive rate at which the true positive rate is reported.
        """
        curves = {"logit": self.roc, "margin": self.roc_of_margin}
        return {
            "class": self.name,
            "pictures": int(self.shows.sum()),
            "others": int((~self.shows).sum()),
            "auc": {name: None if curve is None else curve.area for name, curve in curves.items()},
            "true_positives": {
                name: None if curve is None else curve.true_positives_at(false_positives)
                for name, curve in curves.items()
            },
            "false_positives": false_positives,
            "recognised": self.recognised,
            "recognised_interval": metrics.wilson(int((self.taken & self.shows).sum()), int(self.shows.sum())),
            "drop": self.drop,
            "flips": self.flips,
        }

    def to_text(self) -> str:
        """The numbers, for people."""
        told = self.to_json()
        rows = [
            [
                f"by its {name}",
                "n/a" if told["auc"][name] is None else f"{told['auc'][name]:.3f}",
                percent(told["true_positives"][name]),
            ]
            for name in ("logit", "margin")
        ]
        curves = Table([self.name, "area under the curve", "true positives at 1 % false ones"], rows).to_text()
        return (
            f"{curves}\nrecognised {percent(self.recognised)} of {told['pictures']}; the others lost "
            f"{percent(self.drop)} of accuracy, {percent(self.flips)} of {told['others']} predictions changed"
        )


def evaluate_new_class(
    model: Classifier,
    edit: Edit,
    *,
    positives: Any,
    others: Any,
    any_base: bool = False,
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> NewClassEvaluation:
    """Evaluate a new class on images of it and of all other classes, in one pass.

    Args:
        model: the classifier; it is edited temporarily and restored.
        edit: it adds one class.
        positives: images of the class, whatever their labels.
        others: labelled images of the other classes.
        any_base: accept another base than the one that the edit was computed on.
        run: progress.
        settings: single settings of `run` by name, in place of its own.

    Raises:
        BaseMismatchError: the model is not the edit's base.
        FolderError: images are missing, or those of the other classes have no labels.
        SettingError: the edit does not add one class.
    """
    (found,) = evaluate_new_classes(
        model, [edit], positives=positives, others=others, any_base=any_base, run=run, **settings
    )
    return found


def evaluate_new_classes(
    model: Classifier,
    edits: Sequence[Edit],
    *,
    positives: Any,
    others: Any,
    any_base: bool = False,
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> list[NewClassEvaluation]:
    """Evaluate several edits that add the same class, independently and in one pass.

    Args:
        model: as for `evaluate_new_class`.
        edits: each adds one class and does nothing else.
        positives: as for `evaluate_new_class`.
        others: as for `evaluate_new_class`.
        any_base: as for `evaluate_new_class`.
        run: as for `evaluate_new_class`.
        settings: as for `evaluate_new_class`.

    Raises:
        BaseMismatchError: the model is not the edits' base.
        FolderError: images are missing, or those of the other classes have no labels.
        SettingError: an edit does not add one class, or does more.
    """
    run = run.but(**settings)
    for edit in edits:
        if len(edit.new_classes) != 1 or len(edit.changes) != 1:
            raise SettingError(
                f"expected an edit that adds one class but got one of {plural(len(edit.changes), 'change')} that adds "
                f"{len(edit.new_classes)}; evaluate it by `evaluate`"
            )
    negatives = ImageSet.of(others, model.classes)
    if not negatives.is_labelled:
        raise FolderError(
            f"expected images of the other classes in a folder for each but {negatives.name} has some without; "
            "name the folders by class"
        )
    label = len(model.classes)
    labels: list[int] = []
    logits: list[torch.Tensor] = []
    together = Edit.compose(*edits)
    known = model.with_module(model.module, edits[0].new_classes).classes
    with together.applied(model, any_base=any_base) as extended, capture.inference(model.module):
        for images, own in ((ImageSet.of(positives, known), label), (negatives, None)):
            for batch in ImageStream.of(model, images, images.name, progress=run.progress):
                labels += [picture.label if own is None else own for picture in batch.pictures]  # type: ignore[misc]
                logits.append(extended.logits(model.inputs(batch.pixels)).cpu().double())
    said = torch.cat(logits)
    best = said[:, :label].max(dim=1)
    shown = np.array(labels, np.int64)
    return [
        NewClassEvaluation(
            edit.new_classes[0], label, shown, said[:, label + i].numpy(), best.values.numpy(), best.indices.numpy()
        )
        for i, edit in enumerate(edits)
    ]
