"""Trying edits on their own exemplars: in the playground, where vans on snow are called snowplows."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rulepatch.core import linalg
from rulepatch.core.changes import Dense
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.editors.edit import edit, front, solve
from rulepatch.editors.judging import Judge, judged
from rulepatch.editors.multi_rule import Rule, rewrite_rules
from rulepatch.editors.problem import build_problem
from rulepatch.editors.registry import editor_named, editors
from rulepatch.errors import ModelError, RulepatchWarning, UselessEditError
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.methods import Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, training_images
from rulepatch.records.site_reports import HOPELESS_DAMAGE, UNSURE_DAMAGE, SiteReport
from tests.fixtures.solving import QUIET

SITE = "blocks.3.conv"


@pytest.fixture(scope="module")
def world():
    """The playground, a van on snow that is called a snowplow, and reference images."""
    return load_model("playground"), exemplar("van", ground="snow", seed=1), training_images(60, seed=2)


def rewrite(world, *exemplars, method="rewrite", **settings):
    model, van, reference = world
    settings = {"site": SITE, "strength": 2.0, "gate": 0.95, "cache": None, "progress": False} | settings
    settings = {name: value for name, value in settings.items() if value is not None}
    return front(method)(model, exemplars or [van], reference=reference, **settings)


def test_what_is_said_is_what_the_edited_model_says(world):
    model, van, _ = world
    edit = rewrite(world)  # repaired: no warning
    (found,) = edit.on_exemplars.outcomes
    assert (found.verdict, edit.on_exemplars.verdict) == ("repaired", "repairs")

    def naive(holder, picture):
        with torch.no_grad():
            return holder.logits(holder.inputs(holder.preprocess.pixels(picture)[None])).softmax(dim=1)[0]

    pairs = [(found.original, naive(model, van.image)), (found.edited, naive(model, van.edited))]
    pairs += [(found.after, naive(edit.apply(model), van.edited))]
    for said, shares in pairs:
        assert said.index == int(shares.argmax()) and said.name == model.classes[said.index]
        assert said.confidence == pytest.approx(float(shares.max()), abs=1e-5)
        assert said.of_target == pytest.approx(float(shares[model.classes.index("van")]), abs=1e-5)
    assert found.change == pytest.approx(float((pairs[1][1] - pairs[2][1]).abs().sum() / 2), abs=1e-5)


def test_the_model_is_as_it_was(world, untouched):
    model, van, _ = world
    untouched(model.module)
    Judge.of(model, [van]).outcomes(())
    rewrite(world)


def test_it_is_kept_in_the_file_and_lost_at_another_strength(world, tmp_path):
    edit = rewrite(world)
    edit.save(tmp_path / "edit.safetensors")
    loaded = Edit.load(tmp_path / "edit.safetensors")
    assert loaded.on_exemplars == edit.on_exemplars and "van" in loaded.to_text()
    weaker = loaded.with_strength(0.1)
    assert weaker.on_exemplars.verdict == "untested" and "said" not in weaker.provenance["exemplars"][0]
    assert weaker.provenance["exemplars"][0]["name"] == loaded.provenance["exemplars"][0]["name"]
    assert Edit.compose(loaded, loaded).on_exemplars.verdict == "untested"


def test_without_a_label_it_should_be_what_the_original_is(world):
    _, van, _ = world
    bare = dataclasses.replace(van, label=None)
    assert rewrite(world, bare).on_exemplars == rewrite(world, van).on_exemplars


def test_an_exemplar_that_shows_no_failure_is_said_to_show_none(world):
    van = exemplar("van", ground="grass", seed=4)
    with pytest.warns(RulepatchWarning, match="show no failure") as told:
        edit = rewrite(world, van)
    assert len(told) == 1 and edit.on_exemplars.verdict == "unproven"
    assert told[0].filename == __file__, "the warning points at who called"


USELESS = {
    "no strength": ({"strength": 0.0}, "repairs 0 of 1 failing exemplar"),
    "little strength": ({"strength": 0.01}, "repairs 0 of 1 failing exemplar"),
    "the other way": ({"strength": -2.0}, "repairs 0 of 1 failing exemplar"),
    "a gate that hardly opens": ({"gate": 0.999999, "strength": 0.1}, "repairs 0 of 1 failing exemplar"),
    "a site that sees nothing of it": ({"site": "blocks.0.conv", "strength": 0.2}, "repairs 0 of 1 failing exemplar"),
    "no steps": ({"method": "finetune-local", "steps": 0, "gate": None}, "repairs 0 of 1 failing exemplar"),
    "a weak dense edit": ({"method": "dense", "strength": 0.01, "gate": None}, "repairs 0 of 1 failing exemplar"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", USELESS)
def test_what_does_nothing_for_its_exemplars_is_said_to(world, name):
    settings, words = USELESS[name]
    with pytest.warns(RulepatchWarning, match=words) as told:
        edit = rewrite(world, **settings)
    assert len(told) == 1 and edit.on_exemplars.verdict == "useless"


def test_a_misread_original_is_said(world):
    _, van, _ = world
    wrong = dataclasses.replace(van, label=world[0].classes.names[0])
    with pytest.warns(RulepatchWarning, match=r"wrong of the original image of van 1 already \(van .*check its label"):
        edit = rewrite(world, wrong, strength=0.0)
    assert edit.on_exemplars.outcomes[0].is_misread


def test_many_exemplars_are_one_sentence(world):
    vans = [exemplar("van", ground="snow", seed=seed) for seed in range(3)]
    with pytest.warns(RulepatchWarning, match=r"repairs 0 of \d failing exemplars") as told:
        rewrite(world, *vans, strength=0.0)
    assert len(told) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", editors())
def test_every_editor_looks_at_its_exemplars(world, name):
    """Without strength none of them repairs; who asks for nothing needs no warning."""
    model, van, reference = world
    where = {} if name == "last-layer" else {"site": SITE}
    few = {"strength": 0.0} | ({"steps": 2} if "steps" in editor_named(name).settings.model_fields else {})
    given = {"reference": reference, "cache": None, "progress": False, **where, **few}
    if name == "nothing":
        edit = front(name)(model, [van], **given)
    else:
        with pytest.warns(RulepatchWarning, match="repairs 0 of 1"):
            edit = front(name)(model, [van], **given)
    assert edit.on_exemplars.verdict == "useless"
    how = editor_named(name).settings(**few)
    problem = build_problem(model, [van], where.get("site"), how, reference=reference, run=QUIET)
    assert solve(problem, how).on_exemplars.verdict == "untested"


def test_several_rules_are_tried_on_all_their_exemplars(world):
    model, van, reference = world
    rules = [Rule([each], Rewrite(strength=2.0, gate=None)) for each in (van, exemplar("car", ground="snow", seed=3))]
    edit = rewrite_rules(model, rules, reference=reference, site=SITE, run=QUIET)
    assert len(edit.on_exemplars.outcomes) == 2 and edit.on_exemplars.verdict == "repairs"


def test_rules_from_features_have_nothing_to_be_tried_on(world):
    snow = Image.new("RGB", (32, 32), "white")
    assert rewrite(world, style=snow).on_exemplars.verdict == "untested"


def faulty(*, weight):
    """A network of one weight at each of two linear layers on a grey image."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False), nn.Linear(2, 2, bias=False)).eval()
    nn.init.constant_(net[1].weight, weight)
    return Classifier(net.requires_grad_(False), Preprocess((2, 2)), ["a", "b"])


