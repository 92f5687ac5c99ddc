"""Names on their way out: one function for each of terminals, figures, Markdown, CSV, HTML and JSON.

Classes, concepts, files, models and sites have the names that their makers gave them, who may not wish us well.
"""

import html
import json
import math
import re
from typing import Any

__all__ = ["for_csv", "for_figure", "for_html", "for_markdown", "for_terminal", "json_text", "one_line", "shortened"]

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, what turns the direction of writing, and halves of surrogates."""

_MARKDOWN = re.compile(r"[\\`*\[\]|~]|\b_|_\b")
_FORMULA = re.compile(r"[=+\-@\t]")
_NUMBER = re.compile(r"[+-]?[0-9.,]*[0-9](e[+-]?[0-9]+)?( %| points)?")


def shortened(text: str, most: int) -> str:
    """Text of at most so many characters: of a longer one the beginning and the end."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - 1) // 2 :]}"


def for_terminal(text: str) -> str:
    r"""Text that steers no terminal: a mark for each character that is no text.

    Examples:
        >>> for_terminal("a file's name\x00\udcff of any\x1b[31m kind")
        "a file's name�� of any�[31m kind"
    """
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """Text for one line of a terminal or a cell of a table."""
    return " ".join(for_terminal(text).split())


def for_figure(name: str, most: int = 60) -> str:
    r"""A name for a figure of matplotlib: no mathematics, in one line, abbreviated in the middle, in every legend.

    Examples:
        >>> for_figure("$\\alpha$ or $x$"), for_figure("_hidden")
        ('\\$\\alpha\\$ or \\$x\\$', ' _hidden')
    """
    text = shortened(one_line(name), most).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # matplotlib leaves such names out of legends


def for_markdown(text: str) -> str:
    r"""Text for Markdown, in one line: no HTML, links, images, emphasis or columns.

    Examples:
        >>> for_markdown("<b>van</b> | ![x](http://a)"), for_markdown("blocks.conv_pw")
        ('&lt;b&gt;van&lt;/b&gt; \\| !\\[x\\](http://a)', 'blocks.conv_pw')
    """
    return html.escape(_MARKDOWN.sub(lambda found: f"\\{found[0]}", one_line(text)), quote=False)


def for_csv(text: str) -> str:
    """A cell of a table that spreadsheets open: with an apostrophe before what they would compute.

    Examples:
        >>> for_csv("=1+1"), for_csv("-0.4 points"), for_csv("van")
        ("'=1+1", '-0.4 points', 'van')
    """
    plain = for_terminal(text)
    return f"'{plain}" if _FORMULA.match(plain) and not _NUMBER.fullmatch(plain) else plain


def for_html(text: str) -> str:
    """Text for HTML, in an element or in quotation marks."""
    return html.escape(for_terminal(text))


def json_text(value: Any) -> str:
    r"""JSON for files and terminals, indented; numbers that are none are null.

    Examples:
        >>> print(json_text({"name": "van\x9b", "share": float("nan")}))
        {
          "name": "van\u009b",
          "share": null
        }
    """
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
