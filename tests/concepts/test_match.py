"""Where a key fires, in a network in which it is known."""

import json
import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from rulepatch.concepts.match import Key, Matcher, key_of_concept, key_of_edit, key_of_points, match
from rulepatch.core.changes import Dense, Gate, LowRank
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.statistics import key_statistics
from rulepatch.errors import SettingError, SiteError
from rulepatch.evaluation.match_report import outlined, write_match_report
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.tracing import capture
from rulepatch.tracing.sites import find_sites


@pytest.fixture
def model():
    """Its only convolution sees the colours as they are."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    return Classifier(net, Preprocess((16, 16), mean=(0, 0, 0), std=(1, 1, 1)), ["a", "b"], "the net")


def spotted(red: int, corner: int = 0) -> Image.Image:
    """Grey with a red square in a corner."""
    pixels = np.full((16, 16, 3), 80, np.uint8)
    y, x = 8 * (corner // 2), 8 * (corner % 2)
    pixels[y : y + 8, x : x + 8] = (red, 0, 0)
    return Image.fromarray(pixels)


RED = Key("0", torch.tensor([1.0, -1.0, 0.0]), "red")


@pytest.fixture
def reference():
    rng = np.random.default_rng(0)
    pictures = [Picture(Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))) for _ in range(10)]
    return ImageSet(tuple(pictures), "noise")


def test_pictures_are_ranked_by_the_best_score_in_them(model, reference):
    images = [spotted(60), spotted(250), spotted(120)]
    found = match(model, RED, images, reference=reference, cache=None, progress=False)
    assert [each.picture.source for each in found.matches] == [images[1], images[2], images[0]]
    assert found.matches[0].best == pytest.approx(250 / 255, abs=1e-5)
    assert [each.level for each in found.matches] == sorted([each.level for each in found.matches], reverse=True)


def test_the_level_is_a_quantile_of_the_reference_sets_positions(model, reference):
    scores = np.concatenate(
        [np.asarray(p.source, np.float32).reshape(-1, 3) @ [1, -1, 0] / 255 for p in reference.pictures]
    )
    found = match(model, RED, [spotted(200)], reference=reference, level=0.9, cache=None, progress=False)
    assert found.threshold == pytest.approx(np.quantile(scores, 0.9), abs=0.02)
    assert found.matches[0].level == pytest.approx((scores < 200 / 255).mean(), abs=0.02)
    assert len(found.firing) == 1
    none = match(model, RED, [spotted(0)], reference=reference, level=0.9, cache=None, progress=False)
    assert len(none.firing) == 0


@pytest.mark.parametrize("corner", range(4))
def test_the_mask_lies_where_the_concept_is(model, reference, corner):
    found = match(model, RED, [spotted(255, corner)], reference=reference, level=0.95, cache=None, progress=False)
    mask = found.matches[0].mask(found.threshold, (16, 16))
    expected = np.zeros((16, 16))
    y, x = 8 * (corner // 2), 8 * (corner % 2)
    expected[y : y + 8, x : x + 8] = 1
    assert (mask == expected).mean() > 0.9
    pixels = np.asarray(outlined(model, found.matches[0], found.threshold, side=64)).astype(int)
    marked = np.argwhere((np.abs(pixels - (255, 64, 160)).sum(axis=2)) == 0)
    assert len(marked) and abs(marked - np.array([4 * y + 16, 4 * x + 16])).max() <= 20  # around the square's middle


def test_the_key_of_a_concept_is_found_from_exemplars(model, reference):
    mask = np.zeros((16, 16), np.float32)
    mask[:8, :8] = 1
    blue = np.asarray(spotted(255))[..., ::-1].copy()
    exemplar = Exemplar(spotted(255), Image.fromarray(blue), mask, concept="red", replacement="blue")
    for which, channel in (("concept", 0), ("replacement", 2)):
        key = key_of_concept(model, [exemplar], site="0", reference=reference, which=which, cache=None, progress=False)
        assert int(key.direction.argmax()) == channel and float(key.direction[channel]) > 0
        assert key.name == {"concept": "red", "replacement": "blue"}[which]


def test_the_key_of_an_edit_is_its_first_direction_or_its_gates():
    plain = LowRank("a", "a", torch.eye(3)[:2], torch.ones(2, 2, 1, 1))
    gate = Gate("hard", 0.9, torch.ones(1), torch.tensor([0.0, 0.0, 5.0]))
    gated = LowRank("b", "b", torch.eye(3)[:1], torch.ones(2, 1, 1, 1), 1.0, gate)
    edit = Edit((plain, gated, Dense("c.bias", torch.ones(2))), "base", {"exemplars": [{"replacement": "snow"}]})
    assert key_of_edit(edit).site == "b" and torch.equal(key_of_edit(edit).direction, gate.direction)
    assert torch.equal(key_of_edit(edit, "a").direction, torch.eye(3)[0]) and key_of_edit(edit).name == "snow"
    with pytest.raises(SiteError, match="dense change"):
        key_of_edit(edit, "c")


def test_a_key_of_patches_is_matched_as_patches(model, reference):
    """In the second architecture a key sees what a whole kernel sees."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    wide = Classifier(net, model.preprocess, list("abcd"))
    direction = torch.zeros(3, 3, 3)
    direction[0, 1, 0], direction[0, 1, 2] = -1, 1  # an edge from dark on the left to red on the right
    found = match(wide, Key("0", direction, "edge"), [spotted(255, 1)], reference=reference, cache=None, progress=False)
    y, x = np.unravel_index(found.matches[0].scores.argmax(), (16, 16))
    assert y < 8 and x in (7, 8)


