"""Trials: what a job says is what a slow naive twin says; nothing is chosen by the tests."""

import json
import pathlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from rulepatch.concepts.cases import CELLS, CaseSet, split
from rulepatch.data.folders import ImageSet
from rulepatch.errors import FolderError, SettingError, SiteError
from rulepatch.experiments.grids import edit_by, strengths_of
from rulepatch.images import read_image
from rulepatch.models.registry import load_model
from rulepatch.sweeps import worker
from rulepatch.sweeps.jobs import Job, Reference, jobs_of
from rulepatch.sweeps.plan import Plan
from rulepatch.sweeps.worker import release, run_job, run_jobs
from tests.fixtures.solving import QUIET

SITE = "blocks.5.conv"


@pytest.fixture(autouse=True)
def released():
    yield
    release()


def plan_of(root, **changes):
    found = {
        "models": "playground", "cases": str(root / "cases"), "reference": str(root / "reference"), "sites": [SITE],
        "exemplars": 3, "styles": ["snow"], "max_drop": "2%", "methods": {"rewrite": {"rank": 1, "gate": "none"}},
    }  # fmt: skip
    return Plan.of({**found, **changes})


def right(model, images):
    """Whether each image is named rightly, image by image."""
    found = []
    with torch.no_grad():
        for picture in images.pictures:
            pixels = model.preprocess.pixels(read_image(picture.source))
            logits = model.logits(model.inputs(pixels[None]))
            found.append(int(logits.argmax()) == picture.label)
    return np.array(found)


@pytest.mark.slow
def test_a_job_says_what_its_naive_twin_says(swept_world):
    (job,) = jobs_of(plan_of(swept_world), progress=False)
    found = run_job(job)
    what, model = job.what, load_model("playground")
    cases = CaseSet.read(swept_world / "cases").where(concept="road", style="snow")
    parts = split(cases.counterfactuals, what["target"], exemplars=3, validation=0.3, seed=0)
    known, unseen = ImageSet.of(swept_world / "reference", model.classes).split(0.5, seed=0)
    edit = edit_by(
        "rewrite", model, [each.exemplar() for each in parts.exemplars], settings={"rank": 1, "gate": "none"},
        sites=[SITE], reference=known, run=QUIET,
    )  # fmt: skip

    def seen(chosen, *, styled=True):
        return CaseSet(cases.root, tuple(chosen), cases.manifest).images(model.classes, styled=styled)

    def measured(strength, images):
        before = right(model, images)
        with edit.with_strength(strength).applied(model):
            return before, right(model, images)

    scores = {}
    for strength in strengths_of("rewrite"):
        before, after = measured(strength, seen(parts.validation))
        lost, kept = measured(strength, known)
        if lost.sum() - kept.sum() <= 0.02 * len(known):
            scores[strength] = int(after.sum() - before.sum())
    best = max(scores.values())
    assert best > 0 and scores[found["chosen"]["strength"]] == best
    for cell in CELLS:
        before, after = measured(found["chosen"]["strength"], seen(parts.cells[cell]))
        original = right(model, seen(parts.cells[cell], styled=False))
        told = found["cells"][cell]
        assert (told["n"], told["right"]) == (len(before), int(before.sum()))
        assert told["errors"] == int((original & ~before).sum())
        assert told["left"] == int((original & ~before & ~after).sum())
        assert told["caused"] == int((original & before & ~after).sum())
    before, after = measured(found["chosen"]["strength"], unseen)
    assert found["reference"]["broken"] == int((before & ~after).sum())
    assert len({*(p.source for p in known.pictures), *(p.source for p in unseen.pictures)}) == 80


@pytest.mark.slow
def test_no_edit_repairs_nothing_and_costs_nothing(swept_world):
    """The negative control: a style that is the concept's own, or a method that changes nothing."""
    (job,) = jobs_of(plan_of(swept_world, methods={"nothing": [{}]}), progress=False)
    found = run_job(job)
    assert found["chosen"] is None and found["reference"] is None
    assert all(cell["left"] == cell["errors"] and cell["caused"] == 0 for cell in found["cells"].values())
    assert sum(cell["errors"] for cell in found["cells"].values()) > 10


