"""Whoever watches long work sees every step of it, can stop it at any of them, and then nothing is left half done."""

import io
import itertools
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
from rulepatch.editors.rewrite import rewrite
from rulepatch.errors import StoppedError
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.experiments.demo import scenes_on_snow
from rulepatch.experiments.search import search
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, image_set, training_images
from rulepatch.progress import Bar, steps, watched

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


@pytest.mark.parametrize(("progress", "what"), [(None, "pictures"), ("statistics", "statistics")])
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
    """A search of seconds, on labelled pictures."""
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
    assert {"pictures", "screen", "refine", "vary"} <= {what for what, _, _ in told}
    assert all(0 <= done <= total for _, done, total in told)
    assert ("vary", 0, 1) not in told, "it is more than one edit"


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
