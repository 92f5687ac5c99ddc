"""Code that a model file or a plan names is run only if somebody says that it may."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from rulepatch.errors import SettingError
from rulepatch.models.registry import load_model
from rulepatch.trust import asking_for_trust, trust

NET = """
from pathlib import Path
import rulepatch, torch
Path(__file__).with_name("has-run").touch()
def build():
    pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), pool, torch.nn.Linear(4, 2))
    return rulepatch.Classifier(net, rulepatch.Preprocess((16, 16)), ["a", "b"])
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A model file, a plan and what they name."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "m.toml").write_text('architecture = "net.py:build"\n')
    (tmp_path / "images").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "a.png")
    for name, model in (("of-code", "net.py:build"), ("of-a-file", "m.toml")):
        plan = {"models": [model], "cases": "images", "reference": "images"}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(plan))
    return tmp_path


COMMANDS = [
    ["sites", "m.toml"],
    ["predict", "m.toml", "images"],
    ["predict", "images", "-m", "m.toml"],
    ["statistics", "m.toml", "--reference", "images", "--site", "0"],
    ["edit", "-m", "m.toml", "--exemplar", "images", "--reference", "images", "-o", "e.safetensors"],
    ["evaluate", "-m", "m.toml", "--tests", "images"],
    ["sweep", "of-code.yaml"],
    ["sweep", "of-a-file.yaml", "--dry-run"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_nothing_is_run_before_it_is_trusted(command, elsewhere, run, monkeypatch):
    monkeypatch.chdir(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    found = run(*command)
    assert found.code == 2 and "--trust" in found.err and "net.py:build" in found.err
    assert not (elsewhere / "has-run").exists()
    assert sorted(elsewhere.rglob("*")) == before and "RULEPATCH_TRUST" not in os.environ


def test_it_is_run_if_trusted(elsewhere, run, monkeypatch):
    monkeypatch.chdir(elsewhere)
    assert run("predict", "m.toml", "images", "--trust").code == 0
    (elsewhere / "has-run").unlink()
    assert run("sites", f"{elsewhere}/net.py:build").code == 0, "who names the code has read it"
    monkeypatch.setenv("RULEPATCH_TRUST", "yes")
    assert run("sites", "m.toml").code == 0


def test_from_python_and_in_processes(elsewhere):
    assert load_model(str(elsewhere / "m.toml")).classes.names == ("a", "b")
    (elsewhere / "has-run").unlink()
    program = [sys.executable, "-c", "import sys, rulepatch; rulepatch.load_model(sys.argv[1])", elsewhere / "m.toml"]
    with asking_for_trust():
        with pytest.raises(SettingError, match="--trust"):
            load_model(str(elsewhere / "m.toml"))
        assert subprocess.run(program, capture_output=True).returncode and not (elsewhere / "has-run").exists()
        trust()
        assert subprocess.run(program, capture_output=True).returncode == 0
