"""Doing again elsewhere what was done at a workbench: the very same edit, bit for bit."""

import os
import re
import shlex
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rulepatch.concepts.painting import Painting, mask_by_name
from rulepatch.concepts.segment import load_segmenter
from rulepatch.core.edit import Edit
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import Picture
from rulepatch.editors.edit import rewrite
from rulepatch.errors import OutputError
from rulepatch.experiments.demo import scenes_on_snow, write_pictures
from rulepatch.methods import Rewrite
from rulepatch.models.registry import load_model
from rulepatch.new_classes.editor import new_class
from rulepatch.playground.pictures import image_set, picture_of, training_images
from rulepatch.playground.scenes import CLASSES, render
from rulepatch.web.recipes import Draft, Rule, Sources, State, commands, program, write_bundle
from rulepatch.web.workbench import Workbench

# Not every draft repairs its own exemplars.
pytestmark = pytest.mark.filterwarnings("ignore:the (edit|exemplars) (repairs|breaks|changes|show) ")

EARLY, SITE, LATE = "blocks.3.conv", "blocks.4.conv", "blocks.5.conv"


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module")
def sources(model, tmp_path_factory):
    """Folders of few images, with names that a shell and Python must be told with care."""
    root = tmp_path_factory.mktemp("it's a world")
    training_images(60, seed=2).write(root / "the reference", model.classes)
    training_images(30, seed=4).write(root / "clean", model.classes)
    for folder, seed in {"tests": 0, "validation": 5}.items():
        image_set(scenes_on_snow(2, seed=seed), folder).write(root / folder, model.classes)
    return Sources(
        "playground", str(root / "the reference"), str(root / "tests"), str(root / "clean"), str(root / "validation")
    )


def painted(seed, ground, label="van"):
    """An exemplar as a person makes it, with a brush that is soft at its edge."""
    scene = render(label, seed=seed)
    painting = Painting.of(Picture(picture_of(scene), CLASSES.index(label)))
    mask = mask_by_name(load_segmenter("playground"), painting, "ground")
    mask[(scene.masks["ground"] > 0) & (mask == 0)] = np.float32(100) / np.float32(255)
    texture = picture_of(render(label, seed=seed, ground=ground, ground_seed=40 + seed))
    return painting.marked(mask, "road").replaced_by(texture, ground).exemplar


def noted(seed):
    return Painting.of(Picture(picture_of(render("car", seed=seed)))).with_word("ox").exemplar


@pytest.fixture
def bench(model, sources, untouched):
    untouched(model.module)
    folders = (sources.reference, sources.tests, sources.clean, sources.validation)
    with Workbench(model, *map(Path, folders), cache=None) as made:
        yield made


@pytest.fixture
def another(model, sources, tmp_path):
    """The file of an edit that was made elsewhere."""
    given = {"reference": Path(sources.reference), "site": SITE, "gate": 0.9, "cache": None, "progress": False}
    rewrite(model, [painted(3, "sand")], **given).save(tmp_path / "another.safetensors")
    return tmp_path / "another.safetensors"


def unpacked(state, sources, folder):
    """The bundle of a state, without the edits that it tells how to make."""
    write_bundle(state, sources, folder / "bundle.zip")
    (folder / "elsewhere").mkdir()
    with zipfile.ZipFile(folder / "bundle.zip") as archive:
        archive.extractall(folder / "elsewhere")
    made = [draft for draft in [*(rule.draft for rule in state.rules if rule.on), state.draft] if draft is not None]
    removed = [path for path in (folder / "elsewhere").glob("*.safetensors") if path.with_suffix("").is_dir()]
    assert len(removed) == len(made)
    for path in removed:
        path.unlink()
    return folder / "elsewhere"


def by_commands(state, sources, folder, run, monkeypatch):
    """The edit that the commands make, each run as the shell would, and the report that they write."""
    root = unpacked(state, sources, folder)
    monkeypatch.chdir(root)
    for line in (root / "commands.sh").read_text("utf-8").splitlines():
        name, *arguments = shlex.split(line)
        assert name == "rulepatch"
        found = run(*arguments)
        assert found.code == 0, found.err
        last = arguments
    assert last[0] == "evaluate" and (root / "report.html").stat().st_size > 1000
    return Edit.load(root / last[1])


def by_program(state, sources, folder, monkeypatch, capsys):
    """The edit that the program makes."""
    root = unpacked(state, sources, folder)
    monkeypatch.chdir(root)
    names = {}
    exec(compile((root / "program.py").read_text("utf-8"), "program.py", "exec"), names)
    told = capsys.readouterr().out
    assert re.search(r"^tests +20 ", told, re.MULTILINE) and re.search(r"^reference +30 ", told, re.MULTILINE)
    return names["edit"]


