"""An edit that does more damage than is allowed is not written."""

import pytest

from rulepatch.errors import DamageError
from rulepatch.experiments.make import make


@pytest.mark.parametrize("labelled", [True, False])
def test_a_budget_refuses_with_what_was_measured(model, world, tmp_path, labelled, caplog):
    reference, _, exemplars = world
    if not labelled:
        reference = [picture.source for picture in reference.pictures]
    settings = {"site": "3", "strength": 60.0, "cache": None}
    given = {"out": tmp_path / "edit", "reference": reference, "settings": settings, "progress": False}
    with pytest.raises(DamageError, match=r"at most 0\.25 points of .* loses [1-9]\d*\.\d\d \(\d+ of 60"):
        make(model, exemplars, max_drop=0.0025, **given)
    assert list(tmp_path.iterdir()) == []
    made = make(model, exemplars, max_drop=0.0025, allow_damage=True, **given)
    assert made.damage.drop > 0.0025 and (tmp_path / "edit").is_file()
    assert "written all the same" in caplog.text
    assert made.to_json()["damage"]["drop"] == made.damage.drop and "points lost" in made.to_text()


def test_within_the_budget_it_is_written(model, world, tmp_path):
    reference, _, exemplars = world
    made = make(
        model, exemplars, out=tmp_path / "edit", reference=reference, max_drop=0.0,
        settings={"site": "3", "strength": 0.0, "cache": None}, progress=False,
    )  # fmt: skip
    assert made.damage.drop == 0 and (tmp_path / "edit").is_file()
