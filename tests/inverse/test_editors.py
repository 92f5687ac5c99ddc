"""The editors of the inverse direction: their theorems through real layers, their promises, what they refuse."""

import pytest
import torch

from rulepatch.core.edit import Edit, base_digest
from rulepatch.editors.edit import front
from rulepatch.editors.problem import record_exemplars
from rulepatch.errors import SettingError, SiteError
from rulepatch.inverse.convolution import power_spectrum_at
from rulepatch.inverse.memory import build_inverse_problem
from rulepatch.tracing.sites import find_sites

inverse_fourier, inverse_pinv, inverse_transpose = map(front, ("inverse-fourier", "inverse-pinv", "inverse-transpose"))

QUIET = {"cache": None, "progress": False}
SAME = ["0.0", "1.conv1", "1.conv2", "3.conv", "6"]
"""Sites whose output has as many positions as their input."""

FORMS = {
    **{
        f"{editor.__name__} {architecture}": (editor, {"architecture": architecture})
        for editor in (inverse_transpose, inverse_pinv)
        for architecture in (3, 4)
    },
    "inverse_fourier": (inverse_fourier, {}),
    "inverse_fourier, fitted": (inverse_fourier, {"fitted": True}),
}
every_form = pytest.mark.parametrize("form", FORMS)


def make(form, model, exemplars, reference, **settings):
    editor, own = FORMS[form]
    return editor(model, exemplars, reference=reference, **QUIET, **own, **settings)


@pytest.mark.slow
@every_form
@pytest.mark.parametrize("site", SAME)
def test_the_promises_hold_at_every_site(form, site, model, exemplars, reference, untouched, tmp_path):
    untouched(model.module)
    edit = make(form, model, exemplars, reference, site=site)
    images = model.inputs(torch.rand(3, 3, 16, 16))
    before, digest = model.module(images), base_digest(model.module)
    after = edit.apply(model).module(images)
    assert not torch.equal(after, before) and after.isfinite().all()
    edit.save(tmp_path / "edit.safetensors")
    loaded = Edit.load(tmp_path / "edit.safetensors")
    assert loaded.base == digest and torch.equal(loaded.apply(model).module(images), after)
    with edit.applied(model):
        assert torch.equal(model.module(images), after)
    assert torch.equal(model.module(images), before) and base_digest(model.module) == digest
    make(form, model, exemplars, reference, site=site).save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "edit.safetensors").read_bytes()


def weight_after(edit, seen):
    return seen.layer.weight.detach().double().reshape(seen.site.shape) + edit.changes[0].delta().reshape(
        seen.site.shape
    )


def seen_at(model, exemplars, site):
    return record_exemplars(model, exemplars, [site])[2][0]


def relative(found, wanted, weights):
    missing, size = (float((weights @ each.square().sum(dim=1)).sqrt()) for each in (found - wanted, wanted))
    return missing / size


@pytest.mark.parametrize("site", ["0.0", "1.conv2", "2.0", "3.conv", "6"])
@pytest.mark.parametrize("rank", [1, 2])
def test_the_edited_weight_s_own_inverse_recalls_what_was_promised(site, rank, model, exemplars, reference):
    """W'† = M' through the layer's own stride and padding: the edit that is saved is the edit that was solved."""
    seen = seen_at(model, exemplars, site)
    inverse = build_inverse_problem(seen, 4)
    edit = inverse_pinv(model, exemplars, reference=reference, site=site, rank=rank, **QUIET)
    told = edit.provenance["inverse"][0]["recalled"]
    found = inverse.keys @ torch.linalg.pinv(weight_after(edit, seen).flatten(1)).T
    assert relative(found, inverse.values, inverse.weights) == pytest.approx(told["after"], rel=1e-2)
    assert told["after"] < told["before"]


def test_with_as_many_directions_as_outputs_the_forward_rule_is_exact(model, exemplars, reference):
    seen = seen_at(model, exemplars, "6")
    inverse = build_inverse_problem(seen, 4)
    edit = inverse_pinv(model, exemplars, reference=reference, site="6", rank=2, ridge=0, **QUIET)
    found = inverse.values @ weight_after(edit, seen).flatten(1).T
    before = relative(inverse.values @ inverse.matrix.T, inverse.keys, inverse.weights)
    assert relative(found, inverse.keys, inverse.weights) < 1e-5 < 1e-2 < before
    assert edit.provenance["inverse"][0]["recalled"]["after"] < 1e-6


def test_the_transpose_does_not(model, exemplars, reference):
    inverse = build_inverse_problem(seen_at(model, exemplars, "6"), 4)
    edit = inverse_transpose(model, exemplars, reference=reference, site="6", rank=2, ridge=0, **QUIET)
    found = inverse.values @ weight_after(edit, seen_at(model, exemplars, "6")).flatten(1).T
    assert float((found - inverse.keys).norm() / inverse.keys.norm()) > 0.1
    assert edit.provenance["inverse"][0]["recalled"]["after"] < 1e-6


