import base64
import dataclasses
import io
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from rulepatch.core.changes import Gate, LowRank
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.errors import OutputError, RulepatchError
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.evaluation.report import MOST_THUMBNAILS, render_report, write_report
from rulepatch.evaluation.result import Evaluation
from rulepatch.models.classifier import Classifier

same_pictures = pytest.mark.filterwarnings("ignore:.*in the reference set as well")
"""Of tests in which the images that are tested on and the reference set are the same, for brevity."""

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.example/x onerror=alert(1)>&amp;{{ 7 * 7 }}"


class Page(HTMLParser):
    """Every tag, attribute and text of a page, with its nesting checked."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text, self._open = [], [], [], []
        self.styles = ""
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "style":
            self.styles += data
        else:
            self.text.append(data)

    @property
    def pictures(self):
        return [value for tag, name, value in self.attributes if (tag, name) == ("img", "src")]

    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text))


def assert_self_contained(page):
    found = Page(page)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(found.tags)
    for tag, name, value in found.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in {"href", "srcset", "action", "data", "poster", "background"}, (tag, name)
        assert name != "src" or value.startswith("data:image/jpeg;base64,"), value[:50]
    assert not re.search(r"url\(|@import|expression", found.styles)
    for value in found.pictures:
        with Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))) as picture:
            picture.load()
    return found


def coloured(*colours):
    return [(Image.new("RGB", (20, 16), colour), label) for colour, label in colours]


@pytest.fixture
def exemplar():
    mask = np.zeros((16, 20), np.float32)
    mask[8:] = 1
    picture, edited = Image.new("RGB", (20, 16), "red"), Image.new("RGB", (20, 16), "lime")
    return Exemplar(picture, edited, mask, label="red", concept="road", replacement="snow", name="one")


@same_pictures
def test_a_report_shows_the_numbers_the_exemplar_and_the_pictures(dominant, red_as_green, exemplar, tmp_path):
    tests = coloured(((200, 9, 9), "green"), ((9, 200, 9), "green"), ((200, 9, 9), "red"))
    found = evaluate(dominant, red_as_green, tests=tests, reference=tests[1:], exemplars=[exemplar], progress=False)
    write_report(found, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "://" not in text
    page = assert_self_contained(text)
    words = page.words()
    for expected in ("66.7 % → 66.7 %", "100.0 % → 50.0 %", "-50.0 points", "1 of 2", "dominant", "road", "snow"):
        assert expected in words
    assert [words.count(verdict) > 0 for verdict in (" repaired ", " broken ", " right ")] == [True] * 3
    assert len(page.pictures) == 3 + 3 + 1  # the exemplar, the tests, the flips of the reference set
    assert red_as_green.base in words
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


@same_pictures
@pytest.mark.parametrize("tests", [True, False])
@pytest.mark.parametrize("reference", ["labelled", "unlabelled", None])
def test_a_report_needs_neither_tests_nor_a_reference_set_nor_labels(tests, reference, dominant, red_as_green):
    pictures = coloured(((200, 9, 9), "green"), ((9, 200, 9), "green"))
    unlabelled = [picture for picture, _ in pictures]
    if not tests and reference is None:
        found = Evaluation(red_as_green, "dominant", dominant.classes, None, None)
    else:
        given = {"labelled": pictures, "unlabelled": unlabelled, None: None}[reference]
        found = evaluate(dominant, red_as_green, tests=pictures if tests else None, reference=given, progress=False)
    words = assert_self_contained(render_report(found)).words()
    assert ("Test images" in words) == tests
    assert ("Reference predictions changed" in words) == (reference is not None)
    assert ("Reference set right" in words) == (reference == "labelled")
    assert "None" not in words.replace("none", "")
    assert "n/a %" not in words


def test_what_is_certain_is_said(dominant, red_as_green, exemplar):
    certificate = {
        "parameters": ["0.weight"],
        "norm": 2.0,
        "relative_norm": 1.155,
        "epsilon": 0.01,
        "still": 0.75,
        "shut": None,
    }
    site = {"site": "0", "loss": {"before": 1.0, "after": 0.5}, "predicted_damage": 0.25, "certificate": certificate}
    edit = Edit(red_as_green.changes, red_as_green.base, {"method": "by hand", "sites": [site]})
    tests = coloured(((200, 9, 9), "green"), ((9, 200, 9), "green"), ((9, 9, 200), "blue"))
    words = assert_self_contained(render_report(evaluate(dominant, edit, reference=tests, progress=False))).words()
    for expected in ("What is certain", "0.weight", "75.0 %", "115.5 %", "2 of 3 images kept", "in 1 of 2 classes"):
        assert expected in words, expected


def test_nothing_changed_is_said(dominant):
    nothing = Edit((), "0" * 64)
    found = evaluate(dominant, nothing, reference=coloured((("red"), 0)), any_base=True, progress=False)
    words = assert_self_contained(render_report(found)).words()
    assert "No prediction changed on 1 image." in words
    assert "no site" in words


@same_pictures
def test_hostile_names_are_shown_and_not_run(dominant, red_as_green, exemplar, paint, tmp_path):
    folder = tmp_path / HOSTILE.replace("/", "∕")
    paint(folder / "0" / "<img src=x onerror=alert(1)>.png", colour=(200, 9, 9))
    paint(folder / "1" / "\"'--><svg onload=alert(1)>.png", colour=(200, 9, 9))
    model = Classifier(dominant.module, dominant.preprocess, [HOSTILE, HOSTILE + "2", HOSTILE + "3"], HOSTILE)
    edit = dataclasses.replace(
        red_as_green,
        provenance={
            "method": HOSTILE,
            HOSTILE: [HOSTILE],
            "exemplars": [{"concept": HOSTILE, "replacement": HOSTILE}, {"concept": "b", "replacement": "a"}],
        },
    )
    hostile = dataclasses.replace(exemplar, concept=HOSTILE, replacement=HOSTILE, name=HOSTILE, label=HOSTILE)
    found = evaluate(model, edit, tests=folder, reference=folder, exemplars=[hostile], progress=False)
    page = assert_self_contained(render_report(found))
    assert {"svg", "script"}.isdisjoint(page.tags)
    assert HOSTILE in "".join(page.text)


def test_file_names_that_are_no_text_can_be_reported(dominant, red_as_green, paint, tmp_path):
    paint(tmp_path / "set" / "0" / os.fsdecode(b"gr\xfcn.png"), colour=(200, 9, 9))
    found = evaluate(dominant, red_as_green, tests=tmp_path / "set", progress=False)
    write_report(found, tmp_path / "report.html")
    assert_self_contained((tmp_path / "report.html").read_text("utf-8"))


@same_pictures
@pytest.mark.filterwarnings("ignore:the labels of 500 images in memory are not believed")  # nine in ten are wrong
def test_five_hundred_pictures_make_a_small_page_with_the_broken_first(dominant, red_as_green):
    rng = np.random.default_rng(0)
    noisy = [Image.fromarray(rng.integers(0, 120, (90, 120, 3), dtype=np.uint8) + np.uint8([90, 0, 0]))] * 450
    tests = [(picture, "green") for picture in noisy] + [(picture, "red") for picture in noisy[:50]]
    found = evaluate(dominant, red_as_green, tests=tests, reference=tests, progress=False)
    assert (len(found.tests.repaired), len(found.tests.broken)) == (450, 50)
    page = render_report(found)
    assert len(page) < 5_000_000
    parsed = assert_self_contained(page)
    assert len(parsed.pictures) == 2 * MOST_THUMBNAILS
    verdicts = [value for tag, name, value in parsed.attributes if (tag, name) == ("figure", "class")]
    assert verdicts == ["tile broken"] * (2 * MOST_THUMBNAILS)
    words = parsed.words()
    assert f"{MOST_THUMBNAILS} of 500 shown" in words
    assert "500 of 500" in words  # the counts cover them all


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (2000, 2), (5, 4), (4000, 3000)])
def test_pictures_of_any_size_become_thumbnails(size, dominant, red_as_green):
    found = evaluate(dominant, red_as_green, tests=[(Image.new("RGB", size, "red"), 0)], progress=False)
    (picture,) = assert_self_contained(render_report(found)).pictures
    with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as thumbnail:
        assert max(thumbnail.size) <= 128


def test_gates_several_sites_and_composed_edits_are_described(dominant):
    gate = Gate("hard", 0.98, torch.tensor([0.5]), torch.tensor([1.0, 0, 0]))
    part = LowRank("0", "1", torch.tensor([[1.0, 0, 0]]), torch.ones(3, 1, 1, 1), 2.5, gate)
    measured = {"site": "0", "loss": {"before": 0.123456, "after": 0.01}, "predicted_damage": 0.0325}
    edit = Edit((part, dataclasses.replace(part, gate=None)), "0" * 64, {"sites": [measured, measured]})
    pictures = coloured(("red", 0))
    words = Page(render_report(evaluate(dominant, edit, tests=pictures, any_base=True, progress=False))).words()
    for expected in ("hard, above 0.98 of the reference", "2.5", "0.1235 → 0.01", "3.25 %", "3 × 3 × 1 × 1"):
        assert expected in words
    composed = Edit.compose(edit, edit)
    assert_self_contained(render_report(evaluate(dominant, composed, tests=pictures, any_base=True, progress=False)))


def test_a_report_goes_where_there_is_a_folder_and_replaces_a_file_whole(dominant, red_as_green, tmp_path, monkeypatch):
    found = evaluate(dominant, red_as_green, tests=coloured(("red", 0)), progress=False)
    with pytest.raises(OutputError, match="make it"):
        write_report(found, tmp_path / "missing" / "report.html")
    with pytest.raises(RulepatchError, match="folder"):
        write_report(found, tmp_path)
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr("rulepatch.evaluation.report.render_report", lambda evaluation: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report(found, path)
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_report(found, str(path))
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
