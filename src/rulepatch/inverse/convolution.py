"""Editing the inverse of a convolution: a site's power spectrum, the solve by frequencies, and the taps of a layer."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rulepatch.core import linalg
from rulepatch.core.changes import Dense, LowRank, WeightChange
from rulepatch.core.site_activations import SiteActivations
from rulepatch.data.folders import ImageSet
from rulepatch.editors.problem import Problem
from rulepatch.inverse import fourier
from rulepatch.inverse.memory import low_rank_of, missed, output_of, precise, stream_keys
from rulepatch.methods import InverseFourier
from rulepatch.models.classifier import Classifier
from rulepatch.tracing.sites import Site

__all__ = ["Convolution", "convolution_at", "edit_convolution", "power_spectrum_at"]

SMALLEST_BALANCE = 1e-6
"""Weight of the reference set for fits of few taps, where several exact constraints may be infeasible."""


def power_spectrum_at(model: Classifier, images: ImageSet, site: Site, *, progress: bool = True) -> Tensor:
    """The mean power spectrum of a site's inputs over a reference set, in one pass and in constant memory.

    Args:
        model: the classifier.
        images: the reference set.
        site: a convolution; of a linear layer every position counts as a map of its own.
        progress: whether to show a bar.

    Returns:
        (h, w/2+1, c_in, c_in), complex128, Hermitian.
    """
    total, count = torch.zeros(()), 0
    for keys in stream_keys(model, images, site.path, progress=progress):
        maps = _maps(site, precise(keys))
        total, count = fourier.power_spectrum(maps) + total.to(maps.device), count + len(maps)
    return total / count


def _maps(site: Site, keys: Tensor) -> Tensor:
    """A site's input as maps; of a linear layer every position is one, of a single pixel."""
    return keys if site.kind == "conv" else keys.flatten(0, -2)[..., None, None]


@dataclass(frozen=True, eq=False)
class Convolution:
    """The edited inverse of a site's convolution, before the layer's few taps and its padding.

    Attributes:
        grid: (h, w).
        dilation: of the taps.
        weight: W, (c_out, c_in, y, x), float64.
        response: Ŵ, (h, w/2+1, c_out, c_in).
        change: ΔŴ, of a kernel as large as the map.
        recalled: what the edited inverse recalls of the original images' outputs, (n, c_in, h, w).
        originals: the original images' inputs, (n, c_in, h, w).
        edited: the edited images' inputs, (n, c_in, h, w).
        marks: the marked positions.
    """

    grid: tuple[int, int]
    dilation: tuple[int, int]
    weight: Tensor
    response: Tensor
    change: Tensor
    recalled: Tensor
    originals: Tensor
    edited: Tensor
    marks: fourier.MaskedPositions

    @property
    def cut(self) -> Tensor:
        """The taps of the change that the layer has, (c_out, c_in, y, x)."""
        taps = (self.weight.shape[2], self.weight.shape[3])
        return fourier.kernel_of(self.change, self.grid, taps, self.dilation)


def convolution_at(seen: SiteActivations, power: Tensor, *, balance: float, cutoff: float, floor: float) -> Convolution:
    """Edit the inverse of a site's convolution in the Fourier domain.

    Args:
        seen: what the site sees of the exemplars.
        power: mean power spectrum of its inputs on the reference set, (h, w/2+1, c_in, c_in).
        balance: of the reference set beside the constraints, ≥ 0.
        cutoff: smallest singular value that is inverted, relative to the largest of all frequencies.
        floor: smallest eigenvalue of the outputs' power spectrum kept, relative to its frequency's largest.

    Returns:
        What was found, float64.
    """
    site, layer = seen.site, seen.layer
    dilation: Any = layer.dilation if isinstance(layer, torch.nn.Conv2d) else (1, 1)
    originals, edited = (_maps(site, precise(each.keys)) for each in (seen.original, seen.edited))
    grid = (originals.shape[2], originals.shape[3])
    shares = seen.key_weights.to(originals.device).reshape(len(originals), *grid)
    images, down, right = torch.nonzero(shares, as_tuple=True)
    marks = fourier.MaskedPositions(images, down, right, shares[images, down, right])
    weight = precise(layer.weight.detach()).reshape(site.shape)
    response = fourier.frequency_response(weight, grid, dilation)
    factored = fourier.svd_per_frequency(response, cutoff=cutoff)
    change, recalled = fourier.inverse_change(
        factored, power, originals, marks.of(edited), marks, balance=balance, floor=floor
    )
    return Convolution(grid, dilation, weight, response, change, recalled, originals, edited, marks)


