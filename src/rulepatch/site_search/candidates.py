"""What a search tries: trials, the edits that they stand for, and how each did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rulepatch.core.changes import LowRank
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.moments import KeyStatistics
from rulepatch.core.site_activations import SiteActivations
from rulepatch.data.folders import ImageSet
from rulepatch.data.statistics import key_statistics
from rulepatch.editors.assembling import damage_of, masked_errors
from rulepatch.editors.edit import solve
from rulepatch.editors.problem import Problem, record_exemplars
from rulepatch.editors.rewrite import rewrite
from rulepatch.methods import Rewrite
from rulepatch.site_search.budget import expected_flips, is_within
from rulepatch.tracing.sites import Site

__all__ = ["Candidate", "EditFactory", "Trial", "Turn"]

Turn = Literal["screen", "refine", "vary"]


@dataclass(frozen=True)
class Trial:
    """What a search tries: a rewrite at some sites.

    Attributes:
        sites: dotted paths, in the order of the forward pass.
        how: the settings.
    """

    sites: tuple[str, ...]
    how: Rewrite = Rewrite()  # noqa: RUF009 - it is frozen

    def but(self, **changes: Any) -> "Trial":
        """The same sites with some settings changed."""
        return Trial(self.sites, self.how.but(**changes))

    def to_json(self) -> dict[str, Any]:
        """Sites and settings by name, as JSON."""
        return {"site": list(self.sites), **self.how.describe()}


class EditFactory:
    """Makes edits of trials from a problem that was built once at all sites.

    Args:
        problem: built at every site that a trial may name.
        images: the reference set, for statistics of unfolded patches.
        seen_as: settings by which exemplars are looked at, such as the value point.
    """

    def __init__(self, problem: Problem, images: ImageSet, seen_as: Rewrite = Rewrite()) -> None:  # noqa: B008 - frozen
        self.problem = problem
        self._images = images
        self._seen_as = seen_as
        self._base = base_digest(problem.model.module)
        self._changes: dict[Trial, list[LowRank]] = {}
        self._damage: dict[Trial, float] = {}
        self._loss: dict[Trial, float] = {}
        self._most_rank: dict[str, int] = {}
        self._patches: dict[str, KeyStatistics] = {}

    @property
    def sites(self) -> dict[str, Site]:
        """The sites that can be tried."""
        return {seen.site.path: seen.site for seen in self.problem.observations}

    def most_rank(self, path: str) -> int:
        """The highest rank that a site's keys under the masks allow."""
        if path not in self._most_rank:
            (seen,) = (seen for seen in self.problem.observations if seen.site.path == path)
            self._most_rank[path] = min(seen.concept_keys(1)[0].shape)
        return self._most_rank[path]

    def clipped(self, trial: Trial) -> Trial:
        """A trial with the highest rank that its sites allow, if it asks for more."""
        most = min(map(self.most_rank, trial.sites))
        return trial if trial.how.rank <= most else trial.but(rank=most)

    def learning_from(self, exemplars: Sequence[Exemplar]) -> "EditFactory":
        """A factory of edits of the same sites, with the same statistics, from other exemplars."""
        originals, edited, observations = record_exemplars(
            self.problem.model,
            exemplars,
            self.problem.paths,
            value_point=self._seen_as.value_point,
            whole_image=self._seen_as.whole_image,
        )
        problem = replace(
            self.problem, exemplars=exemplars, originals=originals, edited=edited, observations=observations
        )
        other = EditFactory(problem, self._images, self._seen_as)
        other._patches = self._patches
        return other

    def make(self, trial: Trial) -> Edit:
        """The edit of a trial, not measured; those that differ in strength alone are solved once."""
        return Edit(tuple(self._solved(trial.but(strength=1.0))), self._base).with_strength(trial.how.strength)

    def _solved(self, trial: Trial) -> list[LowRank]:
        if trial not in self._changes:
            self._changes[trial] = rewrite(self._problem_of(trial), trial.how)
        return self._changes[trial]

    def predicted_damage(self, trial: Trial) -> float:
        """Damage predicted from the second moment alone, a share ≥ 0, the largest of the sites."""
        unscaled = trial.but(strength=1.0)
        if unscaled not in self._damage:
            problem = self._problem_of(unscaled)
            self._damage[unscaled] = max(
                damage_of(seen, self._solved(unscaled), problem.statistics[seen.site.path])
                for seen in problem.observations
            )
        return trial.how.strength**2 * self._damage[unscaled]

    def loss_ratio(self, trial: Trial) -> float:
        """Masked error at strength 1 as a share of that before, each site by itself, the mean of the sites."""
        unscaled = trial.but(strength=1.0)
        if unscaled not in self._loss:
            seen = self._observations_of(unscaled)
            after = masked_errors(self.problem.model.module, None, seen, self._solved(unscaled))
            before = [float(each.error().mean()) for each in seen]
            ratios = [then / max(first, 1e-12) for first, then in zip(before, after, strict=True)]
            self._loss[unscaled] = float(np.mean(ratios))
        return self._loss[unscaled]

    def finish(self, trial: Trial, statistics: Mapping[str, KeyStatistics] | None = None) -> Edit:
        """The edit of a trial, with losses measured at its own strength.

        Args:
            trial: what to make.
            statistics: of its sites; those of the problem if None.
        """
        return solve(self._problem_of(trial, statistics), trial.how)

    def _observations_of(self, trial: Trial) -> list[SiteActivations]:
        return [each for each in self.problem.observations if each.site.path in trial.sites]

    def _problem_of(self, trial: Trial, statistics: Mapping[str, KeyStatistics] | None = None) -> Problem:
        """The problem at a trial's sites."""
        seen = self._observations_of(trial)
        known = statistics or (self._unfolded(seen) if trial.how.unfolded else self.problem.statistics)
        return replace(self.problem, observations=seen, statistics=known)

    def _unfolded(self, observations: Sequence[SiteActivations]) -> dict[str, KeyStatistics]:
        """Statistics of unfolded patches, each computed once."""
        missing = [each.site for each in observations if each.site.path not in self._patches]
        if not missing:
            return self._patches
        run = self.problem.run
        self._patches |= key_statistics(
            self.problem.model, self._images, missing, architecture=2, products=torch.float32, seed=run.seed,
            cache=run.store, progress=run.progress,
        )  # fmt: skip
        return self._patches


