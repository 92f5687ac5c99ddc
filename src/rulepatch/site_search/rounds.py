"""Rounds of a search: which edits are evaluated, in what order, and which one is selected.

*Screen*: every site by itself, gated and not. *Refine*: the best sites and sets of them, at other ranks and strengths.
*Vary*: the best edit's neighbours. Each candidate is evaluated on validation images (repair) and on the reference set
(damage); one that is useless on its own exemplars is never selected.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rulepatch.editors.judging import Judge
from rulepatch.errors import SettingError, UselessEditError
from rulepatch.methods import Rewrite
from rulepatch.progress import Bar
from rulepatch.site_search.candidates import Candidate, EditFactory, EditScorer, Trial
from rulepatch.site_search.selection import FLIPS, choose, given_of, is_within, name_of, score_or_zero
from rulepatch.tracing.model_sites import sites_of

__all__ = ["Rounds", "by_rule", "by_score"]

GATE, HIGHER_GATE = 0.98, 0.99


@dataclass(frozen=True)
class Grid:
    """What the rounds try.

    Attributes:
        screen: settings tried at each site by itself.
        ranks: of the sites that are refined.
        gates: the same.
        strengths: the same; the first three for several sites.
        refined: number of screened sites that are refined, in addition to the last one.
        has_rule: whether the default edit stays unless another is beyond doubt better.
    """

    screen: tuple[Mapping[str, Any], ...]
    ranks: tuple[int, ...]
    gates: tuple[float | None, ...]
    strengths: tuple[float, ...]
    refined: int
    has_rule: bool


REPLACED = Grid(
    ({"rank": 3, "strength": 2.0, "gate": GATE}, {"rank": 3, "strength": 1.0, "gate": None}),
    ranks=(1, 3), gates=(GATE, None), strengths=(1.0, 2.0, 3.0, 4.0), refined=4, has_rule=True,
)  # fmt: skip
"""For a concept that is replaced by another."""

OVERLAID = Grid(
    ({"rank": 8, "strength": 1.0, "gate": GATE},),
    ranks=(3, 8, 16), gates=(GATE,), strengths=(1.0,), refined=3, has_rule=False,
)  # fmt: skip
"""For an overlay, learnt from many transplants: without a gate or beyond strength 1 such edits cost more than they win
back, and the best sites lie anywhere."""

MOST_DAMAGE = 0.3
"""Predicted damage above which an ungated edit is not measured: at 0.16 one prediction in five flipped."""

Turn = Literal["screen", "refine", "vary"]


class Rounds:
    """Evaluates trials, with caching and a progress bar.

    Args:
        fixed: settings that were given, which are not searched; see `model_fields_set`.
        grid: what is tried.
        factory: makes their edits.
        scorer: measures them.
        pictures: how many the damage is measured on.
        max_drop: the budget, 0..1.
    """

    def __init__(
        self, fixed: Rewrite, grid: Grid, factory: EditFactory, scorer: EditScorer, pictures: int, max_drop: float
    ) -> None:
        self.fixed = fixed
        self.grid = grid
        self.factory = factory
        self.max_drop = max_drop
        self.pictures = pictures
        self.found: list[Candidate] = []
        self._scorer = scorer
        self._judge = Judge.of(factory.problem.model, factory.problem.exemplars)
        self._progress = factory.problem.run.progress

    @property
    def within(self) -> list[Candidate]:
        """Candidates within the budget."""
        return [each for each in self.found if is_within(each.drop, each.flips, self.pictures, self.max_drop)]

    @property
    def paths(self) -> list[str]:
        """The sites that can be tried, in the order of the forward pass."""
        least = self.fixed.rank if "rank" in self.fixed.model_fields_set else 1
        found = [path for path in self.factory.sites if self.factory.most_rank(path) >= least]
        if not found:
            most = max(map(self.factory.most_rank, self.factory.sites))
            raise SettingError(f"expected rank from 1 to {most} at the sites to search but got {least}; take less")
        return found

    @property
    def last(self) -> str:
        """The last site that is no shortcut of a residual block."""
        site_list = sites_of(self.factory.problem.model)
        main = [path for path in self.paths if not site_list.is_shortcut(self.factory.sites[path])]
        return (main or self.paths)[-1]

    def trial(self, sites: Sequence[str], **wanted: Any) -> Trial:
        """A trial with some settings, but for those that were given."""
        free = {name: value for name, value in wanted.items() if name not in self.fixed.model_fields_set}
        return Trial(tuple(sites), self.fixed.but(**self.clipped(sites, free)))

    def clipped(self, sites: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with a rank that the sites allow."""
        most = min(self.factory.most_rank(path) for path in sites)
        return {name: min(value, most) if name == "rank" else value for name, value in settings.items()}

    def try_all(self, turn: Turn, ladders: Sequence[Sequence[Trial]]) -> None:
        """Evaluate ladders of trials of rising strength, each until its damage is far beyond the budget."""
        total = sum(map(len, ladders))
        with Bar(total, turn, unit="edit", shown=self._progress) as bar:
            for ladder in ladders:
                for trial in ladder:
                    candidate = self._try(turn, trial)
                    if candidate is None or candidate.flips > 3 * FLIPS * self.max_drop + 0.01:
                        break
                bar.update(len(ladder))

    def _try(self, turn: Turn, trial: Trial) -> Candidate | None:
        for known in self.found:
            if known.trial == trial:
                return known
        if trial.how.gate is None and self.factory.predicted_damage(trial) > MOST_DAMAGE:
            return None
        self.found.append(self._scorer.score(self.factory, trial, turn))
        return self.found[-1]

    def is_useless(self, candidate: Candidate) -> bool:
        """Whether a candidate's edit is useless on its own exemplars."""
        try:
            return self._judge.outcomes(self.factory.make(candidate.trial).changes).verdict == "useless"
        except UselessEditError:
            return True