def edit_convolution(
    problem: Problem, seen: SiteActivations, power: Tensor, how: InverseFourier
) -> tuple[WeightChange, dict[str, Any]]:
    """Edit a site by the inverse of its convolution.

    Args:
        problem: with statistics of unfolded patches.
        seen: what the site sees of the exemplars.
        power: mean power spectrum of its inputs on the reference set, (h, w/2+1, c_in, c_in).
        how: the settings.

    Returns:
        The change; and what was reached and what the boundaries and the few taps cost: errors relative to what was
        wanted at the marked positions, and the share of the change's energy that lies within the layer's taps.
    """
    found = convolution_at(seen, power, balance=how.balance, cutoff=how.cutoff, floor=how.floor)
    part: WeightChange
    if how.fitted:
        part = _fitted(problem, seen, found.marks.of(fourier.convolve(found.change, found.edited)), how)
        delta = replace(part, strength=1.0).delta().to(found.weight)
    else:
        delta = found.cut
        values = delta.float().reshape(seen.layer.weight.shape).cpu().contiguous()
        part = Dense(f"{seen.site.path}.weight", values, how.strength)
    return part, _told(seen, found, delta)


def _told(seen: SiteActivations, found: Convolution, delta: Tensor) -> dict[str, Any]:
    """Residuals of an edit of a convolution's inverse at the marked positions."""
    site, marks, response, weight = seen.site, found.marks, found.response, found.weight
    whole = fourier.kernel_of(found.change, found.grid, found.grid).square().sum()
    wanted = marks.of(fourier.convolve(response, found.originals))
    in_layer, before = (
        marks.of(_as_maps(output_of(seen.layer, precise(keys), kernel), site, found.grid))
        for keys, kernel in ((seen.edited.keys, weight + delta), (seen.original.keys, weight))
    )

    def forward(response: Tensor, maps: Tensor) -> float:
        return missed(marks.of(fourier.convolve(response, maps)), wanted, marks.weights)

    edited = marks.of(found.edited)
    return {
        "site": site.path,
        "recalled": {
            "before": missed(marks.of(found.originals), edited, marks.weights),
            "after": missed(marks.of(found.recalled), edited, marks.weights),
        },
        "within_taps": float(found.cut.square().sum() / whole.clamp(min=torch.finfo(torch.float64).tiny)),
        "forward": {
            "before": forward(response, found.edited),
            "whole_kernel_on_recalled": forward(response + found.change, found.recalled),
            "whole_kernel": forward(response + found.change, found.edited),
            "taps": forward(response + fourier.frequency_response(delta, found.grid, found.dilation), found.edited),
            "padded_taps": missed(in_layer, before, marks.weights),
        },
        "circular_beside_padded": missed(wanted, before, marks.weights),
    }


def _fitted(problem: Problem, seen: SiteActivations, wanted: Tensor, how: InverseFourier) -> LowRank:
    """Least-squares fit of the change by the layer's few taps at the marked positions, in the form of `dense`."""
    keys, weights = seen.concept_keys(architecture=2)
    moment = problem.statistics[seen.site.path].moment.mean().to(keys.device)
    basis, coefficients = linalg.dense_least_squares(
        keys, wanted.to(keys.device), weights, moment, balance=max(how.balance, SMALLEST_BALANCE)
    )
    return low_rank_of(seen, (coefficients.T @ basis), 4, how.strength)


def _as_maps(output: Tensor, site: Site, grid: tuple[int, int]) -> Tensor:
    """A layer's output as maps, as `_maps` makes them of its input."""
    return output if site.kind == "conv" else output.reshape(-1, output.shape[-1], *grid)
