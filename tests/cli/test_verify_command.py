"""`rulepatch verify`: every promise of an edit is looked at again."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import rulepatch as rp
from rulepatch.core.changes import Minimum


@pytest.fixture
def verifying(world, run):
    def verify(edit, *more):
        found = run("verify", edit, "--model", f"{world / 'net.py'}:build", *more, "--json")
        return found, [check["holds"] for check in json.loads(found.out)["checks"]] if found.out else []

    return verify


@pytest.mark.parametrize("edit", ["edit", "gated"])
def test_an_edit_keeps_its_promises(world, verifying, run, edit):
    found, holds = verifying(world / f"{edit}.safetensors", "--reference", world / "reference")
    assert found.code == 0 and holds[:4] == [True] * 4 and holds[5]
    assert holds[4] in ({None} if edit == "edit" else {True, None})
    found, holds = verifying(world / f"{edit}.safetensors")
    assert found.code == 0 and holds == [True, True, True, None, None, True]
    plain = run("verify", world / f"{edit}.safetensors", "--model", f"{world / 'net.py'}:build")
    assert plain.code == 0 and len(plain.out.strip().splitlines()) >= 6 and "leaves nothing behind" in plain.out


def test_another_model_and_bad_input(world, verifying, run, tmp_path):
    found, holds = verifying(world / "edit.safetensors", "--weights", world / "weights.safetensors")
    assert found.code == 3 and holds == [False, *[None] * 5]
    assert verifying(tmp_path / "none.safetensors")[0].code == 2
    damaged = tmp_path / "damaged.safetensors"
    shutil.copy(world / "edit.safetensors", damaged)
    damaged.write_bytes(damaged.read_bytes()[:-4])
    assert verifying(damaged)[0].code == 2
    found, _ = verifying(world / "edit.safetensors", "--reference", tmp_path / "nothing")
    assert found.code == 2 and found.err.count("\n") == 1


def test_an_edit_that_does_more_than_it_says(world, verifying, tmp_path):
    """Its digest is right, for anybody can compute it; what it says is not."""
    edit = rp.Edit.load(world / "gated.safetensors")
    (change,) = edit.changes
    more = replace(change, coefficients=2 * change.coefficients)
    replace(edit, changes=(more,)).save(tmp_path / "more.safetensors")
    found, holds = verifying(tmp_path / "more.safetensors")
    assert found.code == 3 and holds == [True, True, False, None, None, True]
    opened = replace(change, gate=replace(change.gate, thresholds=change.gate.thresholds - 1e6))
    replace(edit, changes=(opened,)).save(tmp_path / "open.safetensors")
    found, holds = verifying(tmp_path / "open.safetensors", "--reference", world / "reference")
    assert found.code == 3 and holds[3] is False
    edit.with_strength(0.5).save(tmp_path / "weaker.safetensors")
    assert verifying(tmp_path / "weaker.safetensors")[0].code == 0


def test_edits_of_every_kind(world):
    model = rp.load_model(f"{world / 'net.py'}:build")
    gated = rp.Edit.load(world / "gated.safetensors")
    (change,) = gated.changes
    shut = replace(change.gate, thresholds=change.gate.thresholds + 1e6)
    never = replace(gated, changes=(replace(change, gate=shut),))
    lower = Minimum(change.site, change.value_point, change.directions, change.coefficients, 1.0, shut)
    both = rp.Edit.compose(gated, rp.Edit.load(world / "edit.safetensors"))
    for edit in (never, replace(gated, changes=(lower,)), both, rp.Edit((), gated.base)):
        found = rp.verify(edit, model, reference=world / "reference", progress=False)
        assert found.holds, found.to_text()
    assert rp.verify(never, model, reference=world / "reference", progress=False).checks[4].holds
    wide = replace(change, coefficients=torch.full_like(change.coefficients, 3e38), strength=4.0, gate=None)
    found = rp.verify(replace(gated, changes=(wide,)), model, progress=False)
    assert found.checks[1].holds is False and found.checks[5].holds is None


def test_the_edit_of_the_demo_is_what_it_says(run, tmp_path, monkeypatch):
    """Its network's layers answer in channels-last order, which the edit must keep for the rest to round the same."""
    monkeypatch.chdir(tmp_path)
    assert run("demo").code == 0
    edit, reference = "rulepatch-demo/snow-to-road.safetensors", "rulepatch-demo/reference"
    done = run("verify", edit, "-m", "playground", "--reference", reference, "--json")
    assert done.code == 0 and done.json()["holds"], done.out
