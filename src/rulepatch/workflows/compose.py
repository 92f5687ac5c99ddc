"""Composition of several edits, with a report of conflicts between their rules."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rulepatch.core import linalg
from rulepatch.core.changes import LowRank
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.moments import KeyStatistics
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.data.statistics import key_statistics
from rulepatch.editors.assembling import masked_errors
from rulepatch.editors.multi_rule import SEPARATE, Rule, solve_rules
from rulepatch.editors.problem import build_problem, record_exemplars
from rulepatch.errors import SettingError
from rulepatch.files import check_writable, write_somewhere
from rulepatch.methods import Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.text import Table
from rulepatch.tracing.model_sites import sites_of

__all__ = ["Composition", "compose", "compose_files"]

log = logging.getLogger("rulepatch")

KEPT = 0.9
"""Retained-effect ratio below which rules are reported as conflicting."""

ALIKE = 0.5
"""Interference from which two rules are reported as conflicting if their exemplars are not available."""


@dataclass(frozen=True)
class Composition:
    """A composition of several edits.

    Attributes:
        edit: the composed edit.
        names: names of its parts.
        jointly: whether their coefficients were solved together.
        interference: at each site, for each pair of edits, the largest canonical correlation of their subspaces, 0..1.
        alone: share of each edit's masked error that each edit removes by itself, (edits, edits); None without
            exemplars.
        together: share of each edit's masked error that the composed edit removes; None without exemplars.
        conflicts: warnings about conflicts, one sentence each.
    """

    edit: Edit
    names: tuple[str, ...]
    jointly: bool
    interference: Mapping[str, list[list[float]]]
    alone: list[list[float]] | None
    together: list[float] | None
    conflicts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The composition, as JSON."""
        return {
            "edits": list(self.names),
            "sites": list(self.edit.sites),
            "jointly": self.jointly,
            "interference": dict(self.interference),
            "alone": self.alone,
            "together": self.together,
            "conflicts": list(self.conflicts),
        }

    def to_text(self) -> str:
        """Human-readable summary of the composition."""
        how = "solved together" if self.jointly else "put beside each other"
        lines = [f"{', '.join(self.names)}: {how}, at {', '.join(self.edit.sites)}"]
        for site, matrix in self.interference.items():
            rows = [[name, *(f"{each:.2f}" for each in row)] for name, row in zip(self.names, matrix, strict=True)]
            lines.append(Table([f"interference at {site}", *self.names], rows).to_text())
        if self.alone is not None and self.together is not None:
            rows = [[name, *(f"{each:.0%}" for each in row)] for name, row in zip(self.names, self.alone, strict=True)]
            rows.append(["all together", *(f"{each:.0%}" for each in self.together)])
            lines.append(Table(["masked error removed by", *(f"of {name}" for name in self.names)], rows).to_text())
        return "\n".join([*lines, *self.conflicts])


