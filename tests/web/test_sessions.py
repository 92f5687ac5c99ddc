"""Everybody at the page has a workbench of their own; what the page's steps do, without the page."""

import gc
import io
import threading
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

import rulepatch as rp
from rulepatch.data.folders import Picture
from rulepatch.errors import ExemplarError, FolderError, ImageError, RulepatchError, SettingError, StoppedError
from rulepatch.progress import steps as in_steps
from rulepatch.web import handlers
from rulepatch.web import sessions as module
from rulepatch.web.catalog import PLAYGROUND, Catalog
from rulepatch.web.sessions import Sessions

pytestmark = pytest.mark.slow

SITE, SNOW = "blocks.3.conv", 2


@pytest.fixture(scope="module")
def catalog():
    found = Catalog()
    yield found
    found.close()


@pytest.fixture
def people(catalog):
    found = Sessions(catalog)
    yield found
    found.close()


@pytest.fixture
def session(people):
    found = people.begin("somebody", PLAYGROUND)
    handlers.begin(found, PLAYGROUND)
    handlers.list_pictures(found, "reference", "van")
    handlers.choose(found, 1)
    return found


def marked(session):
    handlers.mark_by_name(session, "road")
    handlers.replace_by(session, SNOW)
    return session


def test_the_loop_without_the_page(session):
    shown = handlers.rewrite(marked(session), SITE, 1, 2.0, "auto")
    bench = session.bench
    wanted = rp.rewrite(
        bench.model, bench.state.exemplars, reference=session.place.folders["reference"], site=SITE, strength=2.0,
        cache=None, progress=False,
    )  # fmt: skip
    assert torch.equal(bench.edit.changes[0].delta(), wanted.changes[0].delta())
    assert "repaired" in shown["numbers"] and "being measured" in shown["numbers"] and "rp-repaired" in shown["wall"]
    assert "predictions changed" in handlers.measure(session)["numbers"]
    assert f"--site {SITE}" in shown["commands"] and "rp.rewrite" in shown["program"]
    assert handlers.adjust(session, 1, 2.0, "auto") != {} and "outlined" in handlers.fire(session)["heatmap"].lower()
    assert handlers.keep(session, "snow")["rules"]["choices"] == ["snow"]
    assert "as it was" in handlers.switch(session, [])["numbers"]
    path = handlers.save(marked_again(session))["file"]
    assert rp.Edit.load(path).sites == (SITE,)


def marked_again(session):
    handlers.switch(session, ["snow"])
    return session


def test_the_same_picture_is_learnt_from_once_whatever_is_done_to_it(session):
    handlers.rewrite(marked(session), SITE, 1, 1.0, "auto")
    handlers.rewrite(session, SITE, 1, 1.0, "auto")
    handlers.undo(session)
    handlers.rewrite(session, SITE, 1, 1.0, "auto")
    assert len(session.bench.state.exemplars) == 1
    handlers.replace_by(session, SNOW + 1)
    handlers.rewrite(session, SITE, 1, 1.0, "auto")
    (exemplar,) = session.bench.state.exemplars
    assert np.array_equal(np.asarray(exemplar.edited), np.asarray(session.painting.edited))
    handlers.choose(session, 2)
    handlers.mark_by_name(session, "road")
    handlers.add(session)
    assert len(session.bench.state.exemplars) == 2
    handlers.remove(session)
    assert len(session.bench.state.exemplars) == 1


def test_a_rule_that_is_kept_is_not_made_again_by_mistake(session):
    handlers.rewrite(marked(session), SITE, 1, 1.0, "auto")
    handlers.keep(session, "")
    with pytest.raises(ExemplarError, match="at least one exemplar"):
        handlers.rewrite(session, SITE, 1, 1.0, "auto")
    handlers.replace_by(session, SNOW + 1)
    handlers.rewrite(session, SITE, 1, 1.0, "auto")
    assert handlers.keep(session, "")["rules"]["choices"] == ["snow as road", "snow as road 2"]


