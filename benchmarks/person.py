"""Somebody at the page of `rulepatch web`, in a real browser: sees, clicks, paints, waits and counts the clicks."""

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["SNOW", "Person", "chromium", "people", "server"]

SNOW = 2
"""Which of the playground's textures is snow."""

PATIENCE = 600_000
"""Milliseconds after which something that should appear counts as missing: it ends a hang, however slow the machine."""


def chromium() -> str | None:
    """Where the system's Chromium is; None if there is none."""
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


@contextmanager
def server(*options: str, environment: dict[str, str] | None = None) -> Iterator[tuple[str, int]]:
    """The page, served by the command line.

    Yields:
        Its address, and the number of the process.
    """
    command = [sys.executable, "-u", "-m", "rulepatch", "web", "--no-browser", *options]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "told.txt").open("w+") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, env=environment)
        try:
            while not (found := re.search(r"http://\S+", (Path(folder) / "told.txt").read_text("utf-8"))):
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended: {(Path(folder) / 'told.txt').read_text('utf-8')}")
                time.sleep(0.2)
            yield found[0], process.pid
        finally:
            process.terminate()
            process.wait(timeout=PATIENCE / 1000)


@contextmanager
def people() -> Iterator[Callable[..., Any]]:
    """Browsers, as many as are asked for; `webgl=False` for one that cannot paint.

    Yields:
        A function that starts a browser, with which pages are opened.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:

        def start(*, webgl: bool = True) -> Any:
            drawing = ["--enable-unsafe-swiftshader"] if webgl else ["--disable-3d-apis"]
            return playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", *drawing])

        yield start


class Person:
    """Somebody with a page of their own.

    Args:
        browser: as `people` gives it.
        address: of the page.
        width: of the window, in pixels.
        height: of the window.
        dark: whether they like it dark.

    Attributes:
        page: Playwright's page.
        clicks: so far; a stroke of the brush is one.
        errors: what the browser's console called errors.
        elsewhere: addresses outside of the server that the page asked for.
    """

    def __init__(
        self, browser: Any, address: str, *, width: int = 1280, height: int = 1400, dark: bool = False
    ) -> None:
        self.page = browser.new_page(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
        )
        self.page.set_default_timeout(PATIENCE)
        self.clicks, self.errors, self.elsewhere = 0, list[str](), list[str]()
        self.page.on("console", lambda told: self.errors.append(told.text) if told.type == "error" else None)
        self.page.on("request", lambda request: self._asked(request.url, address))
        self.page.goto(address)
        self.ready()

    def _asked(self, url: str, address: str) -> None:
        if not url.startswith((address.partition("?")[0].rstrip("/"), "data:", "blob:")):
            self.elsewhere.append(url)

    def ready(self) -> None:
        """Wait until the page shows pictures to choose from, and one that is chosen."""
        self.page.wait_for_selector("#choice .thumbnail-item img")
        self.page.wait_for_selector("#predictions img")

    def click(self, where: str) -> None:
        """Click on a part."""
        self.page.locator(where).first.click()
        self.clicks += 1

    def tab(self, name: str) -> None:
        """Open a tab."""
        self.page.get_by_role("tab", name=name).click()
        self.clicks += 1

    def choose(self, label: str, option: str) -> None:
        """Choose from a list; a class, until its pictures alone are offered: a click before that may be lost."""
        self.page.get_by_label(label, exact=True).click()
        self.page.get_by_role("option", name=option, exact=True).click()
        self.clicks += 2
        if label == "Class":
            self.page.wait_for_function(
                "name => { const all = [...document.querySelectorAll('#choice .thumbnail-item')];"
                " return all.length && all.every(each => each.textContent.trim() === name); }",
                arg=option,
            )

    def picture(self, number: int) -> None:
        """Choose one of the pictures offered."""
        before = self.page.locator("#predictions img").first.get_attribute("src")
        self.click(f"#choice .thumbnail-item >> nth={number}")
        self.changed("#predictions img", "src", before)

    def texture(self, number: int) -> None:
        """Choose one of the textures."""
        self.click(f"#textures .thumbnail-item >> nth={number}")
        self.page.wait_for_selector("#predictions figure:nth-child(2)")

    def mark(self, concept: str) -> None:
        """Have a concept marked by its name."""
        self.tab("By name")
        before = self.page.locator("#predictions img").first.get_attribute("src")
        named = self.page.get_by_label("Concept", exact=True)
        named.fill(concept)
        named.press("Enter")
        self.click("#by-name")
        self.changed("#predictions img", "src", before)

    def paint(self, stroke: Sequence[tuple[float, float]]) -> None:
        """Paint a stroke, through points given as shares of the canvas."""
        before = self.page.locator("#predictions img").first.get_attribute("src")
        canvas = self.page.locator("#painter canvas").first
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=8)
        self.page.mouse.up()
        self.clicks += 1
        self.changed("#predictions img", "src", before)

    def point(self, x: float, y: float) -> None:
        """Click on the picture, at shares of its width and height."""
        picture = self.page.locator("#clicked img")
        box = picture.bounding_box()
        picture.click(position={"x": x * box["width"], "y": y * box["height"]})
        self.clicks += 1

    def rewrite(self) -> str:
        """Press Rewrite, and wait for repair and damage.

        Returns:
            What the page says of them.
        """
        self.click("#rewrite")
        self.page.wait_for_selector("#numbers >> text=predictions changed")
        return self.numbers()

    def strength(self, value: float) -> str:
        """Set the strength, and wait for what it does.

        Returns:
            What the page says.
        """
        before = self.page.locator("#numbers .rp-cards").inner_html()
        field = self.page.locator("#strength input[type=number]")
        field.fill(str(value))
        field.press("Enter")
        self.changed_from("#numbers .rp-cards", before)
        self.page.wait_for_selector("#numbers >> text=predictions changed")
        return self.numbers()

    def van_on_snow(self) -> str:
        """Repair the playground: of a van, mark the road, put snow there, and rewrite.

        Returns:
            What the page says of it.
        """
        self.choose("Class", "van")
        self.picture(1)
        self.mark("road")
        self.texture(SNOW)
        self.choose("Site", "blocks.3.conv")
        return self.rewrite()

    def numbers(self) -> str:
        """What the page says of repair and damage."""
        told: str = self.page.locator("#numbers").inner_text()
        return told

    def repaired(self) -> tuple[int, int]:
        """How many tests are repaired, and how many broken."""
        found = re.search(r"(\d+) repaired, (\d+) broken", self.numbers())
        assert found is not None, self.numbers()
        return int(found[1]), int(found[2])

    def upload(self, where: str, name: str, content: bytes, kind: str = "image/png") -> None:
        """Give a file to a button."""
        with self.page.expect_file_chooser() as chooser:
            self.click(where)
        chooser.value.set_files([{"name": name, "mimeType": kind, "buffer": content}])

    def download(self, where: str, path: Path) -> None:
        """Press a button that gives a file."""
        with self.page.expect_download() as download:
            self.click(where)
        download.value.save_as(path)

    def told(self, words: str) -> bool:
        """Wait for a sentence on the page, and put it away."""
        self.page.wait_for_selector(f"text={words}")
        # All at once, and none that is gone: each goes away by itself, too.
        self.page.evaluate("document.querySelectorAll('.toast-close').forEach(button => button.click())")
        self.page.wait_for_selector(".toast-close", state="detached")
        return True

    def changed(self, where: str, attribute: str, before: str | None) -> None:
        """Wait until a part is another one."""
        self.page.wait_for_function(
            "([where, name, before]) => { const part = document.querySelector(where);"
            " return part && part.getAttribute(name) !== before; }",
            arg=[where, attribute, before],
        )

    def changed_from(self, where: str, before: str) -> None:
        """Wait until a part holds something else."""
        self.page.wait_for_function(
            "([where, before]) => document.querySelector(where).innerHTML !== before", arg=[where, before]
        )
