"""Worker of a sweep: evaluates settings on a case, and caches what its jobs share.

Settings are selected on validation images and half of the reference set. The tests and the other half are evaluated
once, with the selected settings, and never used for selection (paper 4).
"""

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rulepatch.concepts.cases import CELLS, CaseSet, split
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Snapshot
from rulepatch.data.run import Run
from rulepatch.errors import FolderError, RulepatchError
from rulepatch.evaluation.activations import Activations
from rulepatch.evaluation.evaluate import predictions_of
from rulepatch.evaluation.metrics import errors_corrected
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.experiments.grids import edit_by, strengths_of
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.parallel.devices import own_device
from rulepatch.sweeps.jobs import Job, Place, Reference, case_digest, model_digest
from rulepatch.sweeps.store import Record
from rulepatch.tracing.model_sites import sites_of

__all__ = ["release", "run_job", "run_jobs"]

KEPT_BYTES = 1 << 28
"""Memory for activations of each image set; the rest is stored on disk."""


@dataclass(frozen=True, eq=False)
class _Damage:
    """The reference set: the half for selection, and the unseen half."""

    statistics: Snapshot
    known: Activations
    unseen: Activations


class _Case:
    """A split case, with cached activations of its images."""

    def __init__(self, model: Classifier, case: CaseSet, what: Mapping[str, Any], sites: Sequence[str]) -> None:
        target = what["target"] if what["members"] is None else what["members"]
        parts = split(
            case.counterfactuals, target, exemplars=what["exemplars"], validation=what["validation"], seed=what["seed"]
        )
        self.exemplars: list[Exemplar] = [each.exemplar() for each in parts.exemplars]
        tests = [each for cell in CELLS for each in parts.cells[cell]]
        self.cells = np.repeat(np.arange(len(CELLS)), [len(parts.cells[cell]) for cell in CELLS])
        self.validation = self._seen(model, case.only(parts.validation), sites)
        self.tests = self._seen(model, case.only(tests), sites)
        self.original = self._originals(model, case.only(tests))
        self._nothing = Edit((), base_digest(model.module))

    @staticmethod
    def _seen(model: Classifier, chosen: CaseSet, sites: Sequence[str]) -> Activations:
        images = chosen.images(model.classes, styled=True)
        found = Activations(model, images, sites, most_bytes=KEPT_BYTES)
        if len(found) != len(images):
            raise FolderError(f"expected readable images in {images.name} but some are not; make the case set anew")
        return found

    @staticmethod
    def _originals(model: Classifier, tests: CaseSet) -> NDArray[np.int64]:
        """What the model says of the image that each test was made of; of each image once."""
        once = {each.picture: each for each in tests}
        images = tests.only(once.values()).images(model.classes, styled=False)
        said = dict(zip(once, predictions_of(model, images).predicted, strict=True))
        return np.array([said[each.picture] for each in tests], np.int64)

    def close(self) -> None:
        """Let go of what is kept."""
        self.validation.close()
        self.tests.close()

    @cached_property
    def untouched(self) -> Outcomes:
        """The tests, with no edit."""
        return self.tests.outcomes(self._nothing)


class WorkerState:
    """State of a worker: a model, with caches that its jobs share."""

    def __init__(self, place: Place) -> None:
        self.model = load_model(place.model, weights=place.weights, device=own_device(place.device))
        self.digest = model_digest(self.model)
        self._reference = Reference.read(place.reference, self.model)
        last = sites_of(self.model).sites[-1].path
        # edits without a site in the plan start at the last layer
        self._sites = tuple(dict.fromkeys((*place.sites, last)))
        self._sets: dict[Place, tuple[CaseSet, Mapping[str, str]]] = {}
        self._damage: dict[tuple[str, int], _Damage] = {}
        self._case: tuple[str, _Case] | None = None

    def _cases(self, place: Place) -> tuple[CaseSet, Mapping[str, str]]:
        """A case set, and digests of what its images were made of."""
        if place not in self._sets:
            cases = CaseSet.read(place.cases).without(place.exclude)
            self._sets[place] = cases, cases.sources()
        return self._sets[place]

    def expect(self, what: str, found: str, wanted: str) -> None:
        """Check that the data of a job has not changed since the job was created."""
        if found != wanted:
            raise FolderError(f"expected {what} as it was when the jobs were made but it changed; run the plan again")

    def damage(self, job: Job) -> _Damage:
        """The reference set of a job."""
        key = (job.what["reference"], job.what["seed"])
        if key not in self._damage:
            cases, sources = self._cases(job.place)
            images = self._reference.without(cases.where(concept=job.what["case"]["concept"]), sources)
            self.expect(images.name, images.digest(), job.what["reference"])
            known, unseen = images.split(0.5, seed=job.what["seed"])
            known = Snapshot(known.pictures, known.name, tuple(known.digests()))
            self._damage[key] = _Damage(known, self._seen(known), self._seen(unseen))
        return self._damage[key]

    def case(self, job: Job) -> _Case:
        """The case of a job, split; one after the other, as jobs of one case come together."""
        if self._case is None or self._case[0] != job.case:
            about, (cases, sources) = job.what["case"], self._cases(job.place)
            case = cases.where(concept=about["concept"], style=about["style"])
            self.expect(str(case.root), case_digest(case, sources), about["digest"])
            if self._case is not None:
                self._case[1].close()
            self._case = (job.case, _Case(self.model, case, job.what, self._sites))
        return self._case[1]

    def close(self) -> None:
        """Let go of what is kept."""
        for damage in self._damage.values():
            damage.known.close()
            damage.unseen.close()
        if self._case is not None:
            self._case[1].close()

    def _seen(self, images: ImageSet) -> Activations:
        return Activations(self.model, images, self._sites, most_bytes=KEPT_BYTES)


