import sys

import pytest
import torch
from torch import nn

from rulepatch.errors import ModelError
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model, load_skeleton


@pytest.fixture
def load(tmp_path):
    """Load the function `build` of a file with some lines of Python."""

    def load_source(source, function="build", loader=load_model):
        (tmp_path / "own.py").write_text(source)
        return loader(f"{tmp_path / 'own.py'}:{function}")

    return load_source


CLASSIFIER = 'rp.Classifier(nn.Conv2d(3, 2, 1), rp.Preprocess((8, 8)), ["a", "b"])'
HEAD = "import torch\nfrom torch import nn\nimport rulepatch as rp\n"


def test_a_classifier_is_taken_as_it_is(net_file):
    model = load_model(f"{net_file}:build")
    assert isinstance(model, Classifier)
    assert model.classes.names == ("class 0", "class 1", "class 2")
    assert model.preprocess.input_size == (16, 16)
    assert model.logits(model.example()).shape == (1, 3)


def test_a_class_or_any_callable_may_make_it(load):
    source = HEAD + f"class Maker:\n    def __call__(self):\n        return {CLASSIFIER}\nbuild = Maker()\n"
    assert len(load(source).classes) == 2
    assert len(load(HEAD + f"build = lambda: {CLASSIFIER}\n").classes) == 2


@pytest.mark.parametrize("made", ["nn.Conv2d(3, 2, 1)", "nn.Sequential()"])
def test_a_bare_network_lacks_what_a_model_file_says(made, load):
    for loader in (load_model, load_skeleton):
        with pytest.raises(ModelError, match=r"own\.py:build .*preprocessing.*write a model file"):
            load(HEAD + f"def build():\n    return {made}\n", loader=loader)


@pytest.mark.parametrize(("made", "kind"), [("None", "NoneType"), ("3", "int"), ("nn.Conv2d", "type"), ("[]", "list")])
def test_anything_else_is_refused(made, kind, load):
    with pytest.raises(ModelError, match=rf"Classifier or a torch module but got {kind}"):
        load(HEAD + f"def build():\n    return {made}\n")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('no good')", r"ValueError \(no good\)"),
        ("raise TypeError('inside')", r"TypeError \(inside\)"),
        ("nn.Linear(2, 3)(torch.ones(5))", "RuntimeError"),
        ("open('/nowhere/at/all')", "FileNotFoundError"),
        ("import no_such_library", r"ModuleNotFoundError \(No module named 'no_such_library'\)"),
    ],
)
def test_an_error_in_the_function_or_in_the_file_is_told(body, reason, load):
    for source, where in [
        (f"def build():\n    {body}\n", r"build of .*own\.py"),
        (f"{body}\ndef build():\n    return 1\n", r"own\.py to run"),
    ]:
        with pytest.raises(ModelError, match=rf"{where}.*{reason}") as caught:
            load(HEAD + source)
        assert caught.value.__cause__ is not None  # a person who wrote the file can look where


def test_a_file_that_is_no_python_is_refused(load):
    with pytest.raises(ModelError, match=r"own\.py to run but it raised SyntaxError"):
        load("def build(:\n")


@pytest.mark.parametrize("function", ["biuld", "", "HEIGHT", "build.more"])
def test_a_function_that_is_not_there_is_refused_and_the_nearest_named(function, load):
    with pytest.raises(ModelError, match=rf"a function '{function}' in .*own\.py.*build"):
        load(HEAD + f"HEIGHT = 3\ndef build():\n    return {CLASSIFIER}\n", function)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match="check the path"):
        load_model(f"{tmp_path / 'missing.py'}:build")


def test_a_function_that_needs_arguments_is_refused(load):
    with pytest.raises(ModelError, match="depth"):
        load(HEAD + f"def build(depth):\n    return {CLASSIFIER}\n")


def test_neighbours_can_be_imported_and_the_path_is_put_back(load, tmp_path):
    (tmp_path / "neighbour_of_own.py").write_text(HEAD + f"def make():\n    return {CLASSIFIER}\n")
    before = list(sys.path)
    assert len(load("from neighbour_of_own import make as build\n").classes) == 2
    assert sys.path == before
    with pytest.raises(ModelError):
        load("raise ValueError\n")
    assert sys.path == before


def test_a_file_may_define_data_classes_and_look_up_its_own_types(load):
    source = f"""from __future__ import annotations
from dataclasses import dataclass
from typing import get_type_hints
{HEAD}
@dataclass
class Config:
    width: int = 4
    parent: Config | None = None

assert get_type_hints(Config)["parent"]

def build():
    assert Config().width == 4
    return {CLASSIFIER}
"""
    assert len(load(source).classes) == 2


def test_a_file_is_read_anew_each_time_and_takes_no_library_from_anybody(load, tmp_path):
    for count in (2, 3):
        names = [str(i) for i in range(count)]
        model = load(HEAD + f"def build():\n    return rp.Classifier(nn.ReLU(), rp.Preprocess((8, 8)), {names})\n")
        assert len(model.classes) == count
    (tmp_path / "json.py").write_text(HEAD + f"def build():\n    return {CLASSIFIER}\n")
    load_model(f"{tmp_path / 'json.py'}:build")
    import json

    assert json.loads("[1]") == [1]
    assert sys.modules["json"] is json


def test_what_a_file_prints_does_not_go_to_standard_output(load, capsys):
    load(HEAD + f"print('importing')\ndef build():\n    print('building')\n    return {CLASSIFIER}\n")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "importing\nbuilding\n"


def test_weights_that_the_function_loads_are_kept(load, tmp_path):
    torch.save(nn.Conv2d(3, 2, 1).state_dict(), tmp_path / "conv.pth")
    source = f"""{HEAD}
from pathlib import Path

def build():
    model = {CLASSIFIER}
    model.module.load_state_dict(torch.load(Path(__file__).parent / "conv.pth", weights_only=True))
    return model
"""
    assert torch.equal(load(source).module.weight, torch.load(tmp_path / "conv.pth")["weight"])
    assert load(source, loader=load_skeleton).module.weight.shape == (2, 3, 1, 1)
