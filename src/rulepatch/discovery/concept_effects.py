"""Effects of concepts on classes: statistics of predictions before and after a concept is replaced (paper 5).

Axes: n counterfactuals, m images of a row. The images are the independent units: predictions for several
counterfactuals of one image are averaged first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rulepatch.evaluation.metrics import false_discovery_rates, mcnemar

__all__ = [
    "EVERY_CLASS",
    "ConceptEffect",
    "Difference",
    "PairedPredictions",
    "bootstrap_mean",
    "concept_effects",
    "differences",
]

EVERY_CLASS = "all classes"
"""Label of what is told of all classes together."""

RESAMPLES = 1000


@dataclass(frozen=True)
class PairedPredictions:
    """Predictions for n counterfactuals and for the original image of each.

    Attributes:
        pictures: name of the original image, (n,).
        labels: name of its class, (n,).
        concepts: the replaced concept, (n,).
        styles: the style that replaced it, (n,).
        right: whether the prediction is right before and after, two of (n,).
        confidence: probability of its class before and after, two of (n,), 0..1.
    """

    pictures: NDArray[np.str_]
    labels: NDArray[np.str_]
    concepts: NDArray[np.str_]
    styles: NDArray[np.str_]
    right: tuple[NDArray[np.bool_], NDArray[np.bool_]]
    confidence: tuple[NDArray[np.float32], NDArray[np.float32]]

    def where(self, chosen: NDArray[np.bool_]) -> "PairedPredictions":
        """Some of the counterfactuals."""
        return PairedPredictions(
            self.pictures[chosen],
            self.labels[chosen],
            self.concepts[chosen],
            self.styles[chosen],
            (self.right[0][chosen], self.right[1][chosen]),
            (self.confidence[0][chosen], self.confidence[1][chosen]),
        )


@dataclass(frozen=True)
class ConceptEffect:
    """Effect of replacing a concept by a style on the images of a class.

    Attributes:
        label: name of the class, of a group of them, or `EVERY_CLASS`.
        concept: what was replaced.
        style: what by; None for all styles together.
        n: images.
        before: accuracy on the original images, 0..1.
        after: accuracy with the concept replaced, 0..1, with equal weight of every image.
        drop: before − after.
        interval: its 95 % interval, by resampling images.
        broken: number of images with lower accuracy after.
        repaired: number of images with higher accuracy after.
        confidence: mean change of the class's probability, −1..1.
        confidence_interval: its 95 % interval.
        p: of the sign test (exact McNemar) of broken against repaired.
        p_confidence: of the sign test of falling against rising confidence.
        q: share of false findings to expect among tests at least as significant as this one.
        changes: mean change in accuracy of each image, by name, −1..1.
    """

    label: str
    concept: str
    style: str | None
    n: int
    before: float
    after: float
    drop: float
    interval: tuple[float, float]
    broken: int
    repaired: int
    confidence: float
    confidence_interval: tuple[float, float]
    p: float
    p_confidence: float
    q: float = 1.0
    changes: Mapping[str, float] = field(default_factory=dict, repr=False, compare=False)

    @property
    def key(self) -> tuple[str, str, str | None]:
        """Class, concept and style."""
        return self.label, self.concept, self.style

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return {key: value for key, value in vars(self).items() if key != "changes"}


@dataclass(frozen=True)
class Difference:
    """Difference of two models in the effect of a concept on the same images.

    Attributes:
        label: name of the class, of a group of them, or `EVERY_CLASS`.
        concept: what was replaced.
        style: what by; None for all styles together.
        n: images.
        drops: of the two models.
        interval: 95 % interval of the second drop minus the first, by resampling images.
        p: p-value of the sign test between the models over images.
        q: share of false findings to expect among tests at least as significant as this one.
    """

    label: str
    concept: str
    style: str | None
    n: int
    drops: tuple[float, float]
    interval: tuple[float, float]
    p: float
    q: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON."""
        return dict(vars(self))


