"""Choosing site, rank, strength and gate by trying them: an edit costs milliseconds, so try them all, honestly.

Three rounds. *Screen*: every site by itself, gated and not. *Refine*: the best sites and sets of them, at other ranks
and strengths. *Vary*: the best edit's neighbours. Each candidate is measured on validation pictures, for what it
repairs, and on the reference set, for what it costs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rulepatch.concepts.counterfactuals import Counterfactuals, counterfactuals_of, make_counterfactuals
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.sites import find_sites
from rulepatch.data.cache import Cache, default_cache
from rulepatch.data.folders import ImageSet
from rulepatch.data.statistics import key_statistics
from rulepatch.editors.problem import Problem, Settings, pose
from rulepatch.errors import FolderError, SettingError, SiteError
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.set_checks import check_validation, trusted
from rulepatch.experiments.candidates import Candidate, Maker, Proposal, Scorer, predicted_damage
from rulepatch.experiments.choice import FLIPS, choose, is_within, name_of, or_zero
from rulepatch.models.classifier import Classifier
from rulepatch.progress import Bar
from rulepatch.text import percent, plural, table
from rulepatch.timing import stretch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MAX_DROP", "Search", "search"]

RANKS = (1, 3)
STRENGTHS = (1.0, 2.0, 3.0, 4.0)
GATE, HIGHER_GATE = 0.98, 0.99
REFINED = 4
"""How many of the screened sites are refined, beside the last one."""

MOST_DAMAGE = 0.3
"""Predicted damage beyond which an ungated edit is not measured: at 0.16 one prediction in five flipped (design 2)."""

MOST_REFERENCE = 1000
"""Reference pictures on which damage is measured, at most; statistics come from others."""

FEWEST_COUNTERFACTUALS = 10

MAX_DROP = 0.0025
"""The paper's budget: a quarter of a point of accuracy."""

