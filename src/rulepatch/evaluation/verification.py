"""Verifying an edit's certificate: what its file says of it is computed again from the edit, its base and images."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from rulepatch.core.changes import LowRank, NewClass, WeightChange
from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.patched_model import PatchedModel
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.data.statistics import key_statistics
from rulepatch.data.stream import ImageStream
from rulepatch.editors.certificate import certify, norms_of
from rulepatch.errors import FolderError, ImageError, RulepatchError
from rulepatch.models.classifier import Classifier
from rulepatch.records.site_reports import Certificate
from rulepatch.text import Table, percent, plural
from rulepatch.tracing import capture
from rulepatch.tracing.model_sites import sites_of

__all__ = ["Check", "Verification", "verify"]

CLOSE = 1e-3
"""Relative difference up to which a bound counts as the one that was recorded; it is computed from the same numbers."""

SHARES = 0.05
"""How much smaller a share of positions may be on these reference images than on those of the record."""


@dataclass(frozen=True)
class Check:
    """Something that an edit promises.

    Attributes:
        name: what is promised.
        holds: whether it is so; None if it was not tried.
        found: what was found.
    """

    name: str
    holds: bool | None
    found: str


@dataclass(frozen=True)
class Verification:
    """What is left of an edit's promises when they are looked at again.

    Attributes:
        checks: each promise.
    """

    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether no promise is broken; some may not have been tried."""
        return all(check.holds is not False for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The checks, as JSON."""
        return {"holds": self.holds, "checks": [asdict(check) for check in self.checks]}

    def to_text(self) -> str:
        """A line for each check."""
        words = {True: "yes", False: "NO", None: "not tried"}
        return Table(("holds", "check", "found"), [(words[c.holds], c.name, c.found) for c in self.checks]).to_text()


def verify(
    edit: Edit,
    model: Classifier,
    *,
    reference: Any = None,
    leave_out: Sequence[int | str] = (),
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Verification:
    """Verify the certificate of an edit: that it fits, is finite, does no more than its file says, and comes out again.

    Args:
        edit: the edit.
        model: the classifier that it is for; it is edited for a while and then as it was.
        reference: images for the checks that need some: a folder, several, or (image, label) pairs.
        leave_out: classes to leave out of the reference set.
        run: progress, cache and seed.
        settings: single settings of `run` by name, in place of its own.

    Returns:
        The checks. Where the edit does not fit the model, those that need it to are not tried.

    Raises:
        FolderError: the folder is missing or empty.

    Examples:
        >>> import torch
        >>> from rulepatch.core.changes import Dense
        >>> from rulepatch.models.registry import load_model
        >>> model = load_model("playground")
        >>> head = max(dict(model.module.named_parameters()))
        >>> change = Dense(head, torch.ones(model.module.get_parameter(head).shape))
        >>> found = verify(Edit((change,), base_digest(model.module)), model)
        >>> found.holds, [check.holds for check in found.checks]
        (True, [True, True, None, None, None, True])
    """
    run = run.but(**settings)
    images = None if reference is None else ImageSet.of(reference, model.classes, leave_out=leave_out)
    digest = base_digest(model.module)
    fits = Check("it was computed on this model", digest == edit.base, f"base {edit.base[:12]}, model {digest[:12]}")
    checks, why = [fits], "" if fits.holds else "another model"
    for name, look, takes_images in (
        ("all its numbers are finite", lambda: _finite(model, edit), False),
        ("it changes as much as it says", lambda: _as_much(model, edit), False),
        ("it changes as few positions as it says", lambda: _as_few(model, edit, images, run), True),
        ("where its gate is shut, no bit changes", lambda: _shut(model, edit, images, run), True),
        ("taken out, it leaves nothing behind", lambda: _comes_out(model, edit), False),
    ):
        absent = why or ("needs reference images" if takes_images and images is None else "")
        checks.append(Check(name, None, absent) if absent else _tried(name, look))
        if len(checks) == 2 and checks[-1].holds is False:
            why = "it cannot be put in"
    return Verification(tuple(checks))


def _tried(name: str, look: Callable[[], tuple[bool | None, str]]) -> Check:
    try:
        return Check(name, *look())
    except (FolderError, ImageError):
        raise
    except RulepatchError as error:
        return Check(name, False, str(error))


def _finite(model: Classifier, edit: Edit) -> tuple[bool, str]:
    edit.check(model.module)
    PatchedModel(model.module, edit.changes)
    tensors = [tensor for change in edit.changes for tensor in change.tensors().values()]
    bad = sum(not bool(tensor.isfinite().all()) for tensor in tensors)
    return not bad, f"{plural(len(tensors), 'tensor')}, {bad} with NaN or infinity"


def _recorded(edit: Edit) -> list[tuple[Certificate, str, list[WeightChange]]]:
    """Each site's certificate, its path, and the changes as they were when it was made, whatever their strength is."""
    told = edit.provenance.get("settings")
    strength = float(told.get("strength", 1.0)) if isinstance(told, Mapping) else 1.0
    changes = [replace(each, strength=strength) for each in edit.changes if not isinstance(each, NewClass)]
    return [(report.certificate, report.site, changes) for report in edit.reports if report.certificate is not None]


def _as_much(model: Classifier, edit: Edit) -> tuple[bool | None, str]:
    """Whether each ΔW has the norm that is recorded of it."""
    found = []
    for certificate, path, changes in _recorded(edit):
        norm, relative = norms_of(path, model.module.get_parameter(f"{path}.weight"), changes)
        found.append((path, norm, certificate.norm, relative, certificate.relative_norm))
    if not found:
        return None, "nothing is recorded"
    holds = all(
        math.isclose(norm, said, rel_tol=CLOSE) and math.isclose(relative, also, rel_tol=CLOSE)
        for _, norm, said, relative, also in found
    )
    strengths = {change.strength for change in edit.changes}
    told = ", ".join(f"{path}: {norm:.4g} of {said:.4g}" for path, norm, said, _, _ in found)
    return holds, f"{told}; strength now {', '.join(f'{each:g}' for each in sorted(strengths))}"


def _as_few(model: Classifier, edit: Edit, images: ImageSet | None, run: Run) -> tuple[bool | None, str]:
    """Whether the shares of positions that are not changed are no smaller on some images than is recorded."""
    sites, holds, told = {site.path: site for site in sites_of(model).sites}, True, []
    for said, path, changes in _recorded(edit):
        own = [each for each in changes if each.site == path and isinstance(each, LowRank)]
        if images is None or said.unchanged_share is None or path not in sites or not own:
            continue
        statistics = key_statistics(model, images, [sites[path]], architecture=own[0].architecture, run=run)[path]
        now = certify(sites[path], model.module.get_parameter(f"{path}.weight"), changes, statistics)
        for name, share, before in (
            ("unchanged", now.unchanged_share, said.unchanged_share),
            ("gate shut", now.gate_closed_share, said.gate_closed_share),
        ):
            holds &= share is not None and share >= (before or 0) - SHARES
            told.append(f"{path} {name} at {percent(share or 0)}, {percent(before or 0)} recorded")
    return (holds, "; ".join(told)) if told else (None, "nothing is recorded")


def _shut(model: Classifier, edit: Edit, images: ImageSet | None, run: Run) -> tuple[bool | None, str]:
    """Whether the old logits of images at which no part of the edit acts are bit for bit the untouched network's."""
    patched = PatchedModel(model.module, edit.changes)
    if images is None or patched.bytes:
        return None, "it changes weights, which act everywhere"
    known, old = model.with_module(model.module, edit.new_classes), len(model.classes)
    count = shut = broken = unsound = 0
    for batch in ImageStream.of(model, images, "gate", progress=run.progress):
        inputs = model.inputs(batch.pixels)
        with capture.inference(model.module):
            silent = torch.ones(len(inputs), dtype=torch.bool, device=inputs.device)
            for path, keys in capture.inputs_of(model.module, inputs, list(patched.edited_layers)):
                for branch in patched.edited_layers[path].branches:
                    silent &= (branch(keys) == 0).reshape(len(inputs), -1).all(dim=1)
            before = model.logits(inputs)
            with patched:
                after = known.logits(inputs)
        same = (after[:, :old] == before).all(dim=1)
        count, shut = count + len(inputs), shut + int(silent.sum())
        broken += int((silent & ~same).sum())
        unsound += int((~after.isfinite().all(dim=1)).sum())
    told = f"shut for {shut} of {plural(count, 'image')}, {broken} of them changed"
    if unsound:
        return False, f"{told}; logits of {unsound} are NaN or infinite with the edit"
    return (not broken if shut else None), told


def _comes_out(model: Classifier, edit: Edit) -> tuple[bool, str]:
    with edit.applied(model) as edited:
        edited.logits(edited.example())
    digest = base_digest(model.module)
    return digest == edit.base, f"model {digest[:12]}"