def test_what_was_found_can_be_told(model, reference, tmp_path):
    images = ImageSet(tuple(Picture(spotted(50 * i), i % 2) for i in range(5)), "five")
    found = match(model, RED, images, reference=reference, level=0.9, cache=None, progress=False)
    told = json.loads(json.dumps(found.to_json()))
    assert told["n"] == 5 and told["firing"] == len(found.firing) and told["concept"] == "red"
    assert "red at 0" in found.to_text()
    write_match_report(model, found, tmp_path / "match.html")
    page = (tmp_path / "match.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == 5 and "Where red is" in page and "http" not in page


def test_bad_levels_and_sites_are_refused(model, reference):
    with pytest.raises(SettingError, match="level"):
        match(model, RED, [spotted(9)], reference=reference, level=1.0, cache=None, progress=False)
    with pytest.raises(SiteError, match="lie in the image"):
        match(model, Key("4", torch.ones(4), "x"), [spotted(9)], reference=reference, cache=None, progress=False)


# What is seen at some points


def statistics_of(model, site, reference):
    where = find_sites(model.module, model.example()).site(site)
    return key_statistics(model, reference, [where], progress=False)


def direction_by_hand(model, image, cells, site, statistics, *, tokens=0):
    """The leading row of U Z for the keys of some cells, their neighbours included, each once, in numpy.

    Tokens beside those of the image come first.
    """
    (maps,) = capture.input_of(model.module, model.inputs(model.preprocess.pixels(image)[None]), site).double().numpy()
    if maps.ndim == 2:
        side = math.isqrt(len(maps) - tokens)
        maps = maps[tokens:].T.reshape(-1, side, side)
    around = set()
    for y, x in cells:
        for i in range(y - 1, y + 2):
            for j in range(x - 1, x + 2):
                if 0 <= i < maps.shape[1] and 0 <= j < maps.shape[2]:
                    around.add((i, j))
    keys = np.array([maps[:, i, j] for i, j in around])
    values, vectors = np.linalg.eigh(statistics[site].moment.mean().numpy())
    whitener = sum(
        np.outer(vector, vector) / np.sqrt(max(value, 1e-5 * values.max()))
        for value, vector in zip(values, vectors.T, strict=True)
    )
    direction = whitener @ np.linalg.svd(keys @ whitener)[2][0]
    return direction * np.sign((keys @ direction).sum())


@pytest.mark.parametrize(
    ("points", "cells"),
    [
        ([(5.5, 9.5)], [(9, 5)]),
        ([(0, 0)], [(0, 0)]),
        ([(15.9, 15.9)], [(15, 15)]),
        ([(5.5, 9.5), (6.0, 9.9), (12, 3)], [(9, 5), (9, 6), (3, 12)]),
        ([(12, 3), (12.7, 3.2), (5.5, 9.5), (6.0, 9.9)], [(9, 5), (9, 6), (3, 12)]),
    ],
)
def test_the_key_of_points_is_what_is_seen_in_their_cells_and_around(model, reference, points, cells):
    statistics, image = statistics_of(model, "0", reference), reference.pictures[0].source
    key = key_of_points(model, image, points, site="0", statistics=statistics)
    expected = direction_by_hand(model, image, cells, "0", statistics)
    assert key.site == "0" and key.direction.dtype == torch.float32
    np.testing.assert_allclose(key.direction.numpy(), expected, rtol=1e-4)
    elsewhere = direction_by_hand(model, image, [((cells[0][0] + 8) % 16, cells[0][1])], "0", statistics)
    assert not np.allclose(key.direction.numpy(), elsewhere, rtol=1e-2), "the control"


@pytest.mark.parametrize("size", [(32, 16), (16, 27), (48, 32)])
def test_points_are_those_of_the_picture_and_not_of_what_the_network_sees_of_it(model, reference, size):
    statistics = statistics_of(model, "0", reference)
    pixels = np.random.default_rng(3).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    image, (left, top, right, bottom) = Image.fromarray(pixels), model.preprocess.window(size)
    for y, x in [(0, 0), (7, 11), (15, 15)]:
        point = left + (x + 0.5) / 16 * (right - left), top + (y + 0.5) / 16 * (bottom - top)
        key = key_of_points(model, image, [point], site="0", statistics=statistics)
        expected = direction_by_hand(model, image, [(y, x)], "0", statistics)
        np.testing.assert_allclose(key.direction.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("site", ["blocks.0.attn.qkv", "blocks.1.mlp.fc1"])
def test_the_key_of_points_is_that_of_the_pictures_tokens_and_of_no_other_token(reference, site):
    net = timm.create_model("vit_tiny_patch16_224", img_size=64, reg_tokens=3, depth=2, num_classes=2).eval()
    model = Classifier(net, Preprocess((64, 64)), ["a", "b"])
    statistics, image = statistics_of(model, site, reference), reference.pictures[0].source
    for point, cell in {(1, 1): (0, 0), (9.5, 3): (0, 2), (5, 13): (3, 1)}.items():
        key = key_of_points(model, image, [point], site=site, statistics=statistics)
        expected = direction_by_hand(model, image, [cell], site, statistics, tokens=4)
        error = np.linalg.norm(key.direction.numpy() - expected) / np.linalg.norm(expected)
        shifted = direction_by_hand(model, image, [((cell[0] + 2) % 4, cell[1])], site, statistics, tokens=4)
        assert error < 1e-3 < 0.1 < np.linalg.norm(shifted - expected) / np.linalg.norm(expected)


def test_what_was_clicked_is_found_where_it_is(model, reference):
    """The key of a click on the red square fires on red squares, wherever they are."""
    statistics = statistics_of(model, "0", reference)
    key = key_of_points(model, spotted(255, 1), [(11.5, 3.5)], site="0", statistics=statistics)
    for corner in range(4):
        (scores,) = Matcher(model, key, reference=statistics).scores(
            model.preprocess.pixels(spotted(255, corner))[None]
        )
        y, x = 8 * (corner // 2), 8 * (corner % 2)
        square = np.zeros((16, 16), bool)
        square[y : y + 8, x : x + 8] = True
        assert scores[square].min() > 0 and scores[square].min() > 5 * abs(scores[~square]).max()


def test_points_outside_of_what_the_network_sees_are_refused(model, reference):
    statistics, image = statistics_of(model, "0", reference), Image.new("RGB", (32, 16))
    seen = r"it sees the image from \(8, 0\) to \(24, 16\)"
    for point in [(7.9, 3), (24, 3), (12, 16), (12, -0.5)]:
        with pytest.raises(SettingError, match=rf"expected a point that the network sees but got \(.*\); {seen}"):
            key_of_points(model, image, [(12, 8), point], site="0", statistics=statistics)
    with pytest.raises(SettingError, match="at least one point but got none; click"):
        key_of_points(model, image, [], site="0", statistics=statistics)


def test_sites_whose_positions_form_no_grid_have_no_points(model, reference):
    statistics = statistics_of(model, "0", reference)
    with pytest.raises(SiteError, match="lie in the image but got 4; choose an earlier one"):
        key_of_points(model, spotted(9), [(3, 3)], site="4", statistics=statistics)
    with pytest.raises(SiteError, match="nearest"):
        key_of_points(model, spotted(9), [(3, 3)], site="9", statistics=statistics)
