"""What every registered editor promises."""

import inspect

import pytest
import torch

from rulepatch.core.edit import Edit
from rulepatch.core.installation import EditedLayer
from rulepatch.editors.registry import editor_named, editors, fitting
from rulepatch.errors import ExemplarError, SettingError, SiteError
from rulepatch.tracing.sites import find_sites


def takes(name, setting):
    return setting in inspect.signature(editor_named(name)).parameters


every_editor = pytest.mark.parametrize("name", editors())
every_changing = pytest.mark.parametrize("name", [name for name in editors() if name != "nothing"])
every_local = pytest.mark.parametrize("name", ["rewrite", "projected-adam", "dense", "finetune-local"])
every_low_rank = pytest.mark.parametrize("name", [name for name in editors() if takes(name, "gate")])
SITES = ["0.0", "1.conv1", "1.conv2", "2.0", "3.conv", "6"]
COMMON = ["reference", "site", "strength", "seed", "cache", "progress"]


def make(name, model, exemplars, reference, **settings):
    if "steps" in inspect.signature(editor_named(name)).parameters:
        settings = {"steps": 30} | settings
    where = {} if name == "last-layer" else {"site": "1.conv2"}
    settings = where | {"cache": None, "progress": False} | settings
    return editor_named(name)(model, exemplars, reference=reference, **settings)


@every_changing
def test_an_edit_does_something_and_leaves_the_model_alone(name, model, exemplars, reference, untouched, tmp_path):
    untouched(model.module)
    edit = make(name, model, exemplars, reference)
    images = model.inputs(torch.rand(3, 3, 16, 16))
    edited = edit.apply(model).module(images)
    assert not torch.equal(edited, model.module(images))
    edit.save(tmp_path / "edit.safetensors")
    assert torch.equal(Edit.load(tmp_path / "edit.safetensors").apply(model).module(images), edited)
    with edit.applied(model):
        assert torch.equal(model.module(images), edited)


def test_doing_nothing_does_nothing(model, exemplars, reference):
    edit = make("nothing", model, exemplars, reference)
    images = model.inputs(torch.rand(3, 3, 16, 16))
    assert edit.changes == () and torch.equal(edit.apply(model).module(images), model.module(images))
    assert edit.provenance["sites"][0]["predicted_damage"] == 0


@every_low_rank
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", [1, 2])
def test_an_edit_has_its_form_and_does_something(name, model, exemplars, reference, untouched, site, architecture):
    untouched(model.module)
    edit = make(name, model, exemplars, reference, site=site, rank=2, architecture=architecture)
    (part,) = edit.changes
    assert part.site == site and part.rank == 2 and part.architecture == architecture
    assert part.directions.dtype == part.coefficients.dtype == torch.float32
    flat = part.directions.flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(2), atol=1e-5)
    delta = part.delta()
    if architecture == 1:
        assert all(torch.linalg.matrix_rank(tap, rtol=1e-5) <= 2 for tap in delta.flatten(2).unbind(-1))
    assert torch.linalg.matrix_rank(delta.flatten(1), rtol=1e-5) <= 2 * delta.shape[2] * delta.shape[3]
    images = model.inputs(torch.rand(3, 3, 16, 16))
    assert not torch.equal(edit.apply(model).module(images), model.module(images))


@every_editor
def test_same_seed_same_bits(name, model, exemplars, reference, tmp_path):
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for file in files:
        make(name, model, exemplars, reference, **({"rank": 2, "gate": 0.9} if takes(name, "gate") else {})).save(file)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("name", ["rewrite", "projected-adam", "dense"])
def test_the_error_on_the_exemplars_falls(name, model, exemplars, reference):
    further = {"projected-adam": {"steps": 300, "learning_rate": 1e-3, "rank": 3}, "rewrite": {"rank": 3}}
    edit = make(name, model, exemplars, reference, **further.get(name, {}))
    loss = edit.provenance["sites"][0]["loss"]
    assert loss["after"] < 0.9 * loss["before"]


@every_changing
def test_strength_scales_what_was_solved(name, model, exemplars, reference):
    one, three = (make(name, model, exemplars, reference, strength=strength) for strength in (1.0, 3.0))
    assert torch.allclose(three.changes[0].delta(), 3 * one.changes[0].delta())


@pytest.mark.parametrize("name", ["rewrite", "projected-adam", "dense"])
def test_several_sites_are_solved_each_on_its_own(name, model, exemplars, reference):
    both = make(name, model, exemplars, reference, site=["2.0", "6"])
    alone = make(name, model, exemplars, reference, site="6")
    assert both.sites == ("2.0", "6")
    assert torch.equal(both.changes[1].delta(), alone.changes[0].delta())


@every_low_rank
def test_gates_let_through_what_looks_like_the_concept(name, model, exemplars, reference):
    edit = make(name, model, exemplars, reference, gate=0.9, site="3.conv")
    gate = edit.changes[0].gate
    assert gate.level == 0.9 and isinstance(edit.apply(model).module[3].conv, EditedLayer)
    keys = torch.cat(
        [model.module[:3](model.inputs(model.preprocess.pixels(p.source)[None])) for p in reference.pictures]
    )
    scores = torch.einsum("nchw,c->nhw", keys, gate.direction)
    assert float((scores > gate.thresholds).float().mean()) == pytest.approx(0.1, abs=0.02)


