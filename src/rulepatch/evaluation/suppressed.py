"""Classes that an edit suppresses: where the failures went before it, and whether their own images are still right."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rulepatch.chance import SIGNIFICANT
from rulepatch.evaluation import metrics
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.models.classes import Classes
from rulepatch.text import plural

__all__ = ["Suppressed", "listed", "suppressed_by", "told_of"]

FEW = 1
"""Most images of a class that are too few to tell."""

LEAST_LOST = 3
"""Images that a class must lose to be named though no failing image was taken for it."""

MOST_LISTED = 6
"""Most classes that a line names."""


@dataclass(frozen=True)
class Suppressed:
    """A class that failing images were taken for, and are no longer; or another that is forgotten.

    Attributes:
        label: the class.
        name: its name.
        failures: images that were wrongly taken for it before the edit.
        left: those of them that are taken for another class after the edit.
        n: images of the class itself in the reference set.
        right: number of them that are right before and after.
        repaired: number that were wrong and are right.
        broken: number that were right and are wrong.
    """

    label: int
    name: str
    failures: int
    left: int
    n: int = 0
    right: tuple[int, int] = (0, 0)
    repaired: int = 0
    broken: int = 0

    @property
    def is_forgotten(self) -> bool:
        """Whether the class lost half of what was right, or a tenth and more images than by chance."""
        lost = self.right[0] - self.right[1]
        beyond_chance = metrics.mcnemar(self.repaired, self.broken) < SIGNIFICANT
        return lost > 0 and (2 * lost >= self.right[0] or (10 * lost >= self.right[0] and beyond_chance))

    @property
    def is_unknown(self) -> bool:
        """Whether there are too few images to tell, and nothing seen of a loss."""
        return self.n <= FEW and not self.is_forgotten

    def __str__(self) -> str:
        return f"{self.name} {self.right[0]} → {self.right[1]} of {self.n}"

    def to_json(self) -> dict[str, Any]:
        """The counts, as JSON."""
        return asdict(self) | {"right": list(self.right), "forgotten": self.is_forgotten}


def suppressed_by(
    taken: Iterable[tuple[int, int, int | None]], reference: Outcomes | None, classes: Classes
) -> tuple[Suppressed, ...]:
    """The classes that an edit takes failures away from, and others that it forgets.

    Args:
        taken: of each test image the class predicted before, the class predicted after, and its label.
        reference: outcomes on images of all kinds; labels that are doubted are not looked at.
        classes: names of the classes.

    Returns:
        One for each class, the one that most failures left first.
    """
    failures: dict[int, list[bool]] = {}
    for before, after, label in taken:
        if before != label:
            failures.setdefault(before, []).append(after != before)
    known = {} if reference is None or reference.doubt is not None else reference.by_class()
    found = [_counted(label, classes, failures.get(label, ()), known.get(label)) for label in {**failures, **known}]
    wanted = [
        each for each in found if each.left or (each.is_forgotten and each.right[0] - each.right[1] >= LEAST_LOST)
    ]
    return tuple(sorted(wanted, key=lambda each: (-each.left, -each.failures, each.label)))


def _counted(label: int, classes: Classes, left: Sequence[bool], own: Outcomes | None) -> Suppressed:
    found = Suppressed(label, classes[label], len(left), sum(left))
    if own is None:
        return found
    right = (int(own.right_before.sum()), int(own.right_after.sum()))
    return Suppressed(
        label, found.name, found.failures, found.left, len(own), right, len(own.repaired), len(own.broken)
    )


def listed(names: Iterable[object]) -> str:
    """Names in a line, at most `MOST_LISTED` of them."""
    told = list(map(str, names))
    more = f" and {len(told) - MOST_LISTED} more" if len(told) > MOST_LISTED else ""
    return f"{', '.join(told[:MOST_LISTED])}{more}"


def told_of(suppressed: Sequence[Suppressed]) -> list[str]:
    """Lines about the classes that an edit suppresses: what is right of them, and of which there are too few images."""
    left = [each for each in suppressed if each.left]
    lines = []
    if known := [each for each in left if each.n]:
        lines.append(f"where the failures went (right before and after): {listed(known)}")
    if few := [each.name for each in left if each.is_unknown and each.n]:
        lines.append(f"only {plural(FEW, 'image')} of {listed(few)}: too few to tell whether the edit forgets it")
    if none := [each.name for each in left if not each.n]:
        lines.append(
            f"no image of {listed(none)}: give some with the reference set to tell whether the edit forgets it"
        )
    return lines
