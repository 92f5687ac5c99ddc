"""A workbench: the same as the functions that it calls, whatever was done before, and back again."""

import copy
import gc
import tempfile
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rulepatch.concepts.match import key_of_edit, match
from rulepatch.core.edit import Edit, base_digest
from rulepatch.data import statistics
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.editors.edit import rewrite
from rulepatch.errors import (
    BaseMismatchError,
    EditFileError,
    ExemplarError,
    SettingError,
    SiteError,
    StoppedError,
    UselessEditError,
)
from rulepatch.evaluation.activations import Activations
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.experiments.demo import scenes_on_snow
from rulepatch.methods import Rewrite
from rulepatch.models.registry import load_model
from rulepatch.new_classes.editor import new_class
from rulepatch.playground.pictures import exemplar, image_set, training_images
from rulepatch.progress import watched
from rulepatch.site_search.candidates import Trial
from rulepatch.site_search.search import search
from rulepatch.tracing.sites import find_sites
from rulepatch.web import workbench
from rulepatch.web.workbench import KEPT_SITES, MOST_CLEAN, Workbench

# Not every draft repairs its own exemplars.
pytestmark = pytest.mark.filterwarnings("ignore:the (edit|exemplars) (repairs|breaks|changes|show) ")

EARLY, SITE, LATE = "blocks.3.conv", "blocks.4.conv", "blocks.5.conv"


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module")
def reference():
    return training_images(60, seed=2)


@pytest.fixture(scope="module")
def tests():
    return image_set(scenes_on_snow(2, seed=0), "on snow")


@pytest.fixture(scope="module")
def snow():
    return exemplar("van", ground="snow", seed=1)


@pytest.fixture(scope="module")
def grass():
    return exemplar("van", ground="grass", seed=1)


@pytest.fixture
def bench(model, reference, tests, untouched):
    """A workbench whose model nothing may change, whatever a test does."""
    untouched(model.module)
    with Workbench(model, reference, tests, cache=None) as made:
        yield made


@pytest.fixture(scope="module")
def lorry(model, reference, snow, tmp_path_factory):
    """The file of an edit that adds a class."""
    path = tmp_path_factory.mktemp("lorry") / "lorry.safetensors"
    new_class(model, [snow], "lorry", reference=reference, method="imprinted", progress=False).save(path)
    return path


@pytest.fixture(scope="module")
def sand(model, reference, tmp_path_factory):
    """The file of an edit that reads whole patches, as a search may choose it."""
    path = tmp_path_factory.mktemp("sand") / "sand.safetensors"
    given = {"reference": reference, "site": LATE, "architecture": 2, "cache": None, "progress": False}
    rewrite(model, [exemplar("van", ground="sand", seed=1)], **given).save(path)
    return path


def tensors_of(edit):
    return [tensor for change in edit.changes for _, tensor in sorted(change.tensors().items())]


def same(one, two):
    pairs = zip(one.changes, two.changes, strict=True)
    return all(a.describe() == b.describe() for a, b in pairs) and all(
        torch.equal(a, b) for a, b in zip(tensors_of(one), tensors_of(two), strict=True)
    )


def rewritten(model, exemplars, reference, **settings):
    return rewrite(model, exemplars, reference=reference, cache=None, progress=False, **settings)


def check_outcomes(bench, edit):
    """The workbench says of every image what an evaluation of the edit says."""
    expected = evaluate(bench.model, edit, tests=bench.pictures("tests"), reference=bench.pictures("clean"))
    for side, found in (("tests", expected.tests), ("clean", expected.reference)):
        outcomes = bench.outcomes(side)
        assert outcomes.pictures == found.pictures
        for own, others in ((outcomes.first, found.first), (outcomes.second, found.second)):
            assert np.array_equal(own.predicted, others.predicted)
            np.testing.assert_allclose(own.of_label, others.of_label, atol=0.02)  # activations in half precision
        assert np.array_equal(outcomes.flips, found.flips)
    return expected


