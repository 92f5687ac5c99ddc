"""Discovery: the playground's planted rules come out, what is no rule does not, and a rule found can be edited."""

import json
import re

import pytest

from rulepatch.concepts.cases import CaseSet, read_classes
from rulepatch.concepts.make_cases import make_cases, styles_for
from rulepatch.concepts.segment import load_segmenter
from rulepatch.concepts.stylize import load_stylizer
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.discovery.concept_effects import EVERY_CLASS
from rulepatch.discovery.discover import discover
from rulepatch.discovery.report import write_discovery
from rulepatch.editors.edit import rewrite
from rulepatch.errors import FolderError, SettingError
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import image_set, training_images
from rulepatch.playground.scenes import render

CONCEPTS = ("road", "wheels", "sign")


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module")
def cases(model, tmp_path_factory):
    """Road vehicles on snow and on other roads, on wooden wheels and their own, under other signs and their own."""
    scenes = [render(label, seed=50 + i) for label in ("van", "car", "bus", "taxi", "truck") for i in range(12)]
    wanted = ["road=snow", "road=road", "wheels=wooden", "wheels=rubber", "sign=blank", "sign=letter"]
    return make_cases(
        image_set(scenes, "road vehicles"),
        tmp_path_factory.mktemp("cases") / "set",
        concepts=CONCEPTS,
        styles=styles_for(CONCEPTS, wanted, stylizer="playground", instances=2),
        segmenter=load_segmenter("playground"),
        stylizer=load_stylizer("playground", blend=1.0),
        classes=model.classes,
        smallest=0.003,
        progress=False,
    )


@pytest.fixture(scope="module")
def found(model, cases):
    return discover(model, cases, progress=False)


@pytest.mark.slow
def test_planted_rules_are_found(found):
    rules = {(rule.label, rule.concept, rule.style): rule for rule in found.findings[0].rules}
    assert rules[EVERY_CLASS, "road", "snow"].drop > 0.3 and rules["taxi", "sign", "blank"].drop > 0.5
    assert all(rule.q <= 0.05 and rule.drop >= 0.3 for rule in rules.values())


@pytest.mark.slow
def test_another_picture_of_the_same_style_is_no_rule(found):
    """The negative control: the concept is replaced by itself."""
    own = {("road", "road"), ("wheels", "rubber"), ("sign", "letter")}
    tested = {(row.concept, row.style) for row in found.findings[0].effects}
    assert own <= tested and not own & {(rule.concept, rule.style) for rule in found.findings[0].rules}


@pytest.mark.slow
def test_what_was_found_is_written_for_people_for_programs_and_for_the_next_command(found, tmp_path):
    commands = write_discovery(found, tmp_path / "found")
    told = json.loads((tmp_path / "found" / "discovery.json").read_text())
    assert told["models"][0]["rules"] and told["counterfactuals"] == len(found.cases)
    page = (tmp_path / "found" / "report.html").read_text()
    assert "<svg" in page and "road" in page and not re.search(r"""(src|href)=["']http""", page)
    assert commands and all(command.startswith("rulepatch edit --model playground --exemplar ") for command in commands)
    named = write_discovery(found, tmp_path / "found", models=["net.py:build"])
    assert [command.replace("net.py:build", "playground") for command in named] == commands != named
    folders = sorted((tmp_path / "found" / "rules").iterdir())
    assert len(folders) == len(commands)
    for folder in folders:
        exemplars = read_exemplars([folder])
        assert 1 <= len(exemplars) <= 3 and len({each.replacement for each in exemplars}) == 1
        assert all(each.label is not None for each in exemplars)


@pytest.mark.slow
def test_a_rule_is_edited_as_it_was_found_and_then_it_is_gone(model, cases, found, tmp_path):
    write_discovery(found, tmp_path)
    exemplars = read_exemplars([tmp_path / "rules" / "playground-all-classes-road-snow"])
    reference = training_images(400, seed=9)
    edit = rewrite(model, exemplars, reference=reference, site="blocks.3.conv", gate=0.98, cache=None, progress=False)
    after = discover(edit.apply(model), cases, progress=False)
    drops = [
        next(row.drop for row in each.findings[0].effects if row.key == (EVERY_CLASS, "road", "snow"))
        for each in (found, after)
    ]
    assert drops[1] < 0.5 * drops[0]


@pytest.mark.slow
def test_two_models_are_compared_row_by_row(model, cases, found):
    both = discover([model, model], cases, progress=False)
    assert len(both.findings) == 2 and both.compared and not [each for each in both.compared if each.q < 1]
    assert both.findings[0].effects == found.findings[0].effects
    assert len(both.to_json()["models"]) == 2 and both.to_text().count("rules of") == 2


@pytest.mark.slow
def test_nobody_need_label_pictures(model, cases, found):
    bare = CaseSet(cases.root, tuple(type(each)(**vars(each) | {"label": None}) for each in cases), cases.manifest)
    rows = {row.key: row for row in discover(model, bare, progress=False).findings[0].effects}
    assert rows[EVERY_CLASS, "road", "snow"].before == 1
    known = {row.key: row for row in found.findings[0].effects}
    assert rows[EVERY_CLASS, "road", "snow"].drop == pytest.approx(known[EVERY_CLASS, "road", "snow"].drop, abs=0.1)


@pytest.mark.slow
def test_classes_can_be_grouped_and_left_out(model, cases, tmp_path):
    (tmp_path / "groups.json").write_text('{"large": ["bus", "truck"]}')
    groups = read_classes(tmp_path / "groups.json")
    found = discover(model, cases, groups=groups, exclude={"sign": ["taxi"]}, progress=False)
    rows = {row.key: row for row in found.findings[0].effects}
    assert rows["large", "road", None].n == 24 and not any(concept == "sign" for _, concept, _ in rows)
    (tmp_path / "groups.json").write_text('{"large": "bus"}')
    with pytest.raises(SettingError, match="class"):
        read_classes(tmp_path / "groups.json")


@pytest.mark.slow
def test_bad_settings_are_refused(model, cases):
    for settings in ({"level": 0}, {"least_drop": 2}, {"least": 0}):
        with pytest.raises(SettingError, match="choose within"):
            discover(model, cases, **settings)
    with pytest.raises(SettingError):
        discover([], cases)
    with pytest.raises(FolderError, match="exclude"):
        discover(model, cases.where(concept="sign"), exclude={"sign": ["taxi"]})
    with pytest.raises(SettingError, match="bus"):
        discover(model, cases, groups={"large": ["buss"]})


@pytest.mark.slow
def test_an_unreadable_counterfactual_is_named(model, cases, tmp_path):
    copy = CaseSet(tmp_path, cases.counterfactuals[:200], cases.manifest)
    with pytest.raises(FolderError):
        discover(model, CaseSet(tmp_path, tuple(type(e)(**vars(e) | {"root": tmp_path}) for e in copy), {}))


@pytest.mark.slow
def test_a_set_of_pictures_is_what_it_was(cases, model):
    assert isinstance(cases.images(model.classes, styled=True), ImageSet)
