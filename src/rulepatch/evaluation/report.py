"""HTML report of an evaluation: one self-contained page with images."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rulepatch.core.exemplars import Exemplar
from rulepatch.evaluation.outcomes import ClassImpact, Outcome, Outcomes
from rulepatch.evaluation.page import MOST_THUMBNAILS, THUMBNAIL, frame, inline, render, write_page
from rulepatch.evaluation.result import Evaluation
from rulepatch.files import check_writable
from rulepatch.thumbnails import marked

__all__ = ["render_frame", "render_report", "write_report"]

MOST_ROWS = 200
"""Most rows of the list of flips; a tenth of that for the table of affected classes."""


@dataclass(frozen=True)
class _Tile:
    """A thumbnail."""

    picture: str
    title: str
    verdict: str
    label: str
    before: str
    after: str


def write_report(evaluation: Evaluation, path: Path | str) -> None:
    """Write a self-contained report atomically.

    Args:
        evaluation: the evaluation.
        path: the file.

    Raises:
        OutputError: the folder does not exist, or the path is one.
    """
    path = Path(path)
    check_writable(path)
    write_page(render_report(evaluation), path)


def render_frame(evaluation: Evaluation) -> str:
    """The report in an iframe for notebooks, which isolates its styles."""
    return frame(render_report(evaluation))


def render_report(evaluation: Evaluation) -> str:
    """The report as an HTML page.

    Returns:
        The page, with all resources inline.
    """
    reference = evaluation.reference
    return render(
        "report.html.jinja",
        evaluation=evaluation,
        described=evaluation.edit.describe(),
        certificates=[report.certificate for report in evaluation.edit.reports if report.certificate],
        unchanged=None if reference is None else _unchanged(reference),
        title=_title(evaluation),
        exemplars=[_exemplar(exemplar) for exemplar in evaluation.exemplars],
        verdict=evaluation.verdict,
        suppressed=evaluation.suppressed[: MOST_ROWS // 10],
        tests=evaluation.tests,
        reference=reference,
        numbers={name: found.numbers() for name, found in _sets(evaluation)},
        test_tiles=_wall(evaluation, evaluation.tests, only_flips=False),
        flip_tiles=_wall(evaluation, reference, only_flips=True),
        tests_by_class=_by_class(evaluation, evaluation.tests),
        exposed=_impacts(evaluation, reference),
        flip_list=reference.to_json(evaluation.classes)["flip_list"][:MOST_ROWS] if reference else [],
        most=MOST_THUMBNAILS,
        most_rows=MOST_ROWS,
    )


def _sets(evaluation: Evaluation) -> Iterator[tuple[str, Outcomes]]:
    for name, found in (("tests", evaluation.tests), ("reference", evaluation.reference)):
        if found is not None:
            yield name, found


def _title(evaluation: Evaluation) -> str:
    rules = {
        (exemplar.get("replacement"), exemplar.get("concept"))
        for exemplar in evaluation.edit.provenance.get("exemplars", [])
    }
    named = [f"treat {new} as {old}" for new, old in sorted(rules, key=str) if new and old]
    added = [f"a new class: {name}" for name in evaluation.edit.new_classes]
    return "; ".join([*named, *added]) or ("a rewritten rule" if evaluation.edit.changes else "the model as it is")


def _exemplar(exemplar: Exemplar) -> dict[str, Any]:
    shown = [exemplar.image, marked(exemplar.image, exemplar.mask), exemplar.edited]
    return {
        "name": exemplar.name,
        "label": exemplar.label,
        "concept": exemplar.concept or "the concept",
        "replacement": exemplar.replacement or "its replacement",
        "pictures": [inline(picture, 2 * THUMBNAIL) for picture in shown],
    }


def _wall(evaluation: Evaluation, found: Outcomes | None, *, only_flips: bool) -> Sequence[_Tile]:
    """Thumbnails, with broken and repaired images first."""
    if found is None:
        return []
    outcomes: Iterable[Outcome] = (found[int(i)] for i in found.flips) if only_flips else found
    ranked = sorted(outcomes, key=lambda o: (not o.is_broken, not o.is_repaired, not o.is_flip, -max(o.confidence)))
    return [_tile(evaluation, outcome) for outcome in ranked[:MOST_THUMBNAILS]]


def _impacts(evaluation: Evaluation, found: Outcomes | None) -> list[tuple[str, ClassImpact]]:
    """Classes with losses, the worst first."""
    if found is None:
        return []
    lost = [e for e in found.class_impacts() if e.right[1] < e.right[0] or e.confidence[1] < e.confidence[0] - 0.02]
    return [(evaluation.classes[impact.label], impact) for impact in lost[: MOST_ROWS // 10]]


def _unchanged(found: Outcomes) -> tuple[int, int, int, int]:
    """Number of unchanged predictions, of images, of classes with unchanged predictions only, and of classes."""
    by_class = found.by_class()
    kept = sum(len(own.flips) == 0 for own in by_class.values())
    return len(found) - len(found.flips), len(found), kept, len(by_class)


def _tile(evaluation: Evaluation, outcome: Outcome) -> _Tile:
    classes, picture, label = evaluation.classes, outcome.picture.read(), outcome.picture.label
    before, after = (
        f"{classes[predicted]} {confidence:.0%}"
        for predicted, confidence in zip((outcome.before, outcome.after), outcome.confidence, strict=True)
    )
    name = "" if label is None else classes[label]
    return _Tile(inline(picture, THUMBNAIL), outcome.picture.name, outcome.verdict, name, before, after)


def _by_class(evaluation: Evaluation, found: Outcomes | None) -> list[tuple[str, Outcomes]]:
    return [] if found is None else [(evaluation.classes[label], own) for label, own in found.by_class().items()]
