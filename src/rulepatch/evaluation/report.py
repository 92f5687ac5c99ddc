"""The report of an evaluation: one self-contained HTML page, with pictures and no outside reference."""

import base64
import html
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from rulepatch.core.exemplars import Exemplar
from rulepatch.evaluation.evaluate import Evaluation
from rulepatch.evaluation.outcomes import Exposure, Outcome, Outcomes
from rulepatch.files import atomic_path, check_writable
from rulepatch.images import read_image
from rulepatch.text import percent, plural, points

__all__ = ["render_frame", "render_report", "write_report"]

MOST_THUMBNAILS = 48
"""Pictures shown of each set; the counts always cover all of them."""

MOST_ROWS = 200
"""Rows of the list of flips, and of the table of exposed classes a tenth of that."""

THUMBNAIL = 128


@dataclass(frozen=True)
class _Tile:
    """A thumbnail of the wall."""

    picture: str
    title: str
    verdict: str
    label: str
    before: str
    after: str


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Write the report, whole or not at all.

    Raises:
        OutputError: the folder does not exist, or the path is one.
    """
    check_writable(path)
    page = render_report(evaluation)
    with atomic_path(path) as unfinished:
        unfinished.write_text(page, encoding="utf-8", errors="replace")  # a file's name may be no text


def render_frame(evaluation: Evaluation) -> str:
    """The report in a frame, for a notebook: its styles stay inside.

    Returns:
        An HTML element.
    """
    page = html.escape(render_report(evaluation), quote=True)
    return f'<iframe srcdoc="{page}" style="width: 100%; height: 40rem; border: 0" title="rulepatch report"></iframe>'


def render_report(evaluation: Evaluation) -> str:
    """The report as a page of HTML.

    Returns:
        The page; everything in it is inline.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": percent, "points": points, "plural": plural, "probability": _probability}
    template = environment.from_string((resources.files(__package__) / "report.html.jinja").read_text("utf-8"))
    reference = evaluation.reference
    return template.render(
        evaluation=evaluation,
        described=evaluation.edit.describe(),
        title=_title(evaluation),
        exemplars=[_exemplar(exemplar) for exemplar in evaluation.exemplars],
        tests=evaluation.tests,
        reference=reference,
        numbers={name: found.numbers() for name, found in _sets(evaluation)},
        test_tiles=_wall(evaluation, evaluation.tests, only_flips=False),
        flip_tiles=_wall(evaluation, reference, only_flips=True),
        tests_by_class=_by_class(evaluation, evaluation.tests),
        exposed=_exposed(evaluation, reference),
        flip_list=reference.to_json(evaluation.classes)["flip_list"][:MOST_ROWS] if reference else [],
        most=MOST_THUMBNAILS,
        most_rows=MOST_ROWS,
    )


def _sets(evaluation: Evaluation) -> Iterator[tuple[str, Outcomes]]:
    for name, found in (("tests", evaluation.tests), ("reference", evaluation.reference)):
        if found is not None:
            yield name, found


def _probability(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"


def _title(evaluation: Evaluation) -> str:
    rules = {
        (exemplar.get("replacement"), exemplar.get("concept"))
        for exemplar in evaluation.edit.provenance.get("exemplars", [])
    }
    named = [f"treat {new} as {old}" for new, old in sorted(rules, key=str) if new and old]
    return "; ".join(named) or "a rewritten rule"


def _exemplar(exemplar: Exemplar) -> dict[str, Any]:
    picture, edited = np.asarray(exemplar.image, np.float32), exemplar.edited
    shown = exemplar.mask[..., None]
    overlay = picture * (1 - 0.65 * shown) + np.array([230.0, 40.0, 120.0]) * 0.65 * shown
    return {
        "name": exemplar.name,
        "label": exemplar.label,
        "concept": exemplar.concept or "the concept",
        "replacement": exemplar.replacement or "its replacement",
        "pictures": [
            _inline(exemplar.image, 2 * THUMBNAIL),
            _inline(Image.fromarray(overlay.astype(np.uint8)), 2 * THUMBNAIL),
            _inline(edited, 2 * THUMBNAIL),
        ],
    }


def _wall(evaluation: Evaluation, found: Outcomes | None, *, only_flips: bool) -> Sequence[_Tile]:
    """Thumbnails, the broken and the repaired first: those are what a person must see."""
    if found is None:
        return []
    outcomes: Iterable[Outcome] = (found[int(i)] for i in found.flips) if only_flips else found
    ranked = sorted(outcomes, key=lambda o: (not o.is_broken, not o.is_repaired, not o.is_flip, -max(o.confidence)))
    return [_tile(evaluation, outcome) for outcome in ranked[:MOST_THUMBNAILS]]


def _exposed(evaluation: Evaluation, found: Outcomes | None) -> list[tuple[str, Exposure]]:
    """Classes that lost something, the worst first."""
    if found is None:
        return []
    lost = [e for e in found.exposures() if e.right[1] < e.right[0] or e.confidence[1] < e.confidence[0] - 0.02]
    return [(evaluation.classes[exposure.label], exposure) for exposure in lost[: MOST_ROWS // 10]]


def _tile(evaluation: Evaluation, outcome: Outcome) -> _Tile:
    classes, source, label = evaluation.classes, outcome.picture.source, outcome.picture.label
    picture = read_image(source) if isinstance(source, Path) else source
    right = outcome.after == label
    verdict = (
        "broken" if outcome.is_broken
        else "repaired" if outcome.is_repaired
        else "changed" if outcome.is_flip
        else "right" if right
        else "wrong"
    )  # fmt: skip
    before, after = (
        f"{classes[predicted]} {confidence:.0%}"
        for predicted, confidence in zip((outcome.before, outcome.after), outcome.confidence, strict=True)
    )
    name = "" if label is None else classes[label]
    verdict = "same" if label is None and not outcome.is_flip else verdict
    return _Tile(_inline(picture, THUMBNAIL), outcome.picture.name, verdict, name, before, after)


def _by_class(evaluation: Evaluation, found: Outcomes | None) -> list[tuple[str, Outcomes]]:
    return [] if found is None else [(evaluation.classes[label], own) for label, own in found.by_class().items()]


def _inline(picture: Image.Image, side: int) -> str:
    small = picture.copy()
    if max(small.size) < side:
        factor = side // max(small.size)
        small = small.resize((small.width * factor, small.height * factor), Image.Resampling.NEAREST)
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
