"""Several rules in one solve, against theorems and against solving them apart."""

import pytest
import torch

from rulepatch.core import linalg
from rulepatch.core.patched_model import PatchedModel
from rulepatch.editors.assembling import masked_errors
from rulepatch.editors.edit import rewrite
from rulepatch.editors.multi_rule import Rule, rewrite_rules
from rulepatch.editors.problem import record_exemplars
from rulepatch.errors import ExemplarError, SettingError
from rulepatch.methods import Rewrite
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, training_images
from tests.fixtures.solving import QUIET

SITE = "blocks.4.conv"


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module")
def reference():
    return training_images(120, seed=3)


@pytest.fixture(scope="module")
def snow():
    return [exemplar("van", ground="snow", seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def grass():
    return [exemplar("bus", ground="grass", seed=seed) for seed in (3, 4)]


def removed(model, edit, exemplars):
    _, edited, seen = record_exemplars(model, exemplars, [SITE])
    before, after = (sum(masked_errors(model.module, edited, seen, each)) for each in ((), edit.changes))
    return 1 - after / before


@pytest.mark.parametrize("gate", [None, 0.9])
def test_one_rule_is_what_rewrite_makes(model, snow, reference, gate):
    alone = rewrite(model, snow, reference=reference, site=SITE, rank=2, gate=gate, strength=2, cache=None)
    together = rewrite_rules(
        model, [Rule(snow, Rewrite(rank=2, gate=gate, strength=2))], reference=reference, site=SITE, run=QUIET
    )
    assert torch.equal(alone.changes[0].delta(), together.changes[0].delta())


@pytest.mark.slow
def test_two_rules_together_fit_both_better_than_two_put_beside_each_other(model, snow, grass, reference):
    given = {"reference": reference, "site": SITE, "cache": None, "progress": False}
    apart = [rewrite(model, each, rank=2, gate=None, **given) for each in (snow, grass)]
    rules = [Rule(each, Rewrite(rank=2, gate=None)) for each in (snow, grass)]
    both = rewrite_rules(model, rules, reference=reference, site=SITE, run=QUIET)
    stacked = apart[0].compose(*apart)
    assert [len(edit.changes) for edit in (both, stacked)] == [2, 2]
    for own, exemplars in zip(apart, (snow, grass), strict=True):
        alone, together = removed(model, own, exemplars), removed(model, both, exemplars)
        assert alone > 0.1 and together > 0.8 * alone
    assert sum(removed(model, both, each) for each in (snow, grass)) > sum(
        removed(model, stacked, each) for each in (snow, grass)
    )


def test_the_joint_solve_is_the_least_squares_of_all_exemplars(model, snow, grass, reference):
    """No small change of the coefficients lowers the squared error of both together (ridge 0)."""
    rules = [Rule(each, Rewrite(gate=None, ridge=0)) for each in (snow, grass)]
    edit = rewrite_rules(model, rules, reference=reference, site=SITE, run=QUIET)
    _, _, (seen,) = record_exemplars(model, [*snow, *grass], [SITE])
    weights = seen.output_weights[seen.marked]

    def squared(changes):
        with torch.no_grad(), PatchedModel(model.module, changes):
            layer = model.module.get_submodule(SITE)
            added = (layer(seen.keys) - seen.edited.output).double()
        added = added.flatten(2).mT[seen.marked]
        return float((weights[:, None] * (seen.residuals - added).square()).sum())

    best = squared(edit.changes)
    for change in edit.changes:
        for factor in (0.9, 1.1):
            others = [each for each in edit.changes if each is not change]
            scaled = type(change)(change.site, change.value_point, change.directions, factor * change.coefficients)
            assert squared([*others, scaled]) > best


def test_interference_of_directions():
    moment = torch.diag(torch.tensor([4.0, 1.0, 1.0]).double())
    one, other = torch.eye(3).double()[:1], torch.tensor([[1.0, 1.0, 0.0]]).double()
    assert linalg.interference(one, one, moment) == pytest.approx(1)
    assert linalg.interference(one, torch.eye(3).double()[1:], moment) == pytest.approx(0, abs=1e-12)
    assert linalg.interference(one, other, moment) == pytest.approx(4 / (2 * 5**0.5))
    keys = torch.randn(200_000, 3).double() * torch.tensor([2.0, 1, 1])
    empirical = (keys @ one[0] * (keys @ other[0])).mean() / (
        (keys @ one[0]).square().mean() * (keys @ other[0]).square().mean()
    ).sqrt()
    assert linalg.interference(one, other, moment) == pytest.approx(float(empirical), abs=0.01)
    both = torch.cat([other, torch.eye(3).double()[2:]])
    assert linalg.interference(both, one, moment) == pytest.approx(linalg.interference(one, both, moment))


def test_bad_input(model, snow, reference):
    with pytest.raises(SettingError, match="at least one rule"):
        rewrite_rules(model, [], reference=reference, site=SITE, run=QUIET)
    with pytest.raises(ExemplarError, match="at least one exemplar"):
        rewrite_rules(model, [Rule([])], reference=reference, site=SITE, run=QUIET)
    rules = [Rule(snow), Rule(snow, Rewrite(ridge=0.1))]
    with pytest.raises(SettingError, match="rank, strength and gate alone"):
        rewrite_rules(model, rules, reference=reference, site=SITE, run=QUIET)
