import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from rulepatch.core.changes import KINDS, Dense, Gate, LowRank, NewClass
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.patched_model import PatchedModel
from rulepatch.errors import BaseMismatchError, SettingError, SiteError
from rulepatch.new_classes import logit


def filter_of(net, site="1.conv2", *, name="fox", head="6", seed=0, **further):
    torch.manual_seed(seed)
    weight = net.get_submodule(site).weight
    shape = (1, *(*weight.shape, 1, 1)[1:4])
    return NewClass(name, site, head, torch.randn(shape), torch.randn(1), **further)


def edit_of(net, *changes):
    return Edit(changes, base_digest(net), {"method": "by hand"})


SITES = ["0.0", "1.conv1", "1.conv2", "2.0", "3.conv", "6"]


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("activation", ["none", "relu", "sigmoid"])
def test_the_new_logit_is_what_the_equation_says_and_the_old_ones_stay(net, inputs, site, pool, activation):
    change = filter_of(net, site, scale=2.5, bias=-0.5, strength=1.5, activation=activation, pool=pool)
    keys = {}
    handle = net.get_submodule(site).register_forward_pre_hook(lambda module, args: keys.update(seen=args[0].clone()))
    with torch.no_grad():
        before = net(inputs)
        handle.remove()
        layer, weight = net.get_submodule(site), change.weight
        if isinstance(layer, nn.Conv2d):
            maps = nn.functional.conv2d(keys["seen"], weight, None, layer.stride, layer.padding, layer.dilation)
        else:
            maps = keys["seen"] @ weight.flatten(1).T
        maps = {"none": maps, "relu": (maps + change.offset).relu(), "sigmoid": (maps + change.offset).sigmoid()}[
            activation
        ]
        maps = (maps + change.offset if activation == "none" else maps).flatten(1)
        response = maps.mean(1) if pool == "mean" else maps.max(1).values
        edited = edit_of(net, change).apply(net)(inputs)
    assert torch.equal(edited[:, :-1], before)
    assert torch.allclose(edited[:, -1], 1.5 * (2.5 * response - 0.5), rtol=1e-4, atol=1e-5)


def test_old_logits_would_move_if_a_weight_did(net, inputs):
    """The control: another kind of change at the same site does what a new class must not."""
    moved = edit_of(net, Dense("1.conv2.weight", torch.full_like(net[1].conv2.weight, 0.01)), filter_of(net))
    with torch.no_grad():
        assert not torch.equal(moved.apply(net)(inputs)[:, :-1], net(inputs))


def test_a_prediction_changes_only_where_the_new_class_wins(net, inputs):
    with torch.no_grad():
        before = net(inputs)
        for bias in (-100.0, 0.0, 100.0):
            after = edit_of(net, filter_of(net, scale=5.0, bias=bias)).apply(net)(inputs)
            changed = after.argmax(1) != before.argmax(1)
            assert torch.equal(changed, after[:, -1] > before.max(1).values)
    assert changed.all()


def test_applied_it_leaves_nothing_behind(net, inputs, untouched):
    untouched(net)
    edit = edit_of(net, filter_of(net), filter_of(net, "6", name="gnu"))
    with torch.no_grad():
        wanted = edit.apply(net)(inputs)
        with edit.applied(net):
            assert torch.equal(net(inputs), wanted)
        with pytest.raises(ZeroDivisionError), edit.applied(net):
            1 / 0  # noqa: B018
        assert net(inputs).shape == (4, 5)


def test_a_file_gives_the_same_class(net, inputs, tmp_path):
    edit = edit_of(net, filter_of(net, scale=0.1, bias=0.3, activation="sigmoid", pool="max"))
    edit.save(tmp_path / "fox.safetensors")
    loaded = Edit.load(tmp_path / "fox.safetensors")
    assert loaded.describe() == edit.describe() and loaded.new_classes == ("fox",)
    assert torch.equal(loaded.apply(net)(inputs), edit.apply(net)(inputs))
    assert "class fox" in loaded.to_text()


def test_several_classes_and_other_changes_stand_side_by_side(net, inputs):
    fox, gnu = filter_of(net), filter_of(net, name="gnu", seed=1)
    dense = Dense("6.bias", torch.ones(5))
    gated = LowRank(
        "1.conv2",
        "1.relu",
        torch.eye(8)[:1],
        torch.ones(8, 1, 3, 3),
        gate=Gate("hard", 0.5, torch.zeros(1), torch.ones(8)),
    )
    both = Edit.compose(edit_of(net, fox), edit_of(net, gnu))
    assert both.new_classes == ("fox", "gnu")
    with torch.no_grad():
        alone = [edit_of(net, each).apply(net)(inputs)[:, -1] for each in (fox, gnu)]
        together = both.apply(net)(inputs)
        assert torch.equal(together[:, 5], alone[0]) and torch.equal(together[:, 6], alone[1])
        others = edit_of(net, dense, gated)
        with_others = edit_of(net, fox, dense, gated).apply(net)(inputs)
        assert torch.equal(with_others[:, :5], others.apply(net)(inputs))
        assert torch.equal(with_others[:, 5], alone[0])  # it reads the keys, which the gate does not change


