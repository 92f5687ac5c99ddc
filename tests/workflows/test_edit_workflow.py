"""An edit that does more damage than is allowed is not written."""

from contextlib import nullcontext

import pytest

from rulepatch.errors import DamageError, RulepatchWarning, UselessEditError
from rulepatch.methods import Rewrite
from rulepatch.site_search.candidates import Candidate, Trial
from rulepatch.site_search.result import Search
from rulepatch.workflows.edit_workflow import Limits, run_edit
from tests.fixtures.solving import QUIET


@pytest.mark.parametrize("labelled", [True, False])
def test_a_budget_refuses_with_what_was_measured(model, world, tmp_path, labelled, caplog):
    reference, _, exemplars = world
    if not labelled:
        reference = [picture.source for picture in reference.pictures]
    given = {"out": tmp_path / "edit", "reference": reference, "run": QUIET}
    given |= {"site": ["3"], "how": Rewrite(strength=60.0)}
    with pytest.raises(DamageError, match=r"at most 0\.25 points of .* loses [1-9]\d*\.\d\d \(\d+ of 60"):
        run_edit(model, exemplars, limits=Limits(max_drop=0.0025), **given)
    assert list(tmp_path.iterdir()) == []
    told = pytest.warns(RulepatchWarning, match="forgets green 20 → 1 of 20") if labelled else nullcontext()
    with told:
        made = run_edit(model, exemplars, limits=Limits(max_drop=0.0025, allow_damage=True), **given)
    assert made.damage.drop > 0.0025 and (tmp_path / "edit").is_file()
    assert "written all the same" in caplog.text
    assert made.to_json()["damage"]["drop"] == made.damage.drop and "points lost" in made.to_text()


def test_within_the_budget_it_is_written(model, world, tmp_path):
    reference, _, exemplars = world
    with pytest.warns(RulepatchWarning, match="repairs 0 of 1 failing exemplar"):
        made = run_edit(
            model, exemplars, out=tmp_path / "edit", reference=reference, site=["3"], how=Rewrite(strength=0.0),
            limits=Limits(max_drop=0.0, allow_useless=True), run=QUIET,
        )  # fmt: skip
    assert made.damage.drop == 0 and (tmp_path / "edit").is_file()


def test_what_is_useless_is_refused_before_its_damage_is_measured(model, world, tmp_path):
    reference, _, exemplars = world
    given = {"out": tmp_path / "edit", "reference": reference, "run": QUIET, "limits": Limits(max_drop=0.0)}
    with pytest.raises(UselessEditError, match="repairs 0 of 1") as refused:
        run_edit(model, exemplars, site=["3"], how=Rewrite(strength=-60.0), **given)
    assert refused.value.exit_code == 3 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("flips", "error"), [(0.0, UselessEditError), (0.5, DamageError)])
def test_a_search_that_finds_nothing_says_whether_it_was_for_the_budget(
    model, world, tmp_path, monkeypatch, flips, error
):
    tried = Candidate(Trial(("3",)), "screen", 0.0, 0.5, None, 0, 0, 0.0, flips, measured=60)
    found = Search(None, None, (tried,), "nothing helps", "", 0.0025, 60, "it", lambda trial: None)
    monkeypatch.setattr("rulepatch.workflows.edit_workflow.search", lambda *_, **__: found)
    reference, _, exemplars = world
    with pytest.raises(error, match="nothing helps"):
        run_edit(model, exemplars, out=tmp_path / "edit", reference=reference, site=["auto"], run=QUIET)
    assert not list(tmp_path.iterdir())
