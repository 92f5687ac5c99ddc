"""Outcomes from kept activations against whole passes of the network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rulepatch.core.changes import LowRank
from rulepatch.core.edit import Edit, base_digest
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.evaluation.activations import Activations
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess

SITES = ["1.conv1", "1.conv2", "3.conv"]


@pytest.fixture
def model(net, images):
    """A network that is sure of different classes."""
    model = Classifier(net, Preprocess((16, 16)), ["a", "b", "c", "d", "e"], "the net")
    with torch.no_grad():
        inputs = model.inputs(torch.stack([model.preprocess.pixels(each.source) for each in images.pictures]))
        net[6].bias -= net(inputs).mean(0)
        net[6].weight *= 20
        net[6].bias *= 20
    return model


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 200, (70, 1, 1, 3))
    frames = [Image.fromarray((c + rng.integers(0, 56, (16, 16, 3))).astype(np.uint8)) for c in colours]
    return ImageSet(tuple(Picture(frame, int(rng.integers(5))) for frame in frames), "noise")


def edit_at(model, *sites):
    changes = []
    for site in sites:
        weight = model.module.get_submodule(site).weight.detach()
        c_out, c_in, y, x = (*weight.shape, 1, 1)[:4]
        basis = torch.linalg.qr(torch.randn(c_in, 2))[0].T.contiguous()
        changes.append(LowRank(site, site, basis, 20 * weight.std() * torch.randn(c_out, 2, y, x)))
    return Edit(tuple(changes), base_digest(model.module))


@pytest.mark.parametrize("most_bytes", [1 << 30, 30_000, 0])
@pytest.mark.parametrize("sites", [("1.conv1",), ("1.conv2",), ("3.conv", "1.conv2"), ("6",), ()])
def test_outcomes_are_those_of_whole_passes_up_to_rounding(model, images, sites, most_bytes):
    edit = edit_at(model, *sites)
    with Activations(model, images, SITES, most_bytes=most_bytes) as kept:
        found = kept.outcomes(edit)
        assert len(kept) == len(images)
    (expected,) = outcomes_of(model, [edit], images)
    for ours, theirs in ((found.first, expected.first), (found.second, expected.second)):
        assert np.abs(ours.of_label - theirs.of_label).max() < 0.02
        assert (ours.predicted == theirs.predicted).mean() > 0.95
    if sites:
        assert np.abs(expected.second.of_label - expected.first.of_label).max() > 0.05  # the edit does something
    else:
        assert len(found.flips) == 0


def test_an_edit_starts_at_the_last_kept_site_before_it(model, images):
    with Activations(model, images, SITES) as kept:
        assert kept.start_of(edit_at(model, "2.0")) == "1.conv2"
        assert kept.start_of(edit_at(model, "6", "1.conv2")) == "1.conv2"
        assert kept.start_of(edit_at(model, "6")) == kept.start_of(edit_at(model)) == "3.conv"


def test_an_edit_before_every_kept_site_is_our_own_mistake(model, images):
    with Activations(model, images, ["3.conv"]) as kept, pytest.raises(AssertionError):
        kept.outcomes(edit_at(model, "1.conv1"))


def test_what_is_on_disk_goes_away(model, images):
    with Activations(model, images, SITES, most_bytes=0) as kept:
        folder = Path(kept._folder.name)
        assert len(list(folder.iterdir())) == len(kept._shelves)
        assert all(not shelf.tensors for shelf in kept._shelves)
    assert not folder.exists()


def test_a_failure_leaves_nothing_on_disk(model, images, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Classifier, "inputs", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Activations(model, images, SITES, most_bytes=0)
    assert not list(tmp_path.iterdir())


def test_half_the_memory_and_each_tensor_once(model, images):
    """The residual block's input is needed at both its sites, and kept once."""
    with Activations(model, images, ["1.conv1", "1.conv2"]) as both, Activations(model, images, ["1.conv2"]) as one:
        sizes = [list(kept._shelves[0].tensors.values()) for kept in (both, one)]
        assert all(t.dtype == torch.float16 for t in sizes[0])
        pointers = [t.data_ptr() for t in sizes[0]]
        assert len(set(pointers)) == len(pointers)
        assert sum(t.nbytes for t in sizes[0]) < 2 * sum(t.nbytes for t in sizes[1])


def test_numbers_beyond_half_precision_are_kept_whole(model, images):
    with torch.no_grad():
        model.module[0][0].weight *= 1e7
    edit = edit_at(model, "1.conv2")
    with Activations(model, images, SITES) as kept:
        found = kept.outcomes(edit)
    (expected,) = outcomes_of(model, [edit], images)
    assert (found.second.predicted == expected.second.predicted).mean() > 0.95
