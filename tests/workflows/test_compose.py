"""Composing edits, and the warnings where rules conflict."""

import json
import logging

import pytest
import torch
from PIL import Image

from rulepatch.core.edit import Edit
from rulepatch.editors.edit import rewrite
from rulepatch.errors import BaseMismatchError, SettingError
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, training_images
from rulepatch.workflows.compose import compose

SITE = "blocks.4.conv"


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module")
def reference():
    return training_images(120, seed=3)


@pytest.fixture(scope="module")
def exemplars():
    return {ground: [exemplar("van", ground=ground, seed=1)] for ground in ("snow", "grass")}


@pytest.fixture(scope="module")
def edits(model, exemplars, reference):
    return {
        ground: rewrite(model, own, reference=reference, site=SITE, cache=None, progress=False)
        for ground, own in exemplars.items()
    }


def test_without_a_model_their_factors_are_stacked(edits):
    found = compose(None, edits)
    assert not found.jointly and found.interference == {} and found.alone is None
    stacked = Edit.compose(*edits.values())
    assert [torch.equal(a.delta(), b.delta()) for a, b in zip(found.edit.changes, stacked.changes, strict=True)] == [
        True
    ] * 2


def test_interference_needs_a_reference_set(model, edits, reference):
    found = compose(model, edits, reference=reference, cache=None, progress=False)
    ((a, b), (c, d)) = found.interference[SITE]
    assert (a, d) == (pytest.approx(1), pytest.approx(1)) and b == pytest.approx(c) and 0 < b < 1
    assert not found.jointly and "interference" in found.to_text()


def test_with_exemplars_they_are_solved_together(model, edits, exemplars, reference):
    everything = [each for own in exemplars.values() for each in own]
    found = compose(model, edits, reference=reference, exemplars=everything[::-1], cache=None, progress=False)
    assert found.jointly and len(found.edit.changes) == 2
    for i in range(2):
        assert found.alone[i][i] > 0.1
        assert found.together[i] > 0.7 * found.alone[i][i]
    json.dumps(found.to_json())
    assert "all together" in found.to_text()


def test_rules_that_undo_each_other_are_said_to_fight(model, edits, exemplars, reference, caplog):
    """The same rule, and its opposite at the same strength."""
    opposite = edits["snow"].with_strength(-1)
    with caplog.at_level(logging.WARNING, logger="rulepatch"):
        found = compose(
            model, {"snow": edits["snow"], "opposite": opposite}, reference=reference, cache=None, progress=False
        )
    assert found.conflicts and "read alike" in found.conflicts[0] and "interference 1.00" in caplog.text
    quiet = compose(
        model, edits, exemplars=[each for own in exemplars.values() for each in own], cache=None, progress=False
    )
    assert all("read alike" not in each for each in quiet.conflicts)


def test_edits_at_different_sites_make_a_bundle(model, exemplars, edits, reference):
    other = rewrite(model, exemplars["grass"], reference=reference, site="blocks.5.conv", cache=None, progress=False)
    everything = [each for own in exemplars.values() for each in own]
    found = compose(
        model,
        {"snow": edits["snow"], "grass": other},
        reference=reference,
        exemplars=everything,
        cache=None,
        progress=False,
    )
    assert not found.jointly and found.edit.sites == (SITE, "blocks.5.conv")
    assert found.interference[SITE] == [[pytest.approx(1), 0], [0, 0]]
    assert all(row[i] > 0.1 for i, row in enumerate(found.alone))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"style": Image.new("RGB", (64, 64), "white")}, {"architecture": 2}, {"ridge": 0.1}]
)
def test_edits_made_by_other_means_are_put_beside_each_other_as_they_are(model, edits, exemplars, reference, settings):
    given = {"reference": reference, "site": SITE, "cache": None, "progress": False}
    other = rewrite(model, exemplars["grass"], **settings, **given)
    everything = [each for own in exemplars.values() for each in own]
    both = {"snow": edits["snow"], "grass": other}
    found = compose(model, both, reference=reference, exemplars=everything, cache=None, progress=False)
    assert not found.jointly and torch.equal(found.edit.changes[1].delta(), other.changes[0].delta())


def test_bad_input(model, edits):
    with pytest.raises(SettingError, match="at least two"):
        compose(model, {"snow": edits["snow"]})
    foreign = Edit(edits["grass"].changes, "0" * 64)
    with pytest.raises(BaseMismatchError):
        compose(model, {"snow": edits["snow"], "foreign": foreign})