@every_editor
def test_how_it_was_made_is_kept(name, model, exemplars, reference):
    about = make(name, model, exemplars, reference, seed=5, **({"rank": 2} if takes(name, "rank") else {})).provenance
    assert about["method"] == name
    assert about["settings"]["rank"] == 1 + takes(name, "rank") and about["settings"]["seed"] == 5
    assert [entry["digest"] for entry in about["exemplars"]] == [exemplar.digest() for exemplar in exemplars]
    assert about["exemplars"][0]["label"] == "ant"
    assert set(about["libraries"]) == {"rulepatch", "torch", "torchvision", "timm"}
    assert about["reference_keys"] == ({"6": 24} if name == "last-layer" else {"1.conv2": 24 * 64})
    assert all(site["predicted_damage"] >= 0 for site in about["sites"])


@every_editor
def test_editors_share_their_first_settings(name):
    parameters = inspect.signature(editor_named(name)).parameters
    assert list(parameters)[:2] == ["model", "exemplars"]
    assert all(parameters[key].kind is inspect.Parameter.KEYWORD_ONLY for key in COMMON)
    assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


bad = {
    "no exemplars": ({"exemplars": []}, ExemplarError, "at least one exemplar"),
    "rank 0": ({"rank": 0}, SettingError, "rank of at least 1 but got 0"),
    "rank beyond the channels": ({"rank": 9}, SettingError, "rank from 1 to 8"),
    "rank beyond the positions": ({"site": "6", "rank": 3}, SettingError, "2 marked positions"),
    "a strength that is no number": ({"strength": float("nan")}, SettingError, "finite strength"),
    "a gate out of range": ({"gate": 1.0}, SettingError, "gate in"),
    "an unknown kind of gate": ({"gate": 0.9, "gate_kind": "velvet"}, SettingError, "velvet|hard gate"),
    "architecture 5": ({"architecture": 5}, SettingError, "architecture 1 or 2|architecture 3 or 4"),
    "an architecture of the other direction": ({"architecture": None}, SettingError, "architecture 1 or 2|3 or 4"),
    "a cutoff out of range": ({"cutoff": 1.0}, SettingError, "cutoff"),
    "a balance out of range": ({"balance": -1.0}, SettingError, "balance"),
    "a floor out of range": ({"floor": 2.0}, SettingError, "floor"),
    "an unknown site": ({"site": "1.conv9"}, SiteError, "nearest"),
    "a site named twice": ({"site": ["6", "6"]}, SettingError, "different sites"),
    "no site": ({"site": []}, SettingError, "different sites"),
    "a value point for two sites": ({"site": ["2.0", "6"], "value_point": "6"}, SettingError, "value point"),
    "steps below 0": ({"steps": -1}, SettingError, "steps"),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (name, case)
        for name in editors()
        for case, (settings, *_) in bad.items()
        if all(key == "exemplars" or takes(name, key) for key in settings) and name != "last-layer"
    ],
)
def test_bad_settings_are_refused_before_the_reference_set_is_read(name, model, exemplars, untouched, case):
    settings, error, words = bad[case]
    if name == "finetune-global" and isinstance(settings.get("site"), list):
        words = "one site"
    settings = {"exemplars": exemplars} | settings
    if "architecture" in settings and settings["architecture"] is None:
        settings["architecture"] = 1 if name.startswith("inverse") else 3
    untouched(model.module)
    with pytest.raises(error, match=words):
        make(name, model, settings.pop("exemplars"), "no such folder", **settings)


def test_unknown_methods_name_the_known_ones():
    with pytest.raises(SettingError, match="rewrite"):
        editor_named("rewrit")


def test_settings_of_other_methods_are_refused():
    assert fitting("rewrite", {"rank": 2, "steps": None}) == {"rank": 2}
    with pytest.raises(SettingError, match="learning_rate"):
        fitting("rewrite", {"learning_rate": 0.1})


def test_labels_unknown_to_the_model_are_refused(model, exemplars, reference):
    import dataclasses

    with pytest.raises(SettingError, match="zebra"):
        make("rewrite", model, [dataclasses.replace(exemplars[0], label="zebra")], reference)


def test_concepts_outside_of_what_the_model_sees_are_refused(model, reference):
    import numpy as np
    from PIL import Image

    from rulepatch.core.exemplars import Exemplar

    wide = Image.new("RGB", (64, 16))
    mask = np.zeros((16, 64), np.float32)
    mask[:, :8] = 1
    edited = wide.copy()
    edited.paste("white", (0, 0, 8, 16))
    with pytest.raises(ExemplarError, match="centre"):
        make("rewrite", model, [Exemplar(wide, edited, mask)], reference)


def test_edits_of_the_playground_survive_a_file(model, exemplars, reference, tmp_path):
    edit = make("rewrite", model, exemplars, reference, gate=0.9, gate_kind="soft", rank=2)
    edit.save(tmp_path / "edit.safetensors")
    images = model.inputs(torch.rand(3, 3, 16, 16))
    loaded = Edit.load(tmp_path / "edit.safetensors")
    assert torch.equal(loaded.apply(model).module(images), edit.apply(model).module(images))
    assert find_sites(model.module, model.example()).site("1.conv2").value_point == loaded.changes[0].value_point