@dataclass(frozen=True, eq=False)
class Candidate:
    """A trial and how its edit did.

    Attributes:
        trial: what was tried.
        round: which round of the search tried it.
        predicted_damage: from the second moment alone, the largest of the sites.
        loss: masked error at strength 1 as a share of that before, each site by itself, the mean of the sites.
        log_prob_gain: what each validation image gained in log-probability of its label, the mean of those made of
            the same image, (n,).
        repaired: validation images that were wrong and are right.
        broken: validation images that were right and are wrong.
        drop: accuracy lost on the reference set, −1..1; without labels the share of predictions that changed.
        flips: share of the reference set's predictions that changed, 0..1.
        failing: validation images of which the untouched model is wrong.
        measured: reference images on which damage was measured.
        shift: mean change of the probability of their labels, 0..1; None without labels.
    """

    trial: Trial
    round: Turn
    predicted_damage: float
    loss: float
    log_prob_gain: NDArray[np.float64] = field(repr=False)
    repaired: int
    broken: int
    drop: float
    flips: float
    failing: int = 0
    measured: int = 1
    shift: float | None = None

    @property
    def score(self) -> float:
        """Mean gain of the validation images."""
        return float(self.log_prob_gain.mean())

    def is_within(self, max_drop: float, by_shift: float, *, slack: float = 1.0) -> bool:
        """Whether damage is within a budget, as far as the measured images can tell.

        Args:
            max_drop: the budget, 0..1.
            by_shift: flips for each unit of changed probability; see `flips_by_shift`.
            slack: factor by which the budget is widened.
        """
        expected = expected_flips(self.flips, self.shift, self.measured, by_shift)
        return is_within(self.drop, expected, self.measured, max_drop, slack=slack)

    def to_json(self) -> dict[str, Any]:
        """The candidate, as JSON."""
        return {
            "round": self.round,
            **self.trial.to_json(),
            "score": self.score,
            "repaired": self.repaired,
            "broken": self.broken,
            "failing": self.failing,
            "drop": self.drop,
            "flips": self.flips,
            "shift": self.shift,
            "measured": self.measured,
            "predicted_damage": self.predicted_damage,
            "loss": self.loss,
        }