def test_logits_that_are_no_numbers_are_refused():
    picture = Image.new("RGB", (2, 2), "white")
    example = Exemplar(picture, Image.new("RGB", (2, 2), "grey"), np.ones((2, 2), np.float32))
    warned = pytest.warns(RulepatchWarning, match="NaN or infinity")
    with warned, pytest.raises(ModelError, match="not finite"):
        Judge.of(faulty(weight=float("inf")), [example])
    model = faulty(weight=1.0)
    judge = Judge.of(model, [example])
    with pytest.raises(UselessEditError, match="after the edit but its logits are not finite"):
        judge.outcomes([Dense("1.weight", torch.full((2, 12), 3e38), 4.0)])
    assert float(model.module[1].weight.max()) == 1


def test_judging_again_changes_nothing(world):
    model, van, _ = world
    edit = rewrite(world)
    assert judged(model, edit, [van]).provenance == edit.provenance


HOPELESS = {"site": "blocks.5.conv", "rank": 3, "gate": None, "strength": 10.0}


def hopeless(world, **changed):
    model, van, reference = world
    return edit(model, [van], reference=reference, run=QUIET, **HOPELESS | changed)


def test_hopeless_damage_is_said_with_what_to_do(world):
    with pytest.warns(
        RulepatchWarning, match=r"of its power .*of 32 reference images .*take a gate, less rank"
    ) as told:
        hopeless(world)
    assert len(told) == 1 and told[0].filename == __file__
    with pytest.warns(RulepatchWarning, match=r"of its power .*a higher gate, less rank"):
        hopeless(world, gate=0.9, strength=40.0)


