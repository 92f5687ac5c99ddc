"""Calibrate scale and bias of a new logit against the existing ones."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rulepatch.core.changes import NewClass
from rulepatch.core.patched_model import PatchedModel
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.data.stream import ImageStream
from rulepatch.models.classifier import Classifier
from rulepatch.new_classes import logit
from rulepatch.tracing import capture

__all__ = ["LogitSample", "calibrated", "collect_logits"]


@dataclass(frozen=True, eq=False)
class LogitSample:
    """New and largest existing logit for n images.

    Attributes:
        pictures: the images.
        responses: r, (n,), float64.
        rivals: the largest old logit, (n,), float64.
        right: whether its class is the label, (n,); true without labels.
        spread: standard deviation of an old logit over the images, averaged over classes.
    """

    pictures: tuple[Picture, ...]
    responses: Tensor
    rivals: Tensor
    right: Tensor
    spread: float


def collect_logits(
    model: Classifier, change: NewClass, images: ImageSet, *, progress: str | None = None
) -> LogitSample:
    """Run a classifier with a new class on some images.

    Args:
        model: the classifier; it is extended temporarily and restored.
        change: the class.
        images: the images.
        progress: what the bar says; none if None.
    """
    known = model.with_module(model.module, [change.name])
    pictures: list[Picture] = []
    responses, rivals, right, powers = [], [], [], []
    patched = PatchedModel(model.module, [change])
    stream = ImageStream.of(model, images, progress)
    with capture.inference(model.module), patched:
        for batch in stream:
            old = known.logits(model.inputs(batch.pixels))[:, :-1].cpu().double()
            best = old.max(dim=1)
            labels = [picture.label for picture in batch.pictures]
            pictures += batch.pictures
            responses.append(patched.responses[0].cpu().double())
            rivals.append(best.values)
            said = zip(best.indices.tolist(), labels, strict=True)
            right.append(torch.tensor([label is None or label == top for top, label in said]))
            powers.append(torch.stack([old.sum(dim=0), old.square().sum(dim=0)]))
    mean, square = torch.stack(powers).sum(dim=0) / len(pictures)
    spread = float((square - mean.square()).clamp(min=0).sqrt().mean())
    return LogitSample(tuple(pictures), torch.cat(responses), torch.cat(rivals), torch.cat(right), spread)


def calibrated(
    model: Classifier,
    change: NewClass,
    images: ImageSet,
    *,
    max_drop: float,
    logit_scale: float = 1.0,
    progress: str | None = None,
) -> tuple[NewClass, dict[str, Any]]:
    """Set scale and bias of a new class: the scale of an existing logit, and the largest bias within a damage budget.

    Args:
        model: the classifier.
        change: the class.
        images: held-out images of other classes.
        max_drop: largest expected drop in accuracy on such images, 0..1; without labels, expected share of flips.
        logit_scale: factor of the scale.
        progress: what the bar says; none if None.

    Returns:
        The class, and what was measured, as JSON.
    """
    sample = collect_logits(model, change, images, progress=progress)
    scale = logit_scale * logit.matched_scale(sample.responses, sample.spread)
    said = (sample.responses, sample.rivals, sample.right)
    bias = logit.bias_for_budget(*said, scale=scale, budget=max_drop)
    drop = logit.accuracy_drop(*said, scale=scale, bias=bias)
    count = len(sample.pictures)
    expected = (round(drop * count) + 1) / (count + 1)  # upper bound for new images
    told = {"pictures": count, "spread": sample.spread, "drop": drop, "expected": expected, "budget": max_drop}
    return replace(change, scale=scale, bias=bias), told
