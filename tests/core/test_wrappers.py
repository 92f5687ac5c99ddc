"""Compiled and parallel networks are edited like the networks inside them."""

import pytest
import torch
from torch import nn

from rulepatch.core.changes import LowRank
from rulepatch.core.edit import Edit, base_digest
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.tracing.sites import find_sites
from rulepatch.wrappers import unwrapped

WRAPPERS = {
    "parallel": nn.DataParallel,
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "both": lambda net: nn.DataParallel(torch.compile(net, backend="eager")),
}


@pytest.fixture
def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
        )


def change(strength=1.0):
    return LowRank("0", "1", torch.ones(1, 3), torch.ones(4, 1, 3, 3), strength)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_inside_is_edited(wrapper, small):
    plain, wrapped = Edit((change(),), base_digest(small)), WRAPPERS[wrapper](small).eval()
    picture = torch.rand(1, 3, 8, 8)
    assert base_digest(wrapped) == plain.base
    assert find_sites(wrapped, picture).to_json() == find_sites(small, picture).to_json()
    before = wrapped(picture)
    with plain.applied(wrapped):
        edited = wrapped(picture)
        torch.testing.assert_close(edited, small(picture))
    assert not torch.equal(edited, before) and torch.equal(wrapped(picture), before)
    torch.testing.assert_close(plain.apply(wrapped)(picture), edited)


def test_a_network_compiled_in_place_is_seen_as_it_was_written(small):
    expected = find_sites(small, torch.zeros(1, 3, 8, 8)).to_json()
    small.compile(backend="eager")
    assert find_sites(small, torch.zeros(1, 3, 8, 8)).to_json() == expected


def test_training_mode_is_left_as_it_was(small):
    wrapped = nn.DataParallel(small.train())
    find_sites(wrapped, torch.zeros(1, 3, 8, 8))
    edited = Edit((change(),), base_digest(small)).apply(wrapped)
    assert wrapped.training and small[2].training and edited.training


def test_a_classifier_holds_what_is_inside(small):
    model = Classifier(nn.DataParallel(small), Preprocess((8, 8)), ["a", "b"])
    assert model.module is small and unwrapped(small) is small


def test_channels_last_stays_as_it_was(small):
    picture, edit = torch.rand(1, 3, 8, 8), Edit((change(),), base_digest(small.eval()))
    expected = edit.apply(small)(picture)
    last = small.to(memory_format=torch.channels_last)
    before, weight = last(picture), last[0].weight.clone()
    with edit.applied(last):
        torch.testing.assert_close(last(picture.contiguous(memory_format=torch.channels_last)), expected)
        assert last[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last[0].weight, weight) and torch.equal(last(picture), before)