@pytest.mark.slow
def test_the_tests_choose_nothing(swept_world, monkeypatch):
    """Whatever becomes of the tests and the unseen half, the same strength is chosen."""
    (job,) = jobs_of(plan_of(swept_world), progress=False)
    true = run_job(job)
    case, damage = worker._bench(job.place).case(job), worker._bench(job.place).damage(job)
    unseen = damage.unseen
    object.__setattr__(damage, "unseen", damage.known)
    with monkeypatch.context() as patch:
        patch.setattr(case, "tests", case.validation)
        patch.setattr(case, "cells", np.zeros(len(case.validation), int))
        patch.setattr(case, "original", np.zeros(len(case.validation), int))
        other = run_job(job)
    object.__setattr__(damage, "unseen", unseen)
    assert other["chosen"] == true["chosen"] and other["cells"] != true["cells"]


@pytest.mark.slow
def test_results_are_the_same_whenever_and_wherever_they_run(swept_world):
    jobs = jobs_of(plan_of(swept_world, methods={"rewrite": {"rank": [1, 2]}, "last-layer": {}}), progress=False)
    forwards = {record.key: record.result for record in run_jobs(jobs)}
    release()
    threads = torch.get_num_threads()
    backwards = {record.key: record.result for record in run_jobs(jobs[::-1])}
    assert json.dumps(forwards, sort_keys=True) == json.dumps(backwards, sort_keys=True) and len(forwards) == 3
    assert torch.get_num_threads() == threads


@pytest.mark.slow
def test_a_worker_loads_a_model_once_and_looks_at_each_set_of_pictures_once(swept_world, monkeypatch):
    loads, looks = [], []

    def load(*given, **settings):
        loads.append(given)
        return load_model(*given, **settings)

    class Looking(worker.Activations):
        def __init__(self, model, images, sites, **settings):
            looks.append(images.name)
            super().__init__(model, images, sites, **settings)

    monkeypatch.setattr(worker, "load_model", load)
    monkeypatch.setattr(worker, "Activations", Looking)
    plan = plan_of(swept_world, styles=["snow", "leaves"], sites=3, methods={"rewrite": {"rank": [1, 2]}})
    jobs = jobs_of(plan, progress=False)
    assert all(record.status == "done" for record in run_jobs(jobs)) and len(jobs) == 12
    assert len(loads) == 1
    assert len(looks) == 2 + 2 * 2  # two halves of the reference set; validation and tests of each case


@pytest.mark.slow
def test_a_model_is_loaded_once_for_all_case_sets(swept_world, tmp_path, monkeypatch):
    """And each half of the reference set is looked at once, as cases of both were made of none of its images."""
    loads, looks = [], []
    original = worker.Activations

    def look(model, images, sites, **settings):
        looks.append(images.name)
        return original(model, images, sites, **settings)

    monkeypatch.setattr(worker, "load_model", lambda *a, **s: loads.append(a) or load_model(*a, **s))
    monkeypatch.setattr(worker, "Activations", look)
    shutil.copytree(swept_world / "cases", tmp_path / "other")
    rows = json.loads((tmp_path / "other" / "cases.json").read_text())
    (tmp_path / "other" / "cases.json").write_text(json.dumps(rows[:-1]))
    plan = plan_of(swept_world, cases=[str(swept_world / "cases"), str(tmp_path / "other")], styles=["leaves"])
    jobs = jobs_of(plan, progress=False)
    assert len(jobs) == 2 and len({job.place.cases for job in jobs}) == 2
    assert all(record.status == "done" for record in run_jobs(jobs))
    assert len(loads) == 1 and len([name for name in looks if "styled" not in name]) == 2


@pytest.mark.slow
def test_what_else_a_plan_holds_changes_no_result(swept_world):
    """Keys do not name the other sites of a plan, so results must not depend on them, to the bit of a rounding."""
    methods = {"last-layer": {}, "nothing": [{}], "rewrite": {"rank": 1, "gate": "none"}}
    told = []
    for sites in ([SITE], ["blocks.1.conv", SITE, "blocks.6.conv"]):
        release()
        jobs = jobs_of(plan_of(swept_world, methods=methods, sites=sites), progress=False)
        told.append({job.key: run_job(job) for job in jobs if job.what["site"] in {None, SITE}})
    assert told[0] == told[1] and len(told[0]) == 3


@pytest.mark.slow
def test_keys_hold_what_determines_results_and_nothing_else(swept_world, tmp_path):
    (job,) = jobs_of(plan_of(swept_world), progress=False)
    pathlib.Path(tmp_path / "elsewhere").symlink_to(swept_world)
    (moved,) = jobs_of(plan_of(tmp_path / "elsewhere"), progress=False)
    assert moved.key == job.key and moved.place != job.place
    changes = [
        {"max_drop": "3%"}, {"validation": 0.4}, {"seeds": 1}, {"exemplars": 4}, {"styles": ["leaves"]},
        {"sites": ["blocks.3.conv"]}, {"methods": {"rewrite": {"rank": 2, "gate": "none"}}},
        {"exclude": {"road": ["van"]}}, {"methods": {"rewrite-mask": {"rank": 1, "gate": "none"}}},
    ]  # fmt: skip
    keys = [jobs_of(plan_of(swept_world, **change), progress=False)[0].key for change in changes]
    assert len({job.key, *keys}) == len(changes) + 1


