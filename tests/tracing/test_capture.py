"""Looking into a forward pass and starting again in its middle, without a trace left behind."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from rulepatch.errors import ModelError, SiteError
from rulepatch.tracing import capture, tails
from rulepatch.tracing.sites import Layer

SITES = ["0.0", "1.conv1", "1.conv2", "2.0", "3.conv", "3.squeeze", "6"]


def layers_of(model: nn.Module) -> list[str]:
    return [path for path, layer in model.named_modules() if isinstance(layer, Layer)]


def test_keys_are_the_inputs_of_every_site(net, inputs, untouched):
    untouched(net)
    seen = dict(capture.inputs_of(net, inputs, SITES))
    assert list(seen) == SITES
    assert torch.equal(seen["0.0"], inputs)
    assert torch.equal(seen["1.conv1"], net[0](inputs))
    assert torch.equal(seen["6"], net[:6](inputs))


def test_where_all_inputs_are_too_many_to_hold_there_are_more_passes(net, inputs, untouched, monkeypatch):
    untouched(net)
    together = dict(capture.inputs_of(net, inputs, SITES))
    passes = []
    handle = net[0].register_forward_pre_hook(lambda *_: passes.append(1))
    for held, count in {1: len(SITES), together["0.0"].nbytes + 1: 3, 1 << 30: 1}.items():
        passes.clear()
        monkeypatch.setattr(capture, "MOST_HELD", held)
        found = dict(capture.inputs_of(net, inputs, SITES[::-1]))
        assert list(found) == SITES and len(passes) == count
        assert all(torch.equal(found[path], together[path]) for path in SITES)
    handle.remove()


def test_an_input_that_a_later_layer_overwrites_is_that_of_its_site(inputs):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Identity(), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)).eval()
    found = dict(capture.inputs_of(net, inputs, ["1", "3"]))
    assert torch.equal(found["1"], net[0](inputs)) and float(found["1"].detach().min()) < 0
    assert torch.equal(found["3"], found["1"].relu())


def test_forward_stops_at_the_last_site(net, inputs):
    called = []
    net[6].register_forward_hook(lambda *_: called.append(6))
    net[2][2].register_forward_hook(lambda *_: called.append(2))
    capture.input_of(net, inputs, "2.0")
    assert called == []
    net(inputs)
    assert called == [2, 6]  # the control: a whole pass calls them


def test_a_site_that_is_never_called_is_named(net, inputs, untouched):
    net.add_module("idle", nn.Identity())
    net.idle.add_module("never", nn.Linear(2, 2))
    untouched(net)
    with pytest.raises(SiteError, match=r"idle\.never"):
        list(capture.inputs_of(net, inputs, ["0.0", "idle.never"]))


@pytest.mark.parametrize("failing", ["reader", "model"])
def test_nothing_stays_behind_after_an_exception(net, inputs, untouched, failing):
    net.train()
    net[1].eval()
    untouched(net)
    with pytest.raises(RuntimeError if failing == "reader" else ModelError):
        if failing == "reader":
            for _ in capture.inputs_of(net, inputs, ["2.0", "6"]):
                raise RuntimeError("reader")
        else:
            capture.record(net, inputs[:, :2], {"1.conv1": "1.relu"})


def test_a_stop_is_no_exception_that_models_swallow():
    class Swallows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.after = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            try:
                return self.inner(x)
            except Exception:
                return self.after(x)

    assert capture.input_of(Swallows(), torch.ones(1, 2), "inner").tolist() == [[1, 1]]


@pytest.mark.parametrize(
    ("site", "value_point"),
    [
        ("0.0", "0.3"),
        ("1.conv1", "1.relu"),
        ("1.conv2", "1"),
        ("2.0", "2.2"),
        ("3.conv", "3"),
        ("6", "6"),
        ("1.conv1", "1"),
    ],
)
def test_recorded_routes_repeat_the_network(net, inputs, untouched, site, value_point):
    untouched(net)
    recording = capture.record(net, inputs, {site: value_point})[site]
    assert torch.equal(recording.route(recording.output), recording.values)
    other = torch.randn_like(recording.output)
    kept = other.clone()
    assert torch.equal(recording.route(other), network_with_output(net, inputs, site, other, value_point))
    assert torch.equal(other, kept)  # in-place operations do not reach what was given


def test_sites_recorded_in_one_pass_are_as_recorded_one_by_one(net, inputs, untouched):
    untouched(net)
    points = {"0.0": "0", "1.conv1": "1", "1.conv2": "1", "2.0": "2.2", "6": "6"}
    together = capture.record(net, inputs, points)
    assert list(together) == list(points)
    for site, value_point in points.items():
        alone = capture.record(net, inputs, {site: value_point})[site]
        for name in ("keys", "output", "values"):
            assert torch.equal(getattr(together[site], name), getattr(alone, name))
        other = torch.randn_like(alone.output)
        assert torch.equal(together[site].route(other), alone.route(other))


def network_with_output(net, inputs, site, output, value_point):
    """The naive twin: a hook that replaces the site's output, and one that reads the value point."""
    seen = []
    started = []
    hooks = [
        net.get_submodule(site).register_forward_hook(lambda *_: (started.append(1), output.clone())[1]),
        net.get_submodule(value_point).register_forward_hook(lambda m, a, o: seen.append(o) if started else None),
    ]
    with torch.no_grad():
        net(inputs)
    for hook in hooks:
        hook.remove()
    return seen[0]


