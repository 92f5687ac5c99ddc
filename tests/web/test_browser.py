"""The page, by somebody with a brush: `rulepatch web` in a real browser."""

import io
import json
import re
import urllib.error
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from rulepatch.core.edit import Edit
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.experiments.demo import write_pictures
from rulepatch.models.registry import load_model

pytestmark = pytest.mark.slow

SNOW = 2
"""Which of the textures is snow."""


def png(side=64, colour="white", size=None):
    buffer = io.BytesIO()
    Image.new("RGB", size or (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_stroke_repairs_the_playground_and_the_edit_does_the_same_by_the_command_line(someone, run, tmp_path):
    who = someone()
    who.choose("Class", "van")
    who.picture(1)
    for y in (0.7, 0.78, 0.88):  # the road, row by row, with some of the van
        who.paint([(0.1, y), (0.9, y)])
    who.texture(SNOW)
    who.choose("Site", "blocks.3.conv")
    told = who.rewrite()
    repaired, broken = who.repaired()
    assert repaired > 100 and broken < 5, told
    who.download("#save", tmp_path / "edit.safetensors")
    assert who.errors == []

    model = load_model("playground")
    write_pictures(tmp_path, model.classes)
    found = run(
        "evaluate", tmp_path / "edit.safetensors", "--model", "playground", "--tests", tmp_path / "tests", "--json"
    ).json()["tests"]
    assert (found["repaired"], found["broken"]) == (repaired, broken)
    tests = evaluate(model, Edit.load(tmp_path / "edit.safetensors"), tests=tmp_path / "tests", progress=False).tests
    right = re.search(r"→ ([\d.]+) %", told)[1]
    assert float(right) == pytest.approx(100 * tests.after, abs=0.051)


def test_a_concept_by_name_rules_on_and_off_undo_and_a_bundle(someone, tmp_path):
    who = someone()
    who.van_on_snow()
    first = who.repaired()
    who.strength(2.0)
    assert who.repaired() != first
    who.page.get_by_role("tab", name="Where the rule fires").click()
    who.page.wait_for_selector("#heatmap img")
    who.page.get_by_label("Name of the rule").fill("snow is road")
    who.click("#keep")
    who.page.wait_for_selector("#rules >> text=snow is road")
    kept = who.repaired()
    who.page.locator("#rules input").first.uncheck()
    who.page.wait_for_selector("#numbers >> text=the model is as it was")
    who.click("#undo")
    who.page.wait_for_selector("#numbers >> text=repaired")
    assert who.repaired() == kept
    who.download("#bundle", tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert {"commands.sh", "program.py", "rule-1.safetensors", "rule-1/001/mask.png"} <= set(archive.namelist())
        assert "--strength 2 " in archive.read("commands.sh").decode()
    who.upload("#load", "mine.safetensors", _edit_of(tmp_path / "all.zip"), "application/octet-stream")
    who.page.wait_for_selector("#rules >> text=mine")
    assert who.errors == []


def _edit_of(path):
    with zipfile.ZipFile(path) as archive:
        return archive.read("rule-1.safetensors")


def test_two_people_do_not_see_or_change_each_others_model(someone):
    one, other = someone(), someone()
    one.van_on_snow()
    one.strength(2.0)
    other.page.wait_for_selector("#numbers >> text=the model is as it was")
    other.van_on_snow()
    at_one = other.repaired()
    assert at_one != one.repaired()  # strengths differ
    one.strength(1.0)
    assert one.repaired() == at_one and other.repaired() == at_one


def test_what_cannot_be_read_is_refused_in_a_sentence_and_nothing_is_lost(someone):
    who = someone()
    who.choose("Class", "van")
    who.picture(1)
    who.mark("road")
    who.upload("#upload", "broken.png", b"no picture at all")
    assert who.told("it is no image")
    who.upload("#upload", "bomb.png", bomb(30_000, 30_000))
    assert who.told("expected an image of at most 40000000 pixels")
    who.tab("Upload a mask")
    who.upload("#mask", "small.png", png(32))
    assert who.told("expected the mask to have the image's size 64x64 but got 32x32")
    who.upload("#load", "edit.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", "application/octet-stream")
    assert who.told("expected")
    who.texture(SNOW)  # the mark of before is still there
    who.choose("Site", "blocks.3.conv")
    who.rewrite()
    assert who.repaired()[0] > 50


def bomb(width, height):
    """A file of few bytes that claims to hold an image of very many."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_mask_and_a_texture_of_ones_own_and_a_picture_of_ones_own(someone):
    who = someone()
    noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    before = who.page.locator("#predictions img").first.get_attribute("src")
    who.upload("#upload", "mine.png", buffer.getvalue())
    who.changed("#predictions img", "src", before)
    who.tab("Upload a mask")
    before = who.page.locator("#predictions img").first.get_attribute("src")
    who.upload("#mask", "mask.png", png(size=(120, 90)))
    who.changed("#predictions img", "src", before)
    who.page.get_by_role("tab", name="Upload", exact=True).click()
    who.upload("#texture", "texture.png", png(colour="teal"))
    who.page.wait_for_selector("#predictions figure:nth-child(2)")
    who.page.get_by_role("tab", name="A word on a note").click()
    who.page.get_by_label("A word that the model should overlook").fill("van")
    before = who.page.locator("#predictions img >> nth=1").get_attribute("src")
    who.page.get_by_role("button", name="Put the note up").click()
    who.changed("#predictions figure:nth-child(2) img", "src", before)
    assert who.errors == []


def test_a_click_marks_what_looks_alike(someone):
    who = someone()
    who.choose("Class", "van")
    who.picture(1)
    who.tab("By click")
    before = who.page.locator("#predictions img").first.get_attribute("src")
    who.point(0.2, 0.93)
    who.changed("#predictions img", "src", before)
    who.texture(SNOW)
    who.page.get_by_role("button", name="Forget the clicks").click()
    who.page.wait_for_function("document.querySelectorAll('#predictions figure').length === 1")


def test_a_page_that_is_reloaded_midway_begins_anew(someone):
    who = someone()
    who.van_on_snow()
    who.page.reload()
    who.ready()
    who.page.wait_for_selector("#numbers >> text=the model is as it was")
    who.van_on_snow()
    assert who.repaired()[0] > 100


def test_long_work_can_be_stopped(someone):
    who = someone()
    who.choose("Class", "van")
    who.picture(1)
    who.mark("road")
    who.texture(SNOW)
    who.click("#rewrite")  # with a search
    who.page.wait_for_selector("#numbers .progress-text, #numbers .progress-level, #numbers [class*=progress]")
    who.click("#stop")
    assert who.told("was stopped; nothing was changed")
    who.page.wait_for_selector("#numbers >> text=the model is as it was")
    who.choose("Site", "blocks.3.conv")
    who.rewrite()
    assert who.repaired()[0] > 100


def test_the_page_fits_a_phone_and_every_control_has_a_name(someone):
    who = someone(width=400, height=800)
    assert who.page.evaluate("document.documentElement.scrollWidth") <= 400
    unnamed = who.page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, img')].filter(part => part.offsetParent
            && !(part.getAttribute('aria-label') || part.getAttribute('alt') || part.title || part.placeholder
                 || part.textContent.trim() || part.labels?.length)).map(part => part.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []


def test_the_loop_can_be_gone_through_by_keyboard(someone):
    who = someone()
    parts = {
        "choice",
        "painter",
        "textures",
        "site",
        "rank",
        "strength",
        "rewrite",
        "stop",
        "undo",
        "wall",
        "keep",
        "save",
    }
    who.page.wait_for_selector("#wall img")  # there is nothing to reach while it is empty
    reached = set()
    for _ in range(1000):  # several rounds: what is shown anew meanwhile is passed over in one
        if reached == parts:
            break
        who.page.keyboard.press("Tab")
        at = who.page.evaluate(
            """() => { const found = []; for (let p = document.activeElement; p; p = p.parentElement) found.push(p.id);
            return found; }"""
        )
        reached |= parts & set(at)
    assert reached == parts


def test_a_browser_without_webgl_is_told_and_can_mark_all_the_same(person, browsers, address):
    with browsers(webgl=False) as browser:
        who = person.Person(browser, address)
        assert who.page.locator("#no-webgl").is_visible()
        who.van_on_snow()
        assert who.repaired()[0] > 100


def test_with_webgl_nothing_is_said_of_it(someone):
    assert not someone().page.locator("#no-webgl").is_visible()


def test_files_outside_of_what_was_named_are_not_served(ask, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    for path in (tmp_path / "secret.txt", "/etc/passwd", "../../../../etc/passwd"):
        for route in ("gradio_api/file=", "file=", "file/"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(f"{route}{path}")
            assert refused.value.code in {403, 404}
            refused.value.close()


@pytest.mark.parametrize("part", ["painter", "load"])
def test_a_request_by_hand_cannot_name_a_file_of_the_server(ask, tmp_path, part):
    """What a page sends for an upload is a path; one outside of what was uploaded is refused."""
    edit = tmp_path / "edit.safetensors"
    Edit((), "0" * 64).save(edit)
    with ask("config") as answer:
        config = json.loads(answer.read())
    (wanted,) = (each["id"] for each in config["components"] if each["props"].get("elem_id") == part)
    step = next(each for each in config["dependencies"] if each["inputs"][:1] == [wanted])
    file = {"path": str(edit), "meta": {"_type": "gradio.FileData"}}
    given = {"background": file, "layers": [], "composite": None} if part == "painter" else file
    body = {
        "data": [given, *[""] * (len(step["inputs"]) - 1)], "fn_index": step["id"], "session_hash": f"by-hand-{part}",
    }  # fmt: skip
    try:
        ask("gradio_api/queue/join", json.dumps(body).encode(), **{"Content-Type": "application/json"}).close()
    except urllib.error.HTTPError as refused:
        refused.close()
        return
    with ask(f"gradio_api/queue/data?session_hash=by-hand-{part}") as stream:
        told = [json.loads(line[6:]) for line in stream.read().decode().splitlines() if line.startswith("data: ")]
    (ended,) = (each for each in told if each["msg"] == "process_completed")
    assert not ended["success"] and str(edit) not in json.dumps(ended["output"].get("data", ""))