def same(one, two):
    def tensors_of(edit):
        return [tensor.float() for change in edit.changes for _, tensor in sorted(change.tensors().items())]

    described = [[change.describe() for change in edit.changes] for edit in (one, two)]
    pairs = zip(tensors_of(one), tensors_of(two), strict=True)
    return one.base == two.base and described[0] == described[1] and all(torch.equal(a, b) for a, b in pairs)


def a_draft(bench, another):
    bench.add(painted(1, "snow"))
    bench.rewrite(EARLY, rank=2, strength=1.5)


def a_draft_at_several_sites(bench, another):
    bench.add(painted(1, "snow"))
    bench.add(painted(2, "snow", "bus"))
    bench.rewrite([EARLY, LATE], strength=1.23456789012345, gate="none")


def a_draft_with_no_gate(bench, another):
    bench.add(painted(1, "snow"))
    bench.rewrite(SITE, gate=None)


def a_draft_with_a_gate_of_many_digits(bench, another):
    bench.add(painted(1, "snow"))
    bench.rewrite(SITE, gate=0.912345678)


def a_draft_from_a_dozen_exemplars(bench, another):
    for seed in range(12):
        bench.add(painted(seed, "snow" if seed % 2 else "grass", CLASSES[seed % 6]))
    bench.rewrite(LATE, rank=2)


def a_draft_from_a_word(bench, another):
    bench.add(noted(1))
    bench.rewrite(EARLY)


def a_rule_and_a_draft(bench, another):
    bench.add(painted(1, "snow"))
    bench.rewrite(EARLY)
    bench.keep("left out")
    bench.add(painted(1, "snow"))
    bench.rewrite(LATE, rank=2)
    bench.keep("snow")
    bench.add(painted(2, "grass"))
    bench.rewrite(EARLY, strength=0.5)
    bench.switch(["snow"])


def an_edit_from_a_file(bench, another):
    bench.load(another, "sand")


def an_edit_from_a_file_and_a_draft(bench, another):
    bench.add(painted(1, "snow"))
    bench.rewrite(LATE)
    bench.keep("snow")
    bench.load(another, "sand")
    bench.add(painted(2, "grass"))
    bench.rewrite(EARLY)
    bench.adjust(rank=2, strength=2.0, gate=0.95)


WORK = [
    a_draft, a_draft_at_several_sites, a_draft_with_no_gate, a_draft_with_a_gate_of_many_digits,
    a_draft_from_a_dozen_exemplars, a_draft_from_a_word, a_rule_and_a_draft, an_edit_from_a_file,
    an_edit_from_a_file_and_a_draft,
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_the_commands_make_the_same_edit(bench, sources, another, tmp_path, run, monkeypatch, work):
    work(bench, another)
    found = by_commands(bench.state, sources, tmp_path, run, monkeypatch)
    assert same(found, bench.edit) and len(found.changes) > 0
    assert not same(found, bench.edit.with_strength(1.1)), "the control"


@pytest.mark.slow
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
def test_the_program_makes_the_same_edit(bench, sources, another, tmp_path, monkeypatch, capsys, work):
    work(bench, another)
    found = by_program(bench.state, sources, tmp_path, monkeypatch, capsys)
    assert same(found, bench.edit) and len(found.changes) > 0


CHOICES = [
    {"site": [LATE], "rank": 1, "strength": 1.5, "gate": 0.98, "architecture": 2},
    {"site": [EARLY, LATE], "rank": 1, "strength": 1.0, "gate": "none", "coupling": "sequence"},
    {"site": SITE, "rank": 2, "strength": 0.5, "gate": 0.95, "gate_kind": "soft", "ridge": 1.234567e-05},
]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["commands", "program"])
@pytest.mark.parametrize("settings", CHOICES, ids=lambda settings: list(settings)[4])
def test_whatever_a_search_may_have_chosen_can_be_done_again(
    bench, model, sources, tmp_path, run, monkeypatch, capsys, settings, way
):
    exemplar = painted(1, "snow")
    given = {"reference": Path(sources.reference), "cache": None, "progress": False}
    how = {name: value for name, value in settings.items() if name != "site"}
    edit = rewrite(model, [exemplar], **settings, **given)
    state = State(draft=Draft(edit, (exemplar,), settings["site"], Rewrite(**how)))
    if way == "commands":
        found = by_commands(state, sources, tmp_path, run, monkeypatch)
    else:
        found = by_program(state, sources, tmp_path, monkeypatch, capsys)
    assert same(found, state.draft.edit)
    usual = rewrite(
        model, [exemplar], **{name: settings[name] for name in ("site", "rank", "strength", "gate")}, **given
    )
    assert not same(found, usual), "the control: it matters"


