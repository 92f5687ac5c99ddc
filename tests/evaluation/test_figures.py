"""Curves before and after an edit."""

import numpy as np
import pytest

from rulepatch.data.folders import Picture
from rulepatch.evaluation.figures import draw_rocs, rocs_of
from rulepatch.evaluation.outcomes import Outcomes, Predictions


def outcomes(scores_before, scores_after, labels):
    def predictions(scores):
        watched = np.array(scores, np.float32)[:, None]
        return Predictions(np.zeros(len(labels), int), watched[:, 0], watched[:, 0], watched)

    pictures = tuple(Picture("none", label) for label in labels)
    return Outcomes("some", pictures, predictions(scores_before), predictions(scores_after))


def test_the_curves_are_those_of_the_watched_classes():
    before, after = rocs_of(outcomes([0.2, 0.8, 0.6], [0.9, 0.1, 0.3], [4, 1, 2]), [4])
    assert before.area == 0 and after.area == 1
    assert rocs_of(outcomes([0.2, 0.8], [0.9, 0.1], [1, 2]), [4]) == (None, None)


def test_every_class_of_negatives_counts_the_same():
    labels = [0] * 4 + [1] * 99 + [2]
    scores = [0.5] * 4 + [0.1] * 99 + [0.9]
    before, _ = rocs_of(outcomes(scores, scores, labels), [0])
    assert before.area == pytest.approx(0.5)


def test_what_is_not_defined_is_drawn_as_such(tmp_path):
    found = outcomes([0.2, 0.8], [0.9, 0.1], [4, 1])
    figure = draw_rocs({"random": rocs_of(found, [4]), "mislabelled": (None, None)})
    figure.savefig(tmp_path / "rocs.svg")
    text = (tmp_path / "rocs.svg").read_text()
    assert "random" in text and "not defined" in text