# Drafts


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"site": EARLY},
        {"site": LATE, "rank": 3, "strength": 2.5},
        {"site": SITE, "gate": "none"},
        {"site": SITE, "gate": None},
        {"site": SITE, "gate": 0.0},
        {"site": [EARLY, LATE], "rank": 2, "gate": 0.95},
    ],
)
def test_a_rewrite_is_that_of_the_function_bit_for_bit(bench, model, reference, snow, grass, settings):
    bench.add(snow)
    bench.add(grass)
    draft = bench.rewrite(**settings)
    assert same(draft.edit, rewritten(model, [snow, grass], reference, **settings))
    assert same(bench.edit, draft.edit) and bench.state.draft is draft and draft.exemplars == (snow, grass)
    assert not same(draft.edit, rewritten(model, [snow], reference, **settings)), "the control"
    assert draft.why == draft.tried == ""


def test_nothing_is_learnt_from_nothing(bench, model, reference):
    for step in (lambda: bench.rewrite(SITE), bench.search):
        with pytest.raises(ExemplarError, match="at least one exemplar but got none; mark a concept"):
            step()
    assert bench.adjust(rank=2, strength=1.0) is None
    with pytest.raises(SettingError, match="an edit to keep but nothing was rewritten yet"):
        bench.keep()
    with pytest.raises(SettingError, match="a rule to look for but there is none"):
        bench.heatmap(reference.pictures[:2])
    bench.remove()
    assert not bench.undo() and bench.edit.changes == () and bench.edit.base == base_digest(model.module)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"site": "blocks.9.conv"}, SiteError),
        ({"site": SITE, "rank": 0}, SettingError),
        ({"site": SITE, "rank": 10_000}, SettingError),
        ({"site": SITE, "strength": float("inf")}, SettingError),
        ({"site": SITE, "gate": 1.5}, SettingError),
    ],
)
def test_a_setting_that_is_refused_changes_nothing(bench, snow, settings, error):
    bench.add(snow)
    bench.rewrite(EARLY)
    before = bench.state
    with pytest.raises(error, match="expected"):
        bench.rewrite(**settings)
    assert bench.state is before
    if "rank" in settings or "strength" in settings:
        with pytest.raises(error, match="expected"):
            bench.adjust(**{"rank": 1, "strength": 1.0, **{k: v for k, v in settings.items() if k != "site"}})
        assert bench.state is before


def test_exemplars_come_and_go_one_by_one(bench, snow, grass):
    for each in (snow, grass, snow):
        bench.add(each)
    bench.remove(0)
    assert bench.state.exemplars == (grass, snow)
    bench.remove()
    assert bench.state.exemplars == (grass,)
    bench.remove()
    bench.remove()
    assert bench.state.exemplars == ()


def test_statistics_are_computed_once(bench, monkeypatch):
    wanted = []
    real = workbench.key_statistics

    def noted(model, images, sites, **settings):
        wanted.append([site.path for site in sites])
        return real(model, images, sites, **settings)

    monkeypatch.setattr(workbench, "key_statistics", noted)
    for _ in range(2):
        one, both, patches = (bench.statistics(each) for each in ([EARLY], [EARLY, LATE], [LATE]))
        wide = bench.statistics([LATE], architecture=2)
    assert wanted == [[EARLY], [EARLY, LATE], [LATE], [LATE]]
    assert list(one) == [EARLY] and list(both) == [EARLY, LATE]
    assert both[LATE].moment.count == patches[LATE].moment.count == wide[LATE].moment.count == 60 * 64
    assert len(wide[LATE].moment.mean()) == 9 * len(patches[LATE].moment.mean())
    with pytest.raises(SiteError, match="nearest"):
        bench.statistics(["blocks.9.conv"])


@pytest.mark.slow
def test_a_rewrite_does_not_depend_on_what_was_rewritten_before(bench, model, reference, snow, monkeypatch):
    """Of several large layers at once a smaller sample of keys is kept, and gates are read off the sample."""
    monkeypatch.setattr(statistics, "MOST_BYTES", 4 * 64 * 600)
    bench.add(snow)
    for sites in ([EARLY], [EARLY, LATE], [LATE]):
        draft = bench.rewrite(sites, gate=0.95)
        assert same(draft.edit, rewritten(model, [snow], reference, site=sites, gate=0.95))
    sizes = [len(bench.statistics(sites)[EARLY].sample.keys) for sites in ([EARLY], [EARLY, LATE])]
    assert sizes[1] < sizes[0], "the control"


