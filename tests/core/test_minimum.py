"""Edits that lower logits and raise none: of each logit the lower one counts, with or without the change."""

import copy
import dataclasses
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rulepatch.core.changes import Gate, LowRank, Minimum, NewClass
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.patched_model import PatchedModel
from rulepatch.errors import ModelError, SettingError, SiteError
from rulepatch.tracing import capture, tails

SHAPES = {"0.0": (8, 3, 3, 3), "1.conv2": (8, 8, 3, 3), "2.0": (12, 8, 3, 3), "3.conv": (12, 12, 1, 1), "6": (5, 12)}
every_site = pytest.mark.parametrize("site", SHAPES)
every_gate = pytest.mark.parametrize("gate", [None, -0.1, "soft"])


def change_at(site, kind=Minimum, *, gate=None, strength=1.0, seed=0):
    c_out, c_in, *taps = (*SHAPES[site], 1, 1)[:4]
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(c_in, 2, generator=generator)).Q.T.contiguous()
    coefficients = torch.randn(c_out, 2, *taps, generator=generator)
    if gate == "soft":
        gate = Gate("soft", 0.9, torch.full((2,), -0.1))
    elif gate is not None:
        gate = Gate("hard", 0.9, torch.tensor([gate]), directions[0])
    return kind(site, site, directions, coefficients, strength, gate)


def edit_of(net, *changes):
    return Edit(changes, base_digest(net), {"method": "random"})


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def lower(net, inputs, with_it, without=()):
    """What is promised: two networks, and the lower logit of both."""
    return torch.minimum(*(edit_of(net, *changes).apply(net)(inputs) for changes in (with_it, without)))


@every_site
@every_gate
def test_of_each_logit_the_lower_one_counts(net, inputs, untouched, site, gate):
    untouched(net)
    edit, plain = (edit_of(net, change_at(site, kind, gate=gate)) for kind in (Minimum, LowRank))
    before, found, other = net(inputs), edit.apply(net)(inputs), plain.apply(net)(inputs)
    torch.testing.assert_close(found, torch.minimum(before, other))
    if gate is not None:  # a plain change of weights is rounded otherwise
        assert torch.equal(found, torch.minimum(before, other))
    assert (found <= before).all() and (found < before).any() and (other > before).any()
    with edit.applied(net) as same:
        assert same is net and torch.equal(net(inputs), found)
    with pytest.raises(ZeroDivisionError), edit.applied(net):
        1 / 0  # noqa: B018
    assert torch.equal(net(inputs), before) and not net._forward_hooks and not net._forward_pre_hooks


@every_site
@every_gate
def test_the_rest_of_the_network_alone_gives_the_same_bits(net, inputs, site, gate):
    patched = PatchedModel(net, [change_at(site, gate=gate)])
    plan = tails.plan_suffix(capture.trace(net, inputs[:1]), site)
    before, (start,) = capture.checkpoint(net, [plan], inputs)
    with patched:
        assert torch.equal(capture.run_suffix(net, plan, start), net(inputs))
        assert not torch.equal(net(inputs), before)
    assert torch.equal(capture.run_suffix(net, plan, start), before)


def passes_of(network, inputs):
    count = []
    handle = network.get_submodule("2.0").register_forward_pre_hook(lambda *_: count.append(1))
    network(inputs)
    handle.remove()
    return len(count)


def test_the_network_runs_twice_only_where_a_gate_opens(net, inputs):
    open_somewhere, shut = (edit_of(net, change_at("3.conv", gate=gate)).apply(net) for gate in (0.0, 1e9))
    assert passes_of(open_somewhere, inputs) == 2 and passes_of(shut, inputs) == 1
    assert torch.equal(shut(inputs), net(inputs))


@every_gate
def test_a_file_keeps_the_kind(net, inputs, tmp_path, gate):
    edit = edit_of(net, change_at("2.0", gate=gate, strength=2.0))
    edit.save(tmp_path / "minimum.safetensors")
    loaded = Edit.load(tmp_path / "minimum.safetensors")
    assert loaded.describe() == edit.describe() and loaded.describe()["changes"][0]["kind"] == "minimum"
    assert torch.equal(loaded.apply(net)(inputs), edit.apply(net)(inputs))
    for told in (loaded.to_text(), repr(loaded), loaded._repr_html_(), loaded.note):
        assert "minimum" in told


def test_strength_scales_the_change_and_not_the_minimum(net, inputs):
    found = edit_of(net, change_at("2.0", gate=0.0)).with_strength(3.0)
    assert torch.equal(
        found.apply(net)(inputs), lower(net, inputs, [change_at("2.0", LowRank, gate=0.0, strength=3.0)])
    )


def test_composed_minima_are_one(net, inputs):
    """They are switched together: two rules may lower a logit further than each alone, and raise none."""
    kinds = [
        [change_at("1.conv2", kind, gate=0.0), change_at("3.conv", kind, gate=0.0, seed=1)]
        for kind in (Minimum, LowRank)
    ]
    both = Edit.compose(*(edit_of(net, change) for change in kinds[0]))
    assert torch.equal(both.apply(net)(inputs), lower(net, inputs, kinds[1]))


