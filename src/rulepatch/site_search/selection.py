"""Choosing among candidates that were measured: by what they repair, if that is beyond doubt, else by rule."""

from collections.abc import Callable, Sequence

import numpy as np

from rulepatch.settings import written
from rulepatch.site_search.candidates import Candidate, Trial
from rulepatch.text import percent, plural

__all__ = ["FLIPS", "choose", "is_within", "name_of", "or_zero"]

FLIPS = 4
"""Flips allowed for each picture that may be lost. Of some hundred pictures the net number lost is mostly chance, and
says nothing of other pictures (rank correlation 0.0 over 124 edits of a real network); flips do (0.6)."""

DOUBT = 2.0
"""Standard errors by which another edit must beat the rule's on the validation pictures to be taken in its place."""


def is_within(drop: float, flips: float, pictures: int, max_drop: float) -> bool:
    """Whether damage keeps to a budget: by the accuracy lost, and by the flips, which are less chancy.

    Args:
        drop: accuracy lost, −1..1.
        flips: share of the predictions that changed, 0..1.
        pictures: on which both were measured. One picture may always be lost: less cannot be told from nothing.
        max_drop: the budget, 0..1.

    Examples:
        >>> [is_within(drop, flips, 250, 0.0025) for drop, flips in [(0.004, 0.008), (0.008, 0.008), (0.0, 0.02)]]
        [True, False, False]
    """
    return drop <= max(max_drop, 1 / pictures) + 1e-12 and flips <= FLIPS * max_drop


def choose(
    candidates: Sequence[Candidate],
    rule: Candidate | None,
    is_useless: Callable[[Candidate], bool] = lambda candidate: False,
) -> tuple[Candidate | None, str]:
    """Choose by score, but take the rule's edit unless another beats it beyond doubt.

    Where the untouched model is wrong of some validation pictures, an edit must repair more of them than it breaks.

    Args:
        candidates: those within the budget, all measured on validation pictures.
        rule: the edit of the rule, if it is within the budget.
        is_useless: whether an edit does nothing for its own exemplars; it is then passed over.

    Returns:
        The choice, and why; None if nothing helps.
    """
    left = list(candidates)
    while True:
        chosen, why = _choose(left, rule)
        if chosen is None and len(left) < len(candidates):
            passed = plural(len(candidates) - len(left), "candidate")
            return None, (
                f"nothing helps: of {passed} within the budget that gain on the validation pictures none does anything "
                "for the exemplars themselves"
            )
        if chosen is None or not is_useless(chosen):
            return chosen, why
        left.remove(chosen)


def _choose(candidates: Sequence[Candidate], rule: Candidate | None) -> tuple[Candidate | None, str]:
    helping = [each for each in candidates if _helps(each)]
    if not helping:
        failing = max((each.failing for each in candidates), default=0)
        what = (
            f"repairs more of the {plural(failing, 'failing validation picture')} than it breaks"
            if failing
            else "brings the validation pictures nearer to what they should be"
        )
        return None, f"nothing helps: of {plural(len(candidates), 'candidate')} within the budget none {what}"
    best = max(helping, key=lambda each: or_zero(each.score))
    if rule is not None and rule in helping and _ahead(best, rule) <= DOUBT:
        return rule, (
            f"chosen: {_told_of(rule)}: the rule (the last site, rank 3, gated, as strong as the budget allows); the "
            f"best score ({or_zero(best.score):+.3f}, {name_of(best.trial)}) is not beyond doubt better"
        )
    near = [each for each in helping if _ahead(best, each) <= 1]
    chosen = min(near, key=lambda each: (each.flips, -or_zero(each.score)))
    why = "the best score" if chosen is best else f"the fewest flips within a standard error of {name_of(best.trial)}"
    return chosen, f"chosen: {_told_of(chosen)}: {why}"


def _helps(candidate: Candidate) -> bool:
    gained = or_zero(candidate.score) > 0
    return gained and (candidate.repaired > candidate.broken or not candidate.failing)


def _ahead(best: Candidate, other: Candidate) -> float:
    """By how many standard errors of the paired difference a candidate is ahead of another."""
    assert best.gains is not None and other.gains is not None
    difference = best.gains - other.gains
    if len(difference) < 2 or not difference.any():
        return 0.0
    return float(difference.mean() / (difference.std(ddof=1) / np.sqrt(len(difference))))


def _told_of(candidate: Candidate) -> str:
    return (
        f"{name_of(candidate.trial)}; validation gain {or_zero(candidate.score):+.3f} "
        f"({candidate.repaired} repaired, {candidate.broken} broken), {100 * candidate.drop:+.2f} points lost, "
        f"{percent(candidate.flips)} flips"
    )


def or_zero(score: float | None) -> float:
    """A score, 0 where nothing was measured."""
    return 0.0 if score is None else score


def name_of(trial: Trial) -> str:
    """A trial in words."""
    gate = "no gate" if trial.how.gate is None else f"gate {written(trial.how.gate)}"
    return f"{' + '.join(trial.sites)}, rank {trial.how.rank}, strength {trial.how.strength:g}, {gate}"
