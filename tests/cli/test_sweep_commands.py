"""`rulepatch sweep`: a plan is run, counted, refused in a sentence; what it found is reported."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml

from rulepatch.sweeps.store import Store


@pytest.fixture(scope="module")
def plan(swept_world, tmp_path_factory):
    """A plan on two cases of the playground."""
    found = {
        "models": "playground", "cases": str(swept_world / "cases"), "reference": str(swept_world / "reference"),
        "sites": ["blocks.5.conv"], "exemplars": [2, 3], "max_drop": "3%",
        "methods": {"rewrite": {"rank": [1, 2], "gate": "none"}, "rewrite-mask": {"rank": 1, "gate": "none"}},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(yaml.safe_dump(found))
    return path


@pytest.mark.slow
def test_a_plan_is_run_and_reported(run, plan, tmp_path):
    store = tmp_path / "results.sqlite"
    told = run("sweep", plan, "--out", store, "--workers", 1, "--json").json()
    assert (told["jobs"], told["done"], told["failed"]) == (12, 12, 0)
    again = run("sweep", plan, "--out", store, "--workers", 1)
    assert again.code == 0 and "12 were done before, 0 now" in again.out and "sweep report" in again.out
    found = run("sweep", "report", store, "--out", tmp_path / "report", "--least", 1, "--json").json()
    assert (tmp_path / "report" / "report.html").read_text().startswith("<!doctype html>") and found["report"]


@pytest.mark.slow
def test_a_dry_run_counts_and_leaves_nothing(run, plan):
    told = run("sweep", plan, "--dry-run", "--workers", 2, "--json").json()
    assert (told["total"], told["jobs"], told["workers"]) == (12, {"rewrite": 8, "rewrite-mask": 4}, 2)
    assert told["seconds"] > 0 and not plan.with_suffix(".sqlite").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"exemplar": 3}, "exemplar; the nearest are exemplars"),
        ({"methods": {"rewrite": {"rnk": 1}}}, "the nearest are rank"),
        ({"sites": ["blocks.5"]}, "the nearest are blocks.5.conv"),
        ({"cases": "none"}, "expected a case set"),
        ({"reference": "none"}, "none"),
        ({"models": "playgruond"}, "playground"),
        ({"styles": "snw"}, "the nearest are snow"),
        ({"exemplars": 99}, "more than 99 images"),
    ],
)
def test_a_bad_plan_is_one_sentence_and_nothing_is_written(run, plan, tmp_path, change, sentence):
    found = {**yaml.safe_load(plan.read_text()), **change}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(found))
    done = run("sweep", tmp_path / "plan.yaml")
    assert done.code == 2 and done.out == "" and sentence in done.err and done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]


def test_bad_arguments_are_one_sentence(run, plan, tmp_path):
    (tmp_path / "other.sqlite").write_bytes(b"not a store at all, by any means" * 9)
    for arguments, sentence in [
        (["none.yaml"], "expected a plan in YAML"),
        ([plan, "--workers", 0, "--out", tmp_path / "new.sqlite"], "at least 1 worker"),
        ([plan, "--tries", 0, "--out", tmp_path / "new.sqlite"], "at least 1 try"),
        ([plan, "--out", tmp_path / "other.sqlite"], "expected a file of results"),
        ([plan, "--out", tmp_path / "none" / "new.sqlite"], "expected a folder at"),
        ([plan, "--device", "nonsense", "--out", tmp_path / "new.sqlite"], "expected a device"),
    ]:
        done = run("sweep", *arguments)
        assert done.code == 2 and sentence in done.err and done.out == "", done.err
    assert [path.name for path in tmp_path.iterdir()] == ["other.sqlite"]


def count_of(store):
    with Store(store) as kept:
        return len(kept)


def hear_ctrl_c():
    """What was started in the background of a shell would be deaf to it, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(plan, tmp_path, workers):
    """The whole group of processes is interrupted, as a terminal does it."""
    found = yaml.safe_load(plan.read_text())
    found["methods"] = {"rewrite": {"rank": [1, 2, 3, 4, 5], "gate": ["none", 0.5, 0.9, 0.98]}}  # not done too soon
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(found))
    store = tmp_path / "results.sqlite"
    command = [sys.executable, "-m", "rulepatch", "sweep", str(tmp_path / "plan.yaml"), "--workers", str(workers)]
    command += ["--out", str(store)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    driver = subprocess.Popen(command, start_new_session=True, preexec_fn=hear_ctrl_c, **pipes)
    for _ in range(1200):
        if store.exists() and count_of(store) >= 2:
            break
        time.sleep(0.05)
    os.killpg(driver.pid, signal.SIGINT)
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 130 and out == "", (out, err)
    assert "the same command goes on" in err and "Traceback" not in err and "leaked" not in err, err
    count = count_of(store)
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["found"] == count
