"""Trying an edit on its own exemplars: what the model says of them, before the edit and after it."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from rulepatch.chance import SIGNIFICANT, binomial_tail
from rulepatch.core.changes import Change, LowRank
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.patched_model import PatchedModel
from rulepatch.data.folders import ImageSet
from rulepatch.data.stream import ImageStream
from rulepatch.editors.problem import Problem
from rulepatch.errors import ModelError, NotFiniteError, UselessEditError, warn
from rulepatch.models.classifier import Classifier
from rulepatch.records.exemplar_outcomes import ExemplarOutcome, ExemplarOutcomes, ExemplarPrediction
from rulepatch.records.site_reports import HOPELESS_DAMAGE, HOPELESS_FLIPS, UNSURE_DAMAGE
from rulepatch.text import percent, plural
from rulepatch.tracing import capture

__all__ = ["Judge", "judged", "warn_of"]

TRIED = 32
"""Reference images that an edit is tried on where its predicted damage may be hopeless."""


@dataclass(frozen=True, eq=False)
class Judge:
    """What the untouched model says of some exemplars, so that any number of edits can be tried on them.

    Attributes:
        model: the classifier.
        exemplars: at least one.
        original: probabilities for the original images, (n, classes), float64.
        edited: probabilities for the edited images, (n, classes), float64.
        targets: the classes that the edited images should be, n indices.
    """

    model: Classifier
    exemplars: Sequence[Exemplar]
    original: Tensor
    edited: Tensor
    targets: Sequence[int]

    @classmethod
    def of(cls, model: Classifier, exemplars: Sequence[Exemplar]) -> "Judge":
        """Look at some exemplars.

        Raises:
            ModelError: what the model says is not a number.
        """
        original, edited = (
            _probabilities(model, pictures)
            for pictures in ([each.image for each in exemplars], [each.edited for each in exemplars])
        )
        if not (original.isfinite().all() and edited.isfinite().all()):
            raise ModelError(
                f"expected {model.name} to say something of the exemplars but its logits are not finite; check its "
                "weights and preprocessing, or take a wider type of numbers"
            )
        targets = [
            said if exemplar.label is None else model.classes.index(exemplar.label)
            for exemplar, said in zip(exemplars, original.argmax(dim=1).tolist(), strict=True)
        ]
        return cls(model, exemplars, original, edited, targets)

    def outcomes(self, changes: Sequence[Change]) -> ExemplarOutcomes:
        """What the model says of the exemplars with an edit in place.

        Args:
            changes: of the edit; all of them fit the model.

        Returns:
            An outcome for each exemplar.

        Raises:
            UselessEditError: what the edited model says is not a number.
        """
        after = torch.full_like(self.edited, torch.nan)
        with suppress(NotFiniteError), PatchedModel(self.model.module, changes):
            after = _probabilities(self.model, [each.edited for each in self.exemplars])
        if not after.isfinite().all():
            raise UselessEditError(
                f"expected {self.model.name} to say something of the exemplars after the edit but its logits are not "
                "finite; take less strength, or a wider type of numbers"
            )
        return ExemplarOutcomes(tuple(self._outcome(i, after[i]) for i in range(len(self.exemplars))))

    def _outcome(self, index: int, after: Tensor) -> ExemplarOutcome:
        original, edited, target = self.original[index], self.edited[index], self.targets[index]
        return ExemplarOutcome(
            exemplar=self.exemplars[index].name,
            target=target,
            target_name=self.model.classes[target],
            original=self._prediction(original, target),
            edited=self._prediction(edited, target),
            after=self._prediction(after, target),
            change=float((after - edited).abs().sum() / 2),
        )

    def _prediction(self, probabilities: Tensor, target: int) -> ExemplarPrediction:
        index = int(probabilities.argmax())
        confidence, of_target = float(probabilities[index]), float(probabilities[target])
        return ExemplarPrediction(index, self.model.classes[index], confidence, of_target)


def judged(model: Classifier, edit: Edit, exemplars: Sequence[Exemplar]) -> Edit:
    """An edit that knows what the model says of its own exemplars; see `Edit.on_exemplars`.

    Args:
        model: the classifier that it was made for; it is changed for a while and then as it was.
        edit: the edit.
        exemplars: that it was made from.

    Returns:
        The edit, with what is said in its provenance; as it is if it was made from features, without edited images.
    """
    if edit.provenance.get("style") is not None:
        return edit
    outcomes = Judge.of(model, exemplars).outcomes(edit.changes)
    return replace(edit, provenance=outcomes.within(edit.provenance))


def warn_of(edit: Edit, problem: Problem | None = None) -> None:
    """Warn of hopeless damage; else of an edit that is useless for its exemplars, or of exemplars that show no failure.

    Args:
        edit: as `judged` returns it; one without changes was asked for.
        problem: that it solves, to look at its damage; None if that is measured elsewhere.
    """
    found = edit.on_exemplars
    if problem is not None and edit.changes and (hopeless := _hopeless(edit, problem)):
        warn(hopeless)
    elif edit.changes and found.verdict in {"useless", "unproven"}:
        warn(found.why)
    elif edit.changes and (misread := [each for each in found.outcomes if each.is_misread]):
        warn(
            f"the model is wrong of the original image of {misread[0].exemplar} already ({misread[0].original}, not "
            f"{misread[0].target_name}); check its label, or take an image that the model gets right"
        )


def _hopeless(edit: Edit, problem: Problem) -> str | None:
    """What is hopeless about an edit's damage, if anything; reference images decide where they are at hand."""
    predicted = sum(report.damage for report in edit.reports)
    if predicted < UNSURE_DAMAGE or (problem.reference is None and predicted <= HOPELESS_DAMAGE):
        return None
    tried = ""
    if problem.reference is not None:
        few = problem.reference.sample(TRIED, seed=problem.run.seed)
        flips, n = _flips(problem.model, edit, few)
        if binomial_tail(flips, n, HOPELESS_FLIPS) >= SIGNIFICANT:
            return None
        tried = f", and of {plural(n, 'reference image')} that were tried {flips} got another prediction"
    return (
        f"the edit changes the output of {', '.join(edit.sites)} by {percent(predicted)} of its power on the reference "
        f"set{tried}: the model will hardly be of use with it; take {_remedy(edit)}"
    )


