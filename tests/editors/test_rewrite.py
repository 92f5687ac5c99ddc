"""The reduced solve, against dense optimisation of the same objective through the network itself."""

import copy

import pytest
import torch

from rulepatch.core import linalg
from rulepatch.editors.edit import rewrite
from rulepatch.methods import Rewrite
from rulepatch.tracing import capture
from rulepatch.tracing.sites import flatten_positions, unfold
from tests.fixtures.solving import problem_at, solved

SITES = ["0.0", "1.conv1", "1.conv2", "2.0", "3.conv", "6"]


def posed_at(model, exemplars, reference, site, **settings):
    how = Rewrite(**{"rank": 2, "gate": None} | settings)
    return problem_at(model, exemplars, reference, site, how), how


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("architecture", [1, 2])
def test_the_closed_form_is_the_dense_optimum_of_its_objective(model, exemplars, reference, site, architecture):
    """L-BFGS on the coefficients, through convolutions with the whole changed weight, gets no lower and ends there."""
    settings = {"architecture": architecture, "match": "pre-activation", "ridge": 0}
    problem, how = posed_at(model, exemplars, reference, site, **settings)
    observation, reading = problem.observations[0], solved(problem, how)
    found = reading.coefficients
    layer, keys = copy.deepcopy(observation.layer).double(), observation.keys.double()
    head = observation.edited.route.to(dtype=torch.float64).split()[0]
    head_of_original = observation.original.route.to(dtype=torch.float64).split()[0]
    target = head_of_original(observation.original.output.double())
    before = layer(keys).detach()
    weights = observation.output_weights

    def objective(coefficients):
        delta = linalg.low_rank(coefficients, reading.directions).reshape(layer.weight.shape)
        changed = torch.func.functional_call(layer, {"weight": layer.weight.detach() + delta}, (keys,))
        lacking = target - head(observation.edited.output.double() + changed - before)
        axis = 1 if observation.site.kind == "conv" else -1
        return (weights[..., None] * flatten_positions(lacking, axis).square()).sum()

    start = torch.zeros(found.shape, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [start], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        loss = objective(start)
        start.grad = torch.autograd.grad(loss, start)[0].contiguous()
        return loss

    optimiser.step(closure)
    with torch.no_grad():
        best, twin, nothing = (float(objective(at)) for at in (found, start, torch.zeros_like(found)))
    assert best <= twin * (1 + 1e-6) + 1e-12 * nothing
    assert twin <= best * (1 + 1e-3) + 1e-6 * nothing  # and the twin did find the same optimum
    assert best < 0.999 * nothing


@pytest.mark.parametrize("site", SITES)
def test_the_loss_that_is_reported_is_the_networks_own(model, exemplars, reference, site):
    edit = rewrite(model, exemplars, reference=reference, site=site, rank=2, cache=None, progress=False)
    problem, _ = posed_at(model, exemplars, reference, site)
    observation = problem.observations[0]
    pixels = torch.stack([model.preprocess.pixels(exemplar.edited) for exemplar in exemplars])
    points = {site: observation.site.value_point}
    edited = capture.record(edit.apply(model).module, model.inputs(pixels), points)[site]
    weights = observation.value_weights.float().flatten()
    axis = observation.site.channel_axis
    values, targets = (
        flatten_positions(tensor, axis).flatten(0, 1) for tensor in (edited.values, observation.original.values)
    )
    expected = float(linalg.masked_error(values, targets, weights, "absolute").mean())
    assert edit.provenance["sites"][0]["loss"]["after"] == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("match", ["pre-activation", "value"])
@pytest.mark.parametrize("error", ["squared", "absolute"])
def test_first_order_steps_lower_the_error_that_they_are_told_to(model, exemplars, reference, match, error):
    problem, how = posed_at(model, exemplars, reference, "1.conv2", match=match, error=error, ridge=0)
    observation, (reading, last) = problem.observations[0], [solved(problem, how.but(steps=n)) for n in (0, 800)]
    start, found = reading.coefficients, last.coefficients

    def errors(coefficients):
        delta = linalg.low_rank(coefficients, reading.directions).float()
        added = torch.nn.functional.conv2d(observation.keys, delta, padding=1)
        if match == "value":
            return observation.error(added, error=error)
        weights = observation.output_weights[observation.marked]
        return linalg.masked_error(
            flatten_positions(added, 1)[observation.marked].double(), observation.residuals, weights, error
        )

    assert bool((errors(found) <= errors(start) * (1 + 1e-4) + 1e-7).all())  # of every channel the best is kept
    if (match, error) != ("pre-activation", "squared"):
        assert float(errors(found).sum()) < float(errors(start).sum())


def test_mixing_sites_are_solved_by_differentiation(model, exemplars, reference):
    """With a value point two blocks on there is no closed form; the steps still lower the error."""
    losses = {}
    for steps in (0, 300):
        edit = rewrite(
            model, exemplars, reference=reference, site="1.conv2", value_point="2.2", match="value", steps=steps,
            rank=3, cache=None, progress=False,
        )  # fmt: skip
        losses[steps] = edit.provenance["sites"][0]["loss"]["after"]
    assert losses[300] < 0.95 * losses[0]


@pytest.mark.slow
def test_sites_that_mix_channels_in_their_block_are_solved_by_differentiation_by_themselves(
    model, exemplars, reference
):
    """A gate after the layer depends on all its channels: the value is matched, better than by the closed form."""
    found = {
        match: rewrite(
            model, exemplars, reference=reference, site="3.conv", match=match, rank=2, cache=None, progress=False
        )
        for match in ("auto", "value", "pre-activation")
    }
    assert torch.equal(found["auto"].changes[0].delta(), found["value"].changes[0].delta())
    assert squared_errors(model, exemplars, reference, found["auto"]) < squared_errors(
        model, exemplars, reference, found["pre-activation"]
    )


def test_the_gate_is_change_of_the_solve(model, exemplars, reference):
    """Coefficients are fitted to what the gate lets through: with them the objective has no gradient left."""
    problem, how = posed_at(model, exemplars, reference, "3.conv", gate=0.8, match="pre-activation", ridge=0)
    observation, reading = problem.observations[0], solved(problem, how)
    found = reading.coefficients
    keys = observation.keys.double()
    gate = (torch.einsum("nchw,c->nhw", keys, reading.gate.direction) > reading.gate.thresholds)[:, None]
    assert 0 < float(gate.double().mean()) < 1
    maps = torch.einsum("nchw,rc->nrhw", keys, reading.directions) * gate
    features = unfold(copy.deepcopy(observation.layer).double(), maps)[observation.marked]
    lacking = observation.residuals - features @ found.flatten(1).T
    gradient = (features * observation.output_weights[observation.marked][:, None]).T @ lacking
    assert float(gradient.abs().max()) < 1e-8


def test_a_higher_rank_fits_the_exemplars_at_least_as_well(model, exemplars, reference):
    losses = []
    for rank in (1, 2, 4, 8):
        problem, how = posed_at(model, exemplars, reference, "1.conv2", rank=rank, ridge=0)
        observation, reading = problem.observations[0], solved(problem, how)
        delta = linalg.low_rank(reading.coefficients, reading.directions)
        added = torch.nn.functional.conv2d(observation.keys.double(), delta, padding=1)
        weights, under_mask = (
            observation.output_weights[observation.marked],
            flatten_positions(added, 1)[observation.marked],
        )
        losses.append(float(linalg.masked_error(under_mask, observation.residuals, weights, "squared").sum()))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_precomputed_statistics_give_the_same_edit(model, exemplars, reference):
    problem, _ = posed_at(model, exemplars, reference, ["2.0", "6"], rank=1)
    first, second = (
        rewrite(model, exemplars, reference=given, site=["2.0", "6"], cache=None, progress=False)
        for given in (reference, problem.statistics)
    )
    assert all(torch.equal(a.delta(), b.delta()) for a, b in zip(first.changes, second.changes, strict=True))


def test_a_bfloat16_model_is_edited_in_its_own_type(model, exemplars, reference):
    half = model.with_module(copy.deepcopy(model.module).bfloat16())
    edit = rewrite(half, exemplars, reference=reference, site="1.conv2", gate=None, cache=None, progress=False)
    changed = edit.apply(half).module[1].conv2.weight
    assert changed.dtype == torch.bfloat16 and not torch.equal(changed, half.module[1].conv2.weight)
    full = rewrite(model, exemplars, reference=reference, site="1.conv2", gate=None, cache=None, progress=False)
    cosine = torch.nn.functional.cosine_similarity(
        edit.changes[0].delta().flatten(), full.changes[0].delta().flatten(), dim=0
    )
    assert float(cosine) > 0.9


SEVERAL = ["1.conv1", "1.conv2", "3.conv"]


def errors(edit):
    return [site["loss"]["after"] / site["loss"]["before"] for site in edit.provenance["sites"]]


@pytest.mark.slow
@pytest.mark.parametrize("gate", [None, 0.6])
def test_coupled_sites_see_each_other(model, exemplars, reference, gate, untouched):
    untouched(model.module)
    given = {"reference": reference, "rank": 2, "gate": gate, "cache": None, "progress": False}
    alone = [rewrite(model, exemplars, site=site, **given).changes[0] for site in SEVERAL]
    apart = rewrite(model, exemplars, site=SEVERAL, **given)
    sequence = rewrite(model, exemplars, site=SEVERAL, coupling="sequence", **given)
    assert [torch.equal(a.delta(), b.delta()) for a, b in zip(apart.changes, alone, strict=True)] == [True] * 3
    assert torch.equal(sequence.changes[0].delta(), apart.changes[0].delta())  # the first sees no other
    assert not torch.equal(sequence.changes[2].delta(), apart.changes[2].delta())


def squared_errors(model, exemplars, reference, edit):
    problem, _ = posed_at(model, exemplars, reference, SEVERAL)
    points = {seen.site.path: seen.site.value_point for seen in problem.observations}
    with edit.applied(model.module):
        values = capture.outputs_of(model.module, problem.edited, points)
    return sum(
        float(seen.error_of(values[seen.site.path], error="squared").mean() / seen.error(error="squared").mean())
        for seen in problem.observations
    )


@pytest.mark.slow
def test_steps_on_all_coefficients_lower_the_error_of_all_sites(model, exemplars, reference, untouched):
    untouched(model.module)
    given = {"reference": reference, "site": SEVERAL, "rank": 2, "cache": None, "progress": False}
    found = {
        coupling: squared_errors(
            model, exemplars, reference, rewrite(model, exemplars, coupling=coupling, **steps, **given)
        )
        for coupling, steps in {"none": {}, "sequence": {}, "joint": {"steps": 60}}.items()
    }
    assert found["joint"] < 0.98 * found["sequence"]
    given["match"] = "pre-activation"
    start = rewrite(model, exemplars, coupling="joint", steps=0, **given)
    sequence = rewrite(model, exemplars, coupling="sequence", **given)
    for one, other in zip(start.changes, sequence.changes, strict=True):
        assert torch.allclose(one.delta(), other.delta(), atol=1e-6)


def test_values_from_one_pass_are_those_of_a_recording(model, exemplars, reference):
    problem, _ = posed_at(model, exemplars, reference, SEVERAL)
    points = {seen.site.path: seen.site.value_point for seen in problem.observations}
    values = capture.outputs_of(model.module, problem.edited, points)
    for seen in problem.observations:
        assert torch.equal(values[seen.site.path], seen.edited.values)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_what_rounding_to_the_models_type_loses_is_stated(model, exemplars, reference, dtype):
    typed = model.with_module(copy.deepcopy(model.module).to(dtype))
    edit = rewrite(typed, exemplars, reference=reference, site="1.conv2", gate=None, cache=None, progress=False)
    stated = edit.provenance["sites"][0]["rounding"]
    before, after = (each.module[1].conv2.weight.detach().double() for each in (typed, edit.apply(typed)))
    wanted = edit.changes[0].delta()
    assert stated == pytest.approx(float((after - before - wanted).norm() / wanted.norm()), rel=1e-6)
    assert stated < torch.finfo(dtype).eps * 100 and (stated > 0 or dtype == torch.float64)
