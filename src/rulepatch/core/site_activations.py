"""Activations of a site on exemplars: keys, values and the weights of positions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from rulepatch.core import linalg
from rulepatch.errors import SiteError
from rulepatch.tracing import capture
from rulepatch.tracing.positions import SpatialPositions
from rulepatch.tracing.sites import Layer, Site, clone_with_weight, flatten_positions, key_axis, unfold
from rulepatch.tracing.trace import Route, kind_of

__all__ = ["SiteActivations", "position_weights", "record_sites"]

SMALLEST_SHARE = 0.2
"""Positions of which the mask covers less than this share of what it covers of the best one are left out."""


@dataclass(frozen=True, eq=False)
class SiteActivations:
    """Activations of a site on the exemplars, before and after the edit of the image.

    Attributes:
        site: the site.
        layer: its module.
        original: the recorded pass of the original images.
        edited: the recorded pass of the edited images.
        masks: (n, height, width), 0..1, at the model's input size.
    """

    site: Site
    layer: Layer
    original: capture.Recording
    edited: capture.Recording
    masks: Tensor

    @property
    def keys(self) -> Tensor:
        """The edited images' keys, as the site's input: (n, c_in, h, w) or (n, …, c_in)."""
        return self.edited.keys

    @cached_property
    def key_weights(self) -> Tensor:
        """Share of the mask at each position of the keys, (n, p), float64."""
        return position_weights(self.masks, self.edited.keys, key_axis(self.site.kind), self.site.key_places)

    @cached_property
    def output_weights(self) -> Tensor:
        """Share of the mask at each position of the site's own output, (n, p), float64."""
        return position_weights(self.masks, self.edited.output, key_axis(self.site.kind), self.site.output_places)

    @cached_property
    def value_weights(self) -> Tensor:
        """Share of the mask at each position of the value point, (n, p), float64."""
        return position_weights(self.masks, self.edited.values, self.site.channel_axis, self.site.value_places)

    def concept_keys(self, architecture: int, pictures: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """The edited images' keys at the marked positions, and the weights of these positions.

        Args:
            architecture: 1 for keys of c_in channels, 2 for unfolded patches of c_in·y·x (thesis fig. 2-3).
            pictures: which; all by default.

        Returns:
            (p, c), and (p,) in 0..1 without zeros, both float64.
        """
        if architecture == 1:
            keys, weights = flatten_positions(self.keys, key_axis(self.site.kind)), self.key_weights
        else:
            keys, weights = unfold(self.layer, self.keys), self.output_weights
        images = len(self.masks)  # windows of one image are entries of their own
        keys = keys.reshape(images, -1, keys.shape[-1])[pictures]
        weights = weights.reshape(images, -1)[pictures]
        marked = weights > 0
        return _double(keys)[marked], weights[marked]

    def features(self, maps: Tensor, *, unfolded: bool = False) -> Tensor:
        """X: what each coefficient of an edit contributes at each position of the site's output.

        Args:
            maps: projections of the keys onto directions, (n, r, h, w) or (n, …, r).
            unfolded: whether they were projected as unfolded patches, so that they lie at the output's positions.

        Returns:
            (n, p, r·y·x); (n, p, r) for unfolded patches.
        """
        return flatten_positions(maps, key_axis(self.site.kind)) if unfolded else unfold(self.layer, maps)

    @cached_property
    def marked(self) -> Tensor:
        """Where the mask is at the site's own output, (n, p), bool."""
        return self.output_weights > 0

    @cached_property
    def slope(self) -> Tensor:
        """J at the marked positions, the derivative of the pre-activation by the output, (k, c_out), float64.

        The pre-activation a is affine in every number of the output by itself, a = a0 + J·output, with J diagonal up to
        the order of the numbers (a batch norm's scale, say).
        """
        return self._times_slope(torch.ones_like(self._head[1]))

    @cached_property
    def residuals(self) -> Tensor:
        """Change of the output at the marked positions that gives the original's pre-activation, (k, c_out), float64.

        J⁻¹(a_original − a_edited); 0 for channels with J = 0.
        """
        original = _precise(self.original.route).split()[0](_double(self.original.output))
        squared = self.slope.square()
        lacking = self._times_slope(original - self._head[1].detach())
        return torch.where(squared > torch.finfo(torch.float64).tiny, lacking / squared, 0)

    @cached_property
    def pre_activation(self) -> Tensor:
        """The edited images' pre-activation at the marked positions, (k, c_out), float64; 0 where J = 0."""
        found = self._times_slope(self._head[1].detach())
        return torch.where(self.slope == 0, 0, found / self.slope)

    def activation(self) -> Route | None:
        """The function from pre-activation to value, if it is elementwise (relu, but no pool).

        Returns:
            A function of tensors of any shape; None if a value depends on anything else.
        """
        head, rest = self.edited.route.split()
        in_order = all(kind_of(step) in {"affine", "elementwise"} for step in head.steps)
        return rest if in_order and rest.is_elementwise else None

    @cached_property
    def _head(self) -> tuple[Tensor, Tensor]:
        """The edited images' output, and their pre-activation as a differentiable function of it."""
        output = _double(self.edited.output).requires_grad_()
        with torch.enable_grad():
            return output, _precise(self.edited.route).split()[0](output)

    def _times_slope(self, activation: Tensor) -> Tensor:
        """J·a at the marked positions of the output, for numbers of a pre-activation's shape."""
        output, head = self._head
        (found,) = torch.autograd.grad(head, output, activation, retain_graph=True)
        return flatten_positions(found, key_axis(self.site.kind))[self.marked]

    def targets(self) -> Tensor:
        """v*, the original images' values, (n, p, c)."""
        return flatten_positions(self.original.values, self.site.channel_axis)

    def with_style(self, style: Tensor) -> "SiteActivations":
        """Activations for edited images that are composed in feature space (thesis 2.3), without edited images.

        The keys of an image of the style are pasted onto the concept's positions of the original images' keys;
        everything else between the site and its value point is held as it was in the originals' pass.

        Args:
            style: the site's input for an image that is all style, (1, …).
        """
        axis, recorded, images = key_axis(self.site.kind), self.original, len(self.masks)
        keys = flatten_positions(recorded.keys, axis).reshape(images, -1, self.site.shape[1])
        share = self.key_weights.reshape(images, -1, 1)
        pasted = keys + share.to(keys) * (flatten_positions(style, axis).reshape(1, *keys.shape[1:]).to(keys) - keys)
        pasted = pasted.reshape(recorded.keys.movedim(axis, -1).shape).movedim(-1, axis).contiguous()
        with torch.no_grad():
            output = self.layer(pasted)
            made = capture.Recording(pasted, output, recorded.route(output), recorded.route)
        return SiteActivations(self.site, self.layer, recorded, made, self.masks)

    def rerecord(self, model: nn.Module, edited: Tensor) -> "SiteActivations":
        """Record the edited images again, and keep the recording of the originals.

        Args:
            model: the model, with edits of sites before this one in place.
            edited: model inputs of the edited images, (n, channels, height, width).
        """
        counterpart = capture.record(model, edited, {self.site.path: self.site.value_point})[self.site.path]
        return SiteActivations(self.site, self.layer, self.original, counterpart, self.masks)

    def error(self, added: Tensor | None = None, *, error: linalg.Error = "absolute") -> Tensor:
        """The masked error of the values in the form of the authors' objective, for each channel of the value point.

        Args:
            added: what an edit adds to the site's output, of the output's shape; nothing if not given.
            error: absolute (the authors' code) or squared (the paper).

        Returns:
            (c,), the mean over the mask's positions.
        """
        output = self.edited.output if added is None else self.edited.output + added
        return self.error_of(self.edited.route(output), error=error)

    def error_of(self, values: Tensor, *, error: linalg.Error = "absolute") -> Tensor:
        """The masked error of some values of the edited images.

        Args:
            values: of the value point's shape.
            error: absolute (the authors' code) or squared (the paper).

        Returns:
            (c,), the mean over the mask's positions.
        """
        return linalg.masked_error(*self.compared(values), error)

    def compared(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Some values of the edited images, those of the originals, and the weights of their positions.

        Args:
            values: of the value point's shape.

        Returns:
            (p, c), (p, c), and (p,) in 0..1.
        """
        found = flatten_positions(values, self.site.channel_axis).flatten(0, 1)
        return found, self.targets().flatten(0, 1), self.value_weights.to(found).flatten()


def record_sites(
    model: nn.Module, sites: Sequence[Site], originals: Tensor, edited: Tensor, masks: Tensor
) -> list[SiteActivations]:
    """Record the activations of some sites on the exemplars; the model is run twice, up to the last value point.

    Args:
        model: the model.
        sites: the sites.
        originals: model inputs of the original images, (n, channels, height, width).
        edited: model inputs of the edited images, (n, channels, height, width).
        masks: (n, height, width), 0..1.

    Raises:
        SiteError: a layer's output is not linear in its weight.
    """
    points = {site.path: site.value_point for site in sites}
    before, after = (capture.record(model, inputs, points) for inputs in (originals, edited))
    layers = {path: _linear(model.get_submodule(path), path, after[path].keys) for path in points}
    return [SiteActivations(site, layers[site.path], before[site.path], after[site.path], masks) for site in sites]


def position_weights(
    masks: Tensor, tensor: Tensor, channel_axis: int, places: SpatialPositions | None = None
) -> Tensor:
    """Share of the mask at each position of a feature map, of tokens, of windows.

    Shares far below the largest are set to zero, and so are those of positions without a place in the image (class
    and register tokens). A tensor without positions gets one.

    Args:
        masks: (n, height, width), 0..1.
        tensor: (n, …) with channels on one axis; (n·windows, …) where images were cut into windows.
        channel_axis: which.
        places: where its positions lie; a feature map needs none.

    Returns:
        (n, p), or (n·windows, p); float64, 0..1.

    Raises:
        SiteError: positions that cannot be laid over the image.
    """
    sizes = list(tensor.shape[1:])
    del sizes[(channel_axis % tensor.ndim) - 1]
    if math.prod(sizes) == 1 and len(tensor) == len(masks):
        return masks.new_ones(len(masks), 1, dtype=torch.float64)
    if places is None and len(sizes) == 2:
        places = SpatialPositions.of_map(sizes[0], sizes[1])
    if places is None or len(tensor) != places.windows * len(masks):
        raise SiteError(
            f"expected a site whose positions lie in the image but got an output of shape {tuple(tensor.shape)} for "
            f"{len(masks)} images; choose another site"
        )
    return places.weights(masks, smallest=SMALLEST_SHARE).reshape(len(tensor), -1)


def _linear(layer: nn.Module, path: str, keys: Tensor) -> Layer:
    assert isinstance(layer, Layer)
    with torch.no_grad():
        once, doubled = (clone_with_weight(layer, factor * layer.weight.detach())(keys) for factor in (1, 2))
    if not torch.allclose(doubled, 2 * once, rtol=1e-2, atol=float(once.abs().max()) * 1e-2):
        raise SiteError(
            f"expected the output of {path} to be linear in its weight but it is not ({type(layer).__name__} may "
            "standardise it); choose another site"
        )
    return layer


def _double(tensor: Tensor) -> Tensor:
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()  # MPS has no float64


def _precise(route: Route) -> Route:
    on_mps = any(tensor.device.type == "mps" for tensor in route.constants.values())
    return route.to(dtype=torch.float64, device=torch.device("cpu") if on_mps else None)
