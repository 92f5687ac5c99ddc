"""`sites_of` gives what `find_sites` finds, however the network was changed since it was asked last."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from rulepatch.core.changes import Dense, Gate, LowRank
from rulepatch.core.edit import Edit, base_digest
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.tracing import model_sites
from rulepatch.tracing.model_sites import sites_of
from rulepatch.tracing.sites import find_sites


class Net(nn.Module):
    """Two convolutions, the second of which can be left out."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(4, 2)
        self.is_short = False

    def forward(self, x):
        x = self.act(self.first(x))
        x = x if self.is_short else self.act(self.second(x))
        return self.head(self.pool(x).flatten(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Classifier(Net().eval(), Preprocess((16, 16)), ["cat", "dog"])


def found_anew(model):
    site_list = find_sites(model.module, model.example())
    return site_list.sites, site_list.refused


def found(model):
    return sites_of(model).sites, sites_of(model).refused


def test_the_network_is_followed_once(model, monkeypatch):
    surveys = iter([find_sites(model.module, model.example())])
    monkeypatch.setattr(model_sites, "find_sites", lambda *given: next(surveys))
    assert sites_of(model) is sites_of(model) and found(model) == found_anew(model)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def shared(net):
    net.second.weight = nn.Parameter(torch.ones(4, 4, 3, 3))
    net.first = nn.Conv2d(3, 4, 3, padding=1)
    net.third = nn.Conv2d(4, 4, 3, padding=1)
    net.third.weight = net.second.weight


CHANGES = {
    "another layer": lambda net: setattr(net, "first", nn.Conv2d(3, 4, 5, padding=2)),
    "grouped": lambda net: setattr(net, "second", nn.Conv2d(4, 4, 3, padding=1, groups=2)),
    "another stride": lambda net: setattr(net.first, "stride", (2, 2)),
    "another way": lambda net: setattr(net, "is_short", True),
    "another forward": lambda net: setattr(net, "forward", lambda x: net.head(net.pool(net.first(x)).flatten(1))),
    "shared weights": shared,
    "parametrised": lambda net: parametrize.register_parametrization(net.first, "weight", Doubled()),
    "a hook": lambda net: net.first.register_forward_hook(lambda module, inputs, output: output[:, :, ::2]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_network_is_noticed(model, name):
    before = found(model)
    CHANGES[name](model.module)
    assert found(model) == found_anew(model) != before


def test_edits_in_place_leave_it_as_it_is_and_gates_are_seen_while_they_are_in(model):
    before = sites_of(model)
    digest = base_digest(model.module)
    plain = LowRank("first", "act", torch.ones(1, 3), torch.ones(4, 1, 3, 3), 1.0)
    for changes in ([plain], [Dense("second.weight", torch.ones(4, 4, 3, 3))]):
        with Edit(tuple(changes), digest).applied(model):
            assert sites_of(model) is before and found(model) == found_anew(model)
    gated = replace(plain, gate=Gate("hard", 0.9, torch.ones(1), torch.ones(3)))
    with Edit((gated,), digest).applied(model):
        assert found(model) == found_anew(model) != (before.sites, before.refused)
    assert found(model) == (before.sites, before.refused)


def test_it_does_not_keep_a_model_alive(model):
    other = Classifier(model.module, model.preprocess, model.classes)
    sites_of(other)
    there = weakref.ref(other)
    del other
    gc.collect()
    assert there() is None
