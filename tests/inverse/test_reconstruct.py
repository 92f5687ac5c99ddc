"""Reconstructions, against what linear algebra says they must be."""

import json

import numpy as np
import pytest
import torch

from rulepatch.editors.edit import front, rewrite
from rulepatch.editors.problem import record_exemplars
from rulepatch.errors import BaseMismatchError, SettingError, SiteError
from rulepatch.inverse.memory import build_inverse_problem
from rulepatch.inverse.reconstruct import invert, reconstruct, total_variation
from rulepatch.inverse.report import draw_curves, draw_similarity, write_inversion
from tests.fixtures import colours

pytestmark = pytest.mark.slow

inverse_pinv = front("inverse-pinv")

SITE = "3"
model, world = colours.model, colours.world
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def exemplars(world):
    return world[2]


@pytest.fixture(scope="module")
def reference(world):
    return world[0]


@pytest.fixture(scope="module")
def edit(trained, exemplars, reference):
    return inverse_pinv(
        trained, exemplars[:1], reference=reference, site=SITE, rank=3, cutoff=0, cache=None, progress=False
    )


@pytest.fixture(scope="module")
def found(trained, exemplars, edit):
    return invert(trained, exemplars[:1], site=SITE, edit=edit, steps=30, **QUIET)


@pytest.mark.parametrize("optimiser", ["lbfgs", "adam"])
def test_reconstruct_finds_the_shortest_solution_of_a_linear_system(optimiser):
    matrix, wanted = torch.randn(3, 5).double(), torch.randn(3).double()
    found = reconstruct(
        lambda x: (matrix @ x - wanted).square().sum(),
        torch.zeros(5).double(),
        optimiser=optimiser,
        steps=60 if optimiser == "lbfgs" else 3000,
        learning_rate=0.01,
    )
    shortest = torch.linalg.pinv(matrix) @ wanted
    assert torch.allclose(matrix @ found, wanted, atol=1e-4)
    if optimiser == "lbfgs":  # its steps stay in the span of the gradients; Adam's do not
        assert torch.allclose(found, shortest, atol=1e-4)


def test_the_unit_changes_the_road_but_not_the_end():
    ends = [
        reconstruct(lambda x: (x - 300).square().sum() / 9e4, torch.zeros(4).double(), steps=20, unit=unit)
        for unit in (1.0, 100.0)
    ]
    assert all(torch.allclose(end, torch.full((4,), 300.0).double()) for end in ends)


def test_total_variation_is_that_of_neighbours():
    pictures = torch.zeros(1, 1, 2, 2)
    pictures[0, 0, 0, 0] = 1
    assert float(total_variation(pictures)) == 0.5


def test_keys_end_where_the_pseudo_inverse_of_the_edited_weight_says(model, exemplars, edit, found):
    """The shortest input for an output is W'† y, up to the noise of the start."""
    seen = record_exemplars(model, exemplars[:1], [SITE])[2][0]
    inverse = build_inverse_problem(seen, 4)
    changed = inverse.matrix + edit.changes[0].delta().flatten(1)
    for each, weight in zip(found.of("key"), (inverse.matrix, changed), strict=True):
        keys = inverse.keys @ torch.linalg.pinv(weight).T
        for end, other in ((each.to_edited[-1], inverse.values), (each.to_original[-1], inverse.originals)):
            cosines = torch.nn.functional.cosine_similarity(keys, other, dim=1)
            assert end == pytest.approx(float(inverse.weights @ cosines / inverse.weights.sum()), abs=0.02)


def test_an_edit_of_the_inverse_brings_keys_nearer_to_the_edited_picture(found):
    before, after = found.of("key")
    assert after.to_edited[-1] > before.to_edited[-1] + 0.05


def test_losses_fall_and_curves_begin_with_nothing_known(found):
    for each in found.reconstructions:
        assert each.losses[-1] < 0.5 * each.losses[0] and each.steps[0] == 0 and each.steps[-1] == 30
        assert len(each.steps) == len(each.losses) == len(each.to_edited) == len(each.to_original)
    assert abs(found.of("key")[0].to_original[0]) < 0.3
    for level in ("key", "map", "image"):
        assert [each.when for each in found.of(level)] == ["before", "after"]
        assert found.of(level)[0].steps == found.of(level)[1].steps


def test_the_map_of_an_untouched_layer_is_found_again(model, exemplars):
    each = invert(model, exemplars[:1], site=SITE, levels=["map"], steps=150, **QUIET).reconstructions[0]
    assert each.to_original[-1] > each.to_edited[-1] and each.to_original[-1] > 0.7
    similar = each.similarity
    assert similar["original"].shape == (1, 16, 16)
    assert float(similar["original"].mean()) == pytest.approx(1, abs=0.4)


