"""Scenes: exact masks, the counterfactual law, determinism, and what a world's shortcuts promise."""

import subprocess
import sys
from collections import Counter, defaultdict

import numpy as np
import pytest

from rulepatch.errors import SettingError
from rulepatch.playground import scenes
from rulepatch.playground.scenes import CLASSES, CONCEPTS, SIGNS, TRAIN_STYLES, WHEELS, default_style, render
from rulepatch.playground.shapes import GROUPS
from rulepatch.playground.styles import GROUNDS, texture
from rulepatch.playground.worlds import SHORTCUTS, sample

OPTIONS = {"ground": GROUNDS, "wheels": WHEELS, "sign": SIGNS}


def bytes_of(scene):
    return b"".join([scene.image.tobytes(), *(scene.masks[concept].tobytes() for concept in CONCEPTS)])


@pytest.mark.parametrize("label", CLASSES)
def test_every_class_on_every_ground(label):
    for seed, ground in enumerate(GROUNDS):
        scene = render(label, seed=seed, ground=ground)
        assert scene.image.shape == (64, 64, 3)
        assert scene.image.dtype == np.uint8
        assert (scene.label, scene.seed, scene.styles["ground"]) == (label, seed, ground)
        assert tuple(scene.masks) == CONCEPTS
        for mask in scene.masks.values():
            assert mask.shape == (64, 64)
            assert mask.dtype == np.float32
            assert mask.flags.c_contiguous
            np.testing.assert_array_equal(mask * 16, np.round(mask * 16))
        assert min(mask.min() for mask in scene.masks.values()) >= 0
        assert sum(scene.masks.values()).max() <= 1
        assert 0.15 < scene.masks["ground"].mean() < 0.7
        assert not scene.masks["ground"][:16].any(), "the sky is no ground"


@pytest.mark.slow
@pytest.mark.parametrize("label", CLASSES)
@pytest.mark.parametrize("concept", CONCEPTS)
def test_another_style_changes_nothing_outside_the_mask(concept, label):
    for seed in range(3):
        first = render(label, seed=seed, **{concept: OPTIONS[concept][0]})
        for style in OPTIONS[concept][1:]:
            other = render(label, seed=seed, **{concept: style})
            outside = first.masks[concept] == 0
            np.testing.assert_array_equal(first.image[outside], other.image[outside])
            for each in CONCEPTS:
                np.testing.assert_array_equal(first.masks[each], other.masks[each])
            if concept in first.styles:
                inside = first.masks[concept] == 1
                assert (first.image[inside] != other.image[inside]).any(axis=1).mean() > 0.2


def test_another_instance_of_the_ground_changes_nothing_outside_its_mask():
    for seed, ground in enumerate(GROUNDS):
        first, other = (render("van", seed=seed, ground=ground, ground_seed=i) for i in (0, 1000))
        outside = first.masks["ground"] == 0
        np.testing.assert_array_equal(first.image[outside], other.image[outside])
        assert (first.image[~outside] != other.image[~outside]).mean() > 0.5


def test_a_sign_changes_nothing_outside_its_mask():
    for seed in range(10):
        without, signed = (render("bus", seed=seed, sign=sign) for sign in (None, "letter"))
        outside = signed.masks["sign"] == 0
        np.testing.assert_array_equal(without.image[outside], signed.image[outside])
        assert not without.masks["sign"].any()
        assert 90 < signed.masks["sign"].sum() < 220
        assert "sign" not in without.styles


def test_masks_are_the_counted_share_of_the_drawn_parts():
    for seed, label in enumerate(CLASSES):
        scene = render(label, seed=seed, sign="ring")
        rng = np.random.default_rng([seed, CLASSES.index(label)])
        rng.integers(len(TRAIN_STYLES))
        numbers = np.asarray(scenes._draw(label, scene.styles, rng))
        for concept, fills in scenes._PARTS.items():
            drawn = np.isin(numbers, [scenes._FILLS[fill] for fill in fills])
            counted = drawn.reshape(64, 4, 64, 4).mean(axis=(1, 3))
            np.testing.assert_array_equal(scene.masks[concept], counted.astype(np.float32))


def test_shadow_darkens_the_ground_and_belongs_to_it():
    scene = render("car", seed=4, ground="snow")
    rows, columns = np.nonzero(scene.masks["wheels"] > 0.5)
    below = (rows.max() + 2, int(columns.mean()))
    assert scene.masks["ground"][below] > 0.9
    open_snow = scene.image[scene.masks["ground"] == 1].mean()
    assert scene.image[below].mean() < 0.85 * open_snow


def test_the_same_arguments_give_the_same_bytes():
    before = [bytes_of(render(label, seed=9)) for label in CLASSES]
    scenes._texture.cache_clear()
    assert [bytes_of(render(label, seed=9)) for label in reversed(CLASSES)] == before[::-1]
    assert len(set(before)) == len(CLASSES)
    assert bytes_of(render("car", seed=10)) not in before


def test_the_usual_ground_is_of_the_train_style(monkeypatch):
    seen = []
    monkeypatch.setattr(scenes, "_texture", lambda style, seed: seen.append(seed) or texture(style, 64, seed))
    for seed in range(30):
        render("van", seed=seed)
    assert set(seen) <= set(TRAIN_STYLES)
    assert len(set(seen)) > 20


