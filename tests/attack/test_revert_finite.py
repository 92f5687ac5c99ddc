"""No number that is none: not taken as a setting, not put into a network, not written to a file."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import rulepatch as rp
from rulepatch.core.changes import Dense, NewClass
from rulepatch.core.edit import Edit, base_digest
from rulepatch.errors import ModelError, RulepatchError, SettingError, SiteError, UselessEditError
from rulepatch.methods import STRONGEST, Method
from tests.fixtures.edits import change, edits, small

CLASSES = ["a", "b", "c", "d", "e"]


def around(net: nn.Module) -> rp.Classifier:
    return rp.Classifier(net, rp.Preprocess((8, 8)), CLASSES)


def pictures(n: int = 3) -> list[tuple[object, int]]:
    from PIL import Image

    return [(Image.new("RGB", (8, 8), (40 * i, 20, 10)), i) for i in range(n)]


@pytest.mark.parametrize("strength", [1e308, 1e39, -1e39, 2 * STRONGEST, float("inf"), float("nan"), True])
def test_absurd_strengths_are_refused_wherever_they_are_declared(strength):
    for method in set(Method.known.values()):
        with pytest.raises(SettingError, match="strength"):
            method(strength=strength)
    net = small()
    for edit in edits(net).values():
        with pytest.raises(SettingError, match="strength"):
            edit.with_strength(strength)


@pytest.mark.parametrize("gate", [None, 0.0, "soft"])
def test_weights_that_a_type_cannot_hold_are_not_put_in(gate, tmp_path):
    net = small().half()
    strong = replace(change("3", gate=gate), strength=STRONGEST)
    edit = Edit((strong,), base_digest(net))
    for attempt in (lambda: edit.apply(net), lambda: edit.applied(net).__enter__()):
        with pytest.raises(SettingError, match="float16"):
            attempt()
    assert base_digest(net) == edit.base
    fox = NewClass("fox", "3", "7", torch.ones(1, 4, 1, 1), torch.zeros(1), scale=1e36, strength=1e5)
    with pytest.raises(SettingError, match="fox"):
        Edit((fox,), edit.base).apply(net)


def test_nothing_that_is_not_finite_is_written(tmp_path):
    net = small()
    good = change("3", gate=0.0)
    with pytest.raises(SettingError, match="finite"):
        replace(good, gate=replace(good.gate, direction=torch.full((4,), torch.nan)))
    wide = replace(good, coefficients=torch.full(good.coefficients.shape, 1e39, dtype=torch.float64), gate=None)
    late = change("0")
    late.coefficients[0] = torch.inf  # after it was made
    for edit in (Edit((wide,), base_digest(net)), Edit((late,), base_digest(net))):
        with pytest.raises(SettingError, match="finite"):
            edit.save(tmp_path / "edit.safetensors")
        with pytest.raises(SettingError, match="finite"):
            edit.to_peft(tmp_path / "adapter", net)
    model = around(small())
    with torch.no_grad():
        model.module[0].bias[0] = torch.nan
    from rulepatch.models.weights import save_weights

    with pytest.raises(RulepatchError, match="finite"):
        save_weights(model.module, tmp_path / "weights.safetensors")
    with pytest.raises(RulepatchError, match="finite"):
        rp.export(model, tmp_path / "program.pt2")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


class Infinite(nn.Module):
    """Soundly weighted, and says nothing for all that."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.net, self.value = small(), value

    def forward(self, inputs):
        return self.net(inputs) * self.value


@pytest.mark.filterwarnings("ignore::rulepatch.errors.RulepatchWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_says_nothing_is_refused(value):
    model = around(Infinite(value))
    with pytest.raises(ModelError, match="finite logits"):
        rp.evaluate(model, reference=pictures(), progress=False)
    with pytest.raises(ModelError, match="finite logits"):
        model([picture for picture, _ in pictures()])


def test_an_edit_with_which_it_says_nothing():
    net = small()
    huge = [Dense("3.bias", torch.full((6,), 3e38)), Dense("7.weight", torch.full((5, 6), 3e38))]
    with pytest.raises(UselessEditError, match="finite logits"):
        rp.evaluate(around(net), Edit(tuple(huge), base_digest(net)), reference=pictures(), progress=False)


@pytest.mark.parametrize("gate", [None, 0.0])
def test_layers_without_weights_of_their_own(gate):
    net = small()
    edit = Edit((change("3", gate=gate),), base_digest(net))
    parametrizations.weight_norm(net[3])
    with pytest.raises(SiteError, match="parametriz"):
        edit.apply(net, any_base=True)
    meta = small().to("meta")
    for any_base in (False, True):
        with pytest.raises(ModelError, match="meta"):
            edit.apply(meta, any_base=any_base)
        with pytest.raises(ModelError, match="meta"), edit.applied(meta, any_base=any_base):
            pass


class Raising(nn.Module):
    """Fails in the middle."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.net, self.error = small(), error

    def forward(self, inputs):
        self.net[:3](inputs)
        raise self.error


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), KeyError("x"), MemoryError(), StopIteration()])
def test_a_network_that_raises_is_a_sentence(error):
    model = around(Raising(error))
    edit = Edit((change("0"),), base_digest(model.module))
    calls = [
        lambda: rp.find_sites(model.module, model.example()),
        lambda: rp.evaluate(model, reference=pictures(), progress=False),
        lambda: model([picture for picture, _ in pictures()]),
        lambda: rp.rewrite(model, [], reference=pictures(), site="net.0", progress=False),
        lambda: rp.verify(edit, model, reference=pictures(), progress=False),
    ]
    for call in calls[:-1]:
        with pytest.raises(RulepatchError):
            call()
    assert not calls[-1]().holds


@pytest.mark.parametrize("steps", [2**60, 10**400, "9" * 400])
def test_steps_without_end_are_refused(steps):
    for method in set(Method.known.values()):
        if "steps" in method.model_fields:
            with pytest.raises(SettingError, match="steps"):
                method(steps=steps)
