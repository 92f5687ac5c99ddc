"""Rounds of a search: which edits are evaluated, in what order, on how many images, and which one is selected.

*Screen*: every site by itself, on few images. *Refine*: the best sites and sets of them, at other ranks and strengths,
on more; the best of these on all images. *Vary*: the best edit's neighbours, on all images. An edit is evaluated on
validation images (repair) and on the reference set (damage); one that is useless on its own exemplars is never
selected.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import numpy as np

from rulepatch.editors.judging import Judge
from rulepatch.errors import SettingError, UselessEditError
from rulepatch.methods import Rewrite
from rulepatch.progress import Bar
from rulepatch.records.site_reports import HOPELESS_DAMAGE
from rulepatch.site_search.budget import SLACK, USUAL, flips_by_shift
from rulepatch.site_search.candidates import Candidate, EditFactory, Trial, Turn
from rulepatch.site_search.forecast import Forecast
from rulepatch.site_search.scoring import LEVELS, EditScorer
from rulepatch.site_search.selection import choose
from rulepatch.text import plural
from rulepatch.tracing.model_sites import sites_of

__all__ = ["OVERLAID", "REPLACED", "Grid", "Rounds", "best_so_far", "by_score"]

GATE, HIGHER_GATE = 0.98, 0.99

FEW, MORE, ALL = range(len(LEVELS))


@dataclass(frozen=True)
class Grid:
    """What the rounds try.

    Attributes:
        screen: settings tried at each site by itself.
        ranks: of the sites that are refined.
        gates: the same.
        strengths: the same; the first three for several sites.
        refined: number of screened sites that are refined, in addition to the last one.
        finalists: number of edits within the budget, measured on all images, that are chosen among.
        has_rule: whether the default edit stays unless another is beyond doubt better.
    """

    screen: tuple[Mapping[str, Any], ...]
    ranks: tuple[int, ...]
    gates: tuple[float | None, ...]
    strengths: tuple[float, ...]
    refined: int
    finalists: int
    has_rule: bool

    def edits_after(self, turn: Turn, level: int) -> list[int]:
        """How many edits the rounds after one may measure at each level, about."""
        several = 6 if self.refined > 1 else 0
        refined = (self.refined + 1 + several) * len(self.ranks) * len(self.gates) * len(self.strengths)
        return [0, refined if level < MORE else 0, (self.finalists if level < ALL else 0) + VARIED * (turn != "vary")]

    def quick(self) -> "Grid":
        """A smaller grid: one setting a site, and three edits measured on all images."""
        return replace(
            self, screen=self.screen[:1], ranks=self.ranks[-1:], gates=self.gates[:1], refined=1, finalists=3
        )


REPLACED = Grid(
    ({"rank": 3, "strength": 2.0, "gate": GATE}, {"rank": 3, "strength": 1.0, "gate": None}),
    ranks=(1, 3), gates=(GATE, None), strengths=(0.5, 1.0, 2.0, 3.0), refined=4, finalists=8, has_rule=True,
)  # fmt: skip
"""For a concept that is replaced by another."""

OVERLAID = Grid(
    ({"rank": 8, "strength": 1.0, "gate": GATE},),
    ranks=(3, 8), gates=(GATE, HIGHER_GATE), strengths=(1.0,), refined=3, finalists=6, has_rule=False,
)  # fmt: skip
"""For an overlay, learnt from many transplants: without a gate or beyond strength 1 such edits cost more than they win
back, and the best sites lie anywhere."""

RULE_STRENGTHS = (0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0)
"""Of the default edit, which is as strong as the budget allows: in small steps where it is usual for it to end."""

LEAST_REDUCTION = 0.02
"""Share of the masked error that an edit must take away at strength 1 to be measured: where the exemplars themselves
stay as they are nothing else changes."""


VARIED = 10
"""Neighbours of the best edit, about: see `_vary`."""

MOST_BATCHES = 4
"""Most times that as many edits as there are finalists are measured on all images, if too few keep to the budget."""


class Rounds:
    """Evaluates trials, with caching and a progress bar.

    Args:
        fixed: settings that were given, which are not searched; see `model_fields_set`.
        grid: what is tried.
        factory: makes their edits.
        scorer: measures them.
        max_drop: the budget, 0..1.

    Attributes:
        by_shift: flips for each unit of changed probability.
    """

    def __init__(self, fixed: Rewrite, grid: Grid, factory: EditFactory, scorer: EditScorer, max_drop: float) -> None:
        self.fixed = fixed
        self.grid = grid
        self.factory = factory
        self.max_drop = max_drop
        self.by_shift = USUAL
        self._found: dict[Trial, tuple[int, Candidate]] = {}
        self._scorer = scorer
        self._judge = Judge.of(factory.problem.model, factory.problem.exemplars)
        self._progress = factory.problem.run.progress
        self._forecast = Forecast()

    @property
    def found(self) -> list[Candidate]:
        """All candidates, each as it was measured on the most images."""
        return [candidate for _, candidate in self._found.values()]

    def at(self, level: int) -> list[Candidate]:
        """Candidates measured at a level that keep to the budget, as far as its images can tell."""
        return [each for reached, each in self._found.values() if reached >= level and self._fits(each, level)]

    def _fits(self, found: Candidate, level: int) -> bool:
        return found.is_within(self.max_drop, self.by_shift, slack=1.0 if level == ALL else SLACK)

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
        trial = Trial(tuple(sites), self.fixed.but(**free))
        return self.factory.clipped(trial)

    def calibrate(self) -> None:
        """Learn from all edits so far how many flips a change of probabilities brings."""
        each = [(c.measured * c.flips, None if c.shift is None else c.measured * c.shift) for c in self.found]
        self.by_shift = flips_by_shift(each)

    def narrow(self, sites: Iterable[tuple[str, ...]]) -> None:
        """Try some sites alone from now on."""
        chosen = {path for each in sites for path in each}
        self._scorer.narrow([path for path in self.factory.sites if path in chosen])

    def try_all(self, turn: Turn, ladders: Sequence[Sequence[Trial]], level: int) -> None:
        """Evaluate ladders of trials of rising strength, each until its damage is far beyond the budget.

        The time left that is shown is that of the whole search, at most.
        """
        later = sum(n * self._scorer.images(at) for at, n in enumerate(self.grid.edits_after(turn, level)))
        each = self._scorer.images(level)
        bar = Bar(
            sum(map(len, ladders)),
            turn,
            unit="edit",
            shown=self._progress,
            left=lambda: self._forecast.seconds_for((bar.total - bar.done) * each + later),
        )
        with bar:
            for ladder in ladders:
                for trial in ladder:
                    found = self._try(turn, trial, level)
                    if found is None or not self._fits(found, MORE):
                        break
                bar.update(len(ladder))

    def _try(self, turn: Turn, trial: Trial, level: int) -> Candidate | None:
        reached, known = self._found.get(trial, (-1, None))
        if reached >= level:
            return known
        if trial.how.gate is None and self.factory.predicted_damage(trial) > HOPELESS_DAMAGE:
            return None
        if self.factory.loss_ratio(trial) > 1 - LEAST_REDUCTION:
            return None
        began = monotonic()
        candidate = self._scorer.score(trial, turn if known is None else known.round, level)
        self._forecast.add(self._scorer.images(level) - self._scorer.images(reached), monotonic() - began)
        self._found[trial] = level, candidate
        return candidate

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
    rounds.try_all("screen", [ladder for path in paths for ladder in _screen(rounds, path)], FEW)
    rounds.calibrate()
    best_of = {
        path: max((c.score for c in rounds.at(FEW) if c.trial.sites == (path,)), default=-np.inf) for path in paths
    }
    sets = _sets(rounds, sorted(paths, key=lambda path: -best_of[path]))
    rounds.narrow([*sets, (rounds.last,)])
    if rounds.grid.has_rule:
        _rule(rounds)  # measured first, for a search that is stopped
    rounds.try_all("refine", [ladder for sites in sets for ladder in _refine(rounds, sites)], MORE)
    _measure_finalists(rounds)
    rounds.calibrate()
    rule = _rule(rounds) if rounds.grid.has_rule else None
    best = max(rounds.at(ALL), key=lambda each: each.score, default=None)
    if best is not None:
        rounds.try_all("vary", [[trial] for trial in dict.fromkeys(_vary(rounds, best.trial))], ALL)
    return choose(rounds.at(ALL), rule, rounds.is_useless)


def _measure_finalists(rounds: Rounds) -> None:
    """Measure the best on all images until enough of them keep to the budget; fewer images could not tell."""
    ranked = sorted(rounds.at(MORE), key=lambda each: -each.score)
    for start in range(0, min(len(ranked), MOST_BATCHES * rounds.grid.finalists), rounds.grid.finalists):
        rounds.try_all("refine", [[each.trial] for each in ranked[start : start + rounds.grid.finalists]], ALL)
        if len(rounds.at(ALL)) >= rounds.grid.finalists:
            return


def _rule(rounds: Rounds) -> Candidate | None:
    """The default edit: the last site, rank 3, gated, at the largest strength within the budget that is not useless."""
    for rank, gate in ((3, GATE), (1, GATE), (3, HIGHER_GATE), (1, HIGHER_GATE)):
        ladder = _ladder(rounds, [rounds.last], RULE_STRENGTHS, rank=rank, gate=gate)
        rounds.try_all("screen", [ladder], ALL)
        rounds.calibrate()
        able = [each for each in rounds.at(ALL) if each.trial in ladder and not rounds.is_useless(each)]
        if able:
            return max(able, key=lambda each: each.trial.how.strength)
    return None


def best_so_far(rounds: Rounds) -> tuple[Candidate | None, str]:
    """Select among the edits measured so far, of a search that was stopped.

    Returns:
        The choice, and why; None if nothing helps.
    """
    for level in (ALL, MORE, FEW):
        chosen, why = choose(rounds.at(level), None, rounds.is_useless)
        if chosen is not None:
            break
    return chosen, f"stopped after {plural(len(rounds.found), 'edit')}; {why}"


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
    if rounds.grid.refined > 1:
        wanted += [{first, second}, {first, third}, {second, third}, {first, second, third}]
        wanted += [set(paths[-2:]), set(paths[-3:])]
    return list(dict.fromkeys(tuple(path for path in paths if path in each) for each in wanted))


def _refine(rounds: Rounds, sites: tuple[str, ...]) -> Iterator[list[Trial]]:
    strengths = rounds.grid.strengths[: 4 if len(sites) == 1 else 3]
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
            yield rounds.factory.clipped(best.but(**step))
