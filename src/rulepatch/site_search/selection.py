"""Selection among evaluated candidates: by repair if the difference is significant, by default otherwise."""

from collections.abc import Callable, Sequence

import numpy as np

from rulepatch.evaluation import metrics
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.settings import written
from rulepatch.site_search.candidates import Candidate, Trial
from rulepatch.text import percent, plural

__all__ = ["choose", "name_of", "told_damage"]

DOUBT, FEWEST_GROUPS = 2.0, 6
"""Standard errors by which another edit must beat the default edit on the validation images to be preferred, and images
that they must be made of: three exemplars ranked a site first by 2 standard errors that repaired 3 photographs of 75,
where the default repaired 18."""


def choose(
    candidates: Sequence[Candidate],
    rule: Candidate | None,
    is_useless: Callable[[Candidate], bool] = lambda candidate: False,
) -> tuple[Candidate | None, str]:
    """Select by score, but prefer the default edit unless another is better by 2 standard errors.

    If the base model misclassifies some validation images, an edit must repair more of them than it breaks.

    Args:
        candidates: candidates within the budget, evaluated on validation images.
        rule: the default edit, if it is within the budget.
        is_useless: whether an edit is useless on its own exemplars; such edits are skipped.

    Returns:
        The choice, and why; None if nothing helps.
    """
    left = list(candidates)
    while True:
        chosen, why = _choose(left, rule)
        if chosen is None and len(left) < len(candidates):
            passed = plural(len(candidates) - len(left), "candidate")
            return None, (
                f"nothing helps: of {passed} within the budget that gain on the validation images none does anything "
                "for the exemplars themselves"
            )
        if chosen is None or not is_useless(chosen):
            return chosen, why
        left.remove(chosen)


def _choose(candidates: Sequence[Candidate], rule: Candidate | None) -> tuple[Candidate | None, str]:
    helping = [each for each in candidates if _helps(each)]
    if not candidates:
        return None, "nothing helps: no candidate keeps to the budget"
    if not helping:
        failing = max((each.failing for each in candidates), default=0)
        what = (
            f"repairs more of the {plural(failing, 'failing validation image')} than it breaks"
            if failing
            else "brings the validation images nearer to what they should be"
        )
        return None, f"nothing helps: of {plural(len(candidates), 'candidate')} within the budget none {what}"
    best = max(helping, key=lambda each: each.score)
    if rule is not None and rule in helping and not _is_beyond_doubt(best, rule):
        return rule, (
            f"chosen: {_told_of(rule)}: the rule (the last site, rank 3, gated, as strong as the budget allows); the "
            f"best score ({best.score:+.3f}, {name_of(best.trial)}) is not beyond doubt better"
        )
    near = [each for each in helping if _ahead(best, each) <= 1]
    chosen = min(near, key=lambda each: (each.flips, -each.score))
    why = "the best score" if chosen is best else f"the fewest flips within a standard error of {name_of(best.trial)}"
    return chosen, f"chosen: {_told_of(chosen)}: {why}"


def _helps(candidate: Candidate) -> bool:
    return candidate.score > 0 and (candidate.repaired > candidate.broken or not candidate.failing)


def _ahead(best: Candidate, other: Candidate) -> float:
    """Difference of two candidates in standard errors of the paired difference."""
    difference = best.log_prob_gain - other.log_prob_gain
    if not difference.any():
        return 0.0
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return float(difference.mean() / error) if error else float(np.copysign(np.inf, difference.mean()))


def _is_beyond_doubt(best: Candidate, rule: Candidate) -> bool:
    return len(best.log_prob_gain) >= FEWEST_GROUPS and _ahead(best, rule) > DOUBT


def _told_of(candidate: Candidate) -> str:
    return (
        f"{name_of(candidate.trial)}; validation gain {candidate.score:+.3f} "
        f"({candidate.repaired} repaired, {candidate.broken} broken), {100 * candidate.drop:+.2f} points lost, "
        f"{percent(candidate.flips)} flips"
    )


def told_damage(outcomes: Outcomes, *, interval: bool = False) -> str:
    """What an edit costs on some images, in words.

    Args:
        outcomes: on these images.
        interval: whether to give the 95 % interval of the points lost.
    """
    flips = percent(len(outcomes.flips) / len(outcomes))
    between = ""
    if interval and not outcomes.is_judged_by_flips:
        between = f" (95 % interval {_interval(outcomes)})"
    return f"{100 * outcomes.drop:+.2f} points lost{between} and {flips} flips"


def _interval(outcomes: Outcomes) -> str:
    """Of the points lost; where no image flipped, by the share of flips that may have been missed."""
    ends = outcomes.lost_interval
    if ends is None:
        missed = metrics.wilson(0, len(outcomes))
        return f"up to {100 * missed[1]:+.1f}" if missed else "unknown"
    return f"{100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}"


def name_of(trial: Trial) -> str:
    """Description of a trial."""
    gate = "no gate" if trial.how.gate is None else f"gate {written(trial.how.gate)}"
    return f"{' + '.join(trial.sites)}, rank {trial.how.rank}, strength {trial.how.strength:g}, {gate}"
