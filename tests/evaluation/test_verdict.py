"""The verdict on an edit, and the classes that it suppresses, on predictions that are counted by hand."""

import re

import numpy as np
import pytest
from PIL import Image

from rulepatch.core.edit import Edit
from rulepatch.data.folders import Picture
from rulepatch.evaluation.outcomes import Outcomes, Predictions
from rulepatch.evaluation.report import render_report
from rulepatch.evaluation.result import Evaluation
from rulepatch.evaluation.suppressed import suppressed_by, told_of
from rulepatch.models.classes import Classes

VAN, PLOW, SLED, CAR = range(4)
CLASSES = Classes(("van", "snowplow", "sled", "car"))
PICTURE = Image.new("RGB", (4, 4))


def outcomes(*counted, doubt=None):
    """Images as (label, before, after, count)."""
    rows = [row for *row, count in counted for _ in range(count)]
    labels, before, after = zip(*rows, strict=True)

    def said(predicted):
        sure = np.full(len(rows), 0.5, np.float32)
        return Predictions(np.array(predicted), sure, sure, np.empty((len(rows), 0), np.float32))

    pictures = tuple(Picture(PICTURE, label) for label in labels)
    return Outcomes("it", pictures, said(before), said(after), doubt=doubt)


def evaluation(red_as_green, tests, reference):
    return Evaluation(red_as_green, "the net", CLASSES, tests, reference)


REPAIRED = outcomes((VAN, PLOW, VAN, 10), (VAN, SLED, VAN, 2), (VAN, PLOW, PLOW, 1), (VAN, VAN, VAN, 7))
"""Vans on snow: 12 of 13 failures are repaired."""

SPARED = ((VAN, VAN, VAN, 900), (CAR, CAR, CAR, 500))


def test_what_became_of_the_classes_is_counted(red_as_green):
    reference = outcomes(
        *SPARED, (PLOW, PLOW, PLOW, 4), (PLOW, PLOW, CAR, 1), (PLOW, CAR, PLOW, 2), (SLED, SLED, SLED, 1)
    )
    found = evaluation(red_as_green, REPAIRED, reference)
    plow, sled = found.suppressed
    assert (plow.name, plow.failures, plow.left, plow.n, plow.right) == ("snowplow", 11, 10, 7, (5, 6))
    assert (plow.repaired, plow.broken, plow.is_forgotten, plow.is_unknown) == (2, 1, False, False)
    assert (sled.failures, sled.left, sled.n, sled.is_unknown) == (2, 2, 1, True)
    text = found.to_text()
    assert "where the failures went (right before and after): snowplow 5 → 6 of 7, sled 1 → 1 of 1\n" in text
    assert (
        "only 1 image of sled: too few to tell whether the edit forgets it" in text and "image of snowplow" not in text
    )
    assert found.to_json()["suppressed"][0]["right"] == [5, 6] and found.to_json()["verdict"]["trust"]


def test_a_sound_edit_is_trusted_in_one_sentence(red_as_green):
    reference = outcomes(*SPARED, (PLOW, PLOW, PLOW, 50), (SLED, SLED, SLED, 50))
    found = evaluation(red_as_green, REPAIRED, reference)
    assert (
        found.to_text().splitlines()[0]
        == found.verdict.text
        == (
            "repairs 12 of 13 failures, costs 0.0 points on 1,500 reference images (0.0 % of the predictions flip); "
            "trust it, because the repair is beyond chance (p = 0.00049) and the cost is within 0.25 points"
        )
    )
    assert found.verdict.is_trusted


NOT_TRUSTED = {
    "a forgotten class": (REPAIRED, ((PLOW, PLOW, CAR, 3), (PLOW, PLOW, PLOW, 2)), "forgets snowplow 5 → 2 of 5"),
    "its only image": (REPAIRED, ((SLED, SLED, CAR, 1),), "forgets sled 1 → 0 of 1"),
    "a large class that lost beyond chance": (
        REPAIRED, ((PLOW, PLOW, CAR, 6), (PLOW, PLOW, PLOW, 44), (VAN, CAR, VAN, 6)), "forgets snowplow 50 → 44 of 50",
    ),
    "another class": (REPAIRED, ((CAR, CAR, VAN, 500), (VAN, CAR, VAN, 500)), "forgets car 1500 → 1000 of 1500"),
    "its cost": (REPAIRED, ((VAN, VAN, CAR, 9), (PLOW, PLOW, PLOW, 9)), "it loses 0.5 %, more than 0.25 %"),
    "chance": (outcomes((VAN, PLOW, VAN, 3), (VAN, VAN, PLOW, 2)), (), "the repair is not beyond chance"),
    "five repaired": (outcomes((VAN, PLOW, VAN, 5)), (), "the repair is not beyond chance"),
    "more broken": (outcomes((VAN, PLOW, VAN, 1), (VAN, VAN, PLOW, 12)), (), "it breaks more than it repairs"),
    "no failures": (outcomes((VAN, VAN, VAN, 9)), (), "no test image fails without it"),
    "no tests": (None, (), "there are no test images"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_TRUSTED)
def test_what_is_not_to_be_trusted_is_said_to_be(name, red_as_green):
    tests, more, because = NOT_TRUSTED[name]
    found = evaluation(red_as_green, tests, outcomes(*SPARED, (CAR, CAR, CAR, 500), *more)).verdict
    assert not found.is_trusted and re.search(rf"do not trust it, because .*{re.escape(because)}", found.text)
    assert ("repairs nothing beyond chance" in found.text) == (name in {"chance", "five repaired", "no failures"})


def test_without_a_reference_set_the_cost_is_unknown(red_as_green):
    found = evaluation(red_as_green, REPAIRED, None)
    assert "what it costs was not measured; do not trust it, because there is no reference set" in found.verdict.text
    assert "no image of snowplow, sled: give some" in found.to_text()


def test_labels_that_are_doubted_tell_nothing_of_classes():
    """The control: the same outcomes with labels that are believed are a forgotten class."""
    taken = [(PLOW, VAN, VAN)]
    for doubt, forgotten in ((None, [True]), ("permuted", [False])):
        found = suppressed_by(taken, outcomes((PLOW, PLOW, CAR, 5), doubt=doubt), CLASSES)
        assert [each.is_forgotten for each in found] == forgotten


def test_failures_that_stay_where_they_are_suppress_nothing():
    found = suppressed_by([(PLOW, PLOW, VAN), (VAN, PLOW, VAN)], outcomes((PLOW, PLOW, CAR, 2)), CLASSES)
    assert found == () and told_of(found) == []


def test_the_model_alone_has_no_verdict(red_as_green):
    found = evaluation(Edit((), red_as_green.base), REPAIRED, REPAIRED)
    assert found.verdict is None and "trust" not in found.to_text() and "verdict" not in found.to_json()


def test_the_page_begins_with_the_verdict(red_as_green):
    reference = outcomes(*SPARED, (PLOW, PLOW, CAR, 3), (PLOW, PLOW, PLOW, 2), (SLED, SLED, SLED, 1))
    page = " ".join(re.sub("<[^>]+>", " ", render_report(evaluation(red_as_green, REPAIRED, reference))).split())
    assert (
        "Repairs 12 of 13 failures, costs" in page and "forgets snowplow 5 → 2 of 5 (right before and after)." in page
    )
    assert page.index("do not trust it") < page.index("Test images right") < page.index("Where the failures went")
    assert "snowplow 11 10 5 5 2 forgotten" in page and "sled 2 2 1 1 1 too few to tell" in page
