"""Self-contained HTML fragments for notebooks, in the notebook's own colours.

All text is escaped; only fragments made by these functions are inserted unescaped.
"""

import base64
from collections.abc import Iterable, Sequence

from PIL import Image

from rulepatch.escaping import for_html
from rulepatch.text import are_numbers
from rulepatch.thumbnails import inline

__all__ = ["Html", "details", "drawing", "line", "panel", "pictures", "remark", "table"]


SIDE = 256
"""Longer side of an image, in pixels."""

STYLE = """<style>
.rulepatch { line-height: 1.45; }
.rulepatch p { margin: .3em 0; max-width: 60em; }
.rulepatch .soft, .rulepatch th { opacity: .75; }
.rulepatch table { border-collapse: collapse; margin: .5em 0; border: 0; font-size: .95em;
  font-variant-numeric: tabular-nums; }
.rulepatch tr { background: transparent; }
.rulepatch th, .rulepatch td { text-align: left; padding: .25em 1.2em .25em 0; border: 0;
  border-bottom: 1px solid rgba(128, 128, 128, .35); }
.rulepatch th { font-weight: 600; font-size: .9em; }
.rulepatch .number { text-align: right; white-space: nowrap; }
.rulepatch tr.marked td { background: rgba(64, 128, 240, .16); }
.rulepatch .scroll { overflow: auto; max-height: 32em; }
.rulepatch .pictures { display: flex; flex-wrap: wrap; gap: 1em; margin: .5em 0; }
.rulepatch figure { margin: 0; width: 14em; max-width: 100%; }
.rulepatch figure img { width: 100%; margin: 0; border-radius: .3em; display: block; }
.rulepatch .drawing { background: #fff; width: 46em; max-width: 100%; margin: 0; border-radius: .3em; }
</style>"""


class Html(str):
    """HTML in which everything is escaped; any other text is escaped before it becomes part of it."""

    __slots__ = ()


def panel(title: str, *parts: Html) -> str:
    """All that is shown of a result.

    Args:
        title: what it is.
        parts: below the title, in order.
    """
    return str(_element("div", Html(STYLE), _element("p", _element("b", title)), *parts, kind="rulepatch"))


def line(text: str) -> Html:
    """A paragraph of text.

    Examples:
        >>> line("kept <b> & sound")
        '<p>kept &lt;b&gt; &amp; sound</p>'
    """
    return _element("p", text)


def remark(text: str) -> Html:
    """A paragraph of text, less prominent than the rest."""
    return _element("p", text, kind="soft")


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, marked: int | None = None) -> Html:
    """Rows in columns; numbers, and what begins with one, stand to the right.

    Args:
        header: of each column.
        rows: cells, as many as the header has; None is empty.
        marked: the row to be set off from the others.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    kinds = ["number" if are_numbers([row[column] for row in cells]) else "" for column in range(len(header))]
    head = _row("th", header, kinds)
    body = [_row("td", row, kinds, is_marked=number == marked) for number, row in enumerate(cells)]
    found = _element("table", _element("thead", head), _element("tbody", *body))
    return _element("div", found, kind="scroll")


def _row(tag: str, texts: Sequence[str], kinds: Sequence[str], *, is_marked: bool = False) -> Html:
    inside = [_element("b", text) if is_marked else text for text in texts]
    cells = [_element(tag, text, kind=kind) for text, kind in zip(inside, kinds, strict=True)]
    return _element("tr", *cells, kind="marked" if is_marked else "")


def details(summary: str, *parts: Html) -> Html:
    """Parts that are folded away until they are asked for."""
    return _element("details", _element("summary", summary), *parts)


def pictures(captioned: Iterable[tuple[Image.Image, str, Sequence[str]]]) -> Html:
    """Images side by side.

    Args:
        captioned: each with its title, and with lines below that, of which the first matters most.

    Returns:
        An HTML element; the images are part of it.
    """
    return _element("div", *(_figure(*each) for each in captioned), kind="pictures")


def _figure(picture: Image.Image, title: str, lines: Sequence[str]) -> Html:
    told = [_element("div", _element("b", text) if number == 0 else text) for number, text in enumerate(lines)]
    caption = _element("figcaption", _element("div", title, kind="soft"), *told)
    return _element("figure", Html(f'<img src="{inline(picture, SIDE)}" alt="{for_html(title)}">'), caption)


def drawing(svg: str, title: str) -> Html:
    """A file of SVG, such as a figure of matplotlib.

    Args:
        svg: the file's text.
        title: what it shows, for those who cannot see it.

    Returns:
        An HTML element; the drawing is part of it.
    """
    address = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()
    return Html(f'<img class="drawing" src="{address}" alt="{for_html(title)}">')


def _element(tag: str, *parts: str, kind: str = "") -> Html:
    """An element with some parts, of which text is escaped."""
    inside = "".join(part if isinstance(part, Html) else for_html(part) for part in parts)
    return Html(f'<{tag} class="{kind}">{inside}</{tag}>' if kind else f"<{tag}>{inside}</{tag}>")