def by_score(rounds: Rounds) -> tuple[Candidate | None, str]:
    """Run all rounds and select by repair of the validation images.

    Returns:
        The choice, and why; None if nothing helps.
    """
    paths = rounds.paths
    rule = _rule(rounds) if rounds.grid.has_rule else None
    rounds.try_all("screen", [ladder for path in paths for ladder in _screen(rounds, path)])
    best_of = {
        path: max((score_or_zero(c.score) for c in rounds.within if c.trial.sites == (path,)), default=-np.inf)
        for path in paths
    }
    ranked = sorted(paths, key=lambda path: -best_of[path])
    rounds.try_all("refine", [ladder for sites in _sets(rounds, ranked) for ladder in _refine(rounds, sites)])
    best = max(rounds.within, key=lambda each: score_or_zero(each.score), default=None)
    if best is not None:
        rounds.try_all("vary", [[trial] for trial in dict.fromkeys(_vary(rounds, best.trial))])
    return choose(rounds.within, rule, rounds.is_useless)


def _rule(rounds: Rounds) -> Candidate | None:
    """The default edit: the last site, rank 3, gated, at the largest strength within the budget that is not useless."""
    for rank, gate in ((3, GATE), (1, GATE), (3, HIGHER_GATE), (1, HIGHER_GATE)):
        ladder = _ladder(rounds, [rounds.last], rounds.grid.strengths[:3], rank=rank, gate=gate)
        rounds.try_all("screen", [ladder])
        able = [each for each in rounds.within if each.trial in ladder and not rounds.is_useless(each)]
        if able:
            return able[-1]
    return None


def by_rule(rounds: Rounds) -> tuple[Candidate | None, str]:
    """Select the default edit, for searches without validation images.

    Returns:
        The choice, and why; None if nothing helps.
    """
    chosen = _rule(rounds)
    if chosen is None or chosen.loss >= 1:
        found = "does anything for the exemplars themselves" if rounds.within else "keeps to the budget"
        return None, f"nothing helps: at the last site no rank, strength and gate {found}"
    return chosen, (
        f"chosen: {name_of(chosen.trial)} by rule (the last site, rank 3, gated, as strong as the budget "
        f"allows{given_of(rounds.fixed)}), as there is nothing to measure repair on; give labelled validation images "
        "if you can"
    )


def _ladder(rounds: Rounds, sites: Sequence[str], strengths: Sequence[float], **settings: Any) -> list[Trial]:
    """Trials of rising strength, each once."""
    return list(dict.fromkeys(rounds.trial(sites, strength=strength, **settings) for strength in strengths))


def _screen(rounds: Rounds, path: str) -> Iterator[list[Trial]]:
    yield from ([rounds.trial([path], **settings)] for settings in rounds.grid.screen)


def _sets(rounds: Rounds, ranked: Sequence[str]) -> list[tuple[str, ...]]:
    """The best sites alone, pairs and a triple of them, and the last two and three; in the order of the network."""
    paths = rounds.paths
    first, second, third = [*ranked, *[ranked[0]] * 2][:3]
    wanted = [{path} for path in (*ranked[: rounds.grid.refined], rounds.last)]
    wanted += [{first, second}, {first, third}, {second, third}, {first, second, third}]
    wanted += [set(paths[-2:]), set(paths[-3:])]
    return list(dict.fromkeys(tuple(path for path in paths if path in each) for each in wanted))


def _refine(rounds: Rounds, sites: tuple[str, ...]) -> Iterator[list[Trial]]:
    strengths = rounds.grid.strengths if len(sites) == 1 else rounds.grid.strengths[:3]
    for rank in rounds.grid.ranks:
        for gate in rounds.grid.gates:
            yield _ladder(rounds, sites, strengths, rank=rank, gate=gate)


def _vary(rounds: Rounds, best: Trial) -> Iterator[Trial]:
    """Neighbours of the best edit, one setting changed at a time, but for those that were given."""
    steps: list[dict[str, Any]] = [{"rank": 2}, {"rank": 5}]
    steps += [{"strength": max(0.0, best.how.strength + step)} for step in (-0.5, 0.5)]
    steps += [{"ridge": 1e-4}, {"ridge": 1e-2}]
    if best.how.gate is not None:
        steps += [{"gate": 0.95}, {"gate": 0.99}, {"gate_kind": "soft"}]
    if len(best.sites) > 1:
        steps += [{"coupling": "sequence"}]
    if any(max(rounds.factory.sites[path].shape[2:]) > 1 for path in best.sites):
        steps += [{"architecture": 2}]
    for step in steps:
        if not step.keys() & rounds.fixed.model_fields_set:
            yield best.but(**rounds.clipped(best.sites, step))