def test_routes_can_be_differentiated_and_run_in_double(net, inputs):
    recording = capture.record(net, inputs, {"1.conv2": "1"})["1.conv2"]
    route = recording.route.to(dtype=torch.float64)
    output = recording.output.double().requires_grad_()
    (gradient,) = torch.autograd.grad(route(output).sum(), output)
    assert gradient.dtype == torch.float64 and float(gradient.abs().sum()) > 0
    assert torch.allclose(route(output).float(), recording.values, atol=1e-5)


def test_routes_split_at_the_pre_activation(net, inputs):
    recording = capture.record(net, inputs, {"1.conv2": "1"})["1.conv2"]
    head, rest = recording.route.split()
    pre_activation = head(recording.output)
    expected = net[1].bn2(recording.output) + net[0](inputs)
    assert torch.allclose(pre_activation, expected, atol=1e-6)
    assert torch.equal(rest(pre_activation), recording.values)


@pytest.mark.parametrize(("site", "value_point"), [("2.0", "1"), ("1.conv1", "0"), ("6", "5")])
def test_value_points_before_the_site_are_refused(net, inputs, untouched, site, value_point):
    untouched(net)
    with pytest.raises(SiteError, match="after"):
        capture.record(net, inputs, {site: value_point})


@pytest.mark.parametrize("site", SITES)
def test_the_tail_gives_the_bits_of_the_whole_pass(net, inputs, untouched, site):
    untouched(net)
    plan = tails.plan_suffix(capture.trace(net, inputs[:1]), site)
    output, (start,) = capture.checkpoint(net, [plan], inputs)
    assert torch.equal(output, net(inputs))
    for _ in range(2):  # the rest of a network may write into what it is given; a second run must not see that
        assert torch.equal(capture.run_suffix(net, plan, start), output)


@pytest.mark.parametrize("site", SITES)
def test_the_tail_sees_a_changed_weight_at_its_site(net, inputs, site):
    plan = tails.plan_suffix(capture.trace(net, inputs[:1]), site)
    before, (start,) = capture.checkpoint(net, [plan], inputs)
    with torch.no_grad():
        net.get_submodule(site).weight.mul_(-1)
    after = capture.run_suffix(net, plan, start)
    assert torch.equal(after, net(inputs)) and not torch.equal(after, before)


def test_the_tail_does_not_run_what_comes_before(net, inputs):
    plan = tails.plan_suffix(capture.trace(net, inputs[:1]), "2.0")
    _, (start,) = capture.checkpoint(net, [plan], inputs)
    called = []
    net[0][0].register_forward_hook(lambda *_: called.append("early"))
    net[2][1].register_forward_hook(lambda *_: called.append("late"))
    capture.run_suffix(net, plan, start)
    assert called == ["late"]
    assert start.inputs.is_meta  # nor does it keep pixels that nothing will read


def test_the_tail_leaves_nothing_behind_after_an_exception(net, inputs, untouched):
    plan = tails.plan_suffix(capture.trace(net, inputs[:1]), "2.0")
    _, (start,) = capture.checkpoint(net, [plan], inputs)
    untouched(net)

    class BreakError(RuntimeError):
        pass

    def explode(*_):
        raise BreakError

    hook = net[3].conv.register_forward_hook(explode)
    with pytest.raises(ModelError, match=r"3\.conv \(Conv2d\) raised BreakError") as caught:
        capture.run_suffix(net, plan, start)
    assert isinstance(caught.value.__cause__, BreakError)
    hook.remove()


def test_one_pass_serves_the_tails_of_many_sites(net, inputs):
    traced = capture.trace(net, inputs[:1])
    plans = [tails.plan_suffix(traced, site) for site in SITES]
    output, starts = capture.checkpoint(net, plans, inputs)
    for plan, start in zip(plans, starts, strict=True):
        assert torch.equal(capture.run_suffix(net, plan, start), output)


MODELS = {
    "torchvision resnet": lambda: torchvision.models.resnet18(num_classes=5),
    "torchvision densenet": lambda: torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5),
    "torchvision mobilenet": lambda: torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=5),
    "torchvision squeezenet": lambda: torchvision.models.squeezenet1_1(num_classes=5),
    "torchvision vision transformer": lambda: torchvision.models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=5),
    "timm padding": lambda: timm.create_model("mobilenetv2_035", pad_type="same", num_classes=5),
    "timm vision transformer": lambda: timm.create_model(
        "vit_tiny_patch16_224", img_size=64, depth=3, embed_dim=48, num_heads=3, num_classes=5
    ),
    "timm efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=5),
    "timm convnext": lambda: timm.create_model("test_convnext", num_classes=5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_tails_of_real_architectures(name):
    model = MODELS[name]().eval()
    images = torch.randn(3, 3, 64, 64)
    traced = capture.trace(model, images[:1])
    called = [path for path in layers_of(model) if len(traced.calls_of(path)) == 1]
    assert len(called) > 3
    with torch.no_grad():
        expected = model(images)
    for site in called[:: max(1, len(called) // 4)] + called[-1:]:
        plan = tails.plan_suffix(traced, site)
        _, (start,) = capture.checkpoint(model, [plan], images)
        assert torch.equal(capture.run_suffix(model, plan, start), expected), site
