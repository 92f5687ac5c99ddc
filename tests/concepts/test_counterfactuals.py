"""Counterfactuals on the playground, where it is known where the road is."""

import numpy as np
import pytest
import torch
from PIL import Image

from rulepatch.concepts.counterfactuals import (
    _largest_rectangle,
    counterfactuals_of,
    locate,
    make_counterfactuals,
    texture_of,
)
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.data.stream import ImageStream
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, training_images
from tests.fixtures.solving import problem_at

SITES = [f"blocks.{index}.conv" for index in range(1, 6)]


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module")
def problem(model):
    exemplars = [exemplar("van", ground="snow", seed=seed, ground_seed=1000) for seed in (1, 2)]
    reference = training_images(150, seed=3)
    return problem_at(model, exemplars, reference, SITES)


def test_roads_are_found_where_they_are(problem):
    place = locate(problem)
    assert place.agreement > 0.6 and 0 < place.usual < 0.5


@pytest.mark.slow
def test_counterfactuals_are_failures_that_nobody_labelled(model, problem):
    images = training_images(150, seed=4)
    made = make_counterfactuals(problem, images, count=40, progress=False)
    assert len(made) == len(made.originals) == 40
    nothing = Edit((), base_digest(model.module))
    ((before,), (after,)) = (outcomes_of(model, [nothing], each) for each in (made.originals, made.replaced))
    assert before.before == 1  # they are labelled with what the model says of the originals
    assert after.before < 0.95 and after.first.of_label.mean() < before.first.of_label.mean() - 0.1  # snow confuses it
    changed = [
        np.abs(np.asarray(one.source, int) - np.asarray(other.source, int)).max(axis=2) > 0
        for one, other in zip(made.originals.pictures, made.replaced.pictures, strict=True)
    ]
    assert all(0.02 < mask.mean() < 0.95 for mask in changed)
    lower = [mask[32:].mean() > mask[:32].mean() for mask in changed]
    assert np.mean(lower) > 0.8  # roads are below


def test_none_where_the_concept_is_nowhere(model, problem):
    sky = ImageSet.of([Image.new("RGB", (64, 64), (120, 170, 230))] * 3, model.classes)
    assert make_counterfactuals(problem, sky, progress=False) is None


def test_given_masks_need_no_finding(model):
    exemplars = [exemplar("bus", ground="snow", seed=1), exemplar("van", ground="snow", seed=2)]
    made = counterfactuals_of(model, exemplars)
    assert made.place is None and len(made) == 2
    assert [picture.label for picture in made.replaced.pictures] == [model.classes.index(n) for n in ("bus", "van")]
    bare = [Exemplar(each.image, each.edited, each.mask) for each in exemplars]
    assert [each.label for each in counterfactuals_of(model, bare).replaced.pictures] == [
        model.classes.index(name) for name in ("bus", "van")
    ]


def test_what_a_cropping_network_saw_is_not_cut_out_again(model):
    cropping = Preprocess((64, 64), 80, mean=model.preprocess.mean, std=model.preprocess.std, keep_exact_size=False)
    model = Classifier(model.module, cropping, model.classes)
    given = exemplar("bus", ground="snow", seed=1)
    made = counterfactuals_of(model, [Exemplar(given.image, given.edited, given.mask)])
    for images, picture in ((made.originals, given.image), (made.replaced, given.edited)):
        (batch,) = ImageStream(images, cropping)
        assert torch.equal(batch.pixels[0], cropping.pixels(picture))
    said = model.logits(model.inputs(cropping.pixels(given.image)[None])).argmax()
    assert made.originals.pictures[0].label == int(said)


def test_a_texture_is_what_replaces_the_concept(dominant=None):
    model = Classifier(load_model("playground").module, Preprocess((64, 64)), load_model("playground").classes)
    picture, edited = Image.new("RGB", (64, 64), (9, 9, 9)), Image.new("RGB", (64, 64), (200, 10, 10))
    mask = np.zeros((64, 64), np.float32)
    mask[40:, 10:30] = 1
    texture = texture_of(model, Exemplar(picture, edited, mask))
    assert texture.size == (64, 64) and np.unique(np.asarray(texture).reshape(-1, 3), axis=0).tolist() == [
        [200, 10, 10]
    ]
    mask[:] = 0
    mask[::2, ::2] = 1
    assert texture_of(model, Exemplar(picture, edited, mask)) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_largest_rectangle_by_trying_all(seed):
    rng = np.random.default_rng(seed)
    inside = rng.random((7, 6)) < rng.choice([0.0, 0.5, 0.8, 1.0])
    best = max(
        (bottom - top) * (right - left)
        for top in range(8) for bottom in range(top, 8) for left in range(7) for right in range(left, 7)
        if inside[top:bottom, left:right].all()
    )  # fmt: skip
    top, left, bottom, right = _largest_rectangle(inside)
    assert inside[top:bottom, left:right].all() and (bottom - top) * (right - left) == best
