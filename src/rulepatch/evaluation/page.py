"""Self-contained HTML pages: templates, inlined images, thumbnails."""

import html
import io
import re
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from rulepatch.escaping import for_terminal
from rulepatch.files import write_file
from rulepatch.text import percent, plural, points
from rulepatch.thumbnails import THUMBNAIL, inline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MOST_THUMBNAILS", "THUMBNAIL", "frame", "inline", "render", "svg_element", "svg_of", "write_page"]

MOST_THUMBNAILS = 48
"""Most images shown of each set; counts cover all of them."""


def render(template: str, *, package: str = "rulepatch.evaluation", **context: Any) -> str:
    """Render a template of `pages/`.

    Args:
        template: its name.
        package: package whose `pages/` has the template.
        context: variables of the template; they are escaped.
    """
    return _environment(package).get_template(template).render(**context)


@cache
def _environment(package: str) -> jinja2.Environment:
    """The template environment of a package, cached."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package, "pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: for_terminal(value) if type(value) is str else value,  # markup is a type of its own
    )
    environment.filters |= {"percent": percent, "points": points, "plural": plural, "probability": _probability}
    return environment


def write_page(page: str, path: Path) -> None:
    """Write a page atomically.

    Raises:
        OutputError: it cannot be written there.
    """
    write_file(path, page)


def frame(page: str) -> str:
    """A page in an iframe for notebooks, which isolates its styles."""
    content = html.escape(page, quote=True)
    return (
        f'<iframe srcdoc="{content}" style="width: 100%; height: 40rem; border: 0" title="rulepatch report"></iframe>'
    )


def svg_of(figure: "Figure", *, salt: str | None = None) -> str:
    """A matplotlib figure as SVG, without its date.

    Args:
        figure: the figure.
        salt: salt of the ids of its elements, for reproducible output; random if None.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({} if salt is None else {"svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph|constrained_layout"
        )  # of names that no font has, or no page has room for
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def svg_element(drawing: str) -> str:
    """The `<svg>` element of an SVG file, without its prologue.

    Examples:
        >>> svg_element("<?xml version='1.0'?><svg/>")
        '<svg/>'
    """
    return re.sub(r"^.*?(<svg)", r"\1", drawing, count=1, flags=re.DOTALL)


def _probability(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"