@pytest.mark.slow
@pytest.mark.parametrize("validation", [True, False])
def test_a_search_can_be_done_again(model, sources, tmp_path, run, monkeypatch, capsys, validation):
    if not validation:
        sources = replace(sources, validation=None)
    found = {}
    folders = [None if each is None else Path(each) for each in (sources.tests, sources.clean, sources.validation)]
    with Workbench(model, Path(sources.reference), *folders, cache=None) as bench:
        bench.add(painted(1, "snow"))
        bench.search()
        for name, way in (("commands", [run]), ("program", [])):
            (tmp_path / name).mkdir()
            make = by_commands if name == "commands" else by_program
            more = [monkeypatch] if way else [monkeypatch, capsys]
            found[name] = make(bench.state, sources, tmp_path / name, *way, *more)
            assert same(found[name], bench.edit)
        assert ("--validation" in commands(bench.state, sources)) == validation


@pytest.mark.slow
def test_a_search_that_was_adjusted_can_be_done_again(bench, sources, tmp_path, run, monkeypatch):
    bench.add(painted(1, "snow"))
    searched = bench.search().edit
    bench.adjust(rank=1, strength=1.75, gate=0.9)
    found = by_commands(bench.state, sources, tmp_path, run, monkeypatch)
    assert same(found, bench.edit) and not same(found, searched)


@pytest.mark.slow
def test_what_was_done_with_the_demos_pictures_is_done_again_by_a_shell(model, tmp_path, untouched):
    """Processes of their own, the shell's own quoting, and the folders that `rulepatch demo` writes."""
    untouched(model.module)
    root, tools = tmp_path / "a demo", tmp_path / "bin"
    write_pictures(root, model.classes)
    tools.mkdir()
    (tools / "rulepatch").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m rulepatch "$@"\n')
    (tools / "rulepatch").chmod(0o755)
    sources = Sources("playground", *(str(root / name) for name in ("reference", "tests", "clean")))
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with Workbench(model, *(root / name for name in ("reference", "tests", "clean")), cache=None) as bench:
        bench.add(painted(1, "snow"))
        bench.rewrite(EARLY, gate=0.95)
        bench.keep()
        bench.add(painted(2, "grass"))
        bench.rewrite(LATE, rank=2)
        folder = unpacked(bench.state, sources, tmp_path)
        for command in (["sh", "-e", "commands.sh"], [sys.executable, "program.py"]):
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, done.stderr
            assert "repaired" in done.stdout
        assert same(Edit.load(folder / "edit.safetensors"), bench.edit)
        outcomes = bench.outcomes("tests")
    counted = re.search(r"^tests +(\d+) .* (\d+) +(\d+) +[\d.]+ %$", done.stdout, re.MULTILINE)
    assert counted, done.stdout
    assert list(map(int, counted.groups())) == [len(each) for each in (outcomes, outcomes.repaired, outcomes.broken)]
    assert len(outcomes.repaired) > 0


# Words


def test_where_nothing_was_done_there_is_nothing_to_do_again(sources, another):
    off = Rule("off", Edit.load(another), on=False)
    for state in (State(), State(exemplars=(painted(1, "snow"),)), State(rules=(off,))):
        assert commands(state, sources) == program(state, sources) == ""
        assert commands(state, replace(sources, first="rulepatch demo")) == ""
    on = State(rules=(replace(off, on=True),))
    assert commands(on, sources) and program(on, sources), "the control"


def test_words_with_spaces_are_quoted(another):
    draft = Draft(Edit.load(another), (painted(1, "snow"),), SITE, Rewrite(rank=3, strength=2.0))
    sources = Sources("my nets/net.py:build", "the reference", "it's tests", "$HOME/clean; rm", "validation")
    edit, evaluate = commands(State(draft=draft), sources).splitlines()
    assert shlex.split(edit) == [
        "rulepatch", "edit", "--model", "my nets/net.py:build", "--exemplar", "rule-1", "--reference", "the reference",
        "--site", SITE, "--strength", "2", "--rank", "3", "--out", "rule-1.safetensors",
    ]  # fmt: skip
    assert shlex.split(evaluate) == [
        "rulepatch", "evaluate", "rule-1.safetensors", "--model", "my nets/net.py:build", "--tests", "it's tests",
        "--reference", "$HOME/clean; rm", "--report", "report.html",
    ]  # fmt: skip


def test_what_there_is_not_is_not_named(another):
    draft = Draft(Edit.load(another), (painted(1, "snow"),), SITE, Rewrite(), why="it is best")
    sources = Sources("playground", "reference")
    told = commands(State(draft=draft), sources)
    assert "None" not in told and "--tests" not in told and "--validation" not in told
    assert "--site auto" in told and "--rank" not in told, "a search chooses all by itself"
    assert told.splitlines()[-1].count("--reference reference") == 1, "damage is measured on the reference set then"
    told = program(State(draft=draft), sources)
    assert "None" not in told and "rp.search(" in told and "validation" not in told and "rewrite" not in told
    chosen_on = replace(sources, validation="chosen on")
    assert "validation=Path('chosen on')).edit" in program(State(draft=draft), chosen_on)
    assert "--validation 'chosen on'" in commands(State(draft=draft), chosen_on)


