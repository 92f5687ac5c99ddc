"""Measuring edits on images: on few of them first, and on all of them where it is worth while."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from rulepatch.data.folders import ImageSet
from rulepatch.data.statistics import identity_of
from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.evaluation.activations import MOST_BYTES, Activations
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.site_search.candidates import Candidate, EditFactory, Trial, Turn

__all__ = ["LEVELS", "EditScorer", "Fold"]

LEVELS = (64, 192, None)
"""Images of each set on which an edit is measured at each level; None for all of them."""


@dataclass(frozen=True, eq=False)
class Fold:
    """Images that judge edits, and what these edits learn from.

    Attributes:
        factory: makes the edits.
        images: labelled.
        groups: of those made of the same image, (n,).
    """

    factory: EditFactory
    images: ImageSet
    groups: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True, eq=False)
class _Part:
    """Images that are measured at one level, with their activations as soon as they are needed."""

    name: str
    level: int
    factory: EditFactory
    images: ImageSet
    groups: NDArray[np.int64]
    digest: str


class EditScorer:
    """Measures edits on a reference set and on images that they should repair; what was measured is kept.

    Use it in a `with` block: its end removes activations from the disk.

    Args:
        factory: makes the edits that are measured on the reference set.
        reference: images whose treatment should stay.
        folds: images that should be repaired, each set with what the edits measured on it learn from.
    """

    def __init__(self, factory: EditFactory, reference: ImageSet, folds: Sequence[Fold]) -> None:
        run = factory.problem.run
        self._model, self._cache, self._progress = factory.problem.model, run.store, run.progress
        self._sites: Sequence[str] = list(factory.sites)
        self._factory = factory
        self._identity = {"what": "search", "schema": 4, **identity_of(self._model)}
        every = [Fold(factory, reference, np.arange(len(reference))), *folds]
        self._parts = [part for index, fold in enumerate(every) for part in self._divided(fold, is_judge=index > 0)]
        self._kept: dict[int, Activations] = {}
        self._known: dict[tuple[int, Trial], Mapping[str, torch.Tensor]] = {}

    def _divided(self, fold: Fold, *, is_judge: bool) -> list[_Part]:
        """The images of a fold by the level at which they are measured, those of one group together."""
        name = "validation" if is_judge else "reference"
        order = np.random.default_rng(0).permutation(int(fold.groups.max(initial=-1)) + 1)
        rows = np.argsort(np.argsort(order)[fold.groups], kind="stable")
        ends = [len(rows) if level is None else min(level, len(rows)) for level in LEVELS]
        found = []
        for level, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
            chosen = rows[start:end]
            if len(chosen):
                images = ImageSet(tuple(fold.images.pictures[row] for row in chosen), fold.images.name)
                labels = digest_of_json([picture.label for picture in images.pictures])
                digest = images.digest(progress=self._progress) + labels
                found.append(_Part(name, level, fold.factory, images, fold.groups[chosen], digest))
        return found

    def __enter__(self) -> "EditScorer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._close()

    def _close(self) -> None:
        for kept in self._kept.values():
            kept.close()
        self._kept.clear()

    def narrow(self, sites: Sequence[str]) -> None:
        """Keep activations for some sites alone from now on, which takes less memory.

        Args:
            sites: every site that edits may start at from now on.
        """
        self._close()
        self._sites = sites

    def images(self, level: int) -> int:
        """Images on which an edit is measured up to a level; none at a level below the first."""
        return sum(len(part.images) for part in self._parts if part.level <= level)

    def score(self, trial: Trial, turn: Turn, level: int) -> Candidate:
        """Measure the edit of a trial.

        Args:
            trial: what is tried.
            turn: the round of the search.
            level: of `LEVELS`, by its index.
        """
        reference, judged = np.zeros(4), np.zeros(3, np.int64)
        gains: list[NDArray[np.float64]] = []
        for number, part in enumerate(self._parts):
            if part.level > level:
                continue
            found = self._measured(number, trial)
            if part.name == "reference":
                reference += found["counts"].numpy()
                continue
            judged += found["counts"].numpy().astype(np.int64)
            each = found["gains"].double().numpy()
            groups = np.unique(part.groups, return_inverse=True)[1]
            gains.append(np.bincount(groups, each) / np.bincount(groups))
        measured = reference[0]
        return Candidate(
            trial,
            turn,
            predicted_damage=self._factory.predicted_damage(trial),
            loss=self._factory.loss_ratio(trial),
            log_prob_gain=np.concatenate(gains),
            repaired=int(judged[0]),
            broken=int(judged[1]),
            failing=int(judged[2]),
            drop=float(reference[1] / measured),
            flips=float(reference[2] / measured),
            measured=int(measured),
            shift=None if np.isnan(reference[3]) else float(reference[3] / measured),
        )

    def _measured(self, number: int, trial: Trial) -> Mapping[str, torch.Tensor]:
        """What an edit does to a part of the images."""
        if (number, trial) in self._known:
            return self._known[number, trial]
        part = self._parts[number]
        edit = part.factory.make(part.factory.clipped(trial))
        changes = [[each.describe(), digest_of_tensors(each.tensors())] for each in edit.changes]
        key = {**self._identity, "of": part.name, "images": part.digest, "changes": changes}
        found = self._cache.get(key) if self._cache is not None else None
        if found is None or not _is_sound(found, part):
            if number not in self._kept:
                said = f"activations, {part.name}" if self._progress else None
                room = MOST_BYTES // len(self._parts)
                self._kept[number] = Activations(self._model, part.images, self._sites, most_bytes=room, progress=said)
            outcomes = self._kept[number].outcomes(edit)
            found = _of_reference(outcomes) if part.name == "reference" else _of_judge(outcomes)
            if self._cache is not None:
                self._cache.put(key, found)
        self._known[number, trial] = found
        return found


def _of_reference(found: Outcomes) -> dict[str, torch.Tensor]:
    """Images measured, accuracy lost, flips and the change of probabilities times their number."""
    shift = np.nan if found.shift is None else found.shift
    counts = [len(found), found.drop * len(found), len(found.flips), shift * len(found)]
    return {"counts": torch.tensor(counts, dtype=torch.float64)}


def _is_sound(found: Mapping[str, torch.Tensor], part: _Part) -> bool:
    """Whether tensors out of a cache, which anybody may have written, can be what an edit does to a part."""
    forms = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.items()}
    if part.name == "reference":
        counts = (torch.float64, (4,))
        return forms == {"counts": counts} and bool(found["counts"][:3].isfinite().all() and found["counts"][0] >= 1)
    wanted = {"gains": (torch.float32, (len(part.groups),)), "counts": (torch.int64, (3,))}
    return forms == wanted and bool(found["gains"].isfinite().all() and (found["counts"] >= 0).all())


def _of_judge(found: Outcomes) -> dict[str, torch.Tensor]:
    """Gain of each image; how many are repaired, broken, and failing before."""
    counts = [len(found.repaired), len(found.broken), int((~found.right_before).sum())]
    return {"gains": torch.from_numpy(found.log_prob_gain), "counts": torch.tensor(counts)}
