"""Several rules in one solve: each reads its own directions, the coefficients of all are found together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from rulepatch.core import linalg
from rulepatch.core.changes import GateKind, LowRank, WeightChange
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar, Observation
from rulepatch.data.cache import Cache
from rulepatch.editors.judging import judged, warn_of
from rulepatch.editors.problem import GateLevel, Problem, Reference, Settings, assemble, pose
from rulepatch.editors.reading import change_of, read
from rulepatch.editors.rewrite import features_of
from rulepatch.errors import SettingError
from rulepatch.models.classifier import Classifier
from rulepatch.timing import stretch

__all__ = ["Rule", "rewrite_rules", "solve_rules"]


@dataclass(frozen=True)
class Rule:
    """A rule to be rewritten beside others.

    Attributes:
        exemplars: what to learn it from.
        rank: number of directions that it reads.
        strength: its change is scaled by it.
        gate: quantile of the reference set above which it acts, 0..1; "auto" to choose it; None for everywhere.
        gate_kind: "hard" or "soft".
    """

    exemplars: Sequence[Exemplar]
    rank: int = 1
    strength: float = 1.0
    gate: GateLevel = None
    gate_kind: GateKind = "hard"


def rewrite_rules(
    model: Classifier,
    rules: Sequence[Rule],
    *,
    reference: Reference,
    site: str | Sequence[str],
    ridge: float = 1e-3,
    floor: float = 1e-5,
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Edit:
    """Rewrite several rules at once, so that none undoes another (thesis eq. 2.23-2.24).

    Each rule has its own directions and gate; one normal matrix over the exemplars of all gives the coefficients.

    Args:
        model: the classifier; it is not changed.
        rules: at least one.
        reference: pictures whose treatment should stay, or statistics computed before.
        site: dotted path of the layer to edit, or of several, each solved on its own.
        ridge: of the closed form, relative to the mean diagonal of the normal matrix, ≥ 0.
        floor: smallest eigenvalue of the second moment kept, relative to the largest, in 0..1.
        seed: of the sample of the reference set's keys.
        cache: where statistics are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars on standard error.

    Returns:
        The edit: at each site a change for each rule.

    Raises:
        SettingError: no rules, or a setting out of range.
        ExemplarError: a rule without exemplars, or an exemplar that does not fit the model.
        SiteError: a site that the model does not have, or that cannot be edited.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import exemplar, training_images
        >>> rules = [Rule([exemplar("van", ground=ground, seed=1)]) for ground in ("snow", "grass")]
        >>> edit = rewrite_rules(load_model("playground"), rules, reference=training_images(60, seed=2),
        ...                      site="blocks.4.conv", cache=None, progress=False)
        >>> len(edit.changes)
        2
    """
    if not rules:
        raise SettingError("expected at least one rule but got none; give the exemplars of each")
    everything = [exemplar for rule in rules for exemplar in rule.exemplars]
    settings = Settings(site, floor=floor, seed=seed)
    problem = pose(model, everything, settings, reference=reference, cache=cache, progress=progress)
    edit = judged(model, solve_rules(problem, rules, ridge=ridge), everything)
    warn_of(edit)
    return edit


def solve_rules(problem: Problem, rules: Sequence[Rule], *, ridge: float = 1e-3) -> Edit:
    """`rewrite_rules` for a problem that was posed with the exemplars of all rules, in order.

    Args:
        problem: the problem.
        rules: at least one.
        ridge: of the closed form.
    """
    changes: list[WeightChange] = []
    with stretch("solve"):
        for observation in problem.observations:
            changes += _changes_at(problem, observation, rules, ridge)
    told = [
        {
            "exemplars": len(rule.exemplars),
            "rank": rule.rank,
            "strength": rule.strength,
            "gate": rule.gate,
            "gate_kind": rule.gate_kind,
        }
        for rule in rules
    ]
    return assemble(problem, changes, method="rewrite-rules", own={"ridge": ridge, "rules": told})


def _changes_at(problem: Problem, observation: Observation, rules: Sequence[Rule], ridge: float) -> list[LowRank]:
    """The change of each rule at one site."""
    problems, readings, start = [], [], 0
    for rule in rules:
        settings = replace(
            problem.settings, rank=rule.rank, strength=rule.strength, gate=rule.gate, gate_kind=rule.gate_kind
        )
        problems.append(replace(problem, settings=settings))
        own = slice(start, start + len(rule.exemplars))
        readings.append(read(problems[-1], observation, own))
        start = own.stop
    features = [features_of(observation, reading)[observation.marked] for reading in readings]
    weights = observation.output_weights[observation.marked]
    stacked = linalg.least_squares(torch.cat(features, dim=1), observation.residuals, weights, ridge=ridge)
    parts = stacked.split([each.shape[1] for each in features])
    taps = observation.site.shape[2:]
    return [
        change_of(own, observation, reading, part.T.reshape(-1, len(reading.directions), *taps))
        for own, reading, part in zip(problems, readings, parts, strict=True)
    ]
