"""The verdict on an edit: what it repairs, what it costs, and whether to trust it, in one sentence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rulepatch.chance import SIGNIFICANT
from rulepatch.evaluation import metrics
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.evaluation.suppressed import Suppressed, listed
from rulepatch.methods import MAX_DROP
from rulepatch.text import percent, plural

__all__ = ["EditVerdict", "verdict_on"]


@dataclass(frozen=True)
class EditVerdict:
    """Whether to trust an edit.

    Attributes:
        text: one sentence: what it repairs, what it costs, and whether to trust it, and why.
        is_trusted: whether it repairs beyond chance, costs no more than the usual budget, and forgets no class, as
            far as was measured.
    """

    text: str
    is_trusted: bool

    def to_json(self) -> dict[str, Any]:
        """The verdict, as JSON."""
        return {"text": self.text, "trust": self.is_trusted}


def verdict_on(
    tests: Outcomes | None,
    reference: Outcomes | None,
    suppressed: Sequence[Suppressed] = (),
    *,
    max_drop: float = MAX_DROP,
) -> EditVerdict:
    """The verdict on an edit.

    Args:
        tests: outcomes on images that it should repair, if there are any; labelled.
        reference: outcomes on images whose predictions should not change, if there are any.
        suppressed: the classes that it suppresses; see `suppressed_by`.
        max_drop: most accuracy that it may lose on the reference set, 0..1; one image may always be lost.
    """
    reasons = [*_against_repair(tests), *_against_cost(reference, max_drop)]
    forgotten = [each for each in suppressed if each.is_forgotten]
    if forgotten:
        reasons.append(f"it forgets {listed(forgotten)} (right before and after)")
    found = f"{_repair(tests)}, {_cost(reference)}; "
    if reasons or tests is None:
        return EditVerdict(f"{found}do not trust it, because {' and '.join(reasons)}", is_trusted=False)
    why = f"the repair is beyond chance ({_p(tests)}) and the cost is within {100 * max_drop:g} points"
    unknown = [each.name for each in suppressed if each.is_unknown]
    but = f", but not for {listed(unknown)}, of which there are too few images" if unknown else ""
    return EditVerdict(f"{found}trust it, because {why}{but}", is_trusted=True)


def _p(tests: Outcomes) -> str:
    p = metrics.mcnemar(len(tests.repaired), len(tests.broken))
    return f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"


def _is_beyond_chance(tests: Outcomes) -> bool:
    return metrics.mcnemar(len(tests.repaired), len(tests.broken)) < SIGNIFICANT


def _repair(tests: Outcomes | None) -> str:
    if tests is None:
        return "what it repairs was not measured"
    failures, repaired, broken = int((~tests.right_before).sum()), len(tests.repaired), len(tests.broken)
    if not _is_beyond_chance(tests):
        of = f"{repaired} of {plural(failures, 'failure')}, {broken} broken, {_p(tests)}"
        return f"repairs nothing beyond chance ({of})"
    if broken > repaired:
        return f"breaks {broken} of {plural(len(tests) - failures, 'right test image')} and repairs {repaired}"
    return f"repairs {repaired} of {plural(failures, 'failure')}" + (f" and breaks {broken}" if broken else "")


def _against_repair(tests: Outcomes | None) -> Iterator[str]:
    if tests is None:
        yield "there are no test images"
    elif not _is_beyond_chance(tests):
        fails = not tests.right_before.all()
        yield "the repair is not beyond chance" if fails else "no test image fails without it"
    elif len(tests.broken) > len(tests.repaired):
        yield "it breaks more than it repairs"


def _cost(reference: Outcomes | None) -> str:
    if reference is None:
        return "what it costs was not measured"
    images = plural(len(reference), "reference image")
    flips = f"{percent(len(reference.flips) / len(reference))} of the predictions flip"
    if reference.is_judged_by_flips:
        return f"on {images} {flips}"
    ends = reference.lost_interval
    interval = "" if ends is None else f", 95 % interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
    return f"costs {100 * reference.drop + 0:.1f} points on {images} ({flips}{interval})"


def _against_cost(reference: Outcomes | None, max_drop: float) -> Iterator[str]:
    if reference is None:
        yield "there is no reference set"
    elif reference.drop > max(max_drop, 1 / len(reference)) + 1e-12:
        what = "flips" if reference.is_judged_by_flips else "loses"
        yield f"it {what} {percent(reference.drop)}, more than {100 * max_drop:g} %"
