"""The coefficients of several sites found together: each site's edit changes what the sites after it see."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rulepatch.core.changes import LowRank
from rulepatch.core.patched_model import PatchedModel
from rulepatch.editors.minimise import minimise
from rulepatch.editors.problem import Problem
from rulepatch.forward import gradients
from rulepatch.tracing import capture

__all__ = ["descend_jointly"]

STEP = 0.02
"""Size of a step, relative to the coefficients that the steps start from."""


def descend_jointly(problem: Problem, changes: Sequence[LowRank], *, steps: int, progress: bool) -> list[LowRank]:
    """Take first-order steps on the coefficients of all sites, for the sum of the masked squared errors at all of them.

    Each site's error counts as a share of that before any edit. The best that was met is kept.

    Args:
        problem: the problem.
        changes: where to start, one for each site.
        steps: how many.
        progress: whether to show a bar.

    Returns:
        The changes with other coefficients.
    """
    model, observations = problem.model, problem.observations
    points = {seen.site.path: seen.site.value_point for seen in observations}
    whole = [replace(change, strength=1.0) for change in changes]
    patched = PatchedModel(model.module, whole, as_branch=True)
    writers = patched.writers
    scales = [writer.detach().abs().mean().clamp(min=torch.finfo(torch.float32).tiny) for writer in writers]
    unknown = [(writer.detach() / scale).requires_grad_() for writer, scale in zip(writers, scales, strict=True)]
    with torch.no_grad():
        before = [seen.error(error="squared").mean() for seen in observations]

    def error() -> Tensor:
        values = capture.outputs_of(model.module, problem.edited, points, gradients=True)
        errors = (seen.error_of(values[seen.site.path], error="squared").mean() for seen in observations)
        return torch.stack([after / at_first for after, at_first in zip(errors, before, strict=True)]).sum()

    def evaluate(unknowns: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        for writer, scale, each in zip(writers, scales, unknowns, strict=True):
            writer.data = each.detach() * scale
            writer.requires_grad_()
        found = error()
        slopes = gradients(found, writers)
        return found.detach(), [slope * scale for slope, scale in zip(slopes, scales, strict=True)]

    with patched:
        best = minimise(unknown, evaluate, steps=steps, learning_rate=STEP, title="joint solve", progress=progress)
    return [
        replace(change, coefficients=(each * scale).reshape(change.coefficients.shape).float().cpu())
        for change, each, scale in zip(changes, best, scales, strict=True)
    ]
