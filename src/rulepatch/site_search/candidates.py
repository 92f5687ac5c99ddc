"""What a search tries: proposals, the edits that they stand for, and how each did."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rulepatch.core.changes import GateKind
from rulepatch.core.edit import Edit
from rulepatch.core.moments import KeyStatistics
from rulepatch.data.cache import Cache
from rulepatch.data.folders import ImageSet
from rulepatch.data.statistics import identity_of, key_statistics
from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.editors.problem import Problem
from rulepatch.editors.rewrite import Coupling, Solving, rewrite_posed
from rulepatch.evaluation.activations import Activations
from rulepatch.tracing.sites import Site

__all__ = ["Candidate", "Maker", "Proposal", "Scorer", "predicted_damage"]


@dataclass(frozen=True)
class Proposal:
    """Settings that a search tries; their names are those of `rewrite`.

    Attributes:
        sites: dotted paths, in the order of the forward pass.
    """

    sites: tuple[str, ...]
    rank: int = 3
    strength: float = 1.0
    gate: float | None = None
    gate_kind: GateKind = "hard"
    architecture: int = 1
    ridge: float = 1e-3
    coupling: Coupling = "none"

    @property
    def settings(self) -> dict[str, Any]:
        """What to call `rewrite` with."""
        found = asdict(self)
        return {"site": list(found.pop("sites")), **found}


def predicted_damage(proposal: Proposal, edit: Edit) -> float:
    """Damage predicted from the second moment alone, at the proposal's strength, the largest of the sites.

    Args:
        proposal: what the edit was made of.
        edit: as `Maker.make` makes it, measured at strength 1.

    Returns:
        A share ≥ 0.
    """
    return proposal.strength**2 * float(max(each["predicted_damage"] for each in edit.provenance["sites"]))


class Maker:
    """Makes edits of proposals from a problem that was posed once at all sites.

    Args:
        problem: posed at every site that a proposal may name.
        images: the reference set, for statistics of patches, which only the second architecture needs.
        cache: where these are kept.
        progress: whether to show a bar while they are computed.
    """

    def __init__(self, problem: Problem, images: ImageSet, cache: Cache | None, *, progress: bool = False) -> None:
        self.problem = problem
        self._images = images
        self._progress = progress
        self._cache = cache
        self._made: dict[Proposal, Edit] = {}
        self._patches: dict[str, Any] = {}

    @property
    def sites(self) -> dict[str, Site]:
        """The sites that can be tried."""
        return {seen.site.path: seen.site for seen in self.problem.observations}

    def most_rank(self, path: str) -> int:
        """The highest rank that a site's keys under the masks allow."""
        (seen,) = (seen for seen in self.problem.observations if seen.site.path == path)
        return min(seen.concept_keys(1)[0].shape)

    def make(self, proposal: Proposal) -> Edit:
        """The edit of a proposal; those that differ in strength alone are solved once.

        Args:
            proposal: what to make.
        """
        unscaled = replace(proposal, strength=1.0)
        if unscaled not in self._made:
            self._made[unscaled] = self.finish(unscaled)
        return self._made[unscaled].with_strength(proposal.strength)

    def finish(self, proposal: Proposal, statistics: Mapping[str, KeyStatistics] | None = None) -> Edit:
        """The edit of a proposal, with losses measured at its own strength.

        Args:
            proposal: what to make.
            statistics: of its sites; those of the problem if None.
        """
        posed = self._posed(proposal)
        if statistics is not None:
            posed = replace(posed, statistics=statistics)
        return rewrite_posed(posed, Solving(ridge=proposal.ridge, coupling=proposal.coupling))

    def _posed(self, proposal: Proposal) -> Problem:
        seen = [each for each in self.problem.observations if each.site.path in proposal.sites]
        settings = replace(
            self.problem.settings,
            site=proposal.sites,
            rank=proposal.rank,
            strength=proposal.strength,
            gate=proposal.gate,
            gate_kind=proposal.gate_kind,
            architecture=proposal.architecture,
        )
        statistics = self.problem.statistics
        if proposal.architecture == 2:
            missing = [each.site for each in seen if each.site.path not in self._patches]
            self._patches |= key_statistics(
                self.problem.model, self._images, missing, architecture=2, products=torch.float32,
                seed=settings.seed, cache=self._cache, progress=self._progress,
            )  # fmt: skip
            statistics = self._patches
        return replace(self.problem, settings=settings, observations=seen, statistics=statistics)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A proposal and how its edit did.

    Attributes:
        proposal: what was tried.
        round: which round of the search tried it.
        predicted_damage: from the second moment alone, the largest of the sites.
        loss: masked error at the sites after the edit, as a share of that before, the mean of the sites.
        gains: what each validation picture gained in log-probability of its label, the mean of those made of the same
            picture, (n,); None without validation.
        repaired: validation pictures that were wrong and are right.
        broken: validation pictures that were right and are wrong.
        drop: accuracy lost on the reference set, −1..1; without labels the share of predictions that changed.
        flips: share of the reference set's predictions that changed, 0..1.
        failing: validation pictures of which the untouched model is wrong.
    """

    proposal: Proposal
    round: Literal["screen", "refine", "vary"]
    predicted_damage: float
    loss: float
    gains: NDArray[np.float64] | None = field(repr=False)
    repaired: int
    broken: int
    drop: float
    flips: float
    failing: int = 0

    @property
    def score(self) -> float | None:
        """Mean gain of the validation pictures; None without validation."""
        return None if self.gains is None else float(self.gains.mean())

    def to_json(self) -> dict[str, Any]:
        """The candidate, as JSON."""
        return {
            "round": self.round,
            **self.proposal.settings,
            "score": self.score,
            "repaired": self.repaired,
            "broken": self.broken,
            "failing": self.failing,
            "drop": self.drop,
            "flips": self.flips,
            "predicted_damage": self.predicted_damage,
            "loss": self.loss,
        }


class Scorer:
    """Measures edits on validation pictures and on a reference set; what was measured before is read from the cache.

    Use it in a `with` block: its end removes activations from the disk.

    Args:
        problem: its model is measured.
        sites: every site that edits may start at.
        reference: pictures whose treatment should stay.
        validation: labelled pictures; None if there are none.
        cache: where measurements are kept.
        groups: of the validation pictures, those made of the same picture, (n,); each is its own if None.
        progress: whether to show bars.
    """

    def __init__(
        self,
        problem: Problem,
        sites: Sequence[str],
        reference: ImageSet,
        validation: ImageSet | None,
        *,
        groups: NDArray[np.int64] | None = None,
        cache: Cache | None,
        progress: bool,
    ) -> None:
        self._model = problem.model
        self._groups = np.arange(0 if validation is None else len(validation)) if groups is None else groups
        self._sites = sites
        self._sets = {"reference": reference} | ({} if validation is None else {"validation": validation})
        self._cache = cache
        self._progress = progress
        self._kept: dict[str, Activations] = {}
        self._identity = {"what": "search", "schema": 2, "sites": list(sites), **identity_of(problem.model)}
        self._identity |= {
            name: [images.digest(progress=progress), _labels(images)] for name, images in self._sets.items()
        }

    def __enter__(self) -> "Scorer":
        return self

    def __exit__(self, *exception: object) -> None:
        for kept in self._kept.values():
            kept.__exit__(*exception)

    def score(self, proposal: Proposal, edit: Edit, turn: Literal["screen", "refine", "vary"]) -> Candidate:
        """Measure an edit.

        Args:
            proposal: what it was made of.
            edit: the edit.
            turn: the round of the search.
        """
        key = {
            **self._identity,
            "changes": [[each.describe(), digest_of_tensors(each.tensors())] for each in edit.changes],
        }
        found = self._cache.get(key) if self._cache is not None else None
        if found is None:
            found = self._measure(edit)
            if self._cache is not None:
                self._cache.put(key, found)
        about = edit.provenance["sites"]
        ratios = [each["loss"]["after"] / max(each["loss"]["before"], 1e-12) for each in about]
        gains = found["gains"].numpy()
        return Candidate(
            proposal,
            turn,
            predicted_damage=predicted_damage(proposal, edit),
            loss=float(np.mean(ratios)),
            gains=gains if len(gains) else None,
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
        of_group = np.bincount(self._groups, seen.gains) / np.bincount(self._groups)
        return {"damage": damage, "gains": torch.from_numpy(of_group), "counts": counts}


def _labels(images: ImageSet) -> str:
    return digest_of_json([picture.label for picture in images.pictures])
