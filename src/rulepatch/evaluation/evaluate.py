"""Predictions before and after an edit, or of a model alone, on test images and a reference set."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from rulepatch.core.edit import Edit, base_digest
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.patched_model import PatchedModel
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.run import Run
from rulepatch.data.stream import ImageStream
from rulepatch.digests import digest_of_tensors
from rulepatch.errors import FolderError, SettingError, UselessEditError, warn
from rulepatch.evaluation.activations import first_site
from rulepatch.evaluation.label_check import doubt_of
from rulepatch.evaluation.outcomes import Outcomes, Predictions
from rulepatch.evaluation.overlaps import inputs_of, warn_of_overlap
from rulepatch.evaluation.result import Evaluation
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.tracing import capture, tails

__all__ = ["believed", "check_tests", "evaluate", "evaluate_all", "outcomes_of", "predictions_of"]

KEPT_BYTES = 1 << 30
"""Memory for changed weights of edits that are evaluated together; beyond it they are recomputed for each batch."""

SEVERAL = 10
"""Size of a reference set from which a single class is suspicious."""


def evaluate(
    model: Classifier,
    edit: Edit | None = None,
    *,
    tests: Any = None,
    reference: Any = None,
    leave_out: Sequence[int | str] = (),
    exemplars: Sequence[Exemplar] = (),
    any_base: bool = False,
    batch_size: int | None = None,
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> Evaluation:
    """Measure the repairs and the damage of an edit, or, without one, the accuracy of the model.

    The layers before the first edited site run once; the rest runs twice, before and after the edit.

    Args:
        model: the classifier; it is edited for a while and then as it was.
        edit: the edit; none if None.
        tests: images that the edit should repair: a folder with a folder for each class, or (image, label) pairs.
        reference: images whose treatment should stay; labels are welcome but not needed.
        leave_out: classes to leave out of the reference set, such as those of the exemplars.
        exemplars: what the edit was made from, to be shown in the report.
        any_base: accept another base than the one that the edit was computed on.
        batch_size: images in a pass; what suits the device if None.
        run: progress.
        settings: single settings of `run` by name, in place of its own.

    Raises:
        FolderError: a folder is missing, empty or does not match the classes, or the tests have no labels.
        BaseMismatchError: the model is not the edit's base.
        SettingError: there is nothing to evaluate on, or a class to leave out is unknown.
        ModelError: the model's logits are NaN or infinite for an image.
        UselessEditError: so they are with the edit in it.

    Examples:
        >>> from rulepatch.models.registry import load_model
        >>> from rulepatch.playground.pictures import training_images
        >>> found = evaluate(load_model("playground"), tests=training_images(8, seed=3), progress=False)
        >>> found.to_json()["tests"]["before"]
        1.0
    """
    (found,) = evaluate_all(
        model,
        [Edit((), base_digest(model.module)) if edit is None else edit],
        tests=tests,
        reference=reference,
        leave_out=leave_out,
        exemplars=exemplars,
        any_base=any_base,
        batch_size=batch_size,
        run=run,
        **settings,
    )
    for outcomes in (found.tests, found.reference):
        if outcomes is not None and not np.isfinite(outcomes.second.confidence).all():
            raise UselessEditError(
                f"expected finite logits with the edit in it but {model.name} gives NaN or infinity for images of "
                f"{outcomes.name}; take less strength, or a wider type of numbers"
            )
    return found


def evaluate_all(
    model: Classifier,
    edits: Sequence[Edit],
    *,
    tests: Any = None,
    reference: Any = None,
    leave_out: Sequence[int | str] = (),
    exemplars: Sequence[Exemplar] = (),
    any_base: bool = False,
    batch_size: int | None = None,
    run: Run = Run(),  # noqa: B008 - it is frozen
    **settings: Any,
) -> list[Evaluation]:
    """Measure many edits of one model at once.

    For each batch the base network runs once, and every edit costs only the layers from its first site on. Memory
    grows with the number of images only by the predictions themselves.

    Args:
        model: the classifier; it is edited for a while and then as it was.
        edits: the edits.
        tests: as for `evaluate`.
        reference: as for `evaluate`.
        leave_out: as for `evaluate`.
        exemplars: as for `evaluate`.
        any_base: accept another base than the one that an edit was computed on.
        batch_size: images in a pass; what suits the device if None.
        run: progress.
        settings: single settings of `run` by name, in place of its own.

    Raises:
        FolderError: a folder is missing, empty or does not match the classes, or the tests have no labels.
        BaseMismatchError: the model is not an edit's base.
        SettingError: there is nothing to evaluate on, or a class to leave out is unknown.
    """
    run = run.but(**settings)
    if tests is None and reference is None:
        raise SettingError("expected test images or a reference set to evaluate on but got neither; give one of them")
    for edit in edits:
        edit.check(model.module, any_base=any_base)
    added = {edit.new_classes for edit in edits}
    classes = model.with_module(model.module, added.pop() if len(added) == 1 else ()).classes
    sets = _sets(classes, tests=tests, reference=reference, leave_out=leave_out)
    size = batch_size or model.batch_size
    found = {
        name: outcomes_of(model, edits, images, batch_size=size, progress=name if run.progress else None)
        for name, images in sets.items()
    }
    if "reference" in found:
        if "tests" not in found or found["tests"][0].inputs != found["reference"][0].inputs:  # which is told below
            found["reference"] = believed(found["reference"], classes)
        _check_variety(found["reference"][0], classes)
    if "tests" in found:
        check_tests(
            "tests", found["tests"][0], found["reference"][0] if "reference" in found else None, exemplars, model
        )
    shown = tuple(exemplars)
    nothing = [None] * len(edits)
    each = zip(edits, found.get("tests", nothing), found.get("reference", nothing), strict=True)
    return [Evaluation(edit, model.name, classes, on_tests, on_ref, shown) for edit, on_tests, on_ref in each]


def _sets(classes: Classes, *, tests: Any, reference: Any, leave_out: Sequence[int | str]) -> dict[str, ImageSet]:
    sets: dict[str, ImageSet] = {}
    if tests is not None:
        sets["tests"] = ImageSet.of(tests, classes)
        if not sets["tests"].is_labelled:
            raise FolderError(
                f"expected test images in a folder for each class but {sets['tests'].name} has some without; "
                "name the folders by class"
            )
    if reference is not None:
        sets["reference"] = ImageSet.of(reference, classes, leave_out=leave_out)
    return sets


def believed(found: list[Outcomes], classes: Classes) -> list[Outcomes]:
    """Check the labels of a reference set: if they seem wrong, warn and measure damage by flips.

    Args:
        found: outcomes of the same images before and after some edits.
        classes: of the model.

    Returns:
        The outcomes, with the doubt about their labels, if any.
    """
    first = found[0]
    doubt = doubt_of(first.labels, first.first.predicted, classes) if first.is_labelled else None
    if doubt is None:
        return found
    warn(
        f"the labels of {first.name} are not believed: {doubt}; check them and the preprocessing: until then damage is "
        "judged by the predictions that flip"
    )
    return [replace(each, doubt=doubt) for each in found]


def _check_variety(reference: Outcomes, classes: Classes) -> None:
    """Warn of a reference set of one class."""
    labels = set(reference.labels.tolist())
    if reference.is_labelled and len(reference) >= SEVERAL and len(classes) > 1 and len(labels) == 1:
        warn(
            f"all {len(reference)} images of {reference.name} are of one class, {classes[labels.pop()]}, so that "
            "damage to others does not show; add images of others"
        )


def check_tests(
    name: str, tests: Outcomes, reference: Outcomes | None, exemplars: Sequence[Exemplar], model: Classifier
) -> None:
    """Warn of tests whose labels seem permuted, or that were used to make the edit.

    Args:
        name: of the set, in messages.
        tests: outcomes of the images that are tested on.
        reference: outcomes of the reference set, if there is one.
        exemplars: the edit's exemplars.
        model: the classifier.
    """
    doubt = doubt_of(tests.labels, tests.first.predicted, model.classes, failures=True)
    if doubt is not None:
        warn(f"the labels of {tests.name} are not believed: {doubt}; check them before you trust what is repaired")
    tested = list(zip(tests.inputs, (picture.name for picture in tests.pictures), strict=True))
    if reference is not None:
        warn_of_overlap(name, tested, set(reference.inputs), "in the reference set")
    warn_of_overlap(name, tested, inputs_of(exemplars, model.preprocess), "in the exemplars")


def outcomes_of(
    model: Classifier,
    edits: Sequence[Edit],
    images: ImageSet,
    *,
    watched: Sequence[int] = (),
    batch_size: int | None = None,
    progress: str | None = None,
) -> list[Outcomes]:
    """Predictions on an image set before and after each of some edits, without checks.

    Args:
        model: the classifier; it is edited for a while and then as it was.
        edits: they fit the model.
        images: the images.
        watched: classes whose probability is kept for every image.
        batch_size: images in a pass; what suits the device if None.
        progress: what the bar says; none if None.

    Returns:
        The outcomes of each edit.
    """
    stream = ImageStream.of(model, images, progress, batch_size=batch_size)
    every_way = _every_way(model, edits)
    pictures: list[Picture] = []
    inputs: list[str] = []
    pieces: list[list[Predictions]] = [[] for _ in range(1 + len(edits))]
    for batch in stream:
        pictures += batch.pictures
        inputs += [digest_of_tensors({"": pixels}) for pixels in batch.pixels]
        labels = [picture.label for picture in batch.pictures]
        for found, logits in zip(pieces, every_way(model.inputs(batch.pixels)), strict=True):
            found.append(Predictions.of(logits, labels, watched))
    before, *afters = (Predictions.join(found) for found in pieces)
    skipped = tuple(picture.name for picture in stream.skipped)
    return [Outcomes(images.name, tuple(pictures), before, after, skipped, tuple(inputs)) for after in afters]


def predictions_of(model: Classifier, images: ImageSet, *, progress: str | None = None) -> Predictions:
    """Predictions on an image set, all of whose images must be readable.

    Args:
        model: the classifier.
        images: the images.
        progress: what the bar says; none if None.

    Returns:
        Its predictions, in the set's order.

    Raises:
        FolderError: an image cannot be read.
    """
    stream = ImageStream.of(model, images, progress)
    found = []
    with capture.inference(model.module):
        for batch in stream:
            logits = model.logits(model.inputs(batch.pixels))
            found.append(Predictions.of(logits, [picture.label for picture in batch.pictures]))
    if stream.skipped:
        raise FolderError(f"expected readable images in {images.name} but {stream.skipped[0].name} is not; mend it")
    return Predictions.join(found)


def _every_way(model: Classifier, edits: Sequence[Edit]) -> Callable[[Tensor], Iterator[Tensor]]:
    """Logits before and after each edit, as a function of inputs; layers before its sites run once."""
    traced = capture.trace(model.module, model.example())
    firsts = [first_site(traced, edit) for edit in edits]
    plans = {site: tails.plan_suffix(traced, site) for site in firsts}
    installations = _patched_models(model.module, edits)
    knowing = [model.with_module(model.module, edit.new_classes) for edit in edits]

    def run(inputs: Tensor) -> Iterator[Tensor]:
        output, starts = capture.checkpoint(model.module, list(plans.values()), inputs)
        logits = model.logits_of(output)
        yield logits
        start_at = dict(zip(plans, starts, strict=True))
        for site, edit, kept, told in zip(firsts, edits, installations, knowing, strict=True):
            if not edit.changes:
                yield logits
                continue
            with kept or PatchedModel(model.module, edit.changes):
                edited = capture.run_suffix(model.module, plans[site], start_at[site])
            yield told.logits_of(edited)

    return run


def _patched_models(module: nn.Module, edits: Sequence[Edit]) -> list[PatchedModel | None]:
    """The edits with precomputed weights, as far as memory allows."""
    found: list[PatchedModel | None] = []
    room = KEPT_BYTES
    for edit in edits:
        patched = PatchedModel(module, edit.changes) if room > 0 else None
        room -= patched.bytes if patched is not None else 0
        found.append(patched if room > 0 else None)
    return found
