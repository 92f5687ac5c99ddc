"""Views of a workbench as HTML fragments; all values are escaped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rulepatch.concepts.painting import Painting
from rulepatch.data.folders import Picture
from rulepatch.errors import ImageError
from rulepatch.evaluation.match_report import outlined
from rulepatch.evaluation.outcomes import Outcome, Outcomes
from rulepatch.evaluation.page import inline, render
from rulepatch.models.classes import Classes
from rulepatch.web.canvas import BRUSH, OPACITY
from rulepatch.web.recipes import title_of
from rulepatch.web.workbench import Workbench

__all__ = ["Thumbnails", "exemplars", "heatmap", "marked", "numbers", "predictions", "ranked", "small", "wall"]

MOST_TILES = 120
"""Test images on the wall."""

MOST_FIRING = 12
SIDE = 112
"""Longer side of a thumbnail, in pixels."""

LARGE = 256

_ORDER = ("repaired", "broken", "changed", "wrong", "right", "same")


@dataclass(frozen=True)
class _Tile:
    """An image of the wall."""

    picture: str
    name: str
    label: str
    verdict: str = ""
    before: str = ""
    after: str = ""
    share: float = 0.0


class Thumbnails:
    """Images reduced once and kept as long as these are."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Picture, str]] = {}

    def of(self, picture: Picture) -> str:
        """An image as a data URI.

        Returns:
            A `data:` address.
        """
        if id(picture) not in self._kept:
            self._kept[id(picture)] = picture, inline(_read(picture), SIDE)
        return self._kept[id(picture)][1]


def _read(picture: Picture) -> Image.Image:
    try:
        return picture.read()
    except ImageError:
        return Image.new("RGB", (SIDE, SIDE), "grey")  # it is skipped and counted elsewhere


def small(picture: Picture) -> Image.Image:
    """An image as it is offered to be chosen.

    Returns:
        RGB, small.
    """
    image = _read(picture).copy()
    image.thumbnail((2 * SIDE, 2 * SIDE))
    return image


def exemplars(bench: Workbench) -> str:
    """What the next edit is made from.

    Args:
        bench: whose.
    """
    shown = [{"picture": inline(each.edited, SIDE), "title": title_of(each)} for each in bench.state.exemplars]
    return _piece("exemplars", exemplars=shown)


def ranked(found: Outcomes) -> list[Outcome]:
    """Outcomes, the repaired first, then the broken and whatever else changed."""
    return sorted(found, key=lambda each: (_ORDER.index(each.verdict), -max(each.confidence)))


def wall(found: Outcomes | None, classes: Classes, thumbnails: Thumbnails) -> str:
    """Test images before and after.

    Args:
        found: what became of them; None if there are no tests.
        classes: of the model.
        thumbnails: of the images.
    """
    outcomes = [] if found is None else ranked(found)
    tiles = [
        _Tile(
            thumbnails.of(each.picture),
            each.picture.name,
            "" if each.picture.label is None else classes[each.picture.label],
            each.verdict,
            f"{classes[each.before]} {each.confidence[0]:.0%}",
            f"{classes[each.after]} {each.confidence[1]:.0%}",
        )
        for each in outcomes[:MOST_TILES]
    ]
    nothing = "There are no test images: start the app with --tests DIR to see what is repaired."
    return _piece("wall", tiles=tiles, left_out=len(outcomes) - len(tiles), nothing=nothing)


def numbers(bench: Workbench, *, tests: Outcomes | None, clean: Outcomes | None, waiting: bool = False) -> str:
    """Repair and damage.

    Args:
        bench: whose.
        tests: what became of the tests; None if there are none.
        clean: what became of the clean images; None if that is not known yet.
        waiting: whether it will be.
    """
    images, draft = bench.pictures("clean"), bench.state.draft
    where = "" if images is None else Path(images.name).name
    why = "" if draft is None else draft.why or draft.edit.on_exemplars.why
    return _piece("numbers", tests=tests, clean=clean, where=where, waiting=waiting, why=why)


def predictions(bench: Workbench, painting: Painting | None) -> str:
    """The image and its edited counterpart, and what the model says of both, before and after.

    Args:
        bench: whose model.
        painting: the exemplar in the making.

    Returns:
        HTML; nothing if no image is chosen.
    """
    if painting is None:
        return ""
    images = [painting.image, *([painting.edited] if painting.is_complete else [])]
    count, edited = len(bench.classes), bool(bench.edit.changes)
    before = [dict(each) for each in bench.predictions(images, edited=False, most=count)]
    after = [dict(each) for each in bench.predictions(images, most=count)] if edited else before
    pictures = []
    titles = ["the image", "with the concept replaced"]
    for image, title, was, now in zip(images, titles, before, after, strict=False):
        likeliest = dict.fromkeys([*list(was)[:2], *list(now)[:2]])
        rows = [(name, was.get(name, 0.0), now[name]) for name in likeliest]
        shown = marked(painting) if title == titles[0] and not painting.is_complete else image
        pictures.append({"picture": inline(shown, LARGE), "title": title, "rows": rows})
    return _piece("predictions", pictures=pictures, edited=edited)


def marked(painting: Painting) -> Image.Image:
    """The image with what is marked in it."""
    if painting.mask is None:
        return painting.image
    colour = Image.new("RGB", painting.image.size, BRUSH)
    return Image.composite(colour, painting.image, Image.fromarray((painting.mask * OPACITY).astype(np.uint8)))


def heatmap(bench: Workbench, pictures: Sequence[Picture]) -> str:
    """Where the rule fires in some images.

    Args:
        bench: whose rule.
        pictures: where to look; the first are shown.
    """
    found = bench.heatmap(pictures[:MOST_FIRING])
    tiles = [
        _Tile(
            inline(outlined(bench.model, each, found.threshold, LARGE), LARGE),
            each.picture.name,
            "" if each.picture.label is None else bench.classes[each.picture.label],
            share=float((each.scores > found.threshold).mean()),
        )
        for each in found.matches
    ]
    return _piece("heatmap", site=found.site, tiles=tiles)


def _piece(template: str, **context: object) -> str:
    return render(f"{template}.html.jinja", package="rulepatch.web", **context)
