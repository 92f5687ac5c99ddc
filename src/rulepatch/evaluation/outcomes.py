"""Predictions on an image set before and after an edit: arrays, and counts derived from them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rulepatch.data.folders import Picture
from rulepatch.errors import ModelError
from rulepatch.evaluation import metrics
from rulepatch.models.classes import Classes
from rulepatch.text import brief, percent, plural, quoted

__all__ = ["ClassImpact", "Outcome", "Outcomes", "Predictions", "Verdict"]

NO_LABEL = -1

Verdict = Literal["repaired", "broken", "changed", "right", "wrong", "same"]
"""Outcome of an edit for an image."""

SMALLEST_PROBABILITY = 1e-4
"""Lower clip of probabilities, so that no single image dominates a mean of logarithms."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of a model for n images, without the logits.

    Attributes:
        predicted: predicted class of each image, (n,).
        confidence: probability of the predicted class, (n,), 0..1.
        of_label: probability of the image's own label, (n,), 0..1; NaN where it has none.
        watched: probabilities of selected classes, (n, k).
    """

    predicted: NDArray[np.int64] = field(repr=False)
    confidence: NDArray[np.float32] = field(repr=False)
    of_label: NDArray[np.float32] = field(repr=False)
    watched: NDArray[np.float32] = field(repr=False)

    @classmethod
    def of(cls, logits: Tensor, labels: Sequence[int | None], watched: Sequence[int] = ()) -> Self:
        """Predictions from logits.

        Args:
            logits: (n, classes).
            labels: of the n images.
            watched: classes whose probability is kept for every image.
        """
        probabilities = logits.softmax(dim=1).float().cpu()
        confidence, predicted = probabilities.max(dim=1)
        known = torch.tensor([NO_LABEL if label is None else label for label in labels])
        there = known < probabilities.shape[1]  # labels of a class that is not added yet
        own = probabilities.gather(1, (known * there).clamp(min=0)[:, None])[:, 0] * there
        own = own.where(known != NO_LABEL, torch.nan)
        return cls(predicted.numpy(), confidence.numpy(), own.numpy(), probabilities[:, list(watched)].numpy())

    @classmethod
    def join(cls, pieces: "Sequence[Predictions]") -> Self:
        """Concatenate predictions of several batches.

        Returns:
            All predictions, of at least one batch.
        """
        return cls(
            *(
                np.concatenate([getattr(piece, name) for piece in pieces])
                for name in ("predicted", "confidence", "of_label", "watched")
            )
        )

    def at(self, where: NDArray[Any]) -> Self:
        """Predictions of a subset of images.

        Args:
            where: indices, or a boolean for each image.
        """
        return type(self)(self.predicted[where], self.confidence[where], self.of_label[where], self.watched[where])


@dataclass(frozen=True)
class Outcome:
    """Predictions for one image before and after an edit.

    Attributes:
        picture: the image with its label.
        before: class predicted before.
        after: class predicted after.
        confidence: of these two predictions, 0..1.
    """

    picture: Picture
    before: int
    after: int
    confidence: tuple[float, float]

    @property
    def is_flip(self) -> bool:
        """Whether the prediction changed."""
        return self.before != self.after

    @property
    def is_repaired(self) -> bool:
        """Whether the prediction was wrong and is right."""
        return self.is_flip and self.after == self.picture.label

    @property
    def is_broken(self) -> bool:
        """Whether the prediction was right and is wrong."""
        return self.is_flip and self.before == self.picture.label

    @property
    def verdict(self) -> Verdict:
        """The outcome; "same" or "changed" if the label is unknown."""
        if self.is_broken or self.is_repaired:
            return "broken" if self.is_broken else "repaired"
        if self.is_flip or self.picture.label is None:
            return "changed" if self.is_flip else "same"
        return "right" if self.after == self.picture.label else "wrong"


@dataclass(frozen=True)
class ClassImpact:
    """Effect of an edit on one class.

    Attributes:
        label: the class.
        n: images of it.
        right: number of correct predictions before and after.
        repaired: number of wrong predictions that became right.
        broken: number of right predictions that became wrong.
        flipped: number of changed predictions.
        confidence: mean probability of the class on its own images before and after, 0..1.
        predicted_count: number of images of all classes that were predicted as it before and after.
    """

    label: int
    n: int
    right: tuple[int, int]
    repaired: int
    broken: int
    flipped: int
    confidence: tuple[float, float]
    predicted_count: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """Predictions on an image set before and after an edit.

    Attributes:
        name: of the set.
        pictures: those that could be read.
        first: predictions before.
        second: predictions after.
        skipped: names of the images that could not be read.
        inputs: digest of the model's input for each image; empty if not computed.
        doubt: reason to doubt the labels, if any.
    """

    name: str
    pictures: tuple[Picture, ...]
    first: Predictions
    second: Predictions
    skipped: tuple[str, ...] = ()
    inputs: tuple[str, ...] = field(default=(), repr=False)
    doubt: str | None = None

    def __post_init__(self) -> None:
        """Refuse a network that says nothing of an image: no number of what an edit did would mean anything.

        Raises:
            ModelError: its logits are not finite before the edit.
        """
        if not np.isfinite(self.first.confidence).all():
            raise ModelError(
                f"expected finite logits but the network gives NaN or infinity for images of {self.name}, so that it "
                "predicts nothing; check its weights, its preprocessing and its type"
            )

    def __repr__(self) -> str:
        return brief("Outcomes", self.told(), quoted(self.name, most=60))

    def told(self) -> str:
        """Short summary of the outcomes."""
        if not self.is_labelled:
            return f"{plural(len(self.flips), 'flip')} of {len(self)}"
        right = f"{percent(self.before)} → {percent(self.after)} right of {len(self)}"
        return f"{right}, {plural(len(self.flips), 'flip')}"

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Outcome:
        confidence = (float(self.first.confidence[index]), float(self.second.confidence[index]))
        before, after = int(self.first.predicted[index]), int(self.second.predicted[index])
        return Outcome(self.pictures[index], before, after, confidence)

    def __iter__(self) -> Iterator[Outcome]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Label of each image, (n,); −1 where there is none."""
        return np.array([NO_LABEL if picture.label is None else picture.label for picture in self.pictures], np.int64)

    @property
    def is_labelled(self) -> bool:
        """Whether every image has a label."""
        return bool((self.labels != NO_LABEL).all())

    @property
    def before(self) -> float | None:
        """Accuracy before, 0..1; None without labels."""
        return float(self.right_before.mean()) if self.is_labelled else None

    @property
    def after(self) -> float | None:
        """Accuracy after, 0..1; None without labels."""
        return float(self.right_after.mean()) if self.is_labelled else None

    @property
    def right_before(self) -> NDArray[np.bool_]:
        """Which images were right before, (n,)."""
        return self.first.predicted == self.labels

    @property
    def right_after(self) -> NDArray[np.bool_]:
        """Which images are right after, (n,)."""
        return self.second.predicted == self.labels

    @property
    def repaired(self) -> NDArray[np.int64]:
        """Indices of the images that were wrong and are right."""
        return np.flatnonzero(~self.right_before & self.right_after)

    @property
    def broken(self) -> NDArray[np.int64]:
        """Indices of the images that were right and are wrong."""
        return np.flatnonzero(self.right_before & ~self.right_after)

    @property
    def flips(self) -> NDArray[np.int64]:
        """Indices of the images whose prediction changed."""
        return np.flatnonzero(self.first.predicted != self.second.predicted)

    @property
    def is_judged_by_flips(self) -> bool:
        """Whether damage is measured by changed predictions, because labels are missing or doubtful."""
        return not self.is_labelled or self.doubt is not None

    @property
    def drop(self) -> float:
        """Accuracy lost, −1..1; without labels the share of predictions that changed, which it cannot exceed."""
        if not self.is_judged_by_flips:
            return (len(self.broken) - len(self.repaired)) / len(self)
        return len(self.flips) / len(self)

    @property
    def log_prob_gain(self) -> NDArray[np.float32]:
        """Gain in log-probability of each image's label, (n,); NaN where it has none."""
        first, second = (np.log(np.maximum(each.of_label, SMALLEST_PROBABILITY)) for each in (self.first, self.second))
        return second - first

    @property
    def lost_interval(self) -> tuple[float, float] | None:
        """95 % interval of the accuracy lost, −1..1; None if no image was repaired or broken."""
        ends = metrics.paired_bootstrap(len(self.repaired), len(self.broken), len(self))
        return None if ends is None else (-ends[1], -ends[0])

    @property
    def shift(self) -> float | None:
        """Mean change of the probability of each image's label, up or down, 0..1; None without labels.

        It tells flips on other images better than flips do: every image counts, not only those on the edge.
        """
        if self.is_judged_by_flips:
            return None
        return float(np.abs(self.second.of_label - self.first.of_label).mean())

    def where(self, chosen: NDArray[np.bool_]) -> "Outcomes":
        """The outcomes of a subset of images.

        Args:
            chosen: mask of the images, (n,).
        """
        pictures = tuple(self.pictures[index] for index in np.flatnonzero(chosen))
        return Outcomes(self.name, pictures, self.first.at(chosen), self.second.at(chosen))

    def by_class(self) -> "dict[int, Outcomes]":
        """The outcomes of each class.

        Returns:
            For each label, in order, its own outcomes; empty without labels.
        """
        return {int(label): self.where(self.labels == label) for label in np.unique(self.labels) if label != NO_LABEL}

    def class_impacts(self) -> list[ClassImpact]:
        """Effect of the edit on each class, sorted by lost images, then by lost confidence.

        Returns:
            One for each class that has images; empty without labels.
        """
        drawn = [Counter(each.predicted.tolist()) for each in (self.first, self.second)]
        found = [
            ClassImpact(
                label,
                len(own),
                (int(own.right_before.sum()), int(own.right_after.sum())),
                len(own.repaired),
                len(own.broken),
                len(own.flips),
                (float(own.first.of_label.mean()), float(own.second.of_label.mean())),
                (drawn[0][label], drawn[1][label]),
            )
            for label, own in self.by_class().items()
        ]
        return sorted(found, key=lambda e: (e.right[1] - e.right[0], e.confidence[1] - e.confidence[0]))

    def numbers(self) -> dict[str, Any]:
        """Summary counts, as JSON; accuracies, shares and intervals in 0..1, None where not defined."""
        repaired, broken, n = len(self.repaired), len(self.broken), len(self)
        counted = {
            "n": n,
            "before": self.before,
            "after": self.after,
            "repaired": repaired,
            "broken": broken,
            "flips": len(self.flips) / n,
            "flipped": len(self.flips),
        }
        if not self.is_labelled:
            return {**counted, "intervals": None, "mcnemar_p": None, "calibration_error": None}
        intervals = {
            "before": metrics.wilson(int(self.right_before.sum()), n),
            "after": metrics.wilson(int(self.right_after.sum()), n),
            "difference": metrics.paired_bootstrap(repaired, broken, n),
        }
        calibration_error = {
            "before": metrics.calibration_error(self.first.confidence, self.right_before),
            "after": metrics.calibration_error(self.second.confidence, self.right_after),
        }
        return {
            **counted,
            "intervals": {name: None if ends is None else list(ends) for name, ends in intervals.items()},
            "mcnemar_p": metrics.mcnemar(repaired, broken),
            "calibration_error": calibration_error,
        }

    def to_json(self, classes: Classes) -> dict[str, Any]:
        """Summary counts, counts of each class, and every flip, as JSON.

        Args:
            classes: their names.
        """
        by_class = {}
        names = self._names(classes)
        for impact in sorted(self.class_impacts(), key=lambda e: e.label):
            by_class[names[impact.label]] = {
                "n": impact.n,
                "before": impact.right[0] / impact.n,
                "after": impact.right[1] / impact.n,
                "repaired": impact.repaired,
                "broken": impact.broken,
                "flips": impact.flipped / impact.n,
                "flipped": impact.flipped,
                "confidence": list(impact.confidence),
                "drawn": list(impact.predicted_count),
            }
        return {
            **self.numbers(),
            "classes": by_class,
            "flip_list": [self._flip(int(index), classes) for index in self.flips],
            "skipped": list(self.skipped),
        }

    def to_json_before(self, classes: Classes) -> dict[str, Any]:
        """Counts of the model without the edit, and its confusions, as JSON.

        Args:
            classes: their names.
        """
        told, names = self.numbers(), self._names(classes)
        halves = {key: told[key] and {"before": told[key]["before"]} for key in ("intervals", "calibration_error")}
        by_class = {
            names[label]: {
                "n": len(own),
                "before": own.before,
                "confidence": [float(own.first.of_label.mean())],
                "drawn": [int((self.first.predicted == label).sum())],
            }
            for label, own in self.by_class().items()
        }
        confusions = [
            {"label": names[label], "predicted": classes[predicted], "n": count}
            for label, predicted, count in self.confusions()
        ]
        whole = {"n": len(self), "before": self.before, **halves}
        return {**whole, "classes": by_class, "confusions": confusions, "skipped": list(self.skipped)}

    def confusions(self) -> list[tuple[int, int, int]]:
        """Confusions of the model before the edit.

        Returns:
            (label, prediction, images), the most frequent first; empty without labels.
        """
        wrong = (self.labels != NO_LABEL) & ~self.right_before
        counts = Counter(zip(self.labels[wrong].tolist(), self.first.predicted[wrong].tolist(), strict=True))
        return [(label, predicted, count) for (label, predicted), count in counts.most_common()]

    def _names(self, classes: Classes) -> dict[int, str]:
        """A name for each label, with its index where several classes share their first name."""
        labels = self.by_class()
        often = Counter(classes[label] for label in labels)
        return {
            label: classes[label] if often[classes[label]] == 1 else f"{classes[label]} ({label})" for label in labels
        }

    def _flip(self, index: int, classes: Classes) -> dict[str, Any]:
        outcome = self[index]
        label = outcome.picture.label
        return {
            "picture": outcome.picture.name,
            "label": None if label is None else classes[label],
            "from": classes[outcome.before],
            "to": classes[outcome.after],
            "confidence": [round(each, 4) for each in outcome.confidence],
        }
