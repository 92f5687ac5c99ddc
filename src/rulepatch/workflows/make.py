"""Making an edit from a method's name and settings as a user gives them; what the command line and other faces call."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.model_sites import sites_of
from rulepatch.data.folders import ImageSet
from rulepatch.editors.judging import judged, warn_of
from rulepatch.editors.problem import GateLevel
from rulepatch.editors.registry import fitting, unjudged
from rulepatch.errors import DamageError, SettingError, UselessEditError
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.evaluation.set_checks import trusted
from rulepatch.files import check_writable
from rulepatch.models.classifier import Classifier
from rulepatch.site_search.search import MAX_DROP, Search, search
from rulepatch.text import Table
from rulepatch.timing import collected

__all__ = ["Made", "gate_level", "make"]

log = logging.getLogger("rulepatch")


@dataclass(frozen=True)
class Made:
    """An edit and what it took to make.

    Attributes:
        edit: the edit.
        path: the file it was written to.
        seconds: spent on statistics, on the solve, and in total.
        damage: what the edit did on the reference set, if a budget was given.
        search: what chose its site and settings, if that was asked for.
    """

    edit: Edit
    path: Path
    seconds: Mapping[str, float]
    damage: Outcomes | None = None
    search: Search | None = None

    def to_json(self) -> dict[str, Any]:
        """What was made, as JSON. Of several sites the losses are summed and the largest predicted damage is given."""
        measured = self.edit.provenance["sites"]
        change = self.edit.changes[0].describe() if self.edit.changes else {}
        gate = change.get("gate")
        return {
            "edit": str(self.path),
            "site": "+".join(self.edit.sites),
            "sites": measured,
            "rank": change.get("rank"),
            "strength": change.get("strength"),
            "gate": None if gate is None else gate["level"],
            "method": self.edit.provenance["method"],
            "loss": {when: sum(site["loss"][when] for site in measured) for when in ("before", "after")},
            "predicted_damage": max(site["predicted_damage"] for site in measured),
            "verdict": self.edit.on_exemplars.verdict,
            "exemplars": self.edit.on_exemplars.to_json(),
            "damage": None if self.damage is None else self.damage.numbers() | {"drop": self.damage.drop},
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
                site["site"],
                f"{site['loss']['before']:.4g} → {site['loss']['after']:.4g}",
                f"{100 * site['predicted_damage']:.2f} %",
            ]
            for site in self.edit.provenance["sites"]
        ]
        seconds = ", ".join(f"{name} {self.seconds.get(name, 0):.2f} s" for name in ("statistics", "solve", "total"))
        found = Table(["site", "masked error", "predicted damage"], rows).to_text()
        if self.damage is not None:
            lost, flips = 100 * self.damage.drop, len(self.damage.flips)
            found += f"\nmeasured damage: {lost:.2f} points lost, {flips} of {len(self.damage)} predictions flipped"
        found += f"\n\n{self.edit.on_exemplars.to_text()}\n"
        if self.search is not None:
            found = f"{self.search.to_text()}\n\n{found}"
        return "\n".join([str(self.path), found, *filter(None, [self.edit.note]), seconds])


def gate_level(text: str) -> GateLevel:
    """Read a gate as people write it.

    Args:
        text: a quantile in 0..1, "auto" or "none".

    Returns:
        The quantile, "auto" or "none".

    Raises:
        SettingError: anything else.

    Examples:
        >>> gate_level("0.98"), gate_level("none")
        (0.98, 'none')
    """
    if text.lower() == "auto":
        return "auto"
    if text.lower() == "none":
        return "none"
    try:
        return float(text)
    except ValueError:
        raise SettingError(
            f"expected a gate in 0..1 (a quantile of the reference set, such as 0.98), auto or none but got {text!r}"
        ) from None


def make(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    out: Path,
    reference: Any,
    method: str = "rewrite",
    leave_out: Sequence[int | str] = (),
    settings: Mapping[str, Any],
    protect_classes: Sequence[int | str] = (),
    validation: Any = None,
    max_drop: float | None = None,
    allow_damage: bool = False,
    allow_useless: bool = False,
    progress: bool = True,
) -> Made:
    """Make an edit by the method of a name, and save it, unless it is useless or does more damage than is allowed.

    Args:
        model: the classifier.
        exemplars: what to learn from.
        out: the file to write.
        reference: pictures whose treatment should stay.
        method: name of an editor.
        leave_out: classes to leave out of the reference set, such as those of the exemplars.
        settings: of the editor; None stands for what was not given. With the site "auto" all others are searched for.
        protect_classes: classes of the reference set whose pictures must not change.
        validation: labelled pictures for the search.
        max_drop: most accuracy that the edit may lose on the reference set, 0..1 (without labels: share of predictions
            that may flip); not measured if None.
        allow_damage: save it all the same, and say so.
        allow_useless: save an edit that does nothing for its own exemplars all the same, and say so.
        progress: whether to show bars.

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
    if settings.get("site") == ["auto"]:
        return _make_by_search(
            model, exemplars, out=out, reference=reference, method=method, leave_out=leave_out, settings=settings,
            validation=validation, max_drop=max_drop, progress=progress,
        )  # fmt: skip
    if validation is not None:
        raise SettingError("expected --site auto with validation pictures, which only a search looks at; leave one out")
    if method != "rewrite" and settings.get("gate") == "none":
        settings = {**settings, "gate": None}  # the other methods have no gate anyway
    given = fitting(method, {**settings, "protect": settings.get("protect") or protect_classes or None})
    if not given.get("site"):
        last = [site.path for site in sites_of(model).sites if site.is_spatial][-3:]
        raise SettingError(
            f"expected at least one site but got none; the last ones are a good start: --site {' --site '.join(last)}"
        )
    images = ImageSet.of(reference, model.classes, leave_out=leave_out)
    if protect_classes:
        given["protect"] = _of_classes(model, ImageSet.of(reference, model.classes), protect_classes)
    with collected() as seconds:
        if max_drop is not None:
            images = trusted(model, images, progress=progress)
        edit = unjudged(method)(model, exemplars, reference=images, progress=progress, **given)
        edit = judged(model, edit, exemplars)
        _check_use(edit, allowed=allow_useless)
        measured = None
        if max_drop is not None:
            measured = evaluate(model, edit, reference=images, exemplars=exemplars, progress=progress).reference
            assert measured is not None
            if measured.drop > max_drop:
                _refuse(measured, max_drop, allowed=allow_damage)
    edit.save(out)
    return Made(edit, out, seconds, measured)