def _remedy(edit: Edit) -> str:
    has_gate = all(isinstance(each, LowRank) and each.gate is not None for each in edit.changes)
    return f"{'a higher gate' if has_gate else 'a gate'}, less rank or strength, or another site"


def _flips(model: Classifier, edit: Edit, images: ImageSet) -> tuple[int, int]:
    """Number of images whose prediction the edit changes, and of images that could be read.

    None of each if the network gives an image another prediction each time: nothing it says then comes of the edit.
    """
    flips = n = 0
    for batch in ImageStream.of(model, images, unreadable=1):
        inputs = model.inputs(batch.pixels)
        with capture.inference(model.module):
            before, again = (model.logits(inputs).argmax(dim=1) for _ in range(2))
            if not torch.equal(before, again):
                return 0, 0
            with PatchedModel(model.module, edit.changes):
                after = model.logits(inputs).argmax(dim=1)
        flips, n = flips + int((after != before).sum()), n + len(inputs)
    return flips, n


def _probabilities(model: Classifier, pictures: Sequence[Image.Image]) -> Tensor:
    """Of each class for each image, (n, classes), float64 on the CPU."""
    inputs = model.inputs(torch.stack([model.preprocess.pixels(picture) for picture in pictures]))
    with capture.inference(model.module):
        logits = torch.cat([model.logits(part) for part in inputs.split(model.batch_size)])
    return logits.cpu().double().softmax(dim=1)