def test_a_copy_of_an_extended_network_works_on_its_own(net, inputs):
    extended = edit_of(net, filter_of(net)).apply(net)
    wanted = extended(inputs)
    twin = copy.deepcopy(extended)
    extended(inputs[:1])
    assert torch.equal(twin(inputs), wanted)


def test_passes_of_several_threads_do_not_mix(net, inputs):
    extended = edit_of(net, filter_of(net)).apply(net)
    batches = [inputs[:1], inputs[1:3]]
    with torch.no_grad():
        wanted = [extended(batch) for batch in batches]
    both_heard = threading.Barrier(2, timeout=600)
    extended.get_submodule("6").register_forward_pre_hook(lambda *_: (both_heard.wait(), None)[1])
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(torch.no_grad()(extended), batches))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_an_extended_network_survives_being_pickled(net, inputs):
    extended = edit_of(net, filter_of(net)).apply(net)
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(extended))(inputs), extended(inputs))


def test_strength_scales_the_logit(net, inputs):
    edit = edit_of(net, filter_of(net, scale=2.0, bias=1.0))
    with torch.no_grad():
        once, twice = (edit.with_strength(s).apply(net)(inputs)[:, -1] for s in (1.0, 2.0))
    assert torch.allclose(twice, 2 * once)


def test_what_does_not_fit_is_refused(net, inputs, tmp_path):
    edit = edit_of(net, filter_of(net))
    with pytest.raises(SettingError, match="adds the class fox"):
        edit.merged(net)
    with pytest.raises(SettingError, match="a new class"):
        edit.to_peft(tmp_path / "lora", net)
    with pytest.raises(SiteError, match="nearest"):
        edit_of(net, NewClass("fox", "1.conv9", "6", torch.ones(1, 8, 3, 3), torch.zeros(1))).apply(net)
    with pytest.raises(SiteError, match="shape"):
        edit_of(net, NewClass("fox", "1.conv2", "6", torch.ones(1, 9, 3, 3), torch.zeros(1))).apply(net)
    with pytest.raises(BaseMismatchError):
        Edit(edit.changes, "0" * 64).apply(net)
    for wrong in ({"scale": float("nan")}, {"activation": "tanh"}, {"pool": "sum"}, {"name": " "}):
        with pytest.raises(SettingError):
            filter_of(net, **wrong)
    assert set(KINDS) == {"low-rank", "minimum", "dense", "new-class"}


def test_an_extended_network_can_be_exported(net, inputs):
    extended = edit_of(net, filter_of(net, activation="sigmoid")).apply(net)
    program = torch.export.export(extended, (inputs,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    with torch.no_grad():
        assert torch.allclose(program.module()(inputs), extended(inputs), atol=1e-6)


def test_installations_say_what_was_heard(net, inputs):
    change = filter_of(net)
    patched = PatchedModel(net, [change])
    with torch.no_grad(), patched:
        assert torch.equal(net(inputs)[:, -1], patched.responses[0])


def problem(p=40, q=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    patches = torch.randn(p, q, generator=generator, dtype=torch.float64)
    targets = torch.rand(p, generator=generator, dtype=torch.float64)
    return patches, targets, torch.full((p,), 1 / p, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(40, 6), (10, 60)])
def test_the_filter_is_where_the_gradient_vanishes(shape):
    patches, targets, weights = problem(*shape)
    weight, offset = logit.fit_filter(patches, targets, weights, ridge=0.01)
    weight, offset = weight.requires_grad_(), offset.requires_grad_()
    scale = float(weights @ patches.square().mean(1))
    loss = logit.silhouette_loss(patches @ weight + offset, targets, weights)
    loss = loss + 0.005 * scale * weight.square().sum()
    for gradient in torch.autograd.grad(loss, [weight, offset]):
        assert float(gradient.abs().max()) < 1e-7


def test_no_descent_from_random_weights_finds_a_better_filter():
    """The thesis descends from random weights; the problem has one answer, and this is it."""
    patches, targets, weights = problem(20, 30)
    weight, offset = logit.fit_filter(patches, targets, weights, ridge=0.1)
    slow = torch.randn(30, dtype=torch.float64).requires_grad_()
    bias = torch.zeros((), dtype=torch.float64).requires_grad_()
    scale = float(weights @ patches.square().mean(1))
    optimiser = torch.optim.Adam([slow, bias], lr=0.05)
    for _ in range(1500):
        optimiser.zero_grad()
        loss = logit.silhouette_loss(patches @ slow + bias, targets, weights) + 0.05 * scale * slow.square().sum()
        loss.backward()
        optimiser.step()
    assert torch.allclose(weight, slow.detach(), atol=1e-3) and torch.allclose(offset, bias.detach(), atol=1e-3)


def test_a_silhouette_that_can_be_drawn_is_drawn():
    patches = torch.eye(8, dtype=torch.float64)
    targets = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0], dtype=torch.float64)
    weight, offset = logit.fit_filter(patches, targets, torch.full((8,), 1 / 8, dtype=torch.float64), ridge=1e-4)
    drawn = torch.sigmoid(patches @ weight + offset)
    assert float((drawn - targets).abs().max()) < 0.1