Turn = Literal["screen", "refine", "vary"]


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        edit: the chosen edit; None if nothing within the budget helps.
        chosen: the candidate that it is.
        candidates: everything that was measured, in order.
        why: why it was chosen, or why nothing was, in a sentence or two.
        validation: what repair was measured on, in words.
        max_drop: the budget, 0..1.
        reference_size: pictures on which damage was measured.
        model_name: of the model.
        make: makes the edit of any candidate's proposal, as when another than the chosen one is wanted.
    """

    edit: Edit | None
    chosen: Candidate | None
    candidates: tuple[Candidate, ...] = field(repr=False)
    why: str
    validation: str
    max_drop: float
    reference_size: int
    model_name: str
    make: Callable[[Proposal], Edit] = field(repr=False)

    def is_within(self, candidate: Candidate) -> bool:
        """Whether a candidate keeps to the budget.

        Returns:
            Whether it does.
        """
        return is_within(candidate.drop, candidate.flips, self.reference_size, self.max_drop)

    def to_json(self) -> dict[str, Any]:
        """The search, as JSON.

        Returns:
            A dictionary.
        """
        return {
            "model": self.model_name,
            "why": self.why,
            "validation": self.validation,
            "max_drop": self.max_drop,
            "reference": self.reference_size,
            "chosen": None if self.chosen is None else self.chosen.to_json(),
            "candidates": [candidate.to_json() for candidate in self.candidates],
        }

    def to_text(self) -> str:
        """The best of what was tried, and why one was chosen.

        Returns:
            Lines of text.
        """
        within = [each for each in self.candidates if self.is_within(each)]
        best = sorted(within, key=lambda each: -or_zero(each.score))[:12]
        rows = [
            [
                "+".join(each.proposal.sites),
                each.proposal.rank,
                f"{each.proposal.strength:g}",
                "none" if each.proposal.gate is None else f"{each.proposal.gate:g}",
                "n/a" if each.score is None else f"{each.score:+.3f}",
                f"{100 * each.drop:+.2f}",
                percent(each.flips),
            ]
            for each in best
        ]
        header = ["site", "rank", "strength", "gate", "validation", "points lost", "flips"]
        counted = f"{plural(len(self.candidates), 'candidate')}, {len(within)} within the budget of "
        counted += f"{100 * self.max_drop:.2f} points on {plural(self.reference_size, 'reference picture')}"
        return "\n".join([f"{counted}; {self.validation}", table(header, rows), self.why])

    def figure(self) -> "Figure":
        """Repair on the validation pictures against damage on the reference set, by site.

        Returns:
            A figure of matplotlib.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 5), layout="constrained")
        axes = figure.add_subplot()
        paths = list(dict.fromkeys("+".join(each.proposal.sites) for each in self.candidates))
        for number, path in enumerate(paths):
            own = [each for each in self.candidates if "+".join(each.proposal.sites) == path]
            axes.scatter(
                [100 * each.flips for each in own],
                [or_zero(each.score) for each in own],
                s=[30 if self.is_within(each) else 8 for each in own],
                marker="os^Dv"[number // 10 % 5],
                color=f"C{number % 10}",
                alpha=0.7,
                label=path,
            )
        if self.chosen is not None:
            at = (100 * self.chosen.flips, or_zero(self.chosen.score))
            axes.scatter(*at, s=160, facecolors="none", edgecolors="black", label="chosen")
        axes.axhline(0, color="grey", linewidth=1, linestyle=":")
        axes.set(
            xlabel="reference predictions changed, % (small marks: beyond the budget)",
            ylabel="mean gain of validation pictures, log-probability",
            title=self.model_name,
            xscale="symlog",
        )
        axes.xaxis.set_major_formatter("{x:g}")
        figure.legend(loc="outside right upper", fontsize="x-small")
        return figure


def search(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    reference: Any,
    validation: Any = None,
    sites: Sequence[str] | None = None,
    max_drop: float = MAX_DROP,
    leave_out: Sequence[int | str] = (),
    seed: int = 0,
    cache: Cache | Literal["user"] | None = "user",
    progress: bool = True,
) -> Search:
    """Choose where and how to edit, by what repairs most on validation pictures within a damage budget.

    Without labelled validation pictures, counterfactuals are made from the reference set: the old concept is found
    where its key fires and replaced as in the exemplars, and the model should say what it said before. The score is
    the mean gain in log-probability. The edit of a simple rule (the last site, rank 3, gated, as strong as the budget
    allows) is taken unless the best is ahead of it by two standard errors; then of candidates within one standard error
    of the best the one of fewest flips. Where no counterfactuals can be made, the rule stands alone.

    What was measured is kept in the cache: a search that was interrupted goes on where it was.

    Args:
        model: the classifier; it is not changed.
        exemplars: what to learn from.
        reference: pictures whose treatment should stay: a folder, or pictures in memory. While candidates are compared
            statistics come from one half, and damage is measured on the other; the chosen edit has statistics of both.
        validation: labelled pictures that the edit should repair, never the tests; or exemplars that are not learnt
            from; made from the reference set if None.
        sites: where to look; every site with positions in the second half of the network if None.
        max_drop: most accuracy that the edit may lose on the reference set, 0..1 (without labels: flips).
        leave_out: classes to leave out of the reference set, such as those of the exemplars.
        seed: of the statistics and of the sample on which damage is measured.
        cache: where statistics and measurements are kept; the user's own cache by default, None for nowhere.
        progress: whether to show bars.

    Returns:
        The search; its edit is None if nothing within the budget helps.

    Raises:
        SiteError: a site that the model does not have, or no site with positions.
        SettingError: a budget out of range.
        FolderError: a folder is missing or empty, or the validation pictures have no labels.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import exemplar, training_images
        >>> found = search(load_model("playground"), [exemplar("van", ground="snow", seed=1)],
        ...                reference=training_images(60, seed=2), sites=["blocks.4.conv"], cache=None)
        >>> found.edit.sites
        ('blocks.4.conv',)
    """
    if not 0 <= max_drop <= 1:
        raise SettingError(f"expected a budget in 0..1 but got {max_drop}; 0.0025 is usual")
    kept = default_cache() if cache == "user" else cache
    left_out = {model.classes.index(label) for label in leave_out}
    images = ImageSet.of(reference, model.classes).without(left_out)
    with stretch("search"):
        images = trusted(model, images, seed=seed, progress=progress)
        known, unseen = images.split(0.5, seed=seed)  # an edit spares the very pictures that its statistics come from
        problem = _pose(model, exemplars, sites, known, seed=seed, cache=kept, progress=progress)
        pictures, groups, told = _validation(problem, validation, images, progress=progress)
        sample = unseen.sample(MOST_REFERENCE, seed=seed)
        maker = Maker(problem, known, kept)
        with Scorer(
            problem, list(maker.sites), sample, pictures, groups=groups, cache=kept, progress=progress
        ) as scorer:
            run = _Run(maker, scorer, len(sample), max_drop, progress)
            if pictures is None:
                chosen, why = _by_rule(run)
            else:
                chosen, why = _by_score(run)
        edit = None
        if chosen is not None:
            edit, told_of_edit = _made_final(maker, chosen, images, max_drop, cache=kept, progress=progress)
            why = f"{why}; {told_of_edit}"
    return Search(edit, chosen, tuple(run.found), why, told, max_drop, len(sample), model.name, maker.make)


def _made_final(
    maker: Maker, chosen: Candidate, images: ImageSet, max_drop: float, *, cache: Cache | None, progress: bool
) -> tuple[Edit, str]:
    """The chosen edit made anew with statistics of the whole reference set, if that keeps to the budget as well."""
    proposal, problem = chosen.proposal, maker.problem
    statistics = key_statistics(
        problem.model,
        images,
        [maker.sites[path] for path in proposal.sites],
        architecture=proposal.architecture,
        seed=problem.settings.seed,
        cache=cache,
        progress=progress,
    )
    edit = maker.finish(proposal, statistics)
    sample = images.sample(MOST_REFERENCE, seed=problem.settings.seed)
    (found,) = outcomes_of(problem.model, [edit], sample, progress="damage" if progress else None)
    flips = len(found.flips) / len(found)
    told = f"{100 * found.drop:+.2f} points lost and {percent(flips)} flips on {plural(len(found), 'picture')}"
    if is_within(found.drop, flips, len(found), max_drop):
        return edit, f"made anew with statistics of the whole reference set: {told}"
    return maker.finish(proposal), f"kept as it is, as with statistics of the whole reference set: {told}"


def _pose(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    sites: Sequence[str] | None,
    images: ImageSet,
    *,
    seed: int,
    cache: Cache | None,
    progress: bool,
) -> Problem:
    """The problem at every site to be tried, statistics of all of them from one pass."""
    survey = find_sites(model.module, model.example())
    if sites is None:
        grids = [site for site in survey.sites if site.is_spatial]
        wanted = grids[len(grids) // 2 :]
        if not wanted:
            raise SiteError(f"expected a site with positions in {model.name} but it has none; name sites of your own")
    else:
        wanted = [survey.site(path) for path in sites]
    with stretch("statistics"):
        statistics = key_statistics(
            model, images, wanted, products=torch.float32, seed=seed, cache=cache, progress=progress
        )
    settings = Settings([site.path for site in wanted], seed=seed)
    return pose(model, exemplars, settings, reference=statistics, cache=cache, progress=progress)


def _validation(
    problem: Problem, given: Any, images: ImageSet, *, progress: bool
) -> tuple[ImageSet | None, NDArray[np.int64] | None, str]:
    """The pictures on which repair is measured, which of them belong together, and what to say of them."""
    if given is None:
        made = make_counterfactuals(problem, images, progress=progress)
        if made is None or len(made) < FEWEST_COUNTERFACTUALS:
            count = plural(0 if made is None else len(made), "counterfactual")
            return None, None, f"repair not measured: only {count} could be made"
        return made.replaced, made.groups, f"repair measured on {_told(made)}"
    if isinstance(given, Sequence) and given and isinstance(given[0], Exemplar):
        shown = counterfactuals_of(problem.model, given)
        return shown.replaced, None, f"repair measured on {plural(len(shown), 'exemplar')} of validation"
    pictures = ImageSet.of(given, problem.model.classes)
    if not pictures.is_labelled:
        raise FolderError(
            f"expected validation pictures in a folder for each class but {pictures.name} has some without; "
            "name the folders by class"
        )
    check_validation(problem.model, pictures, images, problem.exemplars, progress=progress)
    return pictures, None, f"repair measured on {plural(len(pictures), 'labelled validation picture')}"


def _told(made: Counterfactuals) -> str:
    place = made.place
    assert place is not None
    return (
        f"{plural(len(made), 'counterfactual')} of {plural(int(made.groups.max()) + 1, 'picture')}, the concept found "
        f"at {place.key.site} (agreement with the exemplars' masks {place.agreement:.2f})"
    )


class _Run:
    """Measures proposals, each once, with a bar."""

    def __init__(self, maker: Maker, scorer: Scorer, pictures: int, max_drop: float, progress: bool) -> None:
        self.maker = maker
        self.max_drop = max_drop
        self.pictures = pictures
        self.found: list[Candidate] = []
        self._scorer = scorer
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

    def rank_of(self, sites: Sequence[str], rank: int) -> int:
        """A rank, as far as the sites allow it."""
        return min(rank, *(self.maker.most_rank(path) for path in sites))


def _by_score(run: _Run) -> tuple[Candidate | None, str]:
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
    return choose(run.within, rule)


def _rule(run: _Run) -> Candidate | None:
    """The edit of the rule: the last site, rank 3, gated, as strong as the budget allows; else weaker ones."""
    last = tuple(run.maker.sites)[-1:]
    for rank, gate in ((3, GATE), (1, GATE), (3, HIGHER_GATE), (1, HIGHER_GATE)):
        ladder = [Proposal(last, run.rank_of(last, rank), strength, gate) for strength in STRENGTHS[:3]]
        run.try_all("screen", [ladder])
        able = [each for each in run.within if each.proposal in ladder]
        if able:
            return able[-1]
    return None


def _by_rule(run: _Run) -> tuple[Candidate | None, str]:
    chosen = _rule(run)
    if chosen is None or chosen.loss >= 1:
        return None, "nothing helps: at the last site no rank, strength and gate keeps to the budget"
    return chosen, (
        f"chosen: {name_of(chosen.proposal)} by rule (the last site, rank 3, gated, as strong as the budget "
        "allows), as there is nothing to measure repair on; give labelled validation pictures if you can"
    )


def _screen(run: _Run, path: str) -> Iterator[list[Proposal]]:
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


def _refine(run: _Run, sites: tuple[str, ...]) -> Iterator[list[Proposal]]:
    strengths = STRENGTHS if len(sites) == 1 else STRENGTHS[:3]
    for rank in sorted({run.rank_of(sites, rank) for rank in RANKS}):
        for gate in (GATE, None):
            yield [Proposal(sites, rank, strength, gate) for strength in strengths]


def _vary(run: _Run, best: Proposal) -> Iterator[Proposal]:
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
