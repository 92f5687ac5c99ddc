"""The numbers, against scikit-learn, brute force and theorems."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.utils.class_weight import compute_sample_weight

from rulepatch.evaluation.metrics import (
    balanced_weights,
    calibration_error,
    errors_corrected,
    mcnemar,
    paired_bootstrap,
    roc,
    wilson,
)

counts = st.integers(0, 12)


@given(seed=st.integers(0, 10_000), n=st.integers(2, 60), ties=st.booleans(), weighted=st.booleans())
def test_roc_is_scikit_learns(seed, n, ties, weighted):
    rng = np.random.default_rng(seed)
    scores = rng.random(n).round(1 if ties else 8)
    positive = rng.random(n) < 0.4
    positive[:2] = [True, False]
    weights = rng.random(n) + 0.1 if weighted else None
    found = roc(scores, positive, weights)
    false, true, thresholds = roc_curve(positive, scores, sample_weight=weights, drop_intermediate=False)
    assert found.false_positives == pytest.approx(false) and found.true_positives == pytest.approx(true)
    assert found.thresholds[1:] == pytest.approx(thresholds[1:])
    assert found.area == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights))


@given(seed=st.integers(0, 10_000), budget=st.floats(0, 1))
def test_true_positives_at_a_budget_of_false_ones_by_brute_force(seed, budget):
    rng = np.random.default_rng(seed)
    scores, positive = rng.random(20).round(1), rng.random(20) < 0.5
    if not 0 < positive.sum() < 20:
        return
    best = 0.0
    for threshold in [np.inf, *scores]:
        chosen = scores >= threshold
        if (chosen & ~positive).sum() / (~positive).sum() <= budget + 1e-12:
            best = max(best, (chosen & positive).sum() / positive.sum())
    assert roc(scores, positive).true_positives_at(budget) == pytest.approx(best)


@pytest.mark.parametrize("positive", [[True, True], [False, False], []])
def test_a_curve_of_one_kind_is_not_defined(positive):
    assert roc([0.5] * len(positive), positive) is None


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_balanced_weights_are_scikit_learns(labels):
    assert balanced_weights(labels) == pytest.approx(compute_sample_weight("balanced", labels))


def test_balanced_negatives_count_by_class_not_by_picture():
    """A class of a hundred easy images does not hide one of a single hard image."""
    labels = np.array([0] * 5 + [1] * 100 + [2])
    scores = np.array([0.6] * 5 + [0.1] * 100 + [0.9])
    positive = labels == 0
    assert roc(scores, positive).area > 0.98
    assert roc(scores, positive, balanced_weights(labels)).area == pytest.approx(0.5)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 200), bins=st.integers(1, 20))
def test_calibration_error_is_that_of_scikit_learns_curve(seed, n, bins):
    rng = np.random.default_rng(seed)
    confidences, right = rng.random(n), rng.random(n) < 0.6
    accuracy, confidence = calibration_curve(right, confidences, n_bins=bins)
    sizes = np.bincount(np.minimum((confidences * bins).astype(int), bins - 1), minlength=bins)
    expected = np.abs(accuracy - confidence) @ sizes[sizes > 0] / n
    assert calibration_error(confidences, right, bins=bins) == pytest.approx(expected, abs=1e-9)


def test_perfect_and_absent_calibration():
    assert calibration_error([1.0, 1.0], [True, True]) == 0
    assert calibration_error([1.0, 1.0], [False, False]) == 1
    assert calibration_error([], []) is None


@given(repaired=counts, broken=counts)
def test_mcnemar_is_a_sum_over_all_ways_the_flips_could_have_fallen(repaired, broken):
    flips = repaired + broken
    if flips > 12:
        return
    as_far = [abs(2 * sum(way) - flips) >= abs(repaired - broken) for way in product([0, 1], repeat=flips)]
    assert mcnemar(repaired, broken) == pytest.approx(sum(as_far) / 2**flips)
    assert mcnemar(repaired, broken) == mcnemar(broken, repaired)


def test_mcnemar_of_many_flips_and_of_none():
    assert mcnemar(0, 0) == 1
    assert 0 < mcnemar(3000, 2000) < 1e-40


@given(total=st.integers(1, 40), data=st.data())
def test_wilsons_ends_are_where_the_score_test_would_just_not_reject(total, data):
    count = data.draw(st.integers(0, total))
    low, high = wilson(count, total)
    share = count / total
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert abs(share - end) / np.sqrt(end * (1 - end) / total) == pytest.approx(1.959964, abs=1e-4)
    assert wilson(count, total, level=0.5)[1] <= high


def test_intervals_of_nothing_are_not_defined():
    assert wilson(0, 0) is None and paired_bootstrap(0, 0, 0) is None


def test_where_nothing_changed_resampling_tells_nothing():
    assert paired_bootstrap(0, 0, 10) is None and paired_bootstrap(1, 0, 10) is not None


@settings(deadline=None, max_examples=20)
@given(repaired=st.integers(1, 9), broken=counts, same=st.integers(1, 60), seed=st.integers(0, 99))
def test_the_bootstrap_of_counts_is_that_of_pictures(repaired, broken, same, seed):
    """The naive twin draws images with replacement."""
    changes = np.repeat([1, -1, 0], [repaired, broken, same])
    drawn = np.random.default_rng(seed).choice(changes, size=(4000, len(changes))).mean(axis=1)
    low, high = paired_bootstrap(repaired, broken, len(changes), seed=seed, resamples=4000)
    step = 2.5 / len(changes) + 0.02
    assert low == pytest.approx(np.quantile(drawn, 0.025), abs=step)
    assert high == pytest.approx(np.quantile(drawn, 0.975), abs=step)
    assert paired_bootstrap(repaired, broken, len(changes), seed=seed) == paired_bootstrap(
        repaired, broken, len(changes), seed=seed
    )


def test_the_bootstrap_covers_the_truth_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), 0
    for trial in range(300):
        repaired, broken, _ = rng.multinomial(100, [0.2, 0.1, 0.7])
        low, high = paired_bootstrap(repaired, broken, 100, seed=trial, resamples=1000)
        covered += low <= 0.1 <= high
    assert 0.9 < covered / 300 < 0.99


@given(seed=st.integers(0, 10_000), n=st.integers(0, 40))
def test_errors_corrected_by_a_loop(seed, n):
    rng = np.random.default_rng(seed)
    labels, original, before, after = rng.integers(0, 3, (4, n))
    errors = left = caused = 0
    for label, o, b, a in zip(labels, original, before, after, strict=True):
        if o == label:
            errors += b != label
            left += b != label and a != label
            caused += b == label and a != label
    found = errors_corrected(labels, original, before, after)
    assert (found.errors, found.left, found.caused) == (errors, left, caused)
    if errors:
        assert found.share == (errors - left) / errors and found.net == (errors - left - caused) / errors
    else:
        assert found.share is None and found.net is None


def test_doing_nothing_corrects_nothing_and_undoing_the_replacement_corrects_all():
    labels, original, before = [0, 1, 2, 2], [0, 1, 2, 0], [1, 1, 0, 0]
    assert errors_corrected(labels, original, before, before).share == 0
    assert errors_corrected(labels, original, before, original).share == 1
    assert errors_corrected(labels, labels, labels, before).share is None  # there was nothing to correct