def test_negatives_push_the_filter_down_where_they_are():
    patches, targets, weights = problem()
    negatives = patches[:10]
    alone = logit.fit_filter(patches, targets, weights, ridge=0.01)
    with_them = logit.fit_filter(
        torch.cat([patches, negatives]),
        torch.cat([targets, torch.zeros(10, dtype=torch.float64)]),
        torch.cat([weights, torch.full((10,), 0.1, dtype=torch.float64)]),
        ridge=0.01,
    )
    before, after = (torch.sigmoid(negatives @ weight + offset).mean() for weight, offset in (alone, with_them))
    assert after < before


def test_the_ridge_row_is_the_regression():
    """With as much ridge as least squares is given, both point the same way."""
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    positives = torch.randn(3, 5, generator=generator, dtype=torch.float64) + 1
    negatives = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    row = logit.ridge_row(positives, negatives, ridge=0.2)
    middle = (positives.mean(0) + negatives.mean(0)) / 2
    both = torch.cat([positives, negatives]) - middle
    weights = torch.cat([torch.full((3,), 0.5 / 3), torch.full((60,), 0.5 / 60)]).double()
    moment = (weights[:, None] * both).T @ both
    alpha = 0.2 * float(moment.diagonal().mean())
    signs = torch.cat([torch.ones(3), -torch.ones(60)]).double()
    slow = Ridge(alpha=alpha, fit_intercept=False).fit(both.numpy(), signs.numpy(), sample_weight=weights.numpy()).coef_
    cosine = torch.nn.functional.cosine_similarity(row, torch.from_numpy(slow).flatten(), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("budget", [0.0, 0.05, 0.3, 1.0])
def test_the_bias_is_the_largest_within_the_budget(budget):
    generator = torch.Generator().manual_seed(0)
    responses, rivals = torch.rand(40, generator=generator), 3 * torch.rand(40, generator=generator)
    right = torch.rand(40, generator=generator) < 0.8
    bias = logit.bias_for_budget(responses, rivals, right, scale=2.0, budget=budget)
    taken = min(max(int(budget * 41) - 1, 0), int(right.sum()) - 1)
    assert logit.accuracy_drop(responses, rivals, right, scale=2.0, bias=bias) == pytest.approx(taken / 40)
    more = logit.accuracy_drop(responses, rivals, right, scale=2.0, bias=bias + 2e-4 * (1 + abs(bias)))
    assert more == pytest.approx((taken + 1) / 40)


@pytest.mark.parametrize("budget", [0.05, 0.1])
def test_the_budget_holds_on_pictures_that_were_not_seen(budget):
    """Over many reference sets; the control is the bias that uses the budget up where it is set."""
    generator = torch.Generator().manual_seed(0)
    responses, rivals = torch.randn(2, 400, 2040, generator=generator, dtype=torch.float64)
    right = torch.rand(400, 2040, generator=generator) < 0.9
    unseen = []
    for r, m, known in zip(responses, rivals, right, strict=True):
        greedy = float((m - r)[:40][known[:40]].sort().values[int(budget * 40)]) - 1e-6
        careful = logit.bias_for_budget(r[:40], m[:40], known[:40], scale=1.0, budget=budget)
        rest = (r[40:], m[40:], known[40:])
        unseen.append([logit.accuracy_drop(*rest, scale=1.0, bias=bias) for bias in (careful, greedy)])
    careful, greedy = torch.tensor(unseen).mean(0).tolist()
    assert careful < 1.05 * budget < greedy


def test_a_matched_scale_gives_the_spread():
    responses = torch.randn(100)
    assert float((logit.matched_scale(responses, 7.0) * responses).std()) == pytest.approx(7, rel=1e-5)
    assert logit.matched_scale(torch.ones(5), 7.0) == 1