def test_a_step_that_fails_changes_nothing(session):
    marked(session)
    before = session.bench.state
    wrong_settings = [
        ("blocks.9.conv", 1, 1.0, "auto"),
        (SITE, 99, 1.0, "auto"),
        (SITE, 1, float("nan"), "auto"),
        (SITE, 1, 1.0, "x"),
    ]
    for site, rank, strength, gate in wrong_settings:
        with pytest.raises(RulepatchError):
            handlers.rewrite(session, site, rank, strength, gate)
        assert session.bench.state is before
    painting = session.painting
    for wrong in (
        lambda: handlers.upload(session, b"nothing"),
        lambda: handlers.upload_mask(session, b"nothing", ""),
        lambda: handlers.upload_texture(session, b"nothing"),
        lambda: handlers.write(session, " "),
        lambda: handlers.write(session, "a word that is far too long for so small a note"),
        lambda: handlers.choose(session, 10_000),
        lambda: handlers.mark_by_name(session, "unicorn"),
        lambda: handlers.list_pictures(session, "/etc", "van"),
        lambda: handlers.save(session),
    ):
        with pytest.raises(RulepatchError):
            wrong()
        assert session.painting is painting


def test_what_is_missing_is_said(people):
    session = people.begin("somebody", PLAYGROUND)
    with pytest.raises(SettingError, match="choose or upload"):
        handlers.mark_by_name(session, "road")
    handlers.begin(session, PLAYGROUND)
    with pytest.raises(ExemplarError, match="marked"):
        handlers.rewrite(session, SITE, 1, 1.0, "auto")
    handlers.list_pictures(session, "reference", "van")
    handlers.choose(session, 0)
    handlers.mark_by_name(session, "road")
    with pytest.raises(ExemplarError, match="choose a texture"):
        handlers.rewrite(session, SITE, 1, 1.0, "auto")