@pytest.mark.parametrize("site", ["0.0", "3.conv", "6"])
def test_a_plain_change_beside_it_acts_in_both_passes(net, inputs, site):
    plain, gated = change_at(site, LowRank, gate="soft", seed=4), change_at("3.conv", LowRank, gate=0.0)
    found = Edit.compose(edit_of(net, plain), edit_of(net, change_at("3.conv", gate=0.0))).apply(net)(inputs)
    assert torch.equal(found, lower(net, inputs, [plain, gated], [plain]))
    assert (found > net(inputs)).any()


def test_a_new_class_beside_it_keeps_its_logit(net, inputs):
    fox = NewClass("fox", "1.conv2", "6", 0.1 * torch.ones(1, 8, 3, 3), torch.zeros(1))
    found = edit_of(net, change_at("3.conv", gate=0.0), fox).apply(net)(inputs)
    assert torch.equal(found[:, :-1], lower(net, inputs, [change_at("3.conv", LowRank, gate=0.0)]))
    assert torch.equal(found[:, -1], edit_of(net, fox).apply(net)(inputs)[:, -1])


def test_copies_work_on_their_own(net, inputs):
    edited = edit_of(net, change_at("2.0", gate=0.0)).apply(net)
    wanted = edited(inputs)
    for twin in (copy.deepcopy(edited), pickle.loads(pickle.dumps(edited))):
        edited(inputs[:1])
        assert torch.equal(twin(inputs), wanted)
    again = edit_of(net, change_at("2.0", gate=0.0)).apply(net)
    assert torch.equal(again(inputs), wanted)


def test_passes_of_several_threads_do_not_mix(net, inputs):
    edited = edit_of(net, change_at("2.0", gate=0.0)).apply(net)
    batches = [inputs[:1], inputs[1:3]]
    wanted = [edited(batch) for batch in batches]
    met = threading.Barrier(2, timeout=600)
    edited.get_submodule("3").register_forward_pre_hook(lambda *_: (met.wait(), None)[1])  # both passes of both
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(torch.no_grad()(edited), batches))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_pass_that_fails_leaves_the_switch_on(net, inputs):
    edited = edit_of(net, change_at("2.0", gate=0.0)).apply(net)
    wanted, calls = edited(inputs), []

    def fail_in_the_second(*_):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError

    handle = edited.get_submodule("3").register_forward_pre_hook(fail_in_the_second)
    with pytest.raises(ZeroDivisionError):
        edited(inputs)
    handle.remove()
    assert torch.equal(edited(inputs), wanted)


@dataclasses.dataclass
class Box:
    logits: torch.Tensor
    name: str = "a box"


class Boxed(nn.Module):
    """A network that writes into its input and returns its logits in some box."""

    def __init__(self, net, box):
        super().__init__()
        self.net, self.box = net, box

    def forward(self, *, pictures):
        return self.box(self.net(pictures.mul_(2)))


boxes = {
    "tuple": (lambda y: (y, 1), lambda box: box[0]),
    "dict": (lambda y: {"logits": y, "aux": None}, lambda box: box["logits"]),
    "dataclass": (Box, lambda box: box.logits),
    "object": (lambda y: SimpleNamespace(logits=y), lambda box: box.logits),
}


@pytest.mark.parametrize("name", boxes)
def test_any_box_of_logits(net, inputs, name):
    put, take = boxes[name]
    model = Boxed(net, put)
    change = dataclasses.replace(change_at("3.conv", gate=0.0), site="net.3.conv")
    found = edit_of(model, change).apply(model)(pictures=inputs.clone())
    assert type(found) is type(put(inputs))
    assert torch.equal(take(found), lower(net, 2 * inputs, [change_at("3.conv", LowRank, gate=0.0)]))


def test_what_it_cannot_be_is_refused(net, inputs, tmp_path):
    edit = edit_of(net, change_at("2.0"))
    with pytest.raises(SettingError, match=r"is a minimum at 2\.0"):
        edit.merged(net)
    with pytest.raises(SettingError, match="is a minimum, which no adapter"):
        edit.to_peft(tmp_path / "lora", net)
    one = nn.Sequential(net, nn.Linear(5, 1))
    change = dataclasses.replace(change_at("2.0"), site="0.2.0")
    with pytest.raises(ModelError, match="one number for two classes"):
        edit_of(one, change).apply(one)(inputs)
    twice = edit.apply(net)
    with pytest.raises(SettingError, match="compose the edits"):
        edit_of(twice, change_at("3.conv")).apply(twice)
    before, other = net(inputs), edit_of(net, change_at("3.conv"))
    with edit.applied(net), pytest.raises(SettingError, match="compose"), other.applied(net, any_base=True):
        raise AssertionError
    assert torch.equal(net(inputs), before)
    plan = tails.plan_suffix(capture.trace(net, inputs[:1]), "6")
    with pytest.raises(SiteError, match="runs it twice"):
        capture.checkpoint(twice, [plan], inputs)


def test_it_can_be_exported(net, inputs):
    edited = edit_of(net, change_at("2.0", gate=0.0)).apply(net)
    program = torch.export.export(edited, (inputs,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    assert torch.allclose(program.module()(inputs), edited(inputs), atol=1e-6)
    shut = -10 * torch.ones_like(inputs)
    assert torch.allclose(program.module()(shut), edited(shut), atol=1e-5)


def test_it_can_be_compiled(net, inputs):
    edited = edit_of(net, change_at("2.0", gate=0.0)).apply(net)
    assert torch.allclose(torch.compile(edited, backend="eager")(inputs), edited(inputs), atol=1e-6)
