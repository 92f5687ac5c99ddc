"""Several rules in one solve: each reads its own directions, the coefficients of all are found together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rulepatch.core import linalg
from rulepatch.core.changes import Gate, LowRank, WeightChange
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.patched_model import Projection
from rulepatch.core.site_activations import SiteActivations
from rulepatch.data.run import Run
from rulepatch.editors.assembling import assembled
from rulepatch.editors.judging import judged, warn_of
from rulepatch.editors.problem import Problem, Reference, build_problem
from rulepatch.editors.registry import Solution
from rulepatch.editors.subspace import find_gate, low_rank_change
from rulepatch.errors import SettingError
from rulepatch.methods import Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.timing import section

__all__ = ["Rule", "rewrite_rules", "solve_rules"]

SEPARATE = ("rank", "strength", "gate", "gate_kind")
"""Settings that each rule has for itself; all others hold for all rules and are those of the first."""


@dataclass(frozen=True)
class Rule:
    """A rule to be rewritten beside others.

    Attributes:
        exemplars: what to learn it from.
        how: its rank, strength and gate; ridge and floor hold for all rules and must agree.
    """

    exemplars: Sequence[Exemplar]
    how: Rewrite = Rewrite()  # noqa: RUF009 - it is frozen


def rewrite_rules(
    model: Classifier,
    rules: Sequence[Rule],
    *,
    reference: Reference,
    site: str | Sequence[str],
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Edit:
    """Rewrite several rules at once, so that none undoes another (thesis eq. 2.23-2.24).

    Each rule has its own directions and gate; one normal matrix over the exemplars of all gives the coefficients.

    Args:
        model: the classifier; it is not changed.
        rules: at least one.
        reference: images whose treatment should stay, or statistics computed before.
        site: dotted path of the layer to edit, or of several, each solved on its own.
        run: seed, cache and progress.
        settings: single settings of `run` by name, in place of its own.

    Returns:
        The edit: at each site a change for each rule.

    Raises:
        SettingError: no rules, or settings that do not go together.
        ExemplarError: a rule without exemplars, or an exemplar that does not fit the model.
        SiteError: a site that the model does not have, or that cannot be edited.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import exemplar, training_images
        >>> rules = [Rule([exemplar("van", ground=ground, seed=1)]) for ground in ("snow", "grass")]
        >>> edit = rewrite_rules(load_model("playground"), rules, reference=training_images(60, seed=2),
        ...                      site="blocks.4.conv", run=Run(cache=None, progress=False))
        >>> len(edit.changes)
        2
    """
    if not rules:
        raise SettingError("expected at least one rule but got none; give the exemplars of each")
    everything = [exemplar for rule in rules for exemplar in rule.exemplars]
    problem = build_problem(model, everything, site, rules[0].how, reference=reference, run=run.but(**settings))
    edit = judged(model, solve_rules(problem, rules), everything)
    warn_of(edit, problem)
    return edit


def solve_rules(problem: Problem, rules: Sequence[Rule]) -> Edit:
    """`rewrite_rules` for a problem that was built with the exemplars of all rules, in order.

    Args:
        problem: the problem.
        rules: at least one.

    Raises:
        SettingError: settings that do not go together.
    """
    common = Rewrite(**{name: value for name, value in rules[0].how.given().items() if name not in SEPARATE})
    for rule in rules:
        own = rule.how.but(**{name: getattr(common, name) for name in SEPARATE})
        if own != common or common != Rewrite(ridge=common.ridge, floor=common.floor):
            raise SettingError(
                "expected rules that differ in rank, strength and gate alone, of the first architecture and with a "
                f"closed form, but got {own.given()} beside {common.given()}; edit them one by one"
            )
    changes: list[WeightChange] = []
    with section("solve"):
        for seen in problem.observations:
            changes += _changes_at(problem, seen, rules, common)
    told = [
        {"exemplars": len(rule.exemplars), **{name: getattr(rule.how, name) for name in SEPARATE}} for rule in rules
    ]
    settings = {"site": list(problem.paths), "seed": problem.run.seed, "ridge": common.ridge, "floor": common.floor}
    notes = {"method": "rewrite-rules", "settings": {**settings, "rules": told}}
    return assembled(problem, common, Solution(changes, notes))


def _changes_at(problem: Problem, seen: SiteActivations, rules: Sequence[Rule], common: Rewrite) -> list[LowRank]:
    """The change of each rule at one site."""
    statistics = problem.statistics[seen.site.path]
    whitener = statistics.whitening(floor=common.floor).to(seen.keys.device)
    read: list[tuple[torch.Tensor, Gate | None]] = []
    features, start = [], 0
    for rule in rules:
        concept = seen.concept_keys(1, slice(start, start + len(rule.exemplars)))
        start += len(rule.exemplars)
        directions, leading = linalg.directions(*concept, whitener, rule.how.rank)
        gate = find_gate(seen, rule.how, directions, leading, concept, statistics)
        projection = Projection(seen.layer, directions, gate, dtype=torch.float64)
        with torch.no_grad():
            features.append(seen.features(projection(seen.keys.to(directions)))[seen.marked])
        read.append((directions, gate))
    weights = seen.output_weights[seen.marked]
    stacked = linalg.ridge_path(torch.cat(features, dim=1), seen.residuals, weights, [common.ridge])[0]
    return [
        low_rank_change(
            seen, directions, part.T.reshape(-1, len(directions), *seen.site.shape[2:]),
            strength=rule.how.strength, gate=gate,
        )
        for rule, (directions, gate), part in zip(
            rules, read, stacked.split([each.shape[1] for each in features]), strict=True
        )
    ]  # fmt: skip