# Adjusting


def test_adjusting_is_rewriting_with_other_settings(bench, model, reference, snow, grass):
    bench.add(snow)
    bench.rewrite(SITE, rank=1)
    bench.add(grass)  # not part of the draft
    draft = bench.adjust(rank=2, strength=1.5, gate=0.9)
    expected = rewritten(model, [snow], reference, site=SITE, rank=2, strength=1.5, gate=0.9)
    assert same(draft.edit, expected) and same(bench.edit, expected)
    assert draft.exemplars == (snow,) and bench.state.exemplars == (snow, grass)


def test_adjusting_to_what_it_is_gives_the_very_draft(bench, snow):
    bench.add(snow)
    draft = bench.rewrite(SITE, rank=2, strength=1.5, gate=0.9)
    assert bench.adjust(rank=2, strength=1.5, gate=0.9) is draft and bench.state.draft is draft
    other = bench.adjust(rank=2, strength=1.5, gate="none")
    assert other is not draft and not same(other.edit, draft.edit)
    back = bench.adjust(rank=2, strength=1.5, gate=0.9)
    assert back is not draft and same(back.edit, draft.edit)


@pytest.fixture(scope="module")
def found(model, reference, snow):
    return search(model, [snow], reference=reference, cache=None, progress=False)


@pytest.mark.slow
def test_a_search_is_that_of_the_function_and_an_adjustment_keeps_what_it_chose(
    bench, model, reference, snow, found, monkeypatch
):
    bench.add(snow)
    draft = bench.search()
    sites, how = found.chosen.trial.sites, found.chosen.trial.how
    assert same(draft.edit, found.edit) and draft.why == found.why and draft.tried == found.to_text()
    settings = {"rank": how.rank, "strength": how.strength, "gate": how.gate}
    assert draft.how == how and bench.adjust(**settings) is draft
    adjusted = bench.adjust(**settings | {"strength": 2.25})
    expected = rewritten(model, [snow], reference, site=list(sites), **how.but(strength=2.25).given())
    assert same(adjusted.edit, expected)
    assert adjusted.why == "" and adjusted.how.strength == 2.25
    plain = rewritten(model, [snow], reference, site=list(sites), **settings | {"strength": 2.25})
    nothing_else = how.but(strength=2.25) == Rewrite(**settings | {"strength": 2.25})
    assert same(adjusted.edit, plain) == nothing_else, "what else the search chose, such as the coupling, is kept"
    bench.undo()
    assert bench.state.draft is None


CHOICES = [
    {"sites": (LATE,), "architecture": 2, "rank": 1, "gate": 0.98},
    {"sites": (EARLY, LATE), "coupling": "sequence", "gate": 0.95},
    {"sites": (SITE,), "gate": 0.95, "gate_kind": "soft", "rank": 2},
    {"sites": (SITE,), "ridge": 1e-2, "gate": None},
]


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: next(iter(choice.keys() - {"sites", "gate", "rank"})))
def test_whatever_a_search_chose_besides_is_kept(bench, model, reference, snow, monkeypatch, choice):
    found = search(model, [snow], reference=reference, sites=[SITE], cache=None, progress=False)
    sites, how = choice["sites"], Rewrite(**{name: value for name, value in choice.items() if name != "sites"})
    candidate = replace(found.chosen, trial=Trial(sites, how))
    monkeypatch.setattr(workbench, "search", lambda *_, **__: replace(found, chosen=candidate))
    bench.add(snow)
    draft = bench.search()
    assert draft.how == how and draft.site == (sites[0] if len(sites) == 1 else list(sites))
    assert draft.why == found.why and draft.tried == found.to_text() and draft.edit is found.edit
    adjusted = bench.adjust(rank=2, strength=1.5, gate=0.9)
    settings = how.but(rank=2, strength=1.5, gate=0.9).given()
    assert same(adjusted.edit, rewritten(model, [snow], reference, site=list(sites), **settings))
    check_outcomes(bench, adjusted.edit)


