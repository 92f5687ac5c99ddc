"""The page measured, by somebody in a real browser: `python -m benchmarks.web [playground|photographs|memory ...]`.

*playground*: clicks and seconds from opening the page to a repaired model, with the brush and by name. *photographs*:
MobileNetV2 and 75 photographs of vehicles on snow, seconds from *Rewrite* to the full wall, and of each move of the
strength's slider. *memory*: of the server's process, after 50 edits and ten pages that were opened and closed. A few
minutes; needs Chromium.
"""

import os
import re
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import DATA, arguments, record
from benchmarks.person import SNOW, Person, chromium, people, server

ROUNDS = 3
MOBILENET_SITE = "blocks.6.0.conv_pw"


def playground(start: Any) -> list[dict[str, Any]]:
    """From opening the page to a repaired playground."""
    rows = []
    with server("--port", "0", environment=quiet()) as (address, _):
        browser = start()
        Person(browser, address).page.close()  # what is loaded once, is
        for way in ("by name", "with the brush", "by name, with a search"):
            seconds, clicks, rights = [], 0, []
            for turn in range(ROUNDS):
                begun = time.perf_counter()
                who = Person(browser, address)
                opened = time.perf_counter() - begun
                who.choose("Class", "van")
                who.picture(1 + turn)  # another one each time, as searches are kept
                if way == "with the brush":
                    for y in (0.7, 0.78, 0.88):
                        who.paint([(0.1, y), (0.9, y)])
                else:
                    who.mark("road")
                who.texture(SNOW)
                if "search" not in way:
                    who.choose("Site", "blocks.3.conv")
                pressed = time.perf_counter()
                rights.append(of(who.rewrite()))
                ended = time.perf_counter()
                seconds.append((opened, ended - pressed, ended - begun))
                clicks = who.clicks
                who.page.close()
            opened, rewritten, total = (median(each) for each in zip(*seconds, strict=True))
            measured = {"opened": opened, "rewritten": rewritten, "total": total}
            right = {key: [each[key] for each in rights] for key in rights[0]}
            rows.append({"way": way, "clicks": clicks, **measured, **right})
    return rows


def photographs(start: Any) -> list[dict[str, Any]]:
    """MobileNetV2 and photographs of vehicles on snow."""
    folders = {"reference": DATA / "imagenet_sample" / "val", "tests": DATA / "snow" / "test"}
    options = [f"--{name}={folder}" for name, folder in folders.items()]
    exemplar = DATA / "snow" / "exemplar" / "exemplar_1"
    rows = []
    model = str(DATA / "models" / "mobilenet_v2.toml")
    with server("--port", "0", "--model", model, *options, environment=quiet()) as (address, _):
        who = Person(start(), address)
        who.choose("Model", model)
        who.page.wait_for_selector("text=1000 classes")
        who.page.wait_for_selector("#wall img")
        picture, mask, texture = exemplar / "image.jpg", exemplar / "mask.png", DATA / "snow" / "texture.jpg"
        before = who.page.locator("#opinions img").first.get_attribute("src")
        who.upload("#upload", picture.name, picture.read_bytes(), "image/jpeg")
        who.changed("#opinions img", "src", before)
        who.tab("Upload a mask")
        before = who.page.locator("#opinions img").first.get_attribute("src")
        who.upload("#mask", mask.name, mask.read_bytes())
        who.changed("#opinions img", "src", before)
        who.page.get_by_role("tab", name="Upload", exact=True).click()
        who.upload("#texture", texture.name, texture.read_bytes(), "image/jpeg")
        who.page.wait_for_selector("#opinions figure:nth-child(2)")
        for way, site in (("first", MOBILENET_SITE), ("again", MOBILENET_SITE)):
            if way == "first":
                who.choose("Site", site)
            pressed = time.perf_counter()
            who.click("#rewrite")
            if way == "first":
                who.page.wait_for_selector("#numbers >> text=repaired")
            else:
                who.page.wait_for_selector("#numbers >> text=being measured")
            wall = time.perf_counter() - pressed
            who.page.wait_for_selector("#numbers >> text=predictions changed")
            rows.append({"what": f"Rewrite, {way}", "wall": wall, "damage": time.perf_counter() - pressed})
        moves = []
        for step in range(20):
            before = who.page.locator("#numbers .rp-cards").inner_html()
            field = who.page.locator("#strength input[type=number]")
            begun = time.perf_counter()
            field.fill(f"{0.5 + 0.2 * step:.1f}")
            who.changed_from("#numbers .rp-cards", before)
            wall = time.perf_counter() - begun
            who.page.wait_for_selector("#numbers >> text=predictions changed")
            moves.append((wall, time.perf_counter() - begun))
        walls, whole = zip(*moves, strict=True)
        rows.append({"what": "strength, median of 20", "wall": median(walls), "damage": median(whole)})
        rows.append({"what": "strength, worst of 20", "wall": max(walls), "damage": max(whole)})
    return rows


def memory(start: Any) -> list[dict[str, Any]]:
    """Memory of the server: one page makes edits, others come and go."""
    rows = []
    with server("--port", "0", environment=quiet()) as (address, process):
        browser = start()

        def note(what: str) -> None:
            time.sleep(3)  # for pages that were closed
            rows.append({"after": what, "megabytes": resident(process)})

        who = Person(browser, address)
        who.van_on_snow()
        note("the first edit")
        for step in range(50):
            who.strength(0.5 + 0.1 * (step % 40))
            if step + 1 in {10, 30, 50}:
                note(f"{step + 1} more edits")
        who.page.close()
        note("the page was closed")
        for count in range(10):
            other = Person(browser, address)
            other.van_on_snow()
            other.page.close()
            if count + 1 in {1, 5, 10}:
                note(f"{count + 1} more pages, closed")
    return rows


def of(told: str) -> dict[str, float]:
    """The page's numbers."""
    before, after = re.search(r"([\d.]+) % → ([\d.]+) %", told).groups()  # type: ignore[union-attr]
    return {"right before": float(before), "right after": float(after)}


def resident(process: int) -> float:
    """Megabytes of memory that a process holds."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def quiet() -> dict[str, str]:
    """An environment without what was cached before."""
    return os.environ | {"RULEPATCH_CACHE": tempfile.mkdtemp()}


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("parts", nargs="*", default=["playground", "photographs", "memory"])
    given = parser.parse_args()
    if chromium() is None:
        print("the page is not measured: there is no Chromium")
        return
    parts = {"playground": playground, "photographs": photographs, "memory": memory}
    with people() as start:
        for part in given.parts:
            record(f"web-{part}", "cpu", parts[part](start))


if __name__ == "__main__":
    main()
