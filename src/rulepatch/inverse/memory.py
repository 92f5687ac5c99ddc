"""Shared parts of the editors of the inverse direction: the inverse problem at a site, and the edit of a memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rulepatch.core import linalg
from rulepatch.core.changes import LowRank, WeightChange
from rulepatch.core.site_activations import SiteActivations
from rulepatch.data.folders import ImageSet
from rulepatch.data.stream import ImageStream
from rulepatch.editors.problem import Problem
from rulepatch.editors.registry import Solution
from rulepatch.editors.subspace import check_rank
from rulepatch.errors import SettingError, SiteError
from rulepatch.inverse import matrices
from rulepatch.methods import InversePinv, InverseTranspose
from rulepatch.models.classifier import Classifier
from rulepatch.timing import section
from rulepatch.tracing import capture
from rulepatch.tracing.sites import Layer, Site, clone_with_weight, flatten_positions, key_axis, unfold

__all__ = [
    "InverseProblem",
    "build_inverse_problem",
    "check_sites",
    "edit_memory",
    "low_rank_of",
    "missed",
    "output_of",
    "precise",
    "stream_keys",
]


def check_sites(model: Classifier, observations: Sequence[SiteActivations], how: InverseTranspose | None) -> None:
    """Check that every site can be inverted, before the reference set is read.

    Args:
        model: the classifier.
        observations: activations of the sites on the exemplars.
        how: rank and architecture; None for the Fourier form.

    Raises:
        SettingError: the rank is above the numbers that an output has.
        SiteError: an architecture other than the fourth, at a site with fewer outputs than inputs.
    """
    for seen in observations:
        path, (c_out, _, y, x) = seen.site.path, seen.site.shape
        patches_recalled = how is not None and how.architecture == 4
        if not patches_recalled and not _keeps_positions(seen.site, seen.layer, model.example(), model):
            raise SiteError(
                f"expected a site whose output has as many positions as its input but {path} has not (stride, or no "
                "padding); choose another site, or architecture 4 of inverse-pinv"
            )
        most = c_out if patches_recalled else c_out * y * x
        if how is not None and how.rank > most:
            raise SettingError(
                f"expected a rank from 1 to {most} at {path} (as many numbers has an output) but got {how.rank}; "
                "choose another"
            )
    if how is not None:
        check_rank(model, observations, how)


def _keeps_positions(site: Site, layer: Any, example: Tensor, model: Classifier) -> bool:
    if site.kind == "linear":
        return True
    grid = tuple(capture.input_of(model.module, example, site.path).shape[2:])
    fits = all(size > d * (taps - 1) for size, d, taps in zip(grid, layer.dilation, site.shape[2:], strict=True))
    return site.stride == (1, 1) and grid == site.positions and fits


def edit_memory(problem: Problem, how: InverseTranspose) -> Solution:
    """Edit the transpose or the pseudo-inverse of the matrix of each site's weight.

    Args:
        problem: the problem.
        how: the settings.
    """
    changes, told = list[WeightChange](), []
    for seen in problem.observations:
        with section("statistics"):
            moment = _moment_of_outputs(problem, seen, how)
        inverse = build_inverse_problem(seen, how.architecture)
        matrix, whitener = inverse.matrix, linalg.whitening(moment.to(inverse.keys.device), floor=how.floor)
        cutoff = how.cutoff if isinstance(how, InversePinv) else None
        memory = matrix.T if cutoff is None else matrices.pseudo_inverse(matrix, cutoff=cutoff)
        basis, coefficients = matrices.recall(
            inverse.keys, inverse.values, inverse.weights, whitener, memory, rank=how.rank, ridge=how.ridge
        )
        changed = coefficients.T @ basis
        delta = changed.T if cutoff is None else matrices.pseudo_inverse_change(matrix, changed, cutoff=cutoff)
        changes.append(low_rank_of(seen, delta, how.architecture, how.strength))
        told.append(
            {
                "site": seen.site.path,
                "recalled": {
                    "before": missed(inverse.keys @ memory.T, inverse.values, inverse.weights),
                    "after": missed(inverse.keys @ (memory + changed).T, inverse.values, inverse.weights),
                },
            }
        )
    return Solution(changes, {"inverse": told})


def missed(found: Tensor, wanted: Tensor, weights: Tensor) -> float:
    """Relative RMS error of the recalled values.

    Args:
        found: (p, c), float64.
        wanted: (p, c).
        weights: m, (p,).

    Returns:
        A number ≥ 0.
    """
    missing, size = ((weights @ each.square().sum(dim=1)).sqrt() for each in (found - wanted, wanted))
    return float(missing / size.clamp(min=torch.finfo(torch.float64).tiny))


@dataclass(frozen=True, eq=False)
class InverseProblem:
    """Keys and target values of the inverse problem.

    Attributes:
        matrix: W as the architecture has it, (K, V).
        keys: the original images' outputs, (p, K).
        values: the edited images' inputs, (p, V).
        originals: the original images' inputs, (p, V).
        weights: m, (p,).
    """

    matrix: Tensor
    keys: Tensor
    values: Tensor
    originals: Tensor
    weights: Tensor


def build_inverse_problem(seen: SiteActivations, architecture: int) -> InverseProblem:
    """Build the inverse problem at a site.

    Args:
        seen: activations of the site on the exemplars.
        architecture: 3 if a patch of outputs recalls one input, 4 if one output recalls a patch.

    Returns:
        The problem at the marked positions, float64.
    """
    layer = seen.layer
    weight = precise(layer.weight.detach()).reshape(seen.site.shape)
    matrix, pictures = matrices.matrix_of(weight, architecture), len(seen.masks)
    original, edited = precise(seen.original.keys), precise(seen.edited.keys)
    if architecture == 4:
        now, wanted = unfold(layer, original), unfold(layer, edited)
        asked, shares = now @ matrix.T, seen.output_weights
    else:
        asked, shares = _around(layer, output_of(layer, original, weight)), seen.key_weights
        now, wanted = (flatten_positions(each, key_axis(seen.site.kind)) for each in (original, edited))
    shares = shares.to(asked.device).reshape(pictures, -1)
    marked = shares > 0
    keys, values, originals = (each.reshape(pictures, -1, each.shape[-1])[marked] for each in (asked, wanted, now))
    return InverseProblem(matrix, keys, values, originals, shares[marked])


def output_of(layer: Layer, keys: Tensor, weight: Tensor) -> Tensor:
    """Output of a layer with a given weight, without bias.

    Args:
        layer: the layer.
        keys: its input.
        weight: of the layer's shape; (…, 1, 1) for a linear layer.
    """
    with torch.no_grad():
        found: Tensor = clone_with_weight(layer, weight)(keys)
    return found


def _around(layer: Layer, output: Tensor) -> Tensor:
    """The outputs that each input contributes to, in the order of the weight's rows: (n, p, c_out·y·x)."""
    found = unfold(layer, output)
    if isinstance(layer, torch.nn.Linear):
        return found
    return found.unflatten(-1, (-1, *layer.kernel_size)).flip(-1, -2).flatten(2)


