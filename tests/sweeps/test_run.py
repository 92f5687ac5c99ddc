"""Sweeps: every job once, whatever becomes of workers and driver, with the results of one undisturbed process."""

import json
import logging
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from rulepatch.errors import SettingError
from rulepatch.parallel.workers import Lost
from rulepatch.sweeps import run as module
from rulepatch.sweeps import worker
from rulepatch.sweeps.jobs import jobs_of
from rulepatch.sweeps.plan import Plan
from rulepatch.sweeps.run import estimate, sweep
from rulepatch.sweeps.store import Store
from rulepatch.text import duration

SMALL = {"rewrite": {"rank": [1, 2], "gate": "none"}, "last-layer": {}}


def plan_of(root, **changes):
    return {
        "models": "playground", "cases": str(root / "cases"), "reference": str(root / "reference"),
        "sites": ["blocks.5.conv"], "exemplars": 3, "max_drop": "2%", "methods": SMALL,
    } | changes  # fmt: skip


def results(path):
    with Store(path) as store:
        return {record.key: json.dumps(record.result, sort_keys=True) for record in store}


def run(plan, store, **settings):
    return sweep(Plan.of(plan), store, **{"workers": 1, "progress": False, **settings})


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_and_does_only_what_is_new(swept_world, tmp_path):
    store, plan = tmp_path / "results.sqlite", plan_of(swept_world)
    first = run({**plan, "styles": ["snow"]}, store)
    assert (first.jobs, first.found, first.done, first.failed) == (3, 0, 3, 0)
    before = results(store)
    seen = []
    second = run(plan, store, on_record=seen.append)
    assert (second.jobs, second.found, second.done) == (6, 3, 3) and len(seen) == 3
    assert {key: found for key, found in results(store).items() if key in before} == before
    assert run(plan, store).done == 0
    assert "6 jobs: 3 were done before, 3 now" in second.to_text() and second.to_json()["store"] == str(store)


@pytest.mark.slow
def test_workers_change_no_bit(swept_world, tmp_path):
    plan = plan_of(swept_world)
    run(plan, tmp_path / "one.sqlite")
    run(plan, tmp_path / "two.sqlite", workers=2)
    assert results(tmp_path / "one.sqlite") == results(tmp_path / "two.sqlite")


@pytest.mark.slow
def test_a_job_that_fails_becomes_a_row_and_is_tried_again_next_time(swept_world, tmp_path, monkeypatch):
    store, plan = tmp_path / "results.sqlite", plan_of(swept_world, styles=["snow"])
    true = worker.run_job

    def breaks(job):
        if job.what["method"] == "last-layer":
            raise RuntimeError("no room left")
        return true(job)

    monkeypatch.setattr(worker, "run_job", breaks)
    found = run(plan, store, tries=2)
    assert (found.done, found.failed) == (2, 1) and "rulepatch sweep failures" in found.to_text()
    with Store(store) as kept:
        (failed,) = (record for record in kept if record.status == "failed")
    assert failed.attempts == 2 and "no room left" in failed.error and failed.result is None
    assert run(plan, store, tries=2).failed == 1
    with Store(store) as kept:
        assert list(kept.attempts().values()) == [4]
    monkeypatch.undo()
    healed = run(plan, store)
    assert (healed.found, healed.done, healed.failed) == (2, 1, 0)


@pytest.mark.slow
def test_jobs_whose_worker_died_are_tried_alone_and_the_guilty_one_fails(swept_world, tmp_path, monkeypatch):
    plan = plan_of(swept_world, styles=["snow"])
    guilty = jobs_of(Plan.of(plan), progress=False)[1].key

    class Dying:
        count = 1

        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, function, bundles):
            for bundle in bundles:
                is_lost = any(job.key == guilty for job in bundle)
                yield bundle, Lost("killed") if is_lost else function(bundle)

    monkeypatch.setattr(module, "Workers", Dying)
    monkeypatch.setattr(module, "TOGETHER", 3)
    monkeypatch.setattr(module, "_bundles", lambda jobs, _: [list(jobs)])
    found = run(plan, tmp_path / "results.sqlite")
    assert (found.done, found.failed) == (2, 1)
    with Store(tmp_path / "results.sqlite") as kept:
        (record,) = (record for record in kept if record.status == "failed")
    assert record.key == guilty and "its worker died" in record.error


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(swept_world, tmp_path, caplog):
    def stop(_):
        raise KeyboardInterrupt

    store = tmp_path / "results.sqlite"
    with pytest.raises(KeyboardInterrupt), caplog.at_level(logging.WARNING, "rulepatch"):
        run(plan_of(swept_world), store, on_record=stop)
    assert len(results(store)) == 1
    assert f"1 of 6 jobs are done and kept in {store}; the same command goes on" in caplog.text
    assert run(plan_of(swept_world), store).found == 1


