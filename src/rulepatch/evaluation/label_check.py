r"""Check whether the labels of a set use the model's class indices, from the base model's predictions.

Pure functions of labels and predictions. Axes: n images, k classes. Labels that start at 1, or are in another order
than the logits, invalidate every metric, and make a damage budget easy to keep. Images on which the model is *meant*
to fail (tests of a wrong rule) are weak evidence: vans on snow may all be predicted as snowplows. For these, only
alternative readings count that shift several classes in the same way, which no single confusion does.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rulepatch.chance import binomial_tail
from rulepatch.models.classes import Classes
from rulepatch.text import percent, plural

__all__ = ["doubt_of", "readings"]

FAR = 2
"""A reading is far better if this many times as many images are right, and at least a fifth of all images more."""

RARE = 1e-3
"""Significance level."""

MOVED = {False: 2, True: 4}
"""Least number of shifted classes, for ordinary images and for images that the model is meant to fail on."""

SOME = 0.25
"""Least accuracy of a plausible model, rescaled so that chance is 0 and perfect is 1."""


def readings(classes: Classes) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Alternative readings of integer labels.

    Args:
        classes: of the model.

    Yields:
        A description, and the class of each label 0..k, (k,); −1 for none.

    Examples:
        >>> {words: meant.tolist() for words, meant in readings(Classes(("b", "c", "a")))}["they count from 1"]
        [-1, 0, 1]
    """
    count = len(classes)
    numbers = np.arange(count)
    yield "they count from 1", numbers - 1
    yield "they count from 0 and the model's classes from 1", np.append(numbers[1:], -1)
    yield "their order is reversed", numbers[::-1].copy()
    orders = {
        "they are numbers sorted as text (0, 1, 10, 11, 2)": sorted(range(count), key=str),
        "they are numbers from 1 on sorted as text (1, 10, 11, 2)": sorted(range(count), key=lambda i: str(i + 1)),
        "they follow the class names in alphabetical order": sorted(range(count), key=lambda i: classes.names[i]),
        "they follow the class names in alphabetical order, whatever their case": sorted(
            range(count), key=lambda i: classes.names[i].casefold()
        ),
    }
    for words, order in orders.items():
        if order != list(range(count)):
            yield words, np.array(order)
            yield f"{words}, and the model's do not", np.argsort(order)


def doubt_of(labels: ArrayLike, predicted: ArrayLike, classes: Classes, *, failures: bool = False) -> str | None:
    """Reason to doubt that the labels of a set use the model's class indices, if there is one.

    Args:
        labels: of the images, (n,).
        predicted: predictions of the base model, (n,).
        classes: of the model.
        failures: whether the model is meant to fail on these images, so that failures are no evidence.

    Returns:
        Continuation of a sentence that begins with the set; None without doubt.

    Examples:
        >>> classes = Classes(tuple("abcdefgh"))
        >>> print(doubt_of([1, 2, 3, 4] * 5, [0, 1, 2, 3] * 5, classes))
        the untouched model is right on 0.0 % of 20 images, but on 100.0 % if its labels are so: they count from 1
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if not len(labels):
        return None
    right = labels == predicted
    told = f"the untouched model is right on {percent(float(right.mean()))} of {plural(len(labels), 'image')}"
    found = []
    for words, meant in readings(classes):
        read = meant[np.clip(labels, 0, len(classes) - 1)]
        if _is_far_better(right, read == predicted) and _moved(labels, predicted, read) >= MOVED[failures]:
            found.append((float((read == predicted).mean()), words))
    accuracy, words = max(found, key=lambda each: each[0], default=(0.0, ""))
    order = None if failures else _other_order(labels, predicted, right, classes)
    if order is not None and order[0] > accuracy + 0.1:
        return f"{told}, but it seems to have its classes in another order than the labels: {order[1]}"
    if found:
        return f"{told}, but on {percent(accuracy)} if its labels are so: {words}"
    if failures:
        return None
    chance = 1 / len(classes)
    worth = chance + SOME * (1 - chance)
    several, count = len(np.unique(labels)) > 1, int(right.sum())
    if several and binomial_tail(count, len(right), chance) > 0.05 and _below(count, len(right), worth) < 0.01:
        return f"{told}, no more than by chance: the labels or the preprocessing are not those of the model"
    return None


def _is_far_better(right: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
    is_far = other.mean() >= max(FAR * right.mean(), right.mean() + 0.2)
    return bool(is_far) and binomial_tail(gained, gained + lost, 0.5) < RARE


def _moved(labels: NDArray[np.int64], predicted: NDArray[np.int64], read: NDArray[np.int64]) -> int:
    """Number of labels for which most images have the class of another reading, but not that of the label."""
    own = [labels == label for label in np.unique(labels)]
    return sum(
        bool((predicted[here] == read[here]).mean() > 0.5 and (read[here] != labels[here]).all()) for here in own
    )


def _other_order(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], right: NDArray[np.bool_], classes: Classes
) -> tuple[float, str] | None:
    """Accuracy and description of the permutation in which most labels are mostly predicted as a distinct class."""
    explained = np.zeros(len(labels), np.bool_)
    meant: dict[int, int] = {}
    for label in np.unique(labels).tolist():
        here = np.flatnonzero(labels == label)
        values, counts = np.unique(predicted[here], return_counts=True)
        most = int(counts.argmax())
        others = np.delete(counts, most).max(initial=0)
        if len(here) > 2 and counts[most] > max(len(here) / 2, others + 1):
            meant[label] = int(values[most])
            explained[here] = predicted[here] == values[most]
    moved = {label: predicted for label, predicted in meant.items() if label != predicted}
    distinct = len(set(meant.values())) >= 0.75 * len(meant)
    if len(moved) < min(3, max(2, len(classes) - 1)) or not distinct or not _is_far_better(right, explained):
        return None
    told = [f"{classes[a]} is mostly taken for {classes[b]}" for a, b in list(moved.items())[:3]]
    return float(explained.mean()), ", ".join(told)


def _below(count: int, total: int, share: float) -> float:
    """Binomial probability of at most this many successes."""
    return binomial_tail(total - count, total, 1 - share)