def _moment_of_outputs(problem: Problem, seen: SiteActivations, how: InverseTranspose) -> Tensor:
    """E[k kᵀ] of the memory's keys on the reference set, (K, K)."""
    layer = seen.layer
    if how.architecture == 4:
        matrix = matrices.matrix_of(precise(layer.weight.detach()).reshape(seen.site.shape), 4)
        return matrix @ problem.statistics[seen.site.path].moment.mean().to(matrix.device) @ matrix.T
    total, count = torch.zeros(()), 0
    weight = layer.weight.detach().reshape(seen.site.shape)
    images, progress = problem.images(how.name), problem.run.progress
    for keys in stream_keys(problem.model, images, seen.site.path, progress=progress):
        asked = precise(_around(layer, output_of(layer, keys, weight)).flatten(0, 1))
        total, count = linalg.second_moment(asked) + total.to(asked), count + len(asked)
    return total / count


def stream_keys(model: Classifier, images: ImageSet, path: str, *, progress: bool) -> Iterator[Tensor]:
    """Stream a site's keys on the reference set, batch by batch.

    Args:
        model: the classifier.
        images: the reference set.
        path: of the site.
        progress: whether to show a bar.

    Yields:
        The site's input for a batch, (n, …).
    """
    for batch in ImageStream.of(model, images, "outputs", progress=progress):
        yield capture.input_of(model.module, model.inputs(batch.pixels), path)


def low_rank_of(seen: SiteActivations, delta: Tensor, architecture: int, strength: float) -> LowRank:
    """A change of the matrix as a low-rank change of the weight, in float32 on the CPU.

    Args:
        seen: activations of the site.
        delta: of the matrix, (K, V).
        architecture: 3 or 4.
        strength: of the change.
    """
    c_out, c_in, y, x = seen.site.shape
    directions, coefficients = (part.float().cpu().contiguous() for part in matrices.factors(delta))
    if architecture == 4:
        directions = directions.reshape(-1, c_in, y, x)
    else:
        coefficients = coefficients.reshape(c_out, y, x, -1).permute(0, 3, 1, 2).contiguous()
    return LowRank(seen.site.path, seen.site.value_point, directions, coefficients, strength)


def precise(tensor: Tensor) -> Tensor:
    """A tensor in float64, moved off devices without it."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()  # MPS has no float64