@pytest.mark.parametrize("architecture", [3, 4])
def test_what_an_architecture_asks_is_what_the_layer_gives(architecture, model, exemplars):
    seen = seen_at(model, exemplars, "1.conv2")
    inverse = build_inverse_problem(seen, architecture)
    assert inverse.matrix.shape == {3: (72, 8), 4: (8, 72)}[architecture]
    assert inverse.keys.shape[1], inverse.values.shape[1] == inverse.matrix.shape
    weights, axis = (seen.key_weights, seen.output_weights)[architecture - 3], {3: seen.original.keys, 4: None}
    assert len(inverse.keys) == int((weights > 0).sum())
    if architecture == 4:  # this layer has no bias
        outputs = seen.original.output.permute(0, 2, 3, 1).flatten(1, 2)[weights > 0]
        torch.testing.assert_close(inverse.keys.float(), outputs, rtol=1e-4, atol=1e-5)
    else:  # its transpose, on what it is asked, is the gradient through the layer
        keys = axis[3].double().requires_grad_()
        with torch.enable_grad():
            output = torch.func.functional_call(seen.layer, {"weight": seen.layer.weight.detach().double()}, (keys,))
            (back,) = torch.autograd.grad(output, keys, seen.original.output.double())
        torch.testing.assert_close(
            inverse.keys @ inverse.matrix, back.permute(0, 2, 3, 1).flatten(1, 2)[weights > 0], rtol=1e-4, atol=1e-5
        )


def test_the_convolution_s_constraint_is_exact_and_its_boundaries_are_told(model, exemplars, reference):
    edit = inverse_fourier(model, exemplars, reference=reference, site="1.conv2", balance=0, cutoff=0, **QUIET)
    told = edit.provenance["inverse"][0]
    assert told["recalled"]["after"] < 1e-8 < told["recalled"]["before"]
    assert told["forward"]["whole_kernel_on_recalled"] < 1e-6 < told["forward"]["taps"]
    assert 0 < told["within_taps"] < 1 and told["circular_beside_padded"] > 1e-3
    assert told["forward"]["padded_taps"] != told["forward"]["taps"]
    pointwise = inverse_fourier(model, exemplars, reference=reference, site="3.conv", balance=0, **QUIET)
    assert pointwise.provenance["inverse"][0]["circular_beside_padded"] < 1e-6  # one tap reaches over no border


def test_on_a_layer_without_positions_the_three_agree_as_they_should(model, exemplars, reference):
    common = {"reference": reference, "site": "6", "cutoff": 0.0, **QUIET}
    pinv = inverse_pinv(model, exemplars[:1], ridge=0, **common).changes[0].delta()
    fourier = inverse_fourier(model, exemplars[:1], balance=0, **common).changes[0].delta()
    torch.testing.assert_close(fourier.reshape(5, 12), pinv.reshape(5, 12), rtol=1e-3, atol=1e-5)
    transpose = (
        inverse_transpose(model, exemplars[:1], ridge=0, reference=reference, site="6", **QUIET).changes[0].delta()
    )
    assert not torch.allclose(transpose.reshape(5, 12), pinv.reshape(5, 12), rtol=0.1, atol=0.01)


def test_fitted_taps_do_more_of_what_the_whole_kernel_does(model, exemplars, reference):
    common = {"reference": reference, "site": "1.conv2", "balance": 0.01, "cutoff": 0.3, **QUIET}
    told = [
        inverse_fourier(model, exemplars, fitted=each, **common).provenance["inverse"][0]["forward"]
        for each in (False, True)
    ]
    cut, fitted = (abs(each["padded_taps"] - each["whole_kernel"]) for each in told)
    assert fitted < 0.5 * cut, told


def test_the_power_spectrum_of_a_reference_set_is_a_mean(model, reference):
    site = find_sites(model.module, model.example()).site("1.conv2")
    found = power_spectrum_at(model, reference, site, progress=False)
    assert found.shape == (8, 5, 8, 8) and torch.allclose(found, found.mH)
    keys = torch.cat(
        [model.module[1].relu(model.module[1].bn1(model.module[1].conv1(model.module[0](model.inputs(
            model.preprocess.pixels(picture.source)[None]))))) for picture in reference.pictures]
    ).double()  # fmt: skip
    torch.testing.assert_close(
        found[0, 0].real, torch.einsum("na,nb->ab", *[keys.sum((2, 3))] * 2) / 24, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("form", "settings", "error", "words"),
    [
        ("inverse_fourier", {"site": "2.0"}, SiteError, "as many positions"),
        ("inverse_pinv 3", {"site": "2.0"}, SiteError, "as many positions"),
        ("inverse_transpose 3", {"site": "2.0"}, SiteError, "as many positions"),
        ("inverse_pinv 4", {"site": "1.conv2", "ridge": -1.0}, SettingError, "ridge"),
        ("inverse_pinv 4", {"site": "1.conv2", "cutoff": 1.5}, SettingError, "cutoff"),
        ("inverse_fourier", {"site": "1.conv2", "balance": float("inf")}, SettingError, "balance"),
    ],
)
def test_what_cannot_be_inverted_is_refused(form, settings, error, words, model, exemplars):
    with pytest.raises(error, match=words):
        make(form, model, exemplars, "no such folder", **settings)


@pytest.mark.parametrize("form", ["inverse_pinv 3", "inverse_fourier"])
def test_statistics_instead_of_pictures_are_refused_where_pictures_are_needed(form, model, exemplars, reference):
    from rulepatch.data.statistics import key_statistics

    site = find_sites(model.module, model.example()).site("1.conv2")
    known = key_statistics(model, reference, [site], architecture=2, progress=False)
    assert make("inverse_pinv 4", model, exemplars, known, site="1.conv2").changes
    with pytest.raises(SettingError, match="reads the images"):
        make(form, model, exemplars, known, site="1.conv2")