def test_what_changed_since_the_jobs_were_made_is_refused(swept_world):
    (job,) = jobs_of(plan_of(swept_world), progress=False)
    for key, sentence in (("model", "playground"), ("reference", "reference")):
        with pytest.raises(FolderError, match=f"{sentence}.*it changed"):
            run_job(Job({**job.what, key: "0" * 64}, job.place))
    case = {**job.what["case"], "digest": "0" * 64}
    (record,) = run_jobs([Job({**job.what, "case": case}, job.place)])
    assert record.status == "failed" and "it changed" in record.error and record.attempts == 1


@pytest.mark.slow
def test_what_fails_by_no_fault_of_its_own_is_tried_again(swept_world, monkeypatch):
    (job,) = jobs_of(plan_of(swept_world), progress=False)
    calls = []

    def moody(*arguments, **settings):
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("out of memory")
        return edit_by(*arguments, **settings)

    monkeypatch.setattr(worker, "edit_by", moody)
    (record,) = run_jobs([job])
    assert (record.status, record.attempts) == ("done", 3)
    calls.clear()
    (record,) = run_jobs([job], tries=2)
    assert (record.status, record.attempts) == ("failed", 2) and "out of memory" in record.error


def test_reference_pictures_that_cases_were_made_of_are_left_out(swept_world, tmp_path):
    model = load_model("playground")
    cases = CaseSet.read(swept_world / "cases")
    images = cases.where(concept="road", style="snow").images(model.classes, styled=False)
    once = {picture.source: picture for picture in images.pictures}
    ImageSet(tuple(once.values())[:10], "").write(tmp_path, model.classes)
    ImageSet.of(swept_world / "reference", model.classes).sample(5, seed=0).write(tmp_path / "more", model.classes)
    for path in (tmp_path / "more").rglob("*.png"):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        path.rename(tmp_path / path.parent.name / f"more-{path.name}")
    for folder in sorted(tmp_path.glob("more/*")):
        folder.rmdir()
    (tmp_path / "more").rmdir()
    reference = Reference.read(tmp_path, model)
    sources = {each.picture: digest for each, digest in zip(cases, [""] * len(cases), strict=True)}
    assert len(reference.without(cases, sources)) == 15  # the negative control: no digest is known
    digests = dict(zip((picture.source for picture in reference.images.pictures), reference.digests, strict=True))
    taken = {f"{number}": digest for number, digest in enumerate(digests.values())}
    few = CaseSet(cases.root, tuple(replace(each, picture=str(i)) for i, each in enumerate(cases))[:6], cases.manifest)
    assert len(reference.without(few, taken)) == 9


def test_sites_are_spread_over_the_depth_or_named(swept_world):
    spread = jobs_of(plan_of(swept_world, sites=3), progress=False)[0].place.sites
    assert len(spread) == 3 and spread[-1] == "blocks.6.conv" and "head" not in spread
    with pytest.raises(SiteError, match=r"the nearest are blocks\.5\.conv"):
        jobs_of(plan_of(swept_world, sites=["blocks.5.con"]), progress=False)


@pytest.mark.slow
def test_targets_are_drawn_named_or_groups(swept_world):
    def targets(**changes):
        found = jobs_of(plan_of(swept_world, **changes), progress=False)
        return [(job.what["target"], job.what["members"]) for job in found]

    assert targets() == targets() and len(targets(targets=2)) == 2 and len(set(targets(targets=9))) == 4
    assert targets(targets=["van", "car"]) == [("van", None), ("car", None)]
    groups = {"small": ["car", "motorcycle"], "large": ["van", "pickup"]}
    assert targets(groups=groups, targets=["small"]) == [("small", ["car", "motorcycle"])]
    assert targets(groups=groups, exemplars=15, targets=2) != []  # 20 images of each group, 10 of each class
    with pytest.raises(SettingError, match="more than 15 images"):
        targets(exemplars=15)
    with pytest.raises(SettingError, match="the nearest are van"):
        targets(targets=["vann"])
    with pytest.raises(SettingError, match="expected styles"):
        targets(styles=["snwo"])