def test_bundles_hold_jobs_of_one_case_and_every_job_once(swept_world):
    plan = plan_of(swept_world, methods={"rewrite": {"rank": [1, 2, 3], "gate": ["none", 0.9, 0.98]}})
    jobs = jobs_of(Plan.of(plan), progress=False)
    for workers in (1, 3):
        bundles = module._bundles(jobs, workers)
        assert sorted(job.key for bundle in bundles for job in bundle) == sorted(job.key for job in jobs)
        assert all(len({job.case for job in bundle}) == 1 for bundle in bundles)
        assert all(len(bundle) <= max(1, len(jobs) // (4 * workers)) for bundle in bundles)


@pytest.mark.slow
def test_an_estimate_counts_tries_a_few_and_writes_nothing(swept_world, tmp_path):
    plan, store = plan_of(swept_world), tmp_path / "results.sqlite"
    told = estimate(Plan.of(plan), store, workers=2, progress=False)
    assert (told.jobs, told.found, told.tried) == ({"rewrite": 4, "last-layer": 2}, 0, 2)
    assert told.seconds > 0 and not store.exists() and "nothing was written" in told.to_text()
    run(plan, store)
    assert estimate(Plan.of(plan), store, workers=2, progress=False).found == 6


def test_bad_numbers_are_refused(swept_world, tmp_path):
    for settings in ({"tries": 0}, {"workers": 0}):
        with pytest.raises(SettingError, match="at least 1"):
            run(plan_of(swept_world), tmp_path / "results.sqlite", **settings)


def test_durations_are_written_for_people():
    assert [duration(seconds) for seconds in (0.2, 59.6, 3599.9)] == ["0 s", "1 min 00 s", "1 h 00 min"]


def children(process):
    """Processes that a process started, and those that these started."""
    psutil = pytest.importorskip("psutil")
    return psutil.Process(process).children(recursive=True)


def wait_for(store, count, process):
    """Wait until a store has so many results."""
    for _ in range(2400):
        if store.exists():
            with Store(store) as kept:
                if len(kept) >= count:
                    return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError("the sweep does not go on")


@pytest.mark.slow
def test_two_hundred_jobs_survive_the_death_of_a_worker_and_of_the_driver(swept_world, tmp_path, shell):
    """On a local Dask cluster: every job is done once, and the results are those of one undisturbed process."""
    pytest.importorskip("distributed")
    plan = plan_of(
        swept_world,
        methods={"rewrite": {"rank": [1, 2, 3, 4, 5], "gate": ["none", 0.5, 0.9, 0.98, 0.99]}},
        sites=["blocks.5.conv", "blocks.6.conv"], seeds=[0, 1],
    )  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    store = tmp_path / "results.sqlite"
    command = [sys.executable, "-m", "rulepatch", "sweep", str(tmp_path / "plan.yaml"), "--out", str(store)]
    command += ["--dask", "local", "--workers", "2", "--json"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(store, 40, driver)
        workers = [child for child in children(driver.pid) if "spawn_main" in " ".join(child.cmdline())]
        assert len(workers) >= 2
        os.kill(workers[0].pid, signal.SIGKILL)
        wait_for(store, 120, driver)
        orphans = children(driver.pid)
    finally:
        driver.kill()
        driver.communicate()
    kept = results(store)
    assert 120 <= len(kept) < 200
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert (told["jobs"], told["found"], told["done"], told["failed"]) == (200, len(kept), 200 - len(kept), 0)
    found = results(store)
    assert {key: result for key, result in found.items() if key in kept} == kept
    with Store(store) as rows:
        assert [record.attempts for record in rows] == [1] * 200
    undisturbed = tmp_path / "undisturbed.sqlite"
    assert run(plan, undisturbed).done == 200
    assert results(undisturbed) == found
    assert not any(orphan.is_running() and orphan.status() != "zombie" for orphan in orphans)