@pytest.mark.slow
def test_a_search_that_finds_nothing_says_what_to_do_and_changes_nothing(bench, snow, monkeypatch):
    found = search(bench.model, [snow], reference=bench.reference, sites=[SITE], cache=None, progress=False)
    nothing = replace(found, edit=None, chosen=None, why="nothing helps")
    monkeypatch.setattr(workbench, "search", lambda *_, **__: nothing)
    bench.add(snow)
    before = bench.state
    with pytest.raises(
        UselessEditError, match=r"at most 0\.25 points but nothing helps; mark the concept more exactly"
    ):
        bench.search()
    assert bench.state is before


# Rules


@pytest.mark.slow
def test_outcomes_are_those_of_an_evaluation_whatever_is_on(bench, model, reference, snow, grass, sand):
    nothing = bench.outcomes("tests")
    assert len(nothing.flips) == 0 and len(nothing) == len(bench.pictures("tests"))
    check_outcomes(bench, bench.edit)

    bench.add(snow)
    first = bench.rewrite(EARLY, strength=2.0).edit
    seen = check_outcomes(bench, first)
    assert len(seen.tests.flips) > 0 and len(seen.tests.repaired) > len(seen.tests.broken)

    bench.keep("snow")
    check_outcomes(bench, first)
    bench.add(grass)
    second = bench.rewrite(LATE, rank=2).edit
    check_outcomes(bench, Edit.compose(first, second))
    bench.adjust(rank=2, strength=3.0)
    third = bench.state.draft.edit
    assert not same(second, third)
    check_outcomes(bench, Edit.compose(first, third))
    bench.keep("grass")
    bench.load(sand, "sand")
    whole = Edit.compose(first, third, Edit.load(sand))
    assert same(bench.edit, whole)
    check_outcomes(bench, whole)

    bench.switch(["grass"])
    check_outcomes(bench, third)
    bench.switch(["sand", "snow"])
    check_outcomes(bench, Edit.compose(first, Edit.load(sand)))
    bench.switch([])
    check_outcomes(bench, Edit((), first.base))
    bench.switch(["snow", "grass", "sand"])
    check_outcomes(bench, whole)


def test_outcomes_that_are_known_are_not_computed_again(bench, snow):
    bench.add(snow)
    bench.rewrite(EARLY)
    seen = bench.outcomes("tests")
    assert bench.outcomes("tests") is seen
    bench.keep("snow")
    assert bench.outcomes("tests") is seen, "the rule is the draft that it was"
    bench.switch([])
    assert bench.outcomes("tests") is not seen


def test_without_tests_there_are_no_outcomes_but_the_damage(model, reference, snow, untouched):
    untouched(model.module)
    with Workbench(model, reference, cache=None) as bench:
        bench.add(snow)
        bench.rewrite(LATE)
        assert bench.outcomes("tests") is None and bench.pictures("tests") is None
        assert bench.pictures("clean").pictures == reference.pictures and len(bench.outcomes("clean")) == 60