def concept_effects(
    seen: PairedPredictions, *, groups: Mapping[str, Sequence[str]] | None = None, least: int = 5, seed: int = 0
) -> list[ConceptEffect]:
    """Test every class × concept × style, every class × concept over all styles, and the same for groups of classes.

    False discoveries are controlled within each of these four families.

    Args:
        seen: paired predictions.
        groups: names of classes by the name of a group; all classes are a group.
        least: least number of images of a row.
        seed: of the intervals.

    Returns:
        The rows: by class or group, concept and style.
    """
    rng = np.random.default_rng(seed)
    named = {EVERY_CLASS: seen}
    named |= {name: seen.where(np.isin(seen.labels, list(labels))) for name, labels in (groups or {}).items()}
    of_class = {str(label): seen.where(seen.labels == label) for label in sorted(set(seen.labels.tolist()))}
    found: list[ConceptEffect] = []
    for members in (named, of_class):
        for styles in (sorted(set(seen.styles.tolist())), [None]):
            family = [
                row
                for label, part in members.items()
                for concept in sorted(set(part.concepts.tolist()))
                for style in styles
                if (row := _row(part, (label, concept, style), least, rng)) is not None
            ]
            rates = false_discovery_rates([row.p for row in family])
            found += [replace(row, q=float(rate)) for row, rate in zip(family, rates, strict=True)]
    return found


def _row(
    seen: PairedPredictions, key: tuple[str, str, str | None], least: int, rng: np.random.Generator
) -> ConceptEffect | None:
    label, concept, style = key
    where = seen.concepts == concept
    if style is not None:
        where &= seen.styles == style
    names, which = np.unique(seen.pictures[where], return_inverse=True)
    if len(names) < least:
        return None
    counts = np.bincount(which)

    def by_picture(values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(which, values[where].astype(np.float64)) / counts

    before, after = (by_picture(right) for right in seen.right)
    change = after - before
    sure = by_picture(seen.confidence[1]) - by_picture(seen.confidence[0])
    (low, high), of_confidence = bootstrap_mean(-change, rng), bootstrap_mean(sure, rng)
    broken, repaired = int((change < 0).sum()), int((change > 0).sum())
    return ConceptEffect(
        label, concept, style, len(names), float(before.mean()), float(after.mean()), float(-change.mean()),
        (low, high), broken, repaired, float(sure.mean()), of_confidence,
        mcnemar(repaired, broken), mcnemar(int((sure > 0).sum()), int((sure < 0).sum())),
        changes=dict(zip(names.tolist(), change.tolist(), strict=True)),
    )  # fmt: skip


def differences(first: Sequence[ConceptEffect], second: Sequence[ConceptEffect], *, seed: int = 0) -> list[Difference]:
    """Compare two models row by row, on the images that both have.

    Args:
        first: rows of one model.
        second: rows of the other.
        seed: of the intervals.

    Returns:
        A row for each common key, with false discoveries controlled over all of them; the most significant first.
    """
    rng = np.random.default_rng(seed)
    others = {row.key: row for row in second}
    found = []
    for row in first:
        other = others.get(row.key)
        shared = [] if other is None else [name for name in row.changes if name in other.changes]
        if other is None or not shared:
            continue
        one, two = (np.array([-each.changes[name] for name in shared]) for each in (row, other))
        more, less = int((two > one).sum()), int((two < one).sum())
        found.append(
            Difference(
                *row.key, len(shared), (float(one.mean()), float(two.mean())), bootstrap_mean(two - one, rng),
                mcnemar(more, less),
            )
        )  # fmt: skip
    rates = false_discovery_rates([each.p for each in found])
    rated = [replace(each, q=float(rate)) for each, rate in zip(found, rates, strict=True)]
    return sorted(rated, key=lambda each: (each.q, -abs(each.drops[1] - each.drops[0])))


def bootstrap_mean(
    values: NDArray[np.float64], rng: np.random.Generator, *, level: float = 0.95
) -> tuple[float, float]:
    """The bootstrap interval of a mean.

    Args:
        values: of independent images, (m,).
        rng: draws the resamples.
        level: of confidence, 0..1.

    Examples:
        >>> low, high = bootstrap_mean(np.arange(100.0), np.random.default_rng(0))
        >>> 42 < low < 46 < 53 < high < 57
        True
    """
    weights = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), size=RESAMPLES) / len(values)
    low, high = np.quantile(weights @ values, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)