def test_a_command_that_makes_the_folders_comes_first(another):
    state, sources = State(rules=(Rule("sand", Edit.load(another)),)), Sources("playground", "demo/reference")
    first = replace(sources, first="rulepatch demo --out demo")
    assert commands(state, first) == f"rulepatch demo --out demo\n{commands(state, sources)}"
    assert program(state, first) == f"# first: rulepatch demo --out demo\n{program(state, sources)}"


def test_a_draft_is_called_by_what_it_replaces():
    exemplar = painted(1, "snow")
    bare = replace(exemplar, concept=None, replacement=None)
    for made, title in ((exemplar, "snow as road"), (noted(1), "ox as blank note"), (bare, "this as the concept")):
        assert Draft(Edit((), ""), (made, exemplar), SITE, Rewrite()).title == title


# The bundle


@pytest.fixture
def state(bench, another):
    an_edit_from_a_file_and_a_draft(bench, another)
    return bench.state


def test_a_bundle_holds_exemplars_edits_commands_and_program(state, sources, tmp_path):
    write_bundle(state, sources, tmp_path / "bundle.zip")
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        assert archive.testzip() is None
        names = {info.filename for info in archive.infolist() if not info.is_dir()}
        assert archive.read("commands.sh").decode() == commands(state, sources) + "\n"
        assert archive.read("program.py").decode() == program(state, sources) + "\n"
        archive.extractall(tmp_path / "out")
    parts = ("image.png", "edited.png", "mask.png", "exemplar.json")
    folders = {str(Path(name).parent) for name in names if Path(name).name == "image.png"}
    assert {str(Path(folder).parent) for folder in folders} == {"rule-1", "rule-3"}
    assert names == {
        "commands.sh", "program.py", *(f"rule-{i}.safetensors" for i in (1, 2, 3)),
        *(f"{folder}/{part}" for folder in folders for part in parts),
    }  # fmt: skip
    for number, edit in enumerate([*(rule.edit for rule in state.rules), state.draft.edit], start=1):
        assert same(Edit.load(tmp_path / "out" / f"rule-{number}.safetensors"), edit)


def test_the_exemplars_of_a_bundle_are_read_back_as_they_were_and_in_their_order(bench, sources, tmp_path):
    a_draft_from_a_dozen_exemplars(bench, None)
    bench.add(noted(1))
    bench.rewrite(LATE)
    write_bundle(bench.state, sources, tmp_path / "bundle.zip")
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        archive.extractall(tmp_path)
    found, given = read_exemplars([tmp_path / "rule-1"]), bench.state.draft.exemplars
    for name in ("label", "concept", "replacement"):
        assert [getattr(each, name) for each in found] == [getattr(each, name) for each in given]
    assert [each.digest() for each in found] == [each.digest() for each in given]
    assert len({each.digest() for each in found}) == 13


@pytest.mark.slow
def test_a_bundle_of_a_new_class_can_be_used_elsewhere(bench, model, sources, tmp_path, run, monkeypatch):
    given = {"reference": Path(sources.reference), "method": "imprinted", "progress": False}
    new_class(model, [painted(1, "snow")], "lorry", **given).save(tmp_path / "lorry.safetensors")
    bench.load(tmp_path / "lorry.safetensors", "lorry")
    a_draft(bench, None)
    found = by_commands(bench.state, sources, tmp_path, run, monkeypatch)
    assert same(found, bench.edit) and found.new_classes == ("lorry",)


def test_a_bundle_is_written_whole_or_not_at_all(state, sources, tmp_path, monkeypatch):
    target, before = tmp_path / "out" / "bundle.zip", b"what was there before"
    target.parent.mkdir()
    target.write_bytes(before)
    real, written = zipfile.ZipFile.write, []

    def write(archive, *arguments, **options):
        if len(written) == 4:
            raise OSError("no space left")
        written.append(arguments)
        real(archive, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "write", write)
        with pytest.raises(OSError, match="no space left"):
            write_bundle(state, sources, target)
    assert target.read_bytes() == before and list(target.parent.iterdir()) == [target]
    write_bundle(state, sources, target)
    assert zipfile.is_zipfile(target) and list(target.parent.iterdir()) == [target]
    with pytest.raises(OutputError, match="expected a folder at"):
        write_bundle(state, sources, tmp_path / "nowhere" / "bundle.zip")