def test_damage_is_measured_on_a_sample_of_the_clean_pictures(model, reference, tests):
    many = ImageSet(tests.pictures * (MOST_CLEAN // len(tests) + 1), "many")
    with Workbench(model, reference, clean=many, cache=None) as bench:
        assert bench.pictures("clean").pictures == many.sample(300, seed=0).pictures
        assert len(bench.pictures("clean")) == MOST_CLEAN < len(many)


@pytest.mark.slow
def test_a_search_chooses_on_the_validation_pictures_alone(model, reference, tests, snow, monkeypatch):
    """Never on the tests, nor on the clean images."""
    asked = []

    def noted(model, exemplars, **settings):
        asked.append(settings)
        return search(model, exemplars, sites=[SITE], **settings)

    monkeypatch.setattr(workbench, "search", noted)
    validation = image_set(scenes_on_snow(2, seed=5), "validation")
    for given in (validation, None):
        with Workbench(model, reference, tests, tests, given, cache=None) as bench:
            bench.add(snow)
            draft = bench.search()
            assert ("20 labelled validation images" in draft.tried) == (given is not None)
    for settings, given in zip(asked, (validation, None), strict=True):
        assert settings["reference"] is reference and settings["validation"] is given
        assert not any(value is tests for value in settings.values())


def test_rules_can_be_rewritten_where_positions_lie_in_the_picture(bench, model):
    assert bench.sites == [f"blocks.{i}.conv" for i in range(7)]
    assert "head" in [site.path for site in find_sites(model.module, model.example()).sites], "the control"


def test_kept_rules_have_names_of_their_own(bench, snow, grass, sand):
    names = []
    for each, name in [(snow, ""), (snow, "  "), (grass, ""), (snow, "mine"), (grass, " mine "), (grass, "mine 2")]:
        bench.add(each)
        bench.rewrite(LATE)
        names.append(bench.keep(name).name)
        assert bench.state.draft is None and bench.state.exemplars == ()
    names += [bench.load(sand, "mine").name, bench.load(sand, "sand").name]
    assert names == [
        "snow as road", "snow as road 2", "grass as road", "mine", "mine 2", "mine 2 2", "mine 3", "sand",
    ]  # fmt: skip
    assert [rule.name for rule in bench.state.rules] == names and len(set(names)) == len(names)


def test_rules_are_switched_by_their_names(bench, snow, sand):
    bench.add(snow)
    bench.rewrite(LATE)
    bench.keep("one")
    bench.load(sand, "two")
    one, two = (rule.edit for rule in bench.state.rules)
    for on, expected in {("one",): [one], ("two",): [two], (): [], ("two", "one", "three"): [one, two]}.items():
        bench.switch(on)
        assert [rule.on for rule in bench.state.rules] == [name in on for name in ("one", "two")]
        assert bench.edit.changes == tuple(change for edit in expected for change in edit.changes)


def test_an_edit_of_another_base_is_refused_and_changes_nothing(bench, snow, sand, tmp_path):
    bench.add(snow)
    bench.rewrite(LATE)
    before = bench.state
    edit = Edit.load(sand)
    Edit(edit.changes, "0" * 64, edit.provenance).save(tmp_path / "foreign.safetensors")
    with pytest.raises(BaseMismatchError, match=r"expected the base 000000000000 .* load that model"):
        bench.load(tmp_path / "foreign.safetensors", "foreign")
    (tmp_path / "text.safetensors").write_text("no edit")
    with pytest.raises(EditFileError, match="expected an edit file"):
        bench.load(tmp_path / "text.safetensors", "text")
    assert bench.state is before
    assert bench.load(sand, "sand").name == "sand", "the control"


@pytest.mark.slow
def test_a_new_class_can_be_loaded_beside_rules(bench, model, snow, lorry, tests):
    van = snow.image
    before, names = bench.predictions([van], most=30), bench.classes.names
    bench.load(lorry, "lorry")
    assert bench.classes.names == (*names, "lorry") and model.classes.names == names
    (found,) = bench.predictions([van], most=30)
    assert len(found) == len(names) + 1 and sum(share for _, share in found) == pytest.approx(1)
    shares = dict(found)
    assert 0 < shares["lorry"] < 1
    for name, share in before[0]:  # a softmax of the same logits and one more
        assert shares[name] == pytest.approx(share * (1 - shares["lorry"]), rel=1e-4)
    assert bench.predictions([van], edited=False, most=30) == before
    check_outcomes(bench, Edit.load(lorry))
    bench.add(snow)
    draft = bench.rewrite(EARLY, strength=2.0)
    check_outcomes(bench, Edit.compose(Edit.load(lorry), draft.edit))
    assert bench.classes.names[-1] == "lorry"
    bench.switch([])
    assert bench.classes.names == names
    check_outcomes(bench, draft.edit)
    bench.undo()
    assert bench.classes.names[-1] == "lorry"


def test_pictures_of_a_new_class_are_right_only_with_it(bench, model, reference, lorry, snow):
    van = Picture(snow.image, len(model.classes))
    with Workbench(model, reference, ImageSet((van,), "lorries"), cache=None) as own:
        own.load(lorry, "lorry")
        found = own.outcomes("tests")
        assert not found.right_before.any() and found.first.of_label.tolist() == [0] and found.second.of_label > 0


# Opinions, and where a rule fires


def test_opinions_are_the_classes_in_the_order_of_their_probabilities(bench, model, snow):
    images = [snow.image, snow.edited]
    pixels = torch.stack([model.preprocess.pixels(image) for image in images])

    def expected(edited):
        with torch.no_grad():
            shares = edited.logits(edited.inputs(pixels)).softmax(dim=1)
        return [
            [(edited.classes[i], float(row[i])) for i in sorted(range(len(row)), key=lambda i: -row[i])[:4]]
            for row in shares
        ]

    assert bench.predictions(images, most=4) == expected(model)
    bench.add(snow)
    edit = bench.rewrite(EARLY, strength=2.0).edit
    assert bench.predictions(images, most=4) == expected(edit.apply(model)) != expected(model)
    assert bench.predictions(images, edited=False, most=4) == expected(model)
    assert [len(each) for each in bench.predictions(images)] == [3, 3]
    assert len(bench.predictions(images, most=1000)[0]) == len(model.classes)


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.9, 0.99])
def test_a_rule_fires_where_its_key_is_found(bench, model, reference, snow, grass, sand, tests, level):
    def check(edit):
        heatmap = bench.heatmap(tests.pictures, level=level)
        expected = match(model, key_of_edit(edit), tests, reference=reference, level=level, cache=None, progress=False)
        assert heatmap.site == expected.key.site and heatmap.threshold == pytest.approx(expected.threshold, rel=1e-6)
        assert [each.picture for each in heatmap.matches] == list(tests.pictures), "in the order asked for"
        ranked = sorted(heatmap.matches, key=lambda each: -each.best)
        for own, other in zip(ranked, expected.matches, strict=True):
            assert own.picture is other.picture and np.array_equal(own.scores, other.scores)
            assert own.level == other.level
        return len(expected.firing)

    bench.add(snow)
    draft = bench.rewrite(SITE, rank=2)
    assert check(draft.edit) > 0
    rule = bench.keep("snow")
    bench.load(sand, "sand")  # reads whole patches
    check(Edit.load(sand))
    bench.switch(["snow"])
    check(rule.edit)
    bench.add(grass)
    check(bench.rewrite(EARLY, gate="none").edit)


