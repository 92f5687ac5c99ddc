"""What every registered editor promises."""

import inspect

import pytest
import torch
from pydantic import TypeAdapter

from rulepatch.core.edit import Edit
from rulepatch.core.patched_model import EditedLayer
from rulepatch.data.run import Run
from rulepatch.editors.edit import edit, front
from rulepatch.editors.registry import editor_named, editors
from rulepatch.errors import ExemplarError, SettingError, SiteError
from rulepatch.methods import Dense
from rulepatch.settings import range_of
from rulepatch.tracing.sites import find_sites


def takes(name, setting):
    return setting in editor_named(name).settings.model_fields


every_editor = pytest.mark.parametrize("name", editors())
every_changing = pytest.mark.parametrize("name", [name for name in editors() if name != "nothing"])
every_low_rank = pytest.mark.parametrize("name", [name for name in editors() if takes(name, "gate")])
SITES = ["0.0", "1.conv1", "1.conv2", "2.0", "3.conv", "6"]


def make(name, model, exemplars, reference, **settings):
    settings = ({"steps": 30} if takes(name, "steps") else {}) | settings
    where = {} if name == "last-layer" else {"site": "1.conv2"}
    settings = where | {"cache": None, "progress": False} | settings
    return front(name)(model, exemplars, reference=reference, **settings)


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


@pytest.mark.parametrize("name", [name for name in editors() if takes(name, "minimum")])
@pytest.mark.parametrize(
    "further", [{}, {"gate": 0.5}, {"gate": 0.5, "site": ["1.conv2", "3.conv"], "coupling": "joint"}]
)
def test_a_minimum_is_the_same_solution_and_raises_no_logit(name, model, exemplars, reference, further):
    found, plain = (make(name, model, exemplars, reference, minimum=minimum, **further) for minimum in (True, False))
    assert all(torch.equal(a.delta(), b.delta()) for a, b in zip(found.changes, plain.changes, strict=True))
    assert found.how == plain.how.but(minimum=True) and "minimum" in found.note and "minimum" not in plain.note
    images = model.inputs(torch.rand(3, 3, 16, 16))
    after, other, before = (found.apply(model).module(images), plain.apply(model).module(images), model.module(images))
    torch.testing.assert_close(after, torch.minimum(before, other))
    assert (other > before).any() and found.reports == plain.reports
    with pytest.raises(SettingError, match="minimum"):
        found.merged(model)


@every_editor
def test_how_it_was_made_is_kept(name, model, exemplars, reference):
    about = make(name, model, exemplars, reference, seed=5, **({"rank": 2} if takes(name, "rank") else {})).provenance
    assert about["method"] == name
    assert about["settings"].get("rank", 2) == 2 and about["settings"]["seed"] == 5
    assert [entry["digest"] for entry in about["exemplars"]] == [exemplar.digest() for exemplar in exemplars]
    assert about["exemplars"][0]["label"] == "ant"
    assert set(about["libraries"]) == {"rulepatch", "torch", "torchvision", "timm"}
    assert about["reference_keys"] == ({"6": 24} if name == "last-layer" else {"1.conv2": 24 * 64})
    assert all(site["predicted_damage"] >= 0 for site in about["sites"])


@every_editor
def test_a_method_is_called_with_its_settings_by_name_or_as_one(name, model, exemplars, reference):
    own = {"strength": 2.0} | ({"steps": 3} if takes(name, "steps") else {})
    how, run = editor_named(name).settings(**own), Run(cache=None, progress=False, seed=3)
    where = {"reference": reference, "site": None if name == "last-layer" else "1.conv2"}
    one = edit(model, exemplars, how=how, run=run, **where)
    other = front(name)(model, exemplars, cache=None, progress=False, seed=3, **own, **where)
    third = edit(model, exemplars[:], how=how.but(strength=1.0), run=Run(), cache=None, progress=False, seed=3,
                 strength=2.0, **where)  # fmt: skip
    assert one.describe() == other.describe() == third.describe() and one.how == how
    signature = inspect.signature(front(name)).parameters
    assert list(signature)[:4] == ["model", "exemplars", "reference", "site"]
    assert all(signature[key].default == field.get_default() for key, field in type(how).model_fields.items())
    assert front(name).__name__ == name.replace("-", "_") and all(key in front(name).__doc__ for key in own)


bad = {
    "no exemplars": ({"exemplars": []}, ExemplarError, "at least one exemplar"),
    "rank beyond the channels": ({"rank": 9}, SettingError, "rank from 1 to 8"),
    "rank beyond the positions": ({"site": "6", "rank": 3}, SettingError, "2 marked positions"),
    "an unknown site": ({"site": "1.conv9"}, SiteError, "nearest"),
    "a site named twice": ({"site": ["6", "6"]}, SettingError, "different sites"),
    "no site": ({"site": []}, SettingError, "at least one site"),
    "a value point for two sites": ({"site": ["2.0", "6"], "value_point": "6"}, SettingError, "value point"),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (name, case)
        for name in editors()
        for case, (settings, *_) in bad.items()
        if all(key in {"exemplars", "site"} or takes(name, key) for key in settings) and name != "last-layer"
    ],
)
def test_bad_settings_are_refused_before_the_reference_set_is_read(name, model, exemplars, untouched, case):
    settings, error, words = bad[case]
    if name == "finetune-global" and isinstance(settings.get("site"), list):
        words = "one site"
    projected = {"projected": True} if name.startswith("finetune") and "rank" in settings else {}
    settings = {"exemplars": exemplars} | settings | projected
    untouched(model.module)
    with pytest.raises(error, match=words):
        make(name, model, settings.pop("exemplars"), "no such folder", **settings)


WRONG = ["bogus", "pre_activation", "Auto", "", True, -1.5, 1e999, float("nan"), [1], {}, "1.5", 0, 5, None, 2.5]


@pytest.mark.parametrize(
    ("name", "setting"), [(name, key) for name in editors() for key in editor_named(name).settings.model_fields]
)
def test_a_setting_is_what_it_is_declared_to_be_or_is_refused_in_a_sentence(name, setting, model, exemplars):
    """Whatever is not refused is of the declared type and in its range; the exemplars are not even looked at."""
    settings = editor_named(name).settings
    told = range_of(settings.model_fields[setting])
    refused = 0
    for value in WRONG:
        try:
            found = getattr(settings(**{setting: value}), setting)
        except SettingError as error:
            assert str(error).startswith(f"expected {setting} to be {told} but got ") or "gate" in str(error)
            with pytest.raises(SettingError):
                make(name, model, exemplars, "no such folder", **{setting: value})
            refused += 1
        else:
            assert TypeAdapter(settings.model_fields[setting].annotation).validate_python(found, strict=True) == found
    assert refused >= 5


def test_unknown_methods_name_the_known_ones():
    with pytest.raises(SettingError, match="rewrite"):
        editor_named("rewrit")


def test_settings_of_other_methods_are_refused(model, exemplars):
    for key, value in {"learning_rate": 0.1, "rnak": 3, "progres": True}.items():
        with pytest.raises(SettingError, match=f"expected settings of rewrite but got '{key}'.*nearest"):
            edit(model, exemplars, reference="no such folder", site="6", **{key: value})
    with pytest.raises(SettingError, match="dense but got protect"):
        edit(model, exemplars, reference="no such folder", site="6", how=Dense(), protect="no such folder")


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
