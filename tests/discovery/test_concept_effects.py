"""Statistics of discovery: planted effects are found, chance is not, and images are the witnesses."""

import numpy as np
import pytest

from rulepatch.discovery.concept_effects import (
    EVERY_CLASS,
    PairedPredictions,
    bootstrap_mean,
    concept_effects,
    differences,
)
from rulepatch.evaluation.metrics import false_discovery_rates

LABELS = [f"class {i}" for i in range(20)]


def seen(seed, *, planted=(), pictures=40, lost=0.5, noise=0.06, repeats=1):
    """Images of twenty classes with three concepts in two styles; chance flips as many rightwards as leftwards."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"{label}/{i}", label, concept, style)
        for label in LABELS
        for i in range(pictures)
        for concept in ("road", "sky", "wheel")
        for style in ("snow", "wood")
        for _ in range(repeats)
    ]
    names, labels, concepts, styles = map(np.array, zip(*rows, strict=True))
    chance = dict(zip(np.unique(names), rng.uniform(size=(len(np.unique(names)), 2)), strict=True))
    before = np.array([chance[name][0] < 0.8 for name in names])
    change = rng.uniform(size=(len(np.unique(names)) * 6, 1)) if repeats > 1 else rng.uniform(size=(len(rows), 1))
    change = np.repeat(change, repeats, axis=0)[:, 0] if repeats > 1 else change[:, 0]
    hit = np.array([(label, concept) in planted for label, concept in zip(labels, concepts, strict=True)])
    after = np.where(change < noise, ~before, before) if noise else before.copy()
    again = rng.uniform(size=len(rows)) < lost
    after = np.where(hit & again, False, after)
    sure = (before.astype(np.float32), after.astype(np.float32))
    return PairedPredictions(names, labels, concepts, styles, (before, after), sure)


def test_rates_are_those_of_benjamini_and_hochberg():
    stats = pytest.importorskip("scipy.stats")
    p = np.random.default_rng(0).uniform(size=200) ** 2
    np.testing.assert_allclose(false_discovery_rates(p), stats.false_discovery_control(p))
    assert len(false_discovery_rates([])) == 0


@pytest.mark.slow
def test_what_was_planted_is_found_and_little_else():
    planted = {("class 3", "road"), ("class 7", "wheel"), ("class 7", "road")}
    found = [row for row in concept_effects(seen(0, planted=planted, noise=0.0)) if row.q <= 0.05 and row.drop > 0.1]
    assert {(row.label, row.concept) for row in found if row.style is None and row.label != EVERY_CLASS} == planted
    assert {row.style for row in found if row.label == "class 3"} == {None, "snow", "wood"}


@pytest.mark.slow
def test_where_nothing_was_planted_little_is_found():
    """An image that is right more often loses more by chance, so noise here is about images that are right half
    of the time; the share of runs with any finding is the rate that is promised."""
    false = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        empty = seen(seed, noise=0.0)
        swap = rng.uniform(size=len(empty.labels)) < 0.3
        coin = rng.uniform(size=len(empty.labels)) < 0.5
        first = np.where(swap, coin, empty.right[0])
        second = np.where(swap, ~coin, empty.right[1])
        given = PairedPredictions(
            empty.pictures, empty.labels, empty.concepts, empty.styles, (first, second),
            (first.astype(np.float32), second.astype(np.float32)),
        )  # fmt: skip
        rows = concept_effects(given)
        false += any(row.q <= 0.05 for row in rows if row.label != EVERY_CLASS and row.style is not None)
    assert false <= 4  # 5 % promised: more than four of twenty would happen once in four hundred times


@pytest.mark.slow
def test_counterfactuals_of_one_picture_are_no_independent_witnesses():
    once, often = (
        {
            row.key: row
            for row in concept_effects(seen(1, planted={("class 3", "road")}, noise=0.0, lost=1.0, repeats=n))
        }
        for n in (1, 8)
    )
    key = ("class 3", "road", "snow")
    assert once[key].n == often[key].n == 40 and once[key].p == often[key].p and once[key].drop == often[key].drop


@pytest.mark.slow
def test_rows_say_what_was_counted():
    rows = {row.key: row for row in concept_effects(seen(2, planted={("class 0", "sky")}, noise=0.0, lost=1.0))}
    row = rows["class 0", "sky", None]
    assert row.after == 0 and row.drop == row.before == row.broken / row.n and row.repaired == 0
    assert row.interval[0] <= row.drop <= row.interval[1] and row.confidence == pytest.approx(-row.drop)
    assert rows["class 1", "sky", None].drop == 0 and rows["class 1", "sky", None].p == 1
    assert rows[EVERY_CLASS, "sky", None].n == 800


def test_groups_are_tested_as_one_and_small_classes_are_not():
    given = seen(3, planted={(label, "road") for label in LABELS[:4]}, pictures=3, noise=0.0, lost=1.0)
    rows = concept_effects(given, groups={"first four": LABELS[:4]}, least=5)
    assert {row.label for row in rows} == {EVERY_CLASS, "first four"}
    assert next(row for row in rows if row.key == ("first four", "road", None)).n == 12


@pytest.mark.slow
def test_models_that_differ_are_told_apart_where_they_do():
    first = concept_effects(seen(4, planted={("class 3", "road")}, noise=0.0))
    second = concept_effects(seen(4, planted={("class 3", "road"), ("class 9", "sky")}, noise=0.0, lost=0.5))
    found = [each for each in differences(first, second) if each.q <= 0.05 and each.label != EVERY_CLASS]
    assert found and {(each.label, each.concept) for each in found} == {("class 9", "sky")}
    assert all(each.interval[0] > 0 for each in found)
    assert not [each for each in differences(first, first) if each.q <= 0.05]


@pytest.mark.slow
def test_the_interval_of_a_mean_covers_it():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_mean(rng.standard_normal(50), rng)
        covered += low <= 0 <= high
    assert 0.9 <= covered / 300 <= 0.98
