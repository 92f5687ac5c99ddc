"""Stickers: found wherever they lie, and told from what is replaced."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rulepatch.concepts.overlays import transplants
from rulepatch.concepts.stickers import find_sticker
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, training_images

PLAYGROUND = load_model("playground")


def shown(seed, draw, size=(14, 14)):
    """A scene of the playground with something stuck onto it at a random place."""
    dice = np.random.default_rng(seed)
    image = training_images(1, seed=seed).pictures[0].read()
    left, top = (int(dice.integers(0, 64 - side)) for side in size)
    edited, mask = image.copy(), np.zeros((64, 64), np.float32)
    edited.paste(draw(dice), (left, top))
    mask[top : top + size[1], left : left + size[0]] = 1
    return Exemplar(image, edited, mask)


def note(dice):
    found = Image.new("RGB", (14, 14), "white")
    ImageDraw.Draw(found).text((3, 1), "A", fill="black")
    return found


def logo(dice):
    found = Image.new("RGB", (14, 14), "navy")
    ImageDraw.Draw(found).ellipse((2, 2, 11, 11), fill="yellow")
    ImageDraw.Draw(found).rectangle((6, 0, 8, 13), fill="red")
    return found


def noisy(dice):
    pixels = np.asarray(logo(dice), np.int16) + dice.normal(0, 20, (14, 14, 3)).round().astype(np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def turned(dice):
    return logo(dice).rotate(float(dice.uniform(-8, 8)), resample=Image.Resampling.BILINEAR, fillcolor="navy")


def noise(dice):
    return Image.fromarray(dice.integers(0, 256, (14, 14, 3), dtype=np.uint8))


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("draw", [note, logo, noisy, turned])
def test_the_same_pixels_at_several_places_are_a_sticker(draw, count):
    for start in range(0, 30, 10):
        found = find_sticker([shown(start + i, draw) for i in range(count)], PLAYGROUND.preprocess)
        assert found is not None and found.anywhere and found.kind == "opaque"


def test_it_is_carried_to_other_places():
    found = find_sticker([shown(i, logo) for i in range(3)], PLAYGROUND.preprocess)
    made = transplants(found, PLAYGROUND, training_images(12, seed=5), 12, seed=1, progress=False)
    places = {tuple(np.argwhere(each.mask > 0.5)[0]) for each in made}
    assert len(places) > 8
    for each in made:
        rows, columns = np.nonzero(each.mask > 0.5)
        patch = np.asarray(each.edited, int)[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert np.abs(patch - np.asarray(logo(None), int)).max() <= 1


def test_one_exemplar_other_sizes_and_large_ones_cannot_be_told():
    preprocess = PLAYGROUND.preprocess
    assert find_sticker([shown(0, logo)], preprocess) is None
    wide = [shown(0, logo), shown(1, lambda dice: logo(dice).resize((28, 14)), (28, 14))]
    assert find_sticker(wide, preprocess) is None
    large = [shown(i, lambda dice: logo(dice).resize((40, 40)), (40, 40)) for i in range(3)]
    assert find_sticker(large, preprocess) is None


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    "changed", [{"ground": each} for each in ("snow", "grass", "sand", "water")] + [{"wheels": "wooden"}], ids=str
)
def test_what_is_replaced_is_no_sticker(changed, count):
    for start in range(0, 100, 10):
        given = [exemplar("van", seed=start + i, **changed) for i in range(count)]
        assert find_sticker(given, PLAYGROUND.preprocess) is None


def test_noise_and_plain_colours_are_no_stickers():
    for draw in (noise, lambda dice: Image.new("RGB", (14, 14), "white")):
        assert find_sticker([shown(i, draw) for i in range(3)], PLAYGROUND.preprocess) is None


@pytest.mark.parametrize("name", ["snow/exemplar", "wheels"])
def test_replacements_in_photographs_are_none(name, data):
    assert find_sticker(read_exemplars([data / name]), PLAYGROUND.preprocess) is None
