"""Take the images of the browser app and of a notebook: `python docs/make_screenshots.py`; needs Chromium.

With `--states FOLDER` every state of the page is taken, to be looked at, and not only what the documentation shows.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import rulepatch as rp  # noqa: E402
from benchmarks.person import SNOW, Person, people, server  # noqa: E402
from rulepatch.playground.pictures import exemplar, training_images  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"


def taken(who: Person, folder: Path, name: str, *, whole: bool = False) -> None:
    """Take an image of the page as it is."""
    who.page.evaluate("() => new Promise(done => setTimeout(done, 800))")  # what fades in
    who.page.screenshot(path=folder / f"{name}.png", full_page=whole)


def tell(start: Callable[..., Any], address: str, folder: Path, *, every: bool) -> None:
    """Go through the loop, and take an image at each step."""
    browser = start()
    who = Person(browser, address, width=1200, height=1150)
    if every:
        taken(who, folder, "01-opened", whole=True)
    who.choose("Class", "van")
    who.picture(1)
    who.paint([(0.1, 0.88), (0.9, 0.88)])
    if every:
        taken(who, folder, "02-painted")
    who.mark("road")
    if every:
        taken(who, folder, "03-marked-by-name")
    who.texture(SNOW)
    who.page.get_by_role("tab", name="Brush").click()
    taken(who, folder, "web-paint" if not every else "04-replaced")
    who.choose("Site", "blocks.3.conv")
    who.rewrite()
    who.page.locator("#rewrite").scroll_into_view_if_needed()
    who.page.evaluate("() => document.querySelector('#site').scrollIntoView()")
    taken(who, folder, "web-wall" if not every else "05-rewritten")
    if not every:
        return
    who.strength(3.0)
    taken(who, folder, "06-stronger")
    who.page.get_by_role("tab", name="Where the rule fires").click()
    who.page.wait_for_selector("#heatmap img")
    taken(who, folder, "07-where-it-fires")
    who.click("#keep")
    who.page.wait_for_selector("#rules >> text=snow as road")
    who.page.get_by_text("The same by the command line").click()
    taken(who, folder, "08-kept", whole=True)
    who.upload("#upload", "broken.png", b"no picture")
    who.page.wait_for_selector("text=it is no image")
    who.page.evaluate("() => scrollTo(0, 0)")
    taken(who, folder, "09-refused")
    who.told("it is no image")
    who.tab("By click")
    before = who.page.locator("#clicked img").get_attribute("src")
    who.point(0.2, 0.93)
    who.changed("#clicked img", "src", before)
    taken(who, folder, "10-clicked")
    who.page.get_by_role("tab", name="A word on a note").click()
    who.page.get_by_label("A word that the model should overlook").fill("van")
    taken(who, folder, "11-a-word")
    who.choose("Site", "choose by itself (search)")
    who.page.get_by_role("button", name="Put the note up").click()
    who.click("#rewrite")
    taken(who, folder, "12-searching")
    who.click("#stop")
    who.page.close()
    dark = Person(browser, address, dark=True, width=1200, height=1150)
    taken(dark, folder, "13-dark")
    phone = Person(browser, address, width=400, height=800)
    taken(phone, folder, "14-phone", whole=True)
    taken(Person(start(webgl=False), address, width=1200, height=1150), folder, "15-without-webgl")


def notebook(start: Callable[..., Any]) -> None:
    """What a notebook shows of an exemplar, before and after an edit, and of the edit."""
    model, one = rp.load_model("playground"), exemplar("van", ground="snow", seed=0)
    edit = rp.rewrite(model, [one], reference=training_images(500, seed=1), site="blocks.3.conv", gate=0.95, cache=None)
    cells = {
        "exemplar.predictions(model)": one.predictions(model),
        "exemplar.predictions(edit.apply(model))": one.predictions(edit.apply(model)),
        "edit": edit,
    }
    shown = "".join(f"<pre>{code}</pre>{value._repr_html_()}" for code, value in cells.items())
    page = start().new_page(viewport={"width": 900, "height": 100})
    page.set_content(f"<!doctype html><body style='font: 14px sans-serif; margin: 8px 16px'>{shown}</body>")
    page.screenshot(path=PICTURES / "notebook.png", full_page=True)


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=Path, help="a folder for an image of every state")
    given = parser.parse_args()
    folder = given.states or PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    with server("--port", "0") as (address, _), people() as start:
        tell(start, address, folder, every=given.states is not None)
        notebook(start)
    if given.states is None:
        for path in (*PICTURES.glob("web-*.png"), PICTURES / "notebook.png"):
            Image.open(path).convert("P", palette=Image.Palette.ADAPTIVE).save(path, optimize=True)


if __name__ == "__main__":
    main()
