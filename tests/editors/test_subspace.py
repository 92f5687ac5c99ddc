"""Gates that choose themselves, protected sets, rules from features, and certificates."""

import numpy as np
import pytest
import torch
from PIL import Image

from rulepatch.core import linalg
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.data.statistics import key_statistics
from rulepatch.editors.edit import rewrite
from rulepatch.errors import ExemplarError, SettingError
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, image_set, training_images
from rulepatch.playground.scenes import render
from rulepatch.tracing import capture
from rulepatch.tracing.sites import flatten_positions, key_axis
from tests.fixtures.solving import problem_at

SITE = "blocks.4.conv"


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module")
def reference():
    return training_images(150, seed=3)


@pytest.fixture(scope="module")
def snow():
    return [exemplar("van", ground="snow", seed=seed, ground_seed=1000) for seed in (1, 2)]


def on_snow(count, *labels):
    scenes = (render(labels[i % len(labels)], seed=50 + i, ground="snow", ground_seed=2000 + i) for i in range(count))
    return image_set(scenes, "on snow")


# gates


@pytest.mark.slow
def test_a_gate_of_its_own_lets_most_of_the_concept_through(model, snow, reference):
    edit = rewrite(model, snow, reference=reference, site=SITE, gate="auto", cache=None, progress=False)
    gate = edit.changes[0].gate
    assert 0.9 <= gate.level <= 0.98
    problem = problem_at(model, snow, reference, SITE)
    keys, weights = problem.observations[0].concept_keys(1)
    passed = (keys @ gate.direction.double() > gate.thresholds.double()).double()
    assert float(weights @ passed / weights.sum()) >= 0.85
    fixed = rewrite(model, snow, reference=reference, site=SITE, gate=gate.level, cache=None, progress=False)
    assert torch.equal(fixed.changes[0].delta(), edit.changes[0].delta())
    assert torch.equal(fixed.changes[0].gate.thresholds, gate.thresholds)


# protected sets


def test_directions_beside_a_subspace():
    keys = torch.randn(500, 6).double() * torch.tensor([9.0, 5, 0.01, 0.01, 0.01, 0.01])
    moment = keys.T @ keys / 500
    basis = torch.linalg.qr(torch.randn(6, 2).double()).Q.T
    left = linalg.project_out(basis, moment, 0.99)
    assert torch.allclose(left @ left.T, torch.eye(2).double(), atol=1e-9)
    assert float(linalg.output_power(left[:, :, None, None], moment)) < 1e-2 * linalg.output_power(
        basis[:, :, None, None], moment
    )
    inside = torch.linalg.eigh(moment).eigenvectors.T[-1:]
    assert len(linalg.project_out(inside, moment, 0.5)) == 0


@pytest.mark.slow
def test_what_is_protected_changes_less(model, snow, reference):
    """Snowploughs and sleighs stand on snow: an edit of snow breaks them, unless they are protected."""
    kept = on_snow(60, "snowplow", "sleigh")
    tests, given = on_snow(60, "truck", "bus", "car"), {"reference": reference, "site": "blocks.3.conv"}
    plain = rewrite(model, snow, cache=None, progress=False, **given)
    spared = rewrite(model, snow, protect=on_snow(90, "snowplow", "sleigh"), cache=None, progress=False, **given)
    before, after = (evaluate(model, each, tests=tests, reference=kept, progress=False) for each in (plain, spared))
    moved = [np.abs(e.reference.first.of_label - e.reference.second.of_label).mean() for e in (before, after)]
    assert moved[1] < 0.3 * moved[0]
    assert len(after.reference.flips) < len(before.reference.flips)
    assert after.tests.after > after.tests.before  # and it still repairs something, though less
    assert spared.provenance["sites"][0]["protected_damage"] > 0


def test_directions_that_lie_in_what_is_protected_are_refused(model, snow, reference):
    everything = {"reference": reference, "site": SITE, "protected_share": 0.999999}
    with pytest.raises(SettingError, match="protect"):
        rewrite(model, snow, protect=reference, rank=3, cache=None, progress=False, **everything)


# from features


def test_features_of_a_style_stand_in_for_an_edited_picture(model, snow, reference):
    texture = Image.fromarray(np.asarray(snow[0].edited)[40:64, :40])
    bare = [Exemplar(each.image, each.image, each.mask, label=each.label) for each in snow]
    edit = rewrite(model, bare, reference=reference, site="blocks.3.conv", style=texture, cache=None, progress=False)
    loss = edit.provenance["sites"][0]["loss"]
    assert loss["after"] < 0.9 * loss["before"] and edit.provenance["style"]
    found = evaluate(model, edit, tests=on_snow(60, "truck", "bus", "car"), progress=False)
    assert found.tests.after > found.tests.before + 0.1
    with pytest.raises(ExemplarError, match="image itself"):  # unedited images alone teach nothing
        rewrite(model, bare, reference=reference, site="blocks.3.conv", cache=None, progress=False)