def test_a_rule_that_looks_for_nothing_fires_nowhere(bench, lorry, tests):
    bench.load(lorry, "lorry")
    with pytest.raises(SiteError, match="nothing in particular"):
        bench.heatmap(tests.pictures[:2])


# Every step


@pytest.mark.slow
def test_no_step_leaves_anything_in_the_model(bench, model, snow, lorry, tests, untouched):
    check = untouched(model.module)
    steps = [
        lambda: bench.add(snow),
        lambda: bench.rewrite([EARLY, LATE], gate="none"),
        lambda: bench.rewrite(LATE, gate=0.9),
        bench.search,
        lambda: bench.adjust(rank=2, strength=2.0),
        bench.keep,
        lambda: bench.load(lorry, "lorry"),
        lambda: bench.switch(["lorry"]),
        bench.undo,
        lambda: bench.statistics([SITE]),
    ]
    for step in steps:
        step()
        check()
        if bench.edit.changes:
            for look in (lambda: bench.outcomes("tests"), lambda: bench.predictions([snow.edited])):
                look()
                check()
    bench.heatmap(tests.pictures)
    check()
    with bench.edit.applied(model), pytest.raises(AssertionError):
        check()


@pytest.mark.slow
def test_undo_goes_back_through_every_kind_of_step(bench, model, snow, grass, sand, monkeypatch):
    found = search(model, [grass], reference=bench.reference, sites=[SITE], cache=None, progress=False)
    monkeypatch.setattr(workbench, "search", lambda *_, **__: found)
    steps = [
        lambda: bench.add(snow),
        lambda: bench.add(grass),
        lambda: bench.remove(0),
        lambda: bench.rewrite(LATE),
        lambda: bench.rewrite(SITE, rank=2),
        bench.search,
        lambda: bench.keep("one"),
        lambda: bench.load(sand, "two"),
        lambda: bench.switch(["two"]),
        lambda: bench.add(snow),
        lambda: bench.rewrite(EARLY),
        lambda: bench.keep(""),
    ]
    states, said = [bench.state], [bench.predictions([snow.edited])]
    for step in steps:
        step()
        states.append(bench.state)
        said.append(bench.predictions([snow.edited]))
    assert len({id(state) for state in states}) == len(steps) + 1
    for state, words in zip(states[-2::-1], said[-2::-1], strict=True):
        assert bench.undo()
        assert bench.state is state and bench.predictions([snow.edited]) == words
    assert not bench.undo() and bench.state is states[0]


