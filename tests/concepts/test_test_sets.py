"""The thesis's test sets: what is in them, and where the texture goes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rulepatch.concepts.match import Key, match
from rulepatch.concepts.test_sets import make_test_sets, paste_at_match
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.stream import ImageStream
from rulepatch.errors import SettingError
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess


@pytest.fixture
def model():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return Classifier(net, Preprocess((16, 16), mean=(0, 0, 0), std=(1, 1, 1)), list("abcd"), "the net")


def redness(red: int) -> Image.Image:
    pixels = np.full((16, 16, 3), 80, np.uint8)
    pixels[:8, :8] = (red, 0, 0)
    return Image.fromarray(pixels)


@pytest.fixture
def matches(model):
    pictures = ImageSet(tuple(Picture(redness(2 * i), i % 4) for i in range(100)), "hundred")
    reference = ImageSet(tuple(Picture(redness(100)) for _ in range(5)), "reference")
    key = Key("0", torch.tensor([1.0, -1.0, 0.0]), "red")
    return match(model, key, pictures, reference=reference, level=0.5, cache=None, progress=False)


WOOD = Image.new("RGB", (40, 40), (160, 110, 60))


def test_each_set_holds_what_it_should(model, matches):
    sets = make_test_sets(model, matches, WOOD, target={2}, share=0.05, count=30, seed=1)
    assert {name: len(made.normal) for name, made in sets.items()} == {"random": 30, "confusing": 5, "mislabelled": 25}
    best = [np.asarray(picture.source)[0, 0, 0] for picture in sets["confusing"].normal.pictures]
    assert best == [198, 196, 194, 192, 190]
    wrong = {picture.label for picture in sets["mislabelled"].normal.pictures}
    assert len(wrong) == 1 and 2 not in wrong
    for made in sets.values():
        assert [p.label for p in made.normal.pictures] == [p.label for p in made.manipulated.pictures]
    again = make_test_sets(model, matches, WOOD, target={2}, share=0.05, count=30, seed=1)
    assert [np.asarray(p.source).tobytes() for p in again["random"].manipulated.pictures] == [
        np.asarray(p.source).tobytes() for p in sets["random"].manipulated.pictures
    ]


def test_what_the_network_saw_is_not_cut_out_again(model, matches):
    """Where preprocessing crops images of the input size, too, those of a set are what the network saw already."""
    cropping = Preprocess((16, 16), resize=20, mean=(0, 0, 0), std=(1, 1, 1), keep_exact_size=False)
    model = Classifier(model.module, cropping, model.classes)
    made = make_test_sets(model, matches, WOOD, target={2}, count=3)["random"]
    pixels = torch.cat([batch.pixels for batch in ImageStream(made.normal, cropping)])
    originals = {tuple(cropping.pixels(each.picture.source).flatten().tolist()) for each in matches.matches}
    assert all(tuple(each.flatten().tolist()) in originals for each in pixels)


def test_the_texture_goes_where_the_key_fires_and_nowhere_else(model, matches):
    best = matches.matches[0]
    pasted = np.asarray(paste_at_match(model, best, matches.threshold, WOOD)).astype(int)
    original = np.asarray(best.picture.source).astype(int)
    assert np.abs(pasted[1:4, 1:4] - (160, 110, 60)).max() < 40  # inside, but for the feathered edge
    assert np.array_equal(pasted[14:, 14:], original[14:, 14:])


def test_a_set_without_pictures_is_left_out(model, matches):
    none_of_it = [each for each in matches.matches if each.picture.label != 2]
    fewer = type(matches)(matches.key, tuple(none_of_it), matches.threshold, matches.level)
    assert set(make_test_sets(model, fewer, WOOD, target={2})) == {"random", "confusing"}


@pytest.mark.parametrize("settings", [{"share": 0.0, "target": {1}}, {"target": set()}])
def test_bad_settings_are_refused(model, matches, settings):
    with pytest.raises(SettingError, match="expected"):
        make_test_sets(model, matches, WOOD, **settings)


def test_pictures_need_labels(model, matches):
    unlabelled = type(matches.matches[0])(Picture(redness(0)), matches.matches[0].scores, 0.5)
    with pytest.raises(SettingError, match="no label"):
        make_test_sets(model, type(matches)(matches.key, (unlabelled,), 0.0, 0.5), WOOD, target={1})
