"""The rounds of a search: which edits are tried, in what order, and which of them is taken.

*Screen*: every site by itself, gated and not. *Refine*: the best sites and sets of them, at other ranks and strengths.
*Vary*: the best edit's neighbours. Each candidate is measured on validation pictures, for what it repairs, and on the
reference set, for what it costs; one that does nothing for its own exemplars is never taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from rulepatch.editors.judging import Judge
from rulepatch.errors import UselessEditError
from rulepatch.progress import Bar
from rulepatch.site_search.candidates import Candidate, Maker, Proposal, Scorer, predicted_damage
from rulepatch.site_search.selection import FLIPS, choose, is_within, name_of, or_zero

__all__ = ["Run", "by_rule", "by_score"]

RANKS = (1, 3)
STRENGTHS = (1.0, 2.0, 3.0, 4.0)
GATE, HIGHER_GATE = 0.98, 0.99
REFINED = 4
"""How many of the screened sites are refined, beside the last one."""

MOST_DAMAGE = 0.3
"""Predicted damage beyond which an ungated edit is not measured: at 0.16 one prediction in five flipped (design 2)."""

Turn = Literal["screen", "refine", "vary"]


class Run:
    """Measures proposals, each once, with a bar.

    Args:
        maker: makes their edits.
        scorer: measures them.
        pictures: how many the damage is measured on.
        max_drop: the budget, 0..1.
        progress: whether to show bars.
    """

    def __init__(self, maker: Maker, scorer: Scorer, pictures: int, max_drop: float, progress: bool) -> None:
        self.maker = maker
        self.max_drop = max_drop
        self.pictures = pictures
        self.found: list[Candidate] = []
        self._scorer = scorer
        self._judge = Judge.of(maker.problem.model, maker.problem.exemplars)
        self._progress = progress

    @property
    def within(self) -> list[Candidate]:
        """Candidates within the budget."""
        return [each for each in self.found if is_within(each.drop, each.flips, self.pictures, self.max_drop)]

    def try_all(self, turn: Turn, ladders: Sequence[Sequence[Proposal]]) -> None:
        """Measure proposals. Each ladder rises in strength and is left where the damage is far beyond the budget."""
        total = sum(map(len, ladders))
        with Bar(total, turn, unit="edit", shown=self._progress) as bar:
            for ladder in ladders:
                for proposal in ladder:
                    candidate = self._try(turn, proposal)
                    if candidate is None or candidate.flips > 3 * FLIPS * self.max_drop + 0.01:
                        break
                bar.update(len(ladder))

    def _try(self, turn: Turn, proposal: Proposal) -> Candidate | None:
        for known in self.found:
            if known.proposal == proposal:
                return known
        edit = self.maker.make(proposal)
        if proposal.gate is None and predicted_damage(proposal, edit) > MOST_DAMAGE:
            return None
        self.found.append(self._scorer.score(proposal, edit, turn))
        return self.found[-1]

    def is_useless(self, candidate: Candidate) -> bool:
        """Whether a candidate's edit does nothing for its own exemplars."""
        try:
            return self._judge.outcomes(self.maker.make(candidate.proposal).changes).verdict == "useless"
        except UselessEditError:
            return True

    def rank_of(self, sites: Sequence[str], rank: int) -> int:
        """A rank, as far as the sites allow it."""
        return min(rank, *(self.maker.most_rank(path) for path in sites))


def by_score(run: Run) -> tuple[Candidate | None, str]:
    """Try everything and choose by what it does to the validation pictures.

    Returns:
        The choice, and why; None if nothing helps.
    """
    paths = list(run.maker.sites)
    rule = _rule(run)
    run.try_all("screen", [ladder for path in paths for ladder in _screen(run, path)])
    best_of = {
        path: max((or_zero(c.score) for c in run.within if c.proposal.sites == (path,)), default=-np.inf)
        for path in paths
    }
    ranked = sorted(paths, key=lambda path: -best_of[path])
    run.try_all("refine", [ladder for sites in _sets(ranked, paths) for ladder in _refine(run, sites)])
    best = max(run.within, key=lambda each: or_zero(each.score), default=None)
    if best is not None:
        run.try_all("vary", [[proposal] for proposal in _vary(run, best.proposal)])
    return choose(run.within, rule, run.is_useless)


def _rule(run: Run) -> Candidate | None:
    """The rule's edit: the last site, rank 3, gated, as strong as the budget allows; else weaker, never useless."""
    last = tuple(run.maker.sites)[-1:]
    for rank, gate in ((3, GATE), (1, GATE), (3, HIGHER_GATE), (1, HIGHER_GATE)):
        ladder = [Proposal(last, run.rank_of(last, rank), strength, gate) for strength in STRENGTHS[:3]]
        run.try_all("screen", [ladder])
        able = [each for each in run.within if each.proposal in ladder and not run.is_useless(each)]
        if able:
            return able[-1]
    return None


def by_rule(run: Run) -> tuple[Candidate | None, str]:
    """Choose by rule, where there are no validation pictures.

    Returns:
        The choice, and why; None if nothing helps.
    """
    chosen = _rule(run)
    if chosen is None or chosen.loss >= 1:
        found = "does anything for the exemplars themselves" if run.within else "keeps to the budget"
        return None, f"nothing helps: at the last site no rank, strength and gate {found}"
    return chosen, (
        f"chosen: {name_of(chosen.proposal)} by rule (the last site, rank 3, gated, as strong as the budget "
        "allows), as there is nothing to measure repair on; give labelled validation pictures if you can"
    )


def _screen(run: Run, path: str) -> Iterator[list[Proposal]]:
    rank = run.rank_of([path], 3)
    yield [Proposal((path,), rank, 2.0, GATE)]
    yield [Proposal((path,), rank, 1.0, None)]


def _sets(ranked: Sequence[str], paths: Sequence[str]) -> list[tuple[str, ...]]:
    """The best sites alone, pairs and a triple of them, and the last two and three; in the order of the network."""
    first, second, third = [*ranked, *[ranked[0]] * 2][:3]
    wanted = [{path} for path in (*ranked[:REFINED], paths[-1])]
    wanted += [{first, second}, {first, third}, {second, third}, {first, second, third}]
    wanted += [set(paths[-2:]), set(paths[-3:])]
    return list(dict.fromkeys(tuple(path for path in paths if path in each) for each in wanted))


def _refine(run: Run, sites: tuple[str, ...]) -> Iterator[list[Proposal]]:
    strengths = STRENGTHS if len(sites) == 1 else STRENGTHS[:3]
    for rank in sorted({run.rank_of(sites, rank) for rank in RANKS}):
        for gate in (GATE, None):
            yield [Proposal(sites, rank, strength, gate) for strength in strengths]


def _vary(run: Run, best: Proposal) -> Iterator[Proposal]:
    """Neighbours of the best edit, one setting changed at a time."""
    yield from (replace(best, rank=run.rank_of(best.sites, rank)) for rank in (2, 5))
    yield from (replace(best, strength=best.strength + step) for step in (-0.5, 0.5))
    yield from (replace(best, ridge=ridge) for ridge in (1e-4, 1e-2))
    if best.gate is not None:
        yield from (replace(best, gate=gate) for gate in (0.95, 0.99))
        yield replace(best, gate_kind="soft")
    if len(best.sites) > 1:
        yield replace(best, coupling="sequence")
    if any(max(run.maker.sites[path].shape[2:]) > 1 for path in best.sites):
        yield replace(best, architecture=2)