@pytest.mark.slow
def test_the_model_is_untouched_and_a_seed_repeats_itself(model, exemplars, edit, untouched, found):
    untouched(model.module)
    again = invert(model, exemplars[:1], site=SITE, edit=edit, steps=30, **QUIET)
    assert again.to_json() == found.to_json()
    other = invert(model, exemplars[:1], site=SITE, edit=edit, steps=30, seed=1, **QUIET)
    assert other.to_json()["reconstructions"] != found.to_json()["reconstructions"]


def test_the_target_can_be_the_edited_network_s_own_output(model, exemplars, edit, found):
    own = invert(model, exemplars[:1], site=SITE, edit=edit, steps=30, target="edited", **QUIET)
    for level in ("key", "map", "image"):
        ends = [[each.to_original[-1] for each in one.of(level)] for one in (own, found)]
        assert ends[0][0] == pytest.approx(ends[1][0], abs=1e-3)  # before the edit there is no difference
        assert abs(ends[0][1] - ends[1][1]) > 1e-2


@pytest.mark.filterwarnings("ignore:the edit repairs 0 of 1 failing exemplar")
def test_architecture_3_rebuilds_single_inputs(model, exemplars, reference):
    edit = inverse_pinv(
        model, exemplars[:1], reference=reference, site=SITE, architecture=3, cache=None, progress=False
    )
    found = invert(
        model, exemplars[:1], site=SITE, edit=edit, levels=["key"], architecture=3, steps=20, before=False, **QUIET
    )
    assert [each.when for each in found.reconstructions] == ["after"]


def test_variation_smooths_pictures(model, exemplars):
    rough, smooth = (
        invert(model, exemplars[:1], site=SITE, levels=["image"], steps=30, variation=each, **QUIET)
        .reconstructions[0]
        .pictures
        for each in (0.0, 5.0)
    )
    assert float(total_variation(smooth)) < 0.5 * float(total_variation(rough))


@pytest.mark.slow
def test_everything_is_written(found, tmp_path):
    report = write_inversion(found, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.html", "inversion.json", "curves.svg", "similarity.svg"
    }  # fmt: skip
    page = report.read_text("utf-8")
    assert page.count("<svg") == 2 and page.count("data:image/jpeg") == 4 and "inverse-pinv" in page
    assert json.loads((tmp_path / "out" / "inversion.json").read_text("utf-8")) == found.to_json()
    assert "cosine to the edited" in found.to_text() and found.to_text().count("\n") >= 6


def test_figures_show_what_there_is(model, exemplars, found):
    assert len(draw_curves(found).axes) == 6 and len(draw_similarity(found).axes) == 6
    keys = invert(model, exemplars[:1], site=SITE, levels=["key"], steps=3, **QUIET)
    assert len(draw_curves(keys).axes) == 2 and draw_similarity(keys) is None


def test_gates_hide_keys_but_not_maps(model, exemplars, reference):
    gated = rewrite(model, exemplars, reference=reference, site=SITE, gate=0.9, cache=None, progress=False)
    with pytest.raises(SettingError, match="gate"):
        invert(model, exemplars, site=SITE, edit=gated, **QUIET)
    maps = invert(model, exemplars, site=SITE, edit=gated, levels=["map"], steps=3, **QUIET)
    assert np.isfinite(maps.reconstructions[1].losses[-1])


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"site": "33"}, SiteError, "nearest"),
        ({"levels": ["pixel"]}, SettingError, "key, map, image"),
        ({"levels": []}, SettingError, "none"),
        ({"steps": 0}, SettingError, "steps to be a whole number ≥ 1"),
        ({"variation": -1.0}, SettingError, "variation"),
        ({"optimiser": "sgd"}, SettingError, "lbfgs"),
        ({"target": "other"}, SettingError, "base or edited"),
        ({"architecture": 1}, SettingError, "3 or 4"),
    ],
)
def test_bad_settings_are_refused(settings, error, words, model, exemplars):
    with pytest.raises(error, match=words):
        invert(model, exemplars, **{"site": SITE, **QUIET} | settings)


def test_an_edit_of_another_model_is_refused(model, exemplars, edit):
    import copy

    other = model.with_module(copy.deepcopy(model.module))
    other.module[3].weight.data += 1
    with pytest.raises(BaseMismatchError):
        invert(other, exemplars, site=SITE, edit=edit, steps=1, **QUIET)