@pytest.mark.parametrize("changed", [{"strength": 1.0}, {"gate": 0.95, "strength": 3.0}], ids=["little", "gated"])
def test_a_sound_edit_of_large_predicted_damage_is_not_warned_of(world, changed):
    model, _, _ = world
    sound = hopeless(world, **changed)  # a warning is an error here
    assert sound.reports[0].predicted_damage > 10 * UNSURE_DAMAGE
    clean = ImageSet.of(training_images(100, seed=9), model.classes)
    (found,) = outcomes_of(model, [sound], clean)
    assert len(found.flips) <= 0.15 * len(found)  # the control: it is sound


def test_little_predicted_damage_costs_no_look_at_images(world, monkeypatch):
    monkeypatch.setattr("rulepatch.editors.judging._flips", None)
    assert hopeless(world, rank=1, gate=0.98, strength=1.0).reports[0].damage < UNSURE_DAMAGE
    with pytest.raises(TypeError):
        hopeless(world)


def test_with_statistics_alone_the_prediction_decides(world):
    model, van, reference = world
    how = Rewrite(rank=3, gate=None)
    known = build_problem(model, [van], HOPELESS["site"], how, reference=reference, run=QUIET).statistics
    with pytest.warns(RulepatchWarning, match=r"of its power on the reference set: the model will hardly be of use"):
        hopeless((model, van, known))
    assert 0.1 < hopeless((model, van, known), strength=1.0).reports[0].damage < HOPELESS_DAMAGE
    gated = hopeless((model, van, known), strength=3.0, gate=0.95).reports[0]
    assert gated.damage < HOPELESS_DAMAGE < gated.predicted_damage


@pytest.mark.parametrize("settings", [{}, {"gate_kind": "soft"}, {"architecture": 2}], ids=["hard", "soft", "patches"])
def test_damage_behind_gates_is_that_of_each_key_in_turn(world, settings):
    model, van, reference = world
    how = Rewrite(rank=2, gate=0.9, strength=2.0, **settings)
    problem = build_problem(model, [van], SITE, how, reference=reference, run=QUIET)
    found = solve(problem, how)
    (change,), statistics = found.changes, problem.statistics[SITE]
    keys = statistics.sample.keys[:].double()
    coefficients = change.coefficients.double().reshape(*change.coefficients.shape[:2], -1)
    added = 0.0
    for key in keys:
        maps = change.directions.double().flatten(1) @ key
        if change.gate.direction is None:
            maps = (maps - change.gate.thresholds.flatten()).clamp(min=0)
        elif change.gate.direction.double().flatten() @ key <= float(change.gate.thresholds):
            continue
        added += float(torch.einsum("ort,r->ot", coefficients, change.strength * maps).square().sum()) / len(keys)
    weight = problem.observations[0].layer.weight.detach().cpu()
    usual = linalg.output_power(weight, statistics.moment.mean())
    assert found.reports[0].gated_damage == pytest.approx(added / usual, rel=1e-6)
    loaded = SiteReport.from_json(found.reports[0].to_json())
    assert loaded.damage == found.reports[0].gated_damage < found.reports[0].predicted_damage
    assert solve(problem, how.but(gate=None)).reports[0].gated_damage is None