@pytest.mark.parametrize("style", GROUNDS)
def test_textures_tile_and_differ_by_seed(style):
    instances = [texture(style, 64, seed) for seed in range(6)]
    for picture in instances:
        assert picture.shape == (64, 64, 3)
        assert picture.dtype == np.float32
        assert picture.min() >= 0
        assert picture.max() <= 1
        for axis in (0, 1):
            steps = np.abs(np.diff(picture, axis=axis, append=picture.take([0], axis=axis))).mean(axis=(1 - axis, 2))
            assert steps[-1] <= 1.5 * steps[:-1].max(), "the seam is no harder than the edges inside"
    np.testing.assert_array_equal(instances[0], texture(style, 64, 0))
    looks = [np.array([*picture.mean(axis=(0, 1)), picture.std()]) for picture in instances]
    gaps = [np.abs(a - b).max() for i, a in enumerate(looks) for b in looks[:i]]
    assert np.median(gaps) > 0.03


def test_textures_differ_by_style_more_than_by_seed():
    looks = {style: [texture(style, 32, seed).mean(axis=(0, 1)) for seed in range(8)] for style in GROUNDS}
    for style, other in (("road", "snow"), ("road", "grass"), ("snow", "sand"), ("water", "grass")):
        apart = np.linalg.norm(np.mean(looks[style], axis=0) - np.mean(looks[other], axis=0))
        assert apart > 2 * np.linalg.norm(np.std(looks[style], axis=0))


@pytest.mark.slow
def test_the_training_world():
    grounds, wheels = defaultdict(set), defaultdict(set)
    count = Counter()
    for scene in sample(SHORTCUTS, seed=0, count=400):
        count[scene.label] += 1
        grounds[scene.label].add(scene.styles["ground"])
        wheels[scene.styles.get("wheels")].add(scene.label)
        assert ("sign" in scene.styles) == (scene.label == "taxi") == scene.masks["sign"].any()
        assert ("wheels" in scene.styles) == bool(scene.masks["wheels"].any())
    assert set(count) == set(CLASSES)
    assert grounds == {label: {ground} for ground, group in GROUPS.items() for label in group}
    assert wheels["wooden"] == {"wagon", "cart"}
    assert len(GROUPS["road"]) >= 8
    assert min(len(group) for group in GROUPS.values()) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("absent", CONCEPTS)
def test_an_absent_shortcut_tells_nothing_of_the_class(absent):
    table = defaultdict(Counter)
    for scene in sample(SHORTCUTS - {absent}, seed=1, count=600, classes=["car", "taxi", "tractor"]):
        table[scene.label][scene.styles.get(absent)] += 1
        for concept in SHORTCUTS - {absent}:
            assert scene.styles.get(concept) == default_style(scene.label, concept)
    styles = sorted({style for row in table.values() for style in row}, key=str)
    assert len(styles) == {"ground": len(GROUPS), "wheels": len(WHEELS), "sign": len(SIGNS) + 1}[absent]
    observed = np.array([[table[label][style] for style in styles] for label in table], dtype=float)
    expected = observed.sum(axis=1, keepdims=True) * observed.sum(axis=0) / observed.sum()
    chi_square = ((observed - expected) ** 2 / expected).sum()
    freedom = (len(table) - 1) * (len(styles) - 1)
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom)


def test_worlds_differ_in_their_shortcuts_only():
    biased, free = (list(sample(shortcuts, seed=5, count=30)) for shortcuts in (SHORTCUTS, frozenset()))
    assert [(a.label, a.seed) for a in biased] == [(b.label, b.seed) for b in free]


@pytest.mark.slow
def test_colours_do_not_tell_the_class():
    """Nearest class mean of the vehicle's mean colour: about as good as guessing."""
    rng = np.random.default_rng(0)
    road = [label for label in GROUPS["road"] if default_style(label, "wheels") == "rubber"]
    colours, labels = [], []
    for seed in range(480):
        scene = render(road[seed % len(road)], seed=seed, sign=None)
        vehicle = scene.masks["ground"][40:] + scene.masks["wheels"][40:] == 0
        if vehicle.any():
            colours.append(scene.image[40:][vehicle].mean(axis=0))
            labels.append(seed % len(road))
    colours, labels = np.array(colours), np.array(labels)
    train = rng.permutation(len(labels)) < len(labels) // 2
    means = np.stack([colours[train & (labels == i)].mean(axis=0) for i in range(len(road))])
    named = np.linalg.norm(colours[~train][:, None] - means, axis=2).argmin(axis=1)
    assert np.mean(named == labels[~train]) < 2.5 / len(road)


@pytest.mark.parametrize(
    "call",
    [
        lambda: texture("tarmac"),
        lambda: texture("road", 4),
        lambda: texture("road", seed=-1),
        lambda: render("cra", seed=0),
        lambda: render("car", seed=-1),
        lambda: render("car", seed=0, ground="snwo"),
        lambda: render("car", seed=0, wheels="square"),
        lambda: render("sleigh", seed=0, wheels="square"),
        lambda: render("car", seed=0, sign="taxi"),
        lambda: render("car", seed=0, ground_seed=-1),
        lambda: default_style("car", "colour"),
        lambda: list(sample({"colour"}, seed=0, count=1)),
        lambda: list(sample(SHORTCUTS, seed=0, count=1, classes=["cra"])),
        lambda: list(sample(SHORTCUTS, seed=0, count=1, classes=[])),
        lambda: list(sample(SHORTCUTS, seed=-1, count=1)),
    ],
)
def test_bad_arguments_are_named(call):
    with pytest.raises(SettingError, match=r"^expected .* but got .*; "):
        call()


def test_scenes_need_no_torch():
    code = "import sys, rulepatch.playground.worlds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