def test_an_adjustment_is_part_of_the_rewrite_that_it_adjusts(bench, snow):
    bench.add(snow)
    first = bench.rewrite(LATE)
    bench.rewrite(SITE)
    for strength in (1.5, 2.0, 2.5):
        bench.adjust(rank=1, strength=strength)
    adjusted = bench.state
    bench.keep()
    assert bench.undo() and bench.state is adjusted
    assert bench.undo() and bench.state.draft is first


def test_after_undo_other_steps_can_be_taken(bench, model, reference, snow, grass):
    bench.add(snow)
    bench.rewrite(LATE)
    bench.undo()
    bench.undo()
    bench.add(grass)
    draft = bench.rewrite(LATE)
    assert same(draft.edit, rewritten(model, [grass], reference, site=LATE))
    assert bench.undo() and bench.undo() and not bench.undo()


# Stopped midway


class Stop:
    """A watcher that stops the work at one of its steps."""

    def __init__(self, at):
        self.left = at

    def __call__(self, what, done, total):
        if self.left == 0:
            raise StoppedError("enough")
        self.left -= 1


LONG = {
    "rewrite": lambda bench: bench.rewrite(LATE).edit,
    "adjust": lambda bench: bench.adjust(rank=1, strength=2.0).edit,
    "tests": lambda bench: bench.outcomes("tests").flips.tolist(),
    "clean": lambda bench: bench.outcomes("clean").flips.tolist(),
    "heatmap": lambda bench: [each.best for each in bench.heatmap(bench.pictures("tests").pictures).matches],
}


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1, 10])
@pytest.mark.parametrize("what", LONG)
def test_a_step_that_is_stopped_changes_nothing_and_can_be_taken_again(
    bench, model, reference, tests, snow, untouched, what, at
):
    check = untouched(model.module)
    step = LONG[what]
    with Workbench(model, reference, tests, cache=None) as other:
        for each in (bench, other):
            each.add(snow)
            each.rewrite(SITE, gate="none")
            each._statistics.clear()  # so that an adjustment is long, too
        before = bench.state
        with pytest.raises(StoppedError), watched(Stop(at)):
            step(bench)
        check()
        assert bench.state is before
        one, two = step(bench), step(other)
        assert same(one, two) if isinstance(one, Edit) else one == two


@pytest.mark.parametrize("at", [0, 100])
def test_a_search_that_is_stopped_changes_nothing(bench, model, snow, untouched, at):
    check = untouched(model.module)
    bench.add(snow)
    bench.rewrite(LATE)
    before = bench.state
    with pytest.raises(StoppedError), watched(Stop(at)):
        bench.search()
    check()
    assert bench.state is before


