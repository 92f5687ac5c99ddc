"""HTML report of a context match: thumbnails of the best matches with the matched region outlined."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from rulepatch.concepts.match import Match, Matches
from rulepatch.concepts.test_sets import seen_of
from rulepatch.evaluation.page import MOST_THUMBNAILS, THUMBNAIL, inline, render, write_page
from rulepatch.files import check_writable
from rulepatch.images import as_image
from rulepatch.models.classifier import Classifier

__all__ = ["outlined", "write_match_report"]

OUTLINE = (255, 64, 160)


@dataclass(frozen=True)
class _Tile:
    """A thumbnail."""

    picture: str
    title: str
    label: str
    level: float
    share: float


def write_match_report(model: Classifier, matches: Matches, path: Path) -> None:
    """Write the report atomically.

    Args:
        model: the classifier.
        matches: the matches.
        path: the file.

    Raises:
        OutputError: the folder does not exist, or the path is one.
    """
    check_writable(path)
    shown = matches.matches[:MOST_THUMBNAILS]
    tiles = [_tile(model, matches, match) for match in shown]
    often = Counter(tile.label for tile in tiles if tile.label).most_common(3)
    page = render(
        "match.html.jinja",
        title=f"where {matches.key.name} is",
        matches=matches,
        model_name=model.name,
        tiles=tiles,
        by_class=often,
    )
    write_page(page, path)


def outlined(model: Classifier, match: Match, threshold: float, side: int = THUMBNAIL) -> Image.Image:
    """The model's crop of an image, with an outline of the region where a key fires.

    Args:
        model: the classifier.
        match: the image and its scores.
        threshold: threshold of the score.
        side: size of the result in pixels.
    """
    seen = as_image(seen_of(model, match.picture))
    shown = seen.resize((side, side * seen.height // seen.width), Image.Resampling.LANCZOS)
    inside = Image.fromarray((match.mask(threshold, (shown.height, shown.width)) * 255).astype(np.uint8))
    edge = np.asarray(inside.filter(ImageFilter.MaxFilter(3))) != np.asarray(inside.filter(ImageFilter.MinFilter(3)))
    pixels = np.array(shown)
    pixels[edge] = OUTLINE
    return Image.fromarray(pixels)


def _tile(model: Classifier, matches: Matches, match: Match) -> _Tile:
    label = match.picture.label
    picture = inline(outlined(model, match, matches.threshold, 2 * THUMBNAIL), 2 * THUMBNAIL)
    name, share = "" if label is None else model.classes[label], float((match.scores > matches.threshold).mean())
    return _Tile(picture, match.picture.name, name, match.level, share)