def _of_classes(model: Classifier, images: ImageSet, classes: Sequence[int | str]) -> ImageSet:
    wanted = {model.classes.index(name) for name in classes}
    found = tuple(picture for picture in images.pictures if picture.label in wanted)
    if not found:
        raise SettingError(
            f"expected pictures of {', '.join(map(str, classes))} in {images.name} to protect but found none; "
            "give a folder of them"
        )
    return ImageSet(found, f"{images.name}, {', '.join(map(str, classes))}")


def _make_by_search(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    *,
    out: Path,
    reference: Any,
    method: str,
    leave_out: Sequence[int | str],
    settings: Mapping[str, Any],
    validation: Any,
    max_drop: float | None,
    progress: bool,
) -> Made:
    others = [name for name, value in settings.items() if value is not None and name not in {"site", "seed"}]
    if method != "rewrite" or others:
        raise SettingError(
            f"expected --site auto to choose everything by itself but got {', '.join([method, *others])}; "
            "name a site to set them"
        )
    with collected() as seconds:
        found = search(
            model,
            exemplars,
            reference=reference,
            validation=validation,
            max_drop=MAX_DROP if max_drop is None else max_drop,
            leave_out=leave_out,
            seed=settings.get("seed") or 0,
            progress=progress,
        )
    if found.edit is None:
        raise found.refusal("give other exemplars, labelled validation pictures, or a larger budget")
    found.edit.save(out)
    return Made(found.edit, out, seconds, search=found)


def _check_use(edit: Edit, *, allowed: bool) -> None:
    found = edit.on_exemplars
    if found.verdict == "useless" and not allowed:
        raise UselessEditError(
            f"expected an edit that repairs what its exemplars show but {found.why}; or write it with --allow-useless"
        )
    warn_of(edit)


def _refuse(measured: Outcomes, max_drop: float, *, allowed: bool) -> None:
    what = "predictions flipped" if measured.is_judged_by_flips else "accuracy"
    found = (
        f"expected to lose at most {100 * max_drop:.2f} points of {what} on {measured.name} but the edit loses "
        f"{100 * measured.drop:.2f} ({len(measured.flips)} of {len(measured)} predictions flip)"
    )
    if not allowed:
        raise DamageError(f"{found}; take less strength or rank, a gate, another site, or --allow-damage")
    log.warning("%s; written all the same", found)
