"""Whoever watches long work sees every step of it, can stop it at any of them, and then nothing is left half done."""

import io
import itertools
import json
import subprocess
import sys
import threading
from contextlib import redirect_stderr

import pytest
import torch
from PIL import Image
from tqdm.auto import tqdm

from rulepatch.core.edit import Edit
from rulepatch.data import stream as streams
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.stream import ImageStream
from rulepatch.editors.edit import rewrite
from rulepatch.errors import StoppedError
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.experiments.demo import scenes_on_snow
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, image_set, training_images
from rulepatch.progress import EVERY, Bar, steps, watched
from rulepatch.site_search.search import search

SITE = "blocks.5.conv"


class Told(list):
    """A watcher that notes what it is told, and stops the work at one of its steps."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.stop_at, self.error = stop_at, StoppedError("enough")

    def __call__(self, what, done, total):
        if len(self) == self.stop_at:
            raise self.error
        self.append((what, done, total))


@pytest.fixture
def terminal(monkeypatch):
    """A terminal, to be made standard error, and a clock on which every look takes three seconds."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    clock = itertools.count(0, 3)
    monkeypatch.setattr("tqdm.std.time", lambda: next(clock))
    return Terminal()


class Clock:
    """A clock that the test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """What lines of progress take the time from."""
    monkeypatch.setattr("rulepatch.progress.monotonic", found := Clock())
    return found


@pytest.fixture(scope="module")
def model():
    return load_model("playground")


@pytest.fixture(scope="module")
def reference():
    return training_images(40, seed=2)


@pytest.fixture(scope="module")
def exemplars():
    return [exemplar("van", ground="snow", seed=1)]


def black(count):
    return ImageSet(tuple(Picture(Image.new("RGB", (8, 8))) for _ in range(count)), "black")


def test_a_watcher_is_told_once_before_the_first_step_and_after_each():
    with watched(told := Told()):
        seen = []
        for letter in steps("abc", "letters"):
            seen.append((letter, len(told)))
    assert told == [("letters", done, 3) for done in range(4)]
    assert seen == [("a", 1), ("b", 2), ("c", 3)], "a step is done when the next begins"


def test_steps_may_be_done_several_at_once():
    with watched(told := Told()), Bar(7, "sites") as bar:
        bar.update(3)
        bar.update(0)
        bar.update(4)
    assert told == [("sites", 0, 7), ("sites", 3, 7), ("sites", 3, 7), ("sites", 7, 7)]


def test_of_nothing_a_watcher_hears_that_there_is_nothing():
    with watched(told := Told()):
        assert list(steps([], "letters")) == []
    assert told == [("letters", 0, 0)]


@pytest.mark.parametrize(("progress", "what"), [(None, "images"), ("statistics", "statistics")])
def test_a_stream_tells_of_every_picture_whether_its_bar_is_shown_or_not(progress, what):
    with watched(told := Told()):
        list(ImageStream(black(5), Preprocess((8, 8)), batch_size=2, progress=progress))
    assert told == [(what, done, 5) for done in range(6)]


def test_a_bar_that_is_not_shown_still_tells(terminal):
    with redirect_stderr(terminal), watched(told := Told()):
        assert list(steps("ab", "letters", shown=False)) == ["a", "b"]
    assert terminal.getvalue() == "" and len(told) == 3


def test_a_bar_that_is_shown_tells_the_same(terminal):
    with redirect_stderr(terminal), watched(told := Told()):
        assert list(steps("ab", "letters")) == ["a", "b"]
    assert "letters" in terminal.getvalue() and "2/2" in terminal.getvalue() and len(told) == 3


def test_a_bar_is_shown_whether_anybody_watches_or_not(terminal):
    with redirect_stderr(terminal):
        assert list(steps("ab", "letters")) == ["a", "b"]
    assert "letters" in terminal.getvalue()


def test_where_there_is_no_terminal_a_line_tells_every_ten_seconds(clock, capsys):
    with Bar(997, "statistics", unit="image") as bar:
        for seconds, count in [(9, 290), (1, 30), (5, 10), (4.9, 10), (0.1, 300), (30, 356), (1, 1)]:
            clock.now += seconds
            bar.update(count)
    assert capsys.readouterr() == (
        "",
        "statistics: 320 of 997 images, 21 s left\n"
        "statistics: 640 of 997 images, 11 s left\n"
        "statistics: 996 of 997 images, 0 s left\n"
        "statistics: 997 images, done in 51 s\n",
    )


@pytest.mark.parametrize("seconds", [0.01, 1, 7, 30, 400])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 60])
def test_lines_are_no_closer_than_ten_seconds_and_short_work_has_none(clock, capsys, seconds, count):
    told = []
    for _ in steps(range(count), "letters"):
        clock.now += seconds
        told += [(clock.now, line) for line in capsys.readouterr().err.splitlines()]
    ending = capsys.readouterr().err.splitlines()
    times = [1000.0, *(now for now, _ in told)]
    assert all(later - earlier >= EVERY for earlier, later in itertools.pairwise(times))
    assert bool(told) == (count > 1 and (count - 1) * seconds >= EVERY), "what is done at once needs no word"
    assert [line for line in ending if "done" in line] == ending[-1:] * bool(told), (
        "whoever read of it reads of its end"
    )


def test_stopped_work_is_not_said_to_be_done(clock, capsys):
    with pytest.raises(ValueError, match="enough"), Bar(3, "letters") as bar:
        clock.now += 20
        bar.update()
        raise ValueError("enough")
    assert capsys.readouterr().err == "letters: 1 of 3 steps, 40 s left\n"


def test_who_knows_the_time_left_better_is_believed(clock, terminal, capsys):
    known = iter([None, 75.0, 75.0])
    for _ in range(2):
        with Bar(3, "sweep", unit="job", left=lambda: next(known, None)) as bar:
            clock.now += 20
            bar.update()
            clock.now += 20
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["sweep: 1 of 3 jobs, 40 s left", "sweep: 2 of 3 jobs, 1 min 15 s left"]
    with redirect_stderr(terminal), Bar(3, "sweep", left=lambda: 75.0) as bar:
        bar.update()
    assert "1 min 15 s left" in terminal.getvalue()


def test_no_line_where_a_bar_is_drawn_and_none_that_nobody_wants(clock, terminal, capsys):
    with redirect_stderr(terminal):
        for _ in steps("abc", "letters"):
            clock.now += 20
    assert "steps," not in terminal.getvalue() and "letters:" in terminal.getvalue()
    for _ in steps("abc", "letters", shown=False):
        clock.now += 20
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("closed", [True, False])
def test_a_reader_that_has_gone_stops_no_work(clock, monkeypatch, closed):
    class Gone(io.StringIO):
        def write(self, text):
            raise ValueError("closed") if closed else BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    seen = 0
    for _ in steps("abc", "letters"):
        clock.now += 20
        seen += 1
    monkeypatch.setattr(sys, "stderr", None)
    for _ in steps("abc", "letters"):
        clock.now += 20
        seen += 1
    assert seen == 6


NOTEBOOK = """
import itertools, json, sys, types, warnings