_benches: dict[tuple[Any, ...], WorkerState] = {}

MOST_BENCHES = 4
"""Cached states; models are processed one after the other."""


def _bench(place: Place) -> WorkerState:
    """The state of this process for a model, for all case sets."""
    key = (place.model, place.weights, place.device, place.sites, place.reference)
    if key not in _benches:
        if len(_benches) == MOST_BENCHES:
            _benches.pop(next(iter(_benches))).close()
        _benches[key] = WorkerState(place)
    return _benches[key]


def release() -> None:
    """Release the model and its caches."""
    while _benches:
        _benches.popitem()[1].close()


@dataclass(frozen=True)
class _Choice:
    """An edit at the strength that repairs most of the validation images within the budget."""

    edit: Edit
    strength: float
    validation: Outcomes
    reference: Outcomes


def run_job(job: Job) -> dict[str, Any]:
    """Make an edit, select its strength, and measure repair and damage.

    Args:
        job: what to try.

    Returns:
        JSON, which is reproducible.

    Raises:
        FolderError: the model, the case set or the reference set changed since the job was made.
    """
    bench = _bench(job.place)
    bench.expect(bench.model.name, bench.digest, job.what["model"])
    damage, case = bench.damage(job), bench.case(job)
    what = job.what
    edit = edit_by(
        what["method"], bench.model, case.exemplars, settings=what["settings"],
        sites=[] if what["site"] is None else [what["site"]], reference=damage.statistics,
        run=Run(seed=what["seed"], progress=False),
    )  # fmt: skip
    choice = _choose(edit, strengths_of(what["method"]), case, damage, what["max_drop"])
    return {
        "model": bench.model.name,
        "cases": job.place.cases.name,
        "chosen": None if choice is None else {
            "strength": choice.strength,
            "validation": _counts(choice.validation),
            "reference": _counts(choice.reference),
        },
        "cells": _cells(case, case.untouched if choice is None else case.tests.outcomes(choice.edit)),
        "reference": None if choice is None else _counts(damage.unseen.outcomes(choice.edit)),
    }  # fmt: skip


def _choose(edit: Edit, strengths: Sequence[float], case: _Case, damage: _Damage, max_drop: float) -> _Choice | None:
    """The strength that repairs most within the budget, and flips least of those that repair as much."""
    tried = [(strength, case.validation.outcomes(edit.with_strength(strength))) for strength in strengths]
    best: _Choice | None = None
    for strength, outcomes in sorted(tried, key=lambda each: each[1].drop):
        if outcomes.drop >= 0 or (best is not None and outcomes.drop > best.validation.drop):
            break  # the following cannot be better
        own = edit.with_strength(strength)
        lost = damage.known.outcomes(own)
        if lost.drop <= max_drop and (best is None or len(lost.flips) < len(best.reference.flips)):
            best = _Choice(own, strength, outcomes, lost)
    return best


def _counts(found: Outcomes) -> dict[str, int]:
    return {
        "n": len(found),
        "right": int(found.right_before.sum()),
        "repaired": len(found.repaired),
        "broken": len(found.broken),
        "flips": len(found.flips),
    }


def _cells(case: _Case, found: Outcomes) -> dict[str, dict[str, int]]:
    """Errors by the style and their correction, for each cell of tests."""
    told = {}
    for number, cell in enumerate(CELLS):
        here = case.cells == number
        own = found.where(here)
        corrected = errors_corrected(own.labels, case.original[here], own.first.predicted, own.second.predicted)
        told[cell] = _counts(own) | {"errors": corrected.errors, "left": corrected.left, "caused": corrected.caused}
    return told


def run_jobs(jobs: Sequence[Job], *, tries: int = 3) -> list[Record]:
    """Run some jobs; failures are recorded.

    Args:
        jobs: that share a case, best of all.
        tries: attempts of a job that fails by an unexpected exception.
    """
    with _one_thread():
        return [_recorded(job, tries) for job in jobs]


def _recorded(job: Job, tries: int) -> Record:
    for attempt in range(1, tries + 1):
        start = perf_counter()
        try:
            _bench(job.place).damage(job)  # shared by many jobs, so not part of the first job's time
            start = perf_counter()
            result = run_job(job)
        except Exception as error:
            seconds, told = perf_counter() - start, _told(error)
            if isinstance(error, RulepatchError):  # it would fail again
                break
        else:
            return Record(job.what, "done", result, None, attempt, perf_counter() - start)
    return Record(job.what, "failed", None, told, attempt, seconds)


def _told(error: Exception) -> str:
    """Text of an error for the store: the message of our own errors, a traceback of others."""
    if isinstance(error, RulepatchError):
        return str(error)
    return "".join(traceback.format_exception(error, limit=-5)).strip()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread, for reproducible sums and to avoid oversubscription."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
