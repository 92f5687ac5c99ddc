"""Every result can be told to people and to programs, without being asked anything."""

import ast
from pathlib import Path

import pytest

import rulepatch
from rulepatch.text import Result

SOURCE = Path(rulepatch.__file__).parent
OF_LISTS = {"Table", "ExemplarOutcomes"}
"""Parts of results, whose JSON is a list."""


def methods_of_classes():
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name != "Result":
                yield node.name, {each.name: each for each in node.body if isinstance(each, ast.FunctionDef)}


TOLD = {name: methods for name, methods in methods_of_classes() if "to_text" in methods}


def test_there_are_results():
    assert {"Evaluation", "Search", "Comparison", "Edit", "SweepReport", "Inversion"} <= TOLD.keys()


@pytest.mark.parametrize("name", TOLD)
def test_what_can_be_told_to_people_can_be_told_to_programs(name):
    methods = TOLD[name]
    assert "to_json" in methods
    for method in (methods["to_text"], methods["to_json"]):
        given = method.args
        assert len(given.args) - len(given.defaults) == 1 and None not in given.kw_defaults
    assert ast.unparse(methods["to_text"].returns) == "str"
    assert ast.unparse(methods["to_json"].returns).startswith("list" if name in OF_LISTS else "dict")


def test_results_are_told_by_what_they_can_do():
    from rulepatch.core.edit import Edit

    assert isinstance(Edit((), "0" * 64), Result) and not isinstance("text", Result)