def test_a_large_upload_and_its_mask_are_made_smaller_together(session):
    def png(image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()

    handlers.upload(session, png(Image.new("RGB", (2048, 1024), "grey")))
    assert session.painting.image.size == (1024, 512)
    mask = np.zeros((1024, 2048), np.uint8)
    mask[512:] = 255
    handlers.upload_mask(session, png(Image.fromarray(mask)), "the lower half")
    assert session.painting.mask[:256].max() == 0 and session.painting.mask[256:].min() == 1
    with pytest.raises(ExemplarError, match="1024x512"):
        handlers.upload_mask(session, png(Image.new("L", (100, 50), "white")), "")


def test_the_painters_echo_of_a_mask_does_not_replace_it(session):
    handlers.mark_by_name(session, "road")
    painting = session.painting
    echo = handlers._canvas(session)["painter"]
    assert handlers.paint(session, echo, "") == {} and session.painting is painting
    handlers.forget(session)
    assert handlers.paint(session, echo, "street") != {} and session.painting.concept == "street"


def test_clicks_add_up_and_one_outside_is_taken_back(session):
    handlers.click(session, (100, 480), handlers.SEARCH, 0.2, "")
    first = session.painting.mask
    with pytest.raises(SettingError, match="network sees"):
        handlers.click(session, (100, 5000), handlers.SEARCH, 0.2, "")
    assert len(session.points) == 1 and session.painting.mask is first
    handlers.click(session, (400, 480), handlers.SEARCH, 0.2, "")
    assert len(session.points) == 2
    handlers.forget(session)
    assert session.points == [] and session.painting.mask is None


def test_two_people_have_models_of_their_own(people):
    one, other = (people.begin(name, PLAYGROUND) for name in ("one", "other"))
    weights = [{each.data_ptr() for each in who.bench.model.module.parameters()} for who in (one, other)]
    assert weights[0] and not weights[0] & weights[1]
    assert one.folder != other.folder


def test_closing_a_page_frees_what_it_had(people, catalog):
    session = people.begin("somebody", PLAYGROUND)
    handlers.begin(session, PLAYGROUND)
    handlers.look(session)
    network, folder = weakref.ref(session.bench.model.module), session.folder
    assert folder.is_dir()
    people.end("somebody")
    del session
    gc.collect()
    assert network() is None and not folder.exists() and len(people) == 0
    people.end("somebody")  # it may be said twice
    with pytest.raises(SettingError, match="reload the page"):
        people.of("somebody")


def test_beginning_anew_frees_what_was_before(people):
    first = people.begin("somebody", PLAYGROUND)
    second = people.begin("somebody", PLAYGROUND)
    assert people.of("somebody") is second and not first.folder.exists() and len(people) == 1


def test_as_many_pages_as_memory_allows(people, monkeypatch):
    monkeypatch.setattr(module, "MOST_SESSIONS", 2)
    people.begin("a", PLAYGROUND)
    people.begin("b", PLAYGROUND)
    with pytest.raises(SettingError, match="at most 2 open pages"):
        people.begin("c", PLAYGROUND)
    monkeypatch.setattr(module, "IDLE_SECONDS", -1)
    people.begin("c", PLAYGROUND)
    assert len(people) == 2 and people.of("b") and people.of("c")


def test_work_is_stopped_at_its_next_step_and_told_of_until_then(session):
    told, begun = [], threading.Event()

    def work():
        with session.at_work(lambda what, done, total: told.append(done)):
            for step in in_steps(range(1000), "waiting"):
                if step == 1:
                    begun.set()
                threading.Event().wait(0.01)

    caught = []

    def guarded():
        try:
            work()
        except StoppedError as error:
            caught.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    assert begun.wait(10)
    session.stop()
    thread.join(10)
    assert caught and told[:2] == [0, 1] and len(told) < 1000
    with session.at_work():  # the next work is not stopped
        assert list(in_steps(range(3), "again")) == [0, 1, 2]


def test_stop_reaches_work_that_waits_to_begin_and_no_later_one(session, monkeypatch):
    session.stop()
    with pytest.raises(StoppedError, match="nothing was changed"), session.at_work():
        list(in_steps(range(3), "waited when Stop was pressed"))
    with session.at_work():
        assert list(in_steps(range(3), "the next")) == [0, 1, 2]
        session.stop()  # too late for this one
    with session.at_work():
        assert list(in_steps(range(3), "the next")) == [0, 1, 2]
    monkeypatch.setattr(module, "STOP_SECONDS", 0.0)
    session.stop()  # while idle
    with session.at_work():
        assert list(in_steps(range(3), "much later")) == [0, 1, 2]


def test_what_is_offered_is_settled_at_the_start(tmp_path, catalog):
    with pytest.raises(FolderError, match="--tests"):
        Catalog(tests=tmp_path / "nowhere")
    with pytest.raises(FolderError, match="--reference"):
        Catalog(["torchvision/resnet18"])
    with pytest.raises(SettingError, match="expected one of playground"):
        catalog.set_up("torchvision/resnet18")
    assert catalog.models == (PLAYGROUND,)


def test_a_picture_of_too_many_pixels_is_refused(session, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    buffer = io.BytesIO()
    Image.new("RGB", (101, 100)).save(buffer, "PNG")
    with pytest.raises(ImageError, match="at most 10000 pixels"):
        handlers.upload(session, buffer.getvalue())


def test_names_from_outside_are_escaped_where_they_are_shown(session):
    from rulepatch.web import views

    name = "<script>alert(1)</script>"
    session.painting = session.painting.of(Picture(Image.new("RGB", (64, 64)), None))
    session.painting = session.painting.marked(np.ones((64, 64), np.float32), name)
    session.painting = session.painting.replaced_by(Image.new("RGB", (8, 8)), name)
    session.commit()
    assert "&lt;script&gt;" in views.exemplars(session.bench) and "<script>" not in views.exemplars(session.bench)