def compose(
    model: Classifier | None,
    edits: Mapping[str, Edit],
    *,
    reference: Any = None,
    exemplars: Sequence[Exemplar] = (),
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Composition:
    """Compose several edits into one.

    Rules at the same site whose exemplars are available are solved jointly; otherwise their factors are stacked. Edits
    at different sites are bundled.

    Args:
        model: the classifier that they were computed on; without it, nothing is measured or solved.
        edits: by name, at least two.
        reference: images whose predictions should not change, to measure interference.
        exemplars: exemplars of the edits, in any order; they are identified by their digests.
        run: cache and progress.
        settings: single settings of `run` by name, in place of its own.

    Raises:
        SettingError: fewer than two edits.
        BaseMismatchError: the edits were computed on different bases, or on another than the model.
    """
    run = run.but(**settings)
    if len(edits) < 2:
        raise SettingError(f"expected at least two edits to compose but got {len(edits)}; name more")
    stacked, names = Edit.compose(*edits.values()), tuple(edits)
    if model is None:
        return Composition(stacked, names, False, {}, None, None, ())
    for edit in edits.values():
        edit.check(model.module)
    statistics = {} if reference is None else _statistics(model, stacked, reference, run)
    interference = {site: _matrix(list(edits.values()), site, found) for site, found in statistics.items()}
    own = [_own(edit, exemplars) for edit in edits.values()]
    composed, jointly = stacked, False
    if statistics and all(own) and (rules := _rules(list(edits.values()), own)) is not None:
        sites = list(stacked.sites)
        everything = [each for part in own for each in part]
        problem = build_problem(model, everything, sites, rules[0].how, reference=statistics, run=run)
        composed, jointly = solve_rules(problem, rules), True
    alone = together = None
    if all(own):
        pairs = list(zip(own, edits.values(), strict=True))
        alone = [[_removed(model, edit, part, of) for part, of in pairs] for edit in edits.values()]
        together = [_removed(model, composed, part, of) for part, of in pairs]
    conflicts = tuple(_conflicts(names, interference, alone, together))
    for conflict in conflicts:
        log.warning("%s", conflict)
    return Composition(composed, names, jointly, interference, alone, together, conflicts)


def compose_files(
    files: Sequence[Path],
    out: Path,
    *,
    model: Classifier | None = None,
    reference: Any = None,
    leave_out: Sequence[int | str] = (),
    exemplars: Sequence[Exemplar] = (),
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Composition:
    """`compose` of edit files into an edit file.

    Args:
        files: at least two.
        out: the file to write.
        model: the classifier that they were computed on.
        reference: images whose treatment should stay.
        leave_out: classes to leave out of the reference set.
        exemplars: those that the edits were made of.
        run: cache and progress.
        settings: single settings of `run` by name, in place of its own.

    Raises:
        SettingError: fewer than two edits, or a reference set or exemplars without a model.
        EditFileError: a file is no edit.
        OutputError: the folder to write in does not exist.
    """
    check_writable(out)
    if model is None and (reference is not None or exemplars):
        raise SettingError("expected --model with a reference set or exemplars but got none; name the edits' model")
    stems = [file.stem for file in files]
    names = [stem if stems.count(stem) == 1 else str(file) for stem, file in zip(stems, files, strict=True)]
    edits = {name: Edit.load(file) for name, file in zip(names, files, strict=True)}
    if model is not None and reference is not None:
        reference = ImageSet.of(reference, model.classes, leave_out=leave_out)
    found = compose(model, edits, reference=reference, exemplars=exemplars, run=run, **settings)
    write_somewhere(found.edit.save, out)
    return found


def _statistics(model: Classifier, edit: Edit, reference: Any, run: Run) -> dict[str, KeyStatistics]:
    site_list = sites_of(model)
    low_rank = {change.site for change in edit.changes if isinstance(change, LowRank) and change.architecture == 1}
    sites = [site for site in site_list.sites if site.path in low_rank]
    images = ImageSet.of(reference, model.classes)
    return key_statistics(model, images, sites, run=run)


def _matrix(edits: Sequence[Edit], site: str, statistics: KeyStatistics) -> list[list[float]]:
    """Interference of each pair of edits at a site; 0 if one of them does not change it."""
    moment = statistics.moment.mean().cpu()
    reads = [
        torch.cat(
            [c.directions for c in edit.changes if isinstance(c, LowRank) and c.site == site and c.architecture == 1]
            or [torch.empty(0, len(moment))]
        )
        for edit in edits
    ]
    return [[linalg.interference(a, b, moment) if len(a) and len(b) else 0.0 for b in reads] for a in reads]


def _own(edit: Edit, exemplars: Sequence[Exemplar]) -> list[Exemplar]:
    """The exemplars of an edit; empty if one of them is not available."""
    at_hand = {exemplar.digest(): exemplar for exemplar in exemplars}
    wanted = [each.get("digest") for each in edit.provenance.get("exemplars", [])]
    return [at_hand[digest] for digest in wanted] if all(digest in at_hand for digest in wanted) else []


def _rules(edits: Sequence[Edit], own: Sequence[Sequence[Exemplar]]) -> list[Rule] | None:
    """The edits as rules of a joint solve; None if their sites or methods differ."""
    if len({edit.sites for edit in edits}) > 1:
        return None
    rules = []
    for edit, exemplars in zip(edits, own, strict=True):
        how, change = edit.how, edit.changes[0]
        protected = any(report.protected_damage is not None for report in edit.reports)
        if not isinstance(how, Rewrite) or not isinstance(change, LowRank) or protected or edit.provenance.get("style"):
            return None
        if how.but(**{name: getattr(Rewrite(), name) for name in SEPARATE}) != Rewrite():
            return None
        gate = None if change.gate is None else change.gate.level
        rules.append(Rule(exemplars, how.but(rank=change.rank, strength=change.strength, gate=gate)))
    return rules


def _removed(model: Classifier, edit: Edit, exemplars: Sequence[Exemplar], of: Edit) -> float:
    """The share of the masked error of some exemplars at the sites of an edit that another edit removes."""
    _, edited, observations = record_exemplars(model, exemplars, of.sites)
    before, after = (sum(masked_errors(model.module, edited, observations, each)) for each in ((), edit.changes))
    return 1 - after / before if before > 0 else 0.0


def _conflicts(
    names: Sequence[str],
    interference: Mapping[str, list[list[float]]],
    alone: list[list[float]] | None,
    together: list[float] | None,
) -> list[str]:
    if alone is not None and together is not None:
        return [
            f"{name} keeps {kept / own[i]:.0%} of what it does alone beside the others (it removes {kept:.0%} of its "
            f"exemplars' error, {own[i]:.0%} alone)"
            for i, (name, own, kept) in enumerate(zip(names, alone, together, strict=True))
            if own[i] > 0 and kept < KEPT * own[i]
        ]
    return [
        f"{names[i]} and {names[j]} read alike at {site} (interference {matrix[i][j]:.2f}); give their exemplars to "
        "solve them together"
        for site, matrix in interference.items()
        for i in range(len(names))
        for j in range(i)
        if matrix[i][j] > ALIKE
    ]