def test_pasted_keys_are_the_styles_under_the_mask_and_the_originals_elsewhere(model, snow, reference):
    style = Image.new("RGB", (64, 64), (240, 240, 255))
    problem = problem_at(model, snow, reference, SITE, style=style)
    seen = problem.observations[0]
    axis = key_axis(seen.site.kind)
    keys, original = flatten_positions(seen.keys, axis), flatten_positions(seen.original.keys, axis)
    inputs = model.inputs(model.preprocess.pixels(style)[None])
    styled = flatten_positions(capture.input_of(model.module, inputs, SITE), axis).expand_as(keys)
    whole, none = seen.key_weights >= 1, seen.key_weights <= 0
    assert whole.any() and none.any()
    assert torch.allclose(keys[whole], styled[whole], atol=1e-5) and torch.equal(keys[none], original[none])
    layer = model.module.get_submodule(SITE)
    with torch.no_grad():
        assert torch.equal(seen.edited.output, layer(seen.keys))


def test_sites_of_a_rule_from_features_cannot_see_each_other(model, snow, reference):
    style, sites = Image.new("RGB", (64, 64)), ["blocks.3.conv", SITE]
    with pytest.raises(SettingError, match="coupling"):
        rewrite(model, snow, reference=reference, site=sites, style=style, coupling="sequence", cache=None)


# certificates


def test_no_key_moves_the_output_further_than_its_bound():
    coefficients, basis, keys = torch.randn(7, 3).double(), torch.randn(3, 5).double(), torch.randn(400, 5).double()
    maps = keys @ basis.T
    moved = (maps @ coefficients.T).norm(dim=1)
    bounds = linalg.change_bound(maps, coefficients)
    assert (moved <= bounds + 1e-9).all() and (moved > 0.5 * bounds).any()
    taps = torch.randn(7, 3, 3, 3).double()
    patches = torch.einsum("pr,oryx->po", maps, taps)  # every tap sees the same key
    assert (patches.norm(dim=1) <= linalg.change_bound(maps, taps) + 1e-9).all()


@pytest.mark.parametrize("gate", [None, 0.9, 0.98])
def test_a_certificate_says_where_nothing_moves(model, snow, reference, gate):
    edit = rewrite(model, snow, reference=reference, site=SITE, gate=gate, rank=2, cache=None, progress=False)
    found = edit.provenance["sites"][0]["certificate"]
    assert found["parameters"] == [f"{SITE}.weight"]
    assert found["norm"] == pytest.approx(float(edit.changes[0].delta().norm()))
    weight = model.module.get_submodule(SITE).weight
    assert found["relative_norm"] == pytest.approx(found["norm"] / float(weight.norm()), rel=1e-5)
    assert found["gate_closed_share"] <= found["unchanged_share"] <= 1
    assert found["gate_closed_share"] == pytest.approx(gate or 0, abs=0.01)


@pytest.mark.slow
def test_a_soft_gate_and_patches_have_certificates(model, snow, reference):
    soft = rewrite(model, snow, reference=reference, site=SITE, gate=0.95, gate_kind="soft", cache=None, progress=False)
    assert soft.provenance["sites"][0]["certificate"]["gate_closed_share"] == pytest.approx(0.95, abs=0.01)
    wide = rewrite(model, snow, reference=reference, site=SITE, architecture=2, gate=0.9, cache=None, progress=False)
    assert wide.provenance["sites"][0]["certificate"]["gate_closed_share"] == pytest.approx(0.9, abs=0.01)


@pytest.mark.slow
def test_statistics_of_protected_pictures_can_be_given(model, snow, reference):
    problem = problem_at(model, snow, reference, SITE)
    found = key_statistics(model, on_snow(30, "sleigh"), [problem.observations[0].site], progress=False)
    given = {"reference": reference, "site": SITE, "cache": None, "progress": False}
    one = rewrite(model, snow, protect=found, **given)
    other = rewrite(model, snow, protect=ImageSet(on_snow(30, "sleigh").pictures, "kept"), **given)
    assert torch.equal(one.changes[0].delta(), other.changes[0].delta())
    assert one.changes[0].rank == 1