def module(name, **members):
    sys.modules[name] = found = types.ModuleType(name)
    vars(found).update(members)
    return found

class ZMQInteractiveShell:
    kernel = "a kernel"

class Widget:
    def __init__(self, *given, children=(), **settings):
        self.value, self.children, self.bar_style = "", children, ""
        self.layout, self.style = types.SimpleNamespace(), types.SimpleNamespace()

displayed = []
module("IPython", get_ipython=ZMQInteractiveShell if {shell} else lambda: None)
module("IPython.display", display=displayed.append)
module("ipykernel.zmqshell")
if {widgets}:
    module("ipywidgets", HTML=Widget, FloatProgress=Widget, HBox=Widget)
else:
    sys.modules["ipywidgets"] = None
warnings.simplefilter("error")
from rulepatch import progress

clock = itertools.count(0, 3)
sys.modules["tqdm.std"].time = lambda: next(clock)
progress.monotonic = lambda: 4 * next(clock)
with progress.Bar(3, "<letters>") as bar:
    bar.update()
    bar.update()
    bar.update()
print(json.dumps([[part.value for part in box.children] for box in displayed]))
"""


@pytest.mark.parametrize("widgets", [True, False])
def test_a_notebook_shows_a_widget_or_else_a_bar_of_text_and_no_warning_and_no_lines(widgets):
    program = NOTEBOOK.replace("{widgets}", str(widgets)).replace("{shell}", "True")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    displayed = json.loads(done.stdout)
    if widgets:
        assert done.stderr == "" and [(box[0], box[1]) for box in displayed] == [("&lt;letters&gt;:\u2007100%", 3)]
    else:
        assert displayed == [] and done.stderr.rstrip().endswith("]") and "<letters>: 100%" in done.stderr
        assert "steps," not in done.stderr


def test_outside_of_a_notebook_that_somebody_else_is_in_there_are_lines():
    program = NOTEBOOK.replace("{widgets}", "True").replace("{shell}", "False")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [] and done.stderr.startswith("<letters>: 1 of 3 steps, ")


@pytest.mark.parametrize("stop_at", [0, 1, 2])
def test_stopped_work_leaves_no_bar_behind(terminal, stop_at):
    with redirect_stderr(terminal):
        with Bar(1, "letters"):
            assert len(tqdm._instances) == 1
        with pytest.raises(StoppedError) as caught, watched(Told(stop_at)):
            list(steps("ab", "letters"))
    assert caught.tb is not None and not tqdm._instances, "though the error still knows the bar"


def test_the_inner_watcher_is_told_what_is_inside_it_and_the_outer_one_the_rest():
    with watched(outer := Told()):
        list(steps("a", "before"))
        with watched(inner := Told()):
            list(steps("a", "within"))
        list(steps("a", "after"))
    assert [what for what, done, _ in outer if done] == ["before", "after"]
    assert [what for what, done, _ in inner if done] == ["within"]


def test_an_inner_watcher_that_stops_gives_back_to_the_outer_one():
    with watched(outer := Told()):
        with pytest.raises(StoppedError), watched(Told(stop_at=1)):
            list(steps("ab", "within"))
        list(steps("a", "after"))
    assert outer == [("after", 0, 1), ("after", 1, 1)]


def test_nothing_is_told_outside_of_the_block():
    list(steps("a", "before"))
    with watched(told := Told()):
        pass
    list(steps("a", "after"))
    with pytest.raises(ValueError, match="other"), watched(told):
        raise ValueError("other")
    list(steps("a", "after an error"))
    assert told == []


def test_work_that_goes_on_after_the_block_is_told_as_long_as_the_block_lasts():
    with watched(told := Told()):
        begun = steps("abc", "letters")
        next(begun)
        next(begun)
    assert next(begun) == "c" and told == [("letters", 0, 3), ("letters", 1, 3)]
    with watched(told):
        assert list(begun) == []
    assert told[-1] == ("letters", 3, 3)


def test_another_thread_is_not_watched_here_but_by_its_own_watcher():
    elsewhere = Told()

    def work():
        list(steps("a", "unwatched"))
        with watched(elsewhere):
            list(steps("a", "elsewhere"))

    with watched(here := Told()):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert here == [] and elsewhere == [("elsewhere", 0, 1), ("elsewhere", 1, 1)]


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("stop_at", [0, 1, 4, 9, 10])
def test_what_a_watcher_raises_stops_a_stream_at_that_picture(stop_at, beside, monkeypatch):
    monkeypatch.setattr(streams, "threads_pay", lambda: beside)
    watcher, images, seen = Told(stop_at), black(10), []
    with pytest.raises(StoppedError) as caught, watched(watcher):
        for batch in ImageStream(images, Preprocess((8, 8)), batch_size=2):
            seen += batch.pictures
    assert caught.value is watcher.error
    assert len(watcher) == stop_at
    assert seen == list(images.pictures[: 2 * (stop_at // 2)])
    assert not [thread for thread in threading.enumerate() if "Pool" in thread.name]


@pytest.mark.parametrize("stop_at", [0, 9, 35, 40])
def test_an_evaluation_that_is_stopped_leaves_the_model_as_it_was(
    model, exemplars, reference, untouched, stop_at, monkeypatch
):
    edit = rewrite(model, exemplars, site=SITE, gate="none", reference=reference, cache=None, progress=False)
    untouched(model.module)
    monkeypatch.setattr(type(model), "batch_size", 4)
    with pytest.raises(StoppedError), watched(Told(stop_at)):
        evaluate(model, edit, reference=reference, progress=False)
    with watched(told := Told()):
        evaluate(model, edit, reference=reference, progress=False)
    assert [done for _, done, _ in told] == list(range(41))


@pytest.fixture(scope="module")
def run(model, exemplars, reference):
    """A search of seconds, on labelled images."""
    validation = image_set(scenes_on_snow(2, seed=3), "on snow")

    def call():
        return search(
            model, exemplars, reference=reference, validation=validation, sites=[SITE], cache=None, progress=False
        )

    return call


@pytest.fixture(scope="module")
def undisturbed(run):
    """What an undisturbed search finds, and what its watcher is told."""
    with watched(told := Told()):
        found = run()
    return found, told


def same(one: Edit, two: Edit) -> bool:
    tensors = [[tensor for change in edit.changes for tensor in change.tensors().values()] for edit in (one, two)]
    return len(tensors[0]) > 0 and all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))


def test_a_search_tells_of_all_its_rounds_though_no_bar_is_shown(undisturbed):
    _, told = undisturbed
    assert {"images", "screen", "refine", "vary"} <= {what for what, _, _ in told}
    assert all(0 <= done <= total for _, done, total in told)
    assert ("vary", 0, 1) not in told, "it is more than one edit"


@pytest.mark.slow
@pytest.mark.parametrize("share", [0, 0.2, 0.4, 0.6, 0.8, 1])
def test_a_search_that_is_stopped_midway_leaves_the_model_as_it_was(model, run, undisturbed, untouched, share):
    found, told = undisturbed
    untouched(model.module)
    watcher = Told(stop_at=round(share * (len(told) - 1)))
    with pytest.raises(StoppedError) as caught, watched(watcher):
        run()
    assert caught.value is watcher.error and watcher == told[: len(watcher)]
    if share == 0.6:
        assert same(run().edit, found.edit), "and the next one finds what it would have found"
