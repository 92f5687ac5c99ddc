"""Plans of sweeps: what people write is understood, or refused in one sentence."""

import pytest

from rulepatch.errors import SettingError
from rulepatch.experiments.grids import GRIDS
from rulepatch.sweeps.plan import Plan

SMALL = {"models": "playground", "cases": "cases", "reference": "photos"}


def test_defaults_are_the_papers():
    plan = Plan.of(SMALL)
    assert (plan.exemplars, plan.validation, plan.max_drop, plan.seeds) == ((3, 10), 0.3, 0.0025, (0,))
    assert set(plan.methods) == {"rewrite", "projected-adam", "finetune-local", "finetune-global"}
    assert plan.methods["rewrite"] == GRIDS["default"]["rewrite"] and plan.models[0].sites == 3


def test_a_whole_plan_is_read_from_a_file(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        "models: [{name: net.toml, weights: w.safetensors, sites: [a, b]}, timm/resnet18, 'net.py:build']\n"
        "cases: [one, /two]\nreference: photos\nsites: 2\nmax_drop: 1%\nvalidation: 0.5\nseeds: [0, 1]\nexemplars: 5\n"
        "concepts: road\nstyles: [snow]\ntargets: [dogs]\ngroups: {dogs: [beagle, '162']}\nexclude: {wheel: [cart]}\n"
        "methods: {projected-adam: paper, rewrite: {rank: [1, 2], gate: none}, dense: [{balance: 1}, {balance: 3}]}\n"
    )
    plan = Plan.read(tmp_path / "plan.yaml")
    first, second, third = plan.models
    assert (first.name, first.weights, first.sites) == (
        str(tmp_path / "net.toml"), tmp_path / "w.safetensors", ("a", "b"),
    )  # fmt: skip
    assert (second.name, second.sites, third.name) == ("timm/resnet18", 2, f"{tmp_path / 'net.py'}:build")
    assert [str(path) for path in plan.cases] == [str(tmp_path / "one"), "/two"]
    assert (plan.max_drop, plan.validation, plan.seeds, plan.exemplars) == (0.01, 0.5, (0, 1), (5,))
    assert plan.groups == {"dogs": ["beagle", "162"]} and plan.exclude == {"wheel": ["cart"]}
    assert plan.methods["projected-adam"] == GRIDS["paper"]["projected-adam"]
    assert plan.methods["rewrite"] == [{"rank": 1, "gate": "none"}, {"rank": 2, "gate": "none"}]
    assert plan.methods["dense"] == [{"balance": 1}, {"balance": 3}]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"modles": "x"}, "modles; the nearest are models"),
        ({"methods": {"rewrte": "default"}}, "the nearest are rewrite"),
        ({"methods": {"rewrite": {"rnak": 1}}}, "'rnak', which is none; the nearest are rank"),
        ({"methods": {"rewrite-mask": {"whole_image": True}}}, "whole_image"),
        ({"methods": {"rewrite": {"rank": [1, 1.5]}}}, "rank to be a whole number .* got 1.5"),
        ({"methods": {"rewrite": {"match": "pre_activation"}}}, "match to be auto, pre-activation or value"),
        ({"methods": {"rewrite": {"strength": 2}}}, "several are tried of every edit"),
        ({"methods": {"rewrite": "paper"}}, "expected a grid of rewrite"),
        ({"models": [{"weights": "x"}]}, "expected name to be given"),
        ({"models": [{"name": "x", "site": "y"}]}, "site; the nearest are sites"),
        ({"exemplars": 0}, "at least 1 for exemplars"),
        ({"exemplars": "three"}, "for exemplars"),
        ({"exemplars": [3, 3]}, "each of exemplars once"),
        ({"seeds": [-1]}, "at least 0 for seeds"),
        ({"sites": []}, "a value or a list"),
        ({"targets": True}, "for targets"),
        ({"max_drop": "a bit"}, "expected a share"),
        ({"validation": 0}, "between 0 and 1"),
        ({"groups": ["dogs"]}, "names and values for groups"),
        ({"cases": None}, "a value or a list"),
    ],
)
def test_what_no_plan_says_is_refused(change, sentence):
    with pytest.raises(SettingError, match=sentence):
        Plan.of({**SMALL, **change})


def test_a_plan_that_lacks_something_or_is_none_is_refused(tmp_path):
    for key in SMALL:
        with pytest.raises(SettingError, match=f"expected {key} to be given"):
            Plan.of({name: value for name, value in SMALL.items() if name != key})
    (tmp_path / "plan.yaml").write_text("models: [")
    for path in (tmp_path / "plan.yaml", tmp_path / "none.yaml"):
        with pytest.raises(SettingError, match="expected a plan in YAML"):
            Plan.read(path)
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(SettingError, match="names and values for its keys"):
        Plan.read(tmp_path / "list.yaml")
