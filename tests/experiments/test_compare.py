"""Methods compared: chosen on validation, measured once on what the choice did not see."""

import csv
import io
import json

import pytest

from rulepatch.core.edit import base_digest
from rulepatch.editors.registry import editor_named
from rulepatch.errors import SettingError
from rulepatch.experiments import grids as module
from rulepatch.experiments.compare import compare
from rulepatch.experiments.grids import GRIDS, METHODS

FEW = ["nothing", "rewrite", "dense", "finetune-local", "last-layer"]


@pytest.fixture(scope="module")
def comparison(trained, world):
    reference, tests, exemplars = world
    return compare(
        trained, exemplars, site="3", tests=tests, reference=reference, methods=FEW, max_drop=0.1, cache=None,
        progress=False,
    )  # fmt: skip


@pytest.mark.slow
def test_every_method_has_a_row_and_doing_nothing_changes_nothing(comparison):
    assert [result.method for result in comparison.results] == FEW
    nothing = comparison.results[0]
    assert nothing.settings is None and len(nothing.evaluation.tests.flips) == 0
    assert comparison.sizes == {"validation": 6, "tests": 14, "reference": 30, "reference unseen": 30}


def test_some_method_repairs_the_rule_within_the_budget(comparison):
    rewritten = comparison.results[1].to_json()
    assert rewritten["tests"]["after"] > rewritten["tests"]["before"]
    assert rewritten["within_budget"] > 0 and rewritten["seconds"] > 0


@pytest.mark.filterwarnings("ignore:.*in the reference set as well")  # as other tests will do
def test_the_choice_is_made_without_the_tests(model, world):
    """With other tests the same settings are chosen, if the validation images are the same."""
    reference, tests, exemplars = world
    validation, rest = tests.split(0.3, seed=0)
    chosen = []
    for held in (rest, reference):
        found = compare(
            model, exemplars, site="3", tests=held, validation=validation, reference=reference, methods=["rewrite"],
            max_drop=0.1, cache=None, progress=False,
        )  # fmt: skip
        chosen.append(found.results[0].settings)
    assert chosen[0] == chosen[1] is not None


def test_nothing_is_chosen_that_breaks_the_budget(model, world, monkeypatch):
    """With a budget of nothing at all and edits that always cost something, there is no edit."""
    reference, tests, exemplars = world
    monkeypatch.setitem(module.STRENGTHS, "rewrite", [200.0])
    found = compare(
        model, exemplars, site="3", tests=tests, reference=reference, methods=["rewrite"], max_drop=0.0, cache=None,
        progress=False,
    )  # fmt: skip
    assert found.results[0].settings is None and found.results[0].evaluation.edit.changes == ()
    assert "no edit" in found.to_text()


def test_the_tables_say_the_same(comparison, tmp_path):
    comparison.write(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"comparison.{suffix}" for suffix in ("csv", "json", "md", "svg")
    ]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "comparison.csv").read_text())))
    assert rows == comparison.rows()
    assert json.loads((tmp_path / "out" / "comparison.json").read_text()) == json.loads(
        json.dumps(comparison.to_json())
    )
    lines = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [row["method"] for row in rows]
    assert all(row["method"] in comparison.to_text() for row in rows)
    figure = (tmp_path / "out" / "comparison.svg").read_text()
    assert figure.startswith("<?xml") and "rewrite" in figure


@pytest.mark.slow
def test_the_model_is_as_it_was(model, world, untouched):
    reference, tests, exemplars = world
    untouched(model.module)
    digest = base_digest(model.module)
    compare(
        model, exemplars, site="3", tests=tests, reference=reference, methods=["finetune-global"], cache=None,
        progress=False,
    )  # fmt: skip
    assert base_digest(model.module) == digest


def test_every_method_has_an_editor_and_a_default_grid():
    for method in METHODS.values():
        assert method.name in GRIDS["default"] and editor_named(method.name).settings is type(method)


def test_the_papers_grid_is_the_papers():
    pairs = [(entry["learning_rate"], entry["steps"]) for entry in GRIDS["paper"]["projected-adam"]]
    assert pairs == [(1e-3, 10_000), (1e-4, 20_000), (1e-5, 40_000), (1e-6, 80_000), (1e-7, 80_000)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"methods": ["rewrit"]}, "nearest are rewrite"),
        ({"methods": ["rewrite"], "grids": {"rewrite": "paper"}}, "there is default"),
        ({"validation_share": 1.0}, "validation_share to be a finite number > 0 and < 1"),
    ],
)
def test_bad_settings_are_refused(model, world, settings, words):
    reference, tests, exemplars = world
    with pytest.raises(SettingError, match=words):
        compare(model, exemplars, site="3", tests=tests, reference=reference, cache=None, progress=False, **settings)
