"""What a search tries: trials, the edits that they stand for, and how each did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rulepatch.core.changes import LowRank
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.moments import KeyStatistics
from rulepatch.core.site_activations import SiteActivations
from rulepatch.data.folders import ImageSet
from rulepatch.data.statistics import identity_of, key_statistics
from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.editors.assembling import damage_of, masked_errors
from rulepatch.editors.edit import solve
from rulepatch.editors.problem import Problem
from rulepatch.editors.rewrite import rewrite
from rulepatch.evaluation.activations import Activations
from rulepatch.methods import Rewrite
from rulepatch.tracing.sites import Site

__all__ = ["Candidate", "EditFactory", "EditScorer", "Trial"]


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
    """

    def __init__(self, problem: Problem, images: ImageSet) -> None:
        self.problem = problem
        self._images = images
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
            the same image, (n,); None without validation.
        repaired: validation images that were wrong and are right.
        broken: validation images that were right and are wrong.
        drop: accuracy lost on the reference set, −1..1; without labels the share of predictions that changed.
        flips: share of the reference set's predictions that changed, 0..1.
        failing: validation images of which the untouched model is wrong.
    """

    trial: Trial
    round: Literal["screen", "refine", "vary"]
    predicted_damage: float
    loss: float
    log_prob_gain: NDArray[np.float64] | None = field(repr=False)
    repaired: int
    broken: int
    drop: float
    flips: float
    failing: int = 0

    @property
    def score(self) -> float | None:
        """Mean gain of the validation images; None without validation."""
        return None if self.log_prob_gain is None else float(self.log_prob_gain.mean())

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
            "predicted_damage": self.predicted_damage,
            "loss": self.loss,
        }


class EditScorer:
    """Measures edits on validation images and on a reference set; what was measured before is read from the cache.

    Use it in a `with` block: its end removes activations from the disk.

    Args:
        problem: its model is measured; its cache keeps what was.
        sites: every site that edits may start at.
        reference: images whose treatment should stay.
        validation: labelled images; None if there are none.
        groups: of the validation images, those made of the same image, (n,); each is its own if None.
    """

    def __init__(
        self,
        problem: Problem,
        sites: Sequence[str],
        reference: ImageSet,
        validation: ImageSet | None,
        *,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self._model = problem.model
        self._groups = np.arange(0 if validation is None else len(validation)) if groups is None else groups
        self._sites = sites
        self._sets = {"reference": reference} | ({} if validation is None else {"validation": validation})
        self._cache, self._progress = problem.run.store, problem.run.progress
        self._kept: dict[str, Activations] = {}
        self._identity = {"what": "search", "schema": 2, "sites": list(sites), **identity_of(problem.model)}
        self._identity |= {
            name: [images.digest(progress=self._progress), _labels(images)] for name, images in self._sets.items()
        }

    def __enter__(self) -> "EditScorer":
        return self

    def __exit__(self, *exception: object) -> None:
        for kept in self._kept.values():
            kept.__exit__(*exception)

    def score(self, factory: EditFactory, trial: Trial, turn: Literal["screen", "refine", "vary"]) -> Candidate:
        """Measure the edit of a trial.

        Args:
            factory: makes it.
            trial: what is tried.
            turn: the round of the search.
        """
        edit = factory.make(trial)
        key = {
            **self._identity,
            "changes": [[each.describe(), digest_of_tensors(each.tensors())] for each in edit.changes],
        }
        found = self._cache.get(key) if self._cache is not None else None
        if found is None:
            found = self._measure(edit)
            if self._cache is not None:
                self._cache.put(key, found)
        gains = found["gains"].numpy()
        return Candidate(
            trial,
            turn,
            predicted_damage=factory.predicted_damage(trial),
            loss=factory.loss_ratio(trial),
            log_prob_gain=gains if len(gains) else None,
            repaired=int(found["counts"][0]),
            broken=int(found["counts"][1]),
            drop=float(found["damage"][0]),
            flips=float(found["damage"][1]),
            failing=int(found["counts"][2]),
        )

    def _measure(self, edit: Edit) -> dict[str, torch.Tensor]:
        for name, images in self._sets.items():
            if name not in self._kept:
                said = f"activations, {name}" if self._progress else None
                self._kept[name] = Activations(self._model, images, self._sites, progress=said)
        reference = self._kept["reference"].outcomes(edit)
        damage = torch.tensor([reference.drop, len(reference.flips) / len(reference)], dtype=torch.float64)
        if "validation" not in self._sets:
            return {"damage": damage, "gains": torch.empty(0), "counts": torch.zeros(3, dtype=torch.int64)}
        seen = self._kept["validation"].outcomes(edit)
        counts = torch.tensor([len(seen.repaired), len(seen.broken), int((~seen.right_before).sum())])
        of_group = np.bincount(self._groups, seen.log_prob_gain) / np.bincount(self._groups)
        return {"damage": damage, "gains": torch.from_numpy(of_group), "counts": counts}


def _labels(images: ImageSet) -> str:
    return digest_of_json([picture.label for picture in images.pictures])