# What is kept in memory and on disk


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Every set of activations that is made from now on; they go to files in a folder of their own."""
    found = []

    class Noted(Activations):
        def __init__(self, *args, **settings):
            super().__init__(*args, most_bytes=0, **settings)
            found.append((self.images.name, weakref.ref(self), Path(self._folder.name)))

    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(workbench, "Activations", Noted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "kept"))
    return found


def alive(made, name):
    return [number for number, (own, ref, _) in enumerate(made) if own == name and ref() is not None]


@pytest.mark.slow
def test_activations_of_few_sites_are_kept_and_those_of_longest_ago_dropped(bench, model, snow, made, tests, reference):
    sites = [f"blocks.{i}.conv" for i in (2, 3, 4, 5)]
    bench.add(snow)
    for number, site in enumerate(sites):
        bench.rewrite(site)
        for side in ("tests", "clean"):
            bench.outcomes(side)
        for name in (tests.name, reference.name):
            assert len(alive(made, name)) == min(number + 1, KEPT_SITES)
    assert len(made) == 2 * len(sites)
    assert [folder.exists() for _, _, folder in made] == [False] * 4 + [True] * 4

    bench.rewrite(sites[2], rank=2)
    bench.outcomes("tests")
    assert len(made) == 8, "what is kept is used again"
    bench.rewrite(sites[0])
    bench.outcomes("tests")
    assert len(made) == 9
    assert alive(made, tests.name) == [4, 8], "the last but one was that of the third site"
    assert alive(made, reference.name) == [5, 7], "the other side is another matter"
    assert check_outcomes(bench, bench.edit)


@pytest.mark.slow
def test_closing_frees_everything_and_removes_all_files(model, reference, tests, snow, made, tmp_path):
    bench = Workbench(model, reference, tests, cache=None)
    bench.add(snow)
    for site in (EARLY, LATE):
        bench.rewrite(site)
        bench.outcomes("tests")
        bench.outcomes("clean")
    bench.keep()
    edit, statistics = (weakref.ref(each) for each in (bench.edit.changes[0], bench.statistics([LATE])[LATE]))
    assert len(list((tmp_path / "kept").rglob("*.safetensors"))) >= 4 and edit() is not None
    bench.close()
    gc.collect()
    assert list((tmp_path / "kept").iterdir()) == []
    assert [ref() for _, ref, _ in made] == [None] * 4
    assert edit() is None and statistics() is None
    bench.close()


def test_a_workbench_is_closed_whatever_happens(model, reference, tests, made, tmp_path):
    with pytest.raises(ValueError, match="other"), Workbench(model, reference, tests, cache=None) as bench:
        bench.outcomes("tests")
        raise ValueError("other")
    assert list((tmp_path / "kept").iterdir()) == [] and len(made) == 1


def test_activations_that_were_stopped_leave_no_files(bench, snow, tmp_path, made):
    with pytest.raises(StoppedError), watched(Stop(len(bench.pictures("tests")))):
        bench.outcomes("tests")
    assert list((tmp_path / "kept").iterdir()) == [] and made == []


# Side by side


def worked(model, reference, tests, ground, site, lorry):
    """What one person's work comes to."""
    found = []
    with Workbench(model, reference, tests, cache=None) as bench:
        own = exemplar("van", ground=ground, seed=1)
        bench.add(own)
        for strength in (1.0, 2.0):
            found += tensors_of(bench.rewrite(site, strength=strength).edit)
            found += [torch.tensor(bench.outcomes(side).second.of_label) for side in ("tests", "clean")]
        bench.keep()
        bench.load(lorry, "lorry")
        found.append(torch.tensor(bench.outcomes("tests").second.confidence))
        found += [torch.tensor(each.scores) for each in bench.heatmap(tests.pictures).matches]
        found.append(torch.tensor([share for _, share in bench.predictions([own.edited], most=30)[0]]))
        bench.undo()
        bench.switch([])
        bench.add(own)
        found += tensors_of(bench.rewrite(SITE, rank=2, gate="none").edit)
        found.append(torch.tensor(bench.outcomes("clean").second.confidence))
    return found


@pytest.mark.slow
def test_two_workbenches_side_by_side_do_not_disturb_each_other(model, reference, tests, lorry, untouched):
    models = [model.with_module(copy.deepcopy(model.module)) for _ in range(2)]
    people = [("snow", EARLY), ("sand", LATE)]
    for each in models:
        untouched(each.module)
    after_each_other = [
        worked(own, reference, tests, *person, lorry) for own, person in zip(models, people, strict=True)
    ]
    found, begin = [None, None], threading.Barrier(2, timeout=600)

    def work(number):
        begin.wait()
        found[number] = worked(models[number], reference, tests, *people[number], lorry)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own, expected in zip(found, after_each_other, strict=True):
        assert own is not None and len(own) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(own, expected, strict=True))
    pairs = zip(*after_each_other, strict=True)
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs), "the control: they did different work"
