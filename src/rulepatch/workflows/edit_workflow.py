"""Making an edit from a method's name and settings as a user gives them; what the command line and other faces call."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.editors.edit import check_images, solve
from rulepatch.editors.judging import judged, warn_of
from rulepatch.editors.problem import Problem, build_problem
from rulepatch.errors import DamageError, SettingError, UselessEditError, warn
from rulepatch.evaluation.evaluate import evaluate, outcomes_of
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.evaluation.set_checks import trusted
from rulepatch.evaluation.suppressed import Suppressed, listed, suppressed_by, told_of
from rulepatch.files import check_writable, write_somewhere
from rulepatch.methods import MAX_DROP, Method, Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.site_search.result import Search
from rulepatch.site_search.search import search
from rulepatch.text import Table
from rulepatch.timing import collect_timings

__all__ = ["EditRun", "Limits", "run_edit"]

MOST_OF_CLASS = 50
"""Most images of a class that are looked at where the whole reference set is not."""

log = logging.getLogger("rulepatch")


@dataclass(frozen=True)
class Limits:
    """What is allowed of an edit, and of the search for it.

    Attributes:
        max_drop: most accuracy that it may lose on the reference set, 0..1 (without labels: share of predictions that
            may flip); not measured if None.
        allow_damage: save it all the same, and say so.
        allow_useless: save an edit that does nothing for its own exemplars all the same, and say so.
        quick: let a search try fewer edits.
    """

    max_drop: float | None = None
    allow_damage: bool = False
    allow_useless: bool = False
    quick: bool = False


@dataclass(frozen=True)
class EditRun:
    """An edit and what it took to make.

    Attributes:
        edit: the edit.
        path: the file it was written to.
        seconds: spent on statistics, on the solve, and in total.
        damage: what the edit did on the reference set, if a budget was given.
        search: what chose its site and settings, if that was asked for.
        suppressed: classes that failing exemplars were taken for and are no longer, and others it forgets.
    """

    edit: Edit
    path: Path
    seconds: Mapping[str, float]
    damage: Outcomes | None = None
    search: Search | None = None
    suppressed: Sequence[Suppressed] = ()

    def to_json(self) -> dict[str, Any]:
        """What was made, as JSON. Of several sites the losses are summed and the largest predicted damage is given."""
        reports = self.edit.reports
        change = self.edit.changes[0].describe() if self.edit.changes else {}
        gate = change.get("gate")
        return {
            "edit": str(self.path),
            "site": "+".join(self.edit.sites),
            "sites": [report.to_json() for report in reports],
            "rank": change.get("rank"),
            "strength": change.get("strength"),
            "gate": None if gate is None else gate["level"],
            "method": self.edit.provenance["method"],
            "loss": {
                "before": sum(report.loss_before for report in reports),
                "after": sum(report.loss_after for report in reports),
            },
            "predicted_damage": max(report.predicted_damage for report in reports),
            "verdict": self.edit.on_exemplars.verdict,
            "exemplars": self.edit.on_exemplars.to_json(),
            "damage": None if self.damage is None else self.damage.numbers() | {"drop": self.damage.drop},
            "suppressed": [each.to_json() for each in self.suppressed],
            "base": self.edit.base,
            **({} if self.search is None else self._searched(self.search)),
            "seconds": {name: self.seconds.get(name, 0.0) for name in ("statistics", "solve", "total")},
        }

    @staticmethod
    def _searched(search: Search) -> dict[str, Any]:
        found = search.to_json()
        return {key: found[key] for key in ("why", "validation", "max_drop", "candidates")}

    def to_text(self) -> str:
        """What was made, for people."""
        rows = [
            [
                report.site,
                f"{report.loss_before:.4g} → {report.loss_after:.4g}",
                f"{100 * report.predicted_damage:.2f} %"
                + ("" if report.gated_damage is None else f" ({100 * report.gated_damage:.2f} % with the gate)"),
            ]
            for report in self.edit.reports
        ]
        seconds = ", ".join(f"{name} {self.seconds.get(name, 0):.2f} s" for name in ("statistics", "solve", "total"))
        found = Table(["site", "masked error", "predicted damage"], rows).to_text()
        if self.damage is not None:
            lost, flips = 100 * self.damage.drop, len(self.damage.flips)
            found += f"\nmeasured damage: {lost:.2f} points lost, {flips} of {len(self.damage)} predictions flipped"
        found += "\n".join(["\n", self.edit.on_exemplars.to_text(), *told_of(self.suppressed), ""])
        if self.search is not None:
            found = f"{self.search.to_text()}\n\n{found}"
        return "\n".join([str(self.path), found, *filter(None, [self.edit.note]), seconds])


def run_edit(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    out: Path,
    reference: Any,
    site: Sequence[str] = (),
    how: Method = Rewrite(),  # noqa: B008 - it is frozen
    leave_out: Sequence[int | str] = (),
    images: Mapping[str, Any] | None = None,
    limits: Limits = Limits(),
    run: Run = Run(),  # noqa: B008 - it is frozen
) -> EditRun:
    """Make an edit and save it, unless it is useless or does more damage than is allowed.

    Args:
        model: the classifier.
        exemplars: what to learn from.
        out: the file to write.
        reference: images whose treatment should stay.
        site: dotted paths of sites; with "auto", to search among the others, or among all if there are none, and for
            the settings that are not given.
        how: the method and its settings.
        leave_out: classes to leave out of the reference set, such as those of the exemplars.
        images: `protect` and `style` of `edit`; `protect_classes`, classes of the reference set whose images must not
            change; `validation`, labelled images for the search.
        limits: what is allowed of the edit.
        run: seed, cache and progress.

    Returns:
        The edit, where it was written, and the seconds it took.

    Raises:
        DamageError: the edit loses more than is allowed, or nothing keeps to the budget; nothing is written.
        UselessEditError: the edit does nothing for its own exemplars, or a search found none that helps; nothing is
            written.
        OutputError: the folder to write in does not exist.
        SettingError: a setting that the method does not take.
    """
    check_writable(out)
    given = {name: value for name, value in (images or {}).items() if value}
    validation, classes = given.pop("validation", None), given.pop("protect_classes", ())
    kept = ImageSet.of(reference, model.classes, leave_out=leave_out)
    if "auto" in site:
        others = [*given, *(["protect_classes"] if classes else [])]
        if not isinstance(how, Rewrite) or others:
            raise SettingError(
                f"expected a rewrite of exemplars with --site auto but got {', '.join([how.name, *others])}; "
                "name a site to make such an edit"
            )
        among = [path for path in site if path != "auto"] or None
        return _make_by_search(
            model, exemplars, how, out=out, reference=kept, sites=among, validation=validation, limits=limits, run=run
        )  # fmt: skip
    if limits.quick:
        raise SettingError("expected --site auto with --quick, which shortens a search; leave one out")
    if validation is not None:
        raise SettingError("expected --site auto with validation images, which only a search looks at; leave one out")
    if classes:
        given["protect"] = _of_classes(model, ImageSet.of(reference, model.classes), classes)
    check_images(how, **given)
    with collect_timings() as seconds:
        if limits.max_drop is not None:
            kept = trusted(model, kept, progress=run.progress)
        problem = build_problem(model, exemplars, list(site), how, reference=kept, run=run, **given)
        edit = judged(model, solve(problem, how), exemplars)
        _check_use(edit, None if limits.max_drop is not None else problem, allowed=limits.allow_useless)
        measured = None
        if limits.max_drop is not None:
            found = evaluate(model, edit, reference=kept, exemplars=exemplars, progress=run.progress)
            measured = found.reference
            assert measured is not None
            if measured.drop > limits.max_drop:
                _refuse(measured, limits.max_drop, allowed=limits.allow_damage)
        suppressed = _suppressed(model, edit, kept, measured)
    write_somewhere(edit.save, out)
    return EditRun(edit, out, seconds, measured, suppressed=suppressed)


def _suppressed(
    model: Classifier, edit: Edit, reference: ImageSet, measured: Outcomes | None
) -> tuple[Suppressed, ...]:
    """The classes that the edit suppresses, and a warning of those that it forgets.

    Args:
        model: the classifier.
        edit: tried on its exemplars.
        reference: images to look at if no outcomes were measured: some of each class that failing exemplars left.
        measured: outcomes on the reference set.
    """
    taken = [(each.edited.index, each.after.index, each.target) for each in edit.on_exemplars.outcomes]
    if measured is None:
        left = {before for before, after, label in taken if before not in {after, label}}
        own = [[each for each in reference.pictures if each.label == label][:MOST_OF_CLASS] for label in sorted(left)]
        some = tuple(picture for pictures in own for picture in pictures)
        if some:
            (measured,) = outcomes_of(model, [edit], ImageSet(some, reference.name))
    found = suppressed_by(taken, measured, model.classes)
    if forgotten := [each for each in found if each.is_forgotten]:
        warn(
            f"the edit forgets {listed(forgotten)} (right before and after); take a gate or a higher one, less rank or "
            "strength, or another site"
        )
    return found


def _of_classes(model: Classifier, images: ImageSet, classes: Sequence[int | str]) -> ImageSet:
    wanted = {model.classes.index(name) for name in classes}
    found = tuple(picture for picture in images.pictures if picture.label in wanted)
    if not found:
        raise SettingError(
            f"expected images of {', '.join(map(str, classes))} in {images.name} to protect but found none; "
            "give a folder of them"
        )
    return ImageSet(found, f"{images.name}, {', '.join(map(str, classes))}")


def _make_by_search(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    how: Rewrite,
    *,
    out: Path,
    reference: ImageSet,
    sites: Sequence[str] | None,
    validation: Any,
    limits: Limits,
    run: Run,
) -> EditRun:
    with collect_timings() as seconds:
        found = search(
            model,
            exemplars,
            reference=reference,
            validation=validation,
            sites=sites,
            how=how,
            max_drop=MAX_DROP if limits.max_drop is None else limits.max_drop,
            quick=limits.quick,
            run=run,
        )
    if found.edit is None:
        raise found.refusal("give other exemplars, labelled validation images, or a larger budget")
    suppressed = _suppressed(model, found.edit, reference, None)
    write_somewhere(found.edit.save, out)
    return EditRun(found.edit, out, seconds, search=found, suppressed=suppressed)


def _check_use(edit: Edit, problem: Problem | None, *, allowed: bool) -> None:
    """Refuse a useless edit, and warn of what else is wrong; of damage if there is a problem."""
    found = edit.on_exemplars
    if found.verdict == "useless" and not allowed:
        raise UselessEditError(
            f"expected an edit that repairs what its exemplars show but {found.why}; or write it with --allow-useless"
        )
    warn_of(edit, problem)


def _refuse(measured: Outcomes, max_drop: float, *, allowed: bool) -> None:
    what = "predictions flipped" if measured.is_judged_by_flips else "accuracy"
    found = (
        f"expected to lose at most {100 * max_drop:.2f} points of {what} on {measured.name} but the edit loses "
        f"{100 * measured.drop:.2f} ({len(measured.flips)} of {len(measured)} predictions flip)"
    )
    if not allowed:
        raise DamageError(f"{found}; take less strength or rank, a gate, another site, or --allow-damage")
    log.warning("%s; written all the same", found)
