"""The verdict on an edit, by what a model says of its own exemplars: all combinations of what can become of them."""

import itertools
import json

import pytest

from rulepatch.records.exemplar_outcomes import (
    LEAST_CHANGE,
    ExemplarOutcome,
    ExemplarOutcomes,
    ExemplarPrediction,
    usefulness,
)

RIGHT, WRONG, OTHER, NEARER = 0, 1, 2, 3  # the last two are one class, with another share for the right one
NAMES = ["van", "snowplow", "sled", "sled"]
# What is said of the original, of the edited image, and after the edit.
FATES = list(itertools.product((RIGHT, WRONG), (RIGHT, WRONG), (RIGHT, WRONG, OTHER, NEARER)))


def said(index, target=RIGHT):
    of_target = 0.9 if index == target else 0.3 if index == NEARER else 0.05
    return ExemplarPrediction(min(index, OTHER), NAMES[index], 0.9, of_target)


def outcome(original, edited, after, *, name="it", change=None):
    change = (0.85 if edited != after else 0.02) if change is None else change
    return ExemplarOutcome(name, RIGHT, NAMES[RIGHT], said(original), said(edited), said(after), change)


def expected(fates):
    """The rule once more, in other words."""
    failing = [fate for fate in fates if fate[1] != RIGHT]
    repaired = sum(fate[2] == RIGHT for fate in failing)
    broken = sum(fate[1] == RIGHT != fate[2] for fate in fates)
    if failing and repaired > broken:
        return "repairs"
    if failing and repaired == 0:
        nearer = any(fate[0] == RIGHT and fate[2] == NEARER for fate in failing)
        return "changes" if nearer and not broken else "useless"
    if broken and broken >= repaired:
        return "useless"
    return "unproven"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_verdict_of_every_combination(count):
    met = set()
    for fates in itertools.combinations_with_replacement(FATES, count):
        found = ExemplarOutcomes(tuple(outcome(*fate, name=f"e{i}") for i, fate in enumerate(fates)))
        assert found.verdict == usefulness(found.outcomes) == expected(fates), fates
        met.add(found.verdict)
        assert len(found.why) > 20 and ". " not in found.why and "\n" not in found.why
        assert (found.verdict == "repairs") == ("repairs" in found.why and ";" not in found.why)
        assert (found.verdict == "changes") == ("nearer" in found.why)
        if found.verdict == "useless" and "breaks" not in found.why:
            misread = any(fate[0] != RIGHT and fate[1] != RIGHT != fate[2] for fate in fates)
            assert misread == ("of the original image" in found.why)
    assert met == {"repairs", "changes", "useless", "unproven"}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ([0.0], "useless"),
        ([LEAST_CHANGE / 2], "useless"),
        ([LEAST_CHANGE], "unproven"),
        ([0.0, 0.5], "unproven"),
        ([0.0, 0.0], "useless"),
    ],
)
def test_without_a_failure_something_must_have_changed(changes, verdict):
    assert usefulness([outcome(RIGHT, RIGHT, RIGHT, change=change) for change in changes]) == verdict


def test_one_repaired_and_one_broken_is_no_success():
    both = [outcome(RIGHT, WRONG, RIGHT), outcome(RIGHT, RIGHT, WRONG)]
    assert usefulness(both) == "useless"
    assert usefulness([*both, outcome(RIGHT, WRONG, RIGHT)]) == "repairs"


def test_order_does_not_matter():
    for fates in itertools.permutations(FATES[:5], 3):
        one, other = (usefulness([outcome(*fate) for fate in each]) for each in (fates, fates[::-1]))
        assert one == other


def test_it_survives_the_provenance_of_an_edit():
    provenance = {"method": "rewrite", "exemplars": [{"name": f"e{i}", "label": "van"} for i in range(len(FATES))]}
    found = ExemplarOutcomes(tuple(outcome(*fate, name=f"e{i}") for i, fate in enumerate(FATES)))
    kept = json.loads(json.dumps(found.within(provenance)))
    assert ExemplarOutcomes.from_provenance(kept) == found
    assert [each["label"] for each in kept["exemplars"]] == ["van"] * len(FATES) and kept["method"] == "rewrite"
    assert ExemplarOutcomes().within(kept) == provenance


@pytest.mark.parametrize("provenance", [{}, {"composed": [{}]}, {"exemplars": None}, {"exemplars": [{"name": "a"}]}])
def test_what_was_not_looked_at_is_untested(provenance):
    found = ExemplarOutcomes.from_provenance(provenance)
    assert (found.verdict, found.to_json()) == ("untested", []) and "not tried" in found.to_text()


def test_the_table_says_what_became_of_each():
    lines = ExemplarOutcomes(
        (outcome(RIGHT, WRONG, RIGHT, name="a"), outcome(WRONG, WRONG, OTHER, name="b"), outcome(RIGHT, RIGHT, RIGHT))
    ).to_text().splitlines()  # fmt: skip
    assert lines[0].startswith("exemplar") and len(lines) == 5
    assert lines[1].split() == ["a", "van", *["van", "0.90", "snowplow", "0.90", "van", "0.90"], "repaired"]
    assert "still wrong; the original is misread" in lines[2] and "shows no failure" in lines[3]
