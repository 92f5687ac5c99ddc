"""Exemplars, and what a site sees of them: keys, values and the weights of positions."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from rulepatch.core import linalg
from rulepatch.core.opinions import Opinions, Predictor, opinions_of, panel_of
from rulepatch.digests import digest_of_bytes, digest_of_json
from rulepatch.errors import ExemplarError, SiteError, warn
from rulepatch.images import as_image, composite, has_alpha, in_mode, read_image
from rulepatch.masks import MaskValue, read_mask
from rulepatch.text import brief, percent, quoted
from rulepatch.tracing import capture
from rulepatch.tracing.positions import Places
from rulepatch.tracing.sites import Layer, Site, key_axis, patches, rows, with_weight
from rulepatch.tracing.trace import Route, kind_of

__all__ = ["Exemplar", "Observation", "observe", "position_weights"]

SMALLEST_SHARE = 0.2
"""Positions of which the mask covers less than this share of what it covers of the best one are left out."""

WHOLE = 0.98
"""Share of the picture from which a mask is one of everything."""


@dataclass(frozen=True, eq=False)
class Exemplar:
    """A picture, the same picture with a concept replaced, and the mask of that concept.

    Attributes:
        image: the original, RGB; RGBA if one of the two has transparency, which networks of four channels see.
        edited: its counterpart in which the concept is replaced, in the same mode and of the same size.
        mask: array (h, w), float32, 0..1, 1 where the concept is; given in any form that `read_mask` reads: an array or
            tensor of any type, a PIL picture.
        label: what the picture shows: a class index, class name or WordNet id.
        concept: name of what the mask marks ("road").
        replacement: name of what was put there ("snow").
        name: of the exemplar, for messages.

    Raises:
        ExemplarError: sizes differ, or the mask is empty.
        MaskError: the mask can be read in several ways or in none.

    Examples:
        >>> picture, snow = Image.new("RGB", (4, 4), "black"), Image.new("RGB", (9, 9), "white")
        >>> mask = np.zeros((4, 4), np.float32)
        >>> mask[2:] = 1
        >>> exemplar = Exemplar.painted(picture, mask, snow, label="van")
        >>> np.asarray(exemplar.edited)[:, 0, 0].tolist()
        [0, 0, 255, 255]
    """

    image: Image.Image
    edited: Image.Image
    mask: NDArray[np.float32] = field(repr=False)
    label: int | str | None = None
    concept: str | None = None
    replacement: str | None = None
    name: str = "the exemplar"

    def __repr__(self) -> str:
        rule = f"{self.concept or 'the concept'} → {self.replacement or 'its replacement'}"
        label = "without a label" if self.label is None else f"labelled {quoted(self.label)}"
        masked = f"{percent(float(self.mask.mean()))} masked"
        return brief("Exemplar", quoted(self.name), "×".join(map(str, self.image.size)), rule, label, masked)

    def _repr_html_(self) -> str:
        """Its pictures; `opinions` adds what a model says of them."""
        return panel_of(self)

    def opinions(self, model: Predictor) -> Opinions:
        """What a model says of the original and of the edited picture.

        Args:
            model: the classifier.

        Returns:
            Both opinions; a notebook shows them below the pictures.
        """
        return opinions_of(model, self)

    def __post_init__(self) -> None:
        both = [as_image(part, alpha=True, name=f"a picture of {self.name}") for part in (self.image, self.edited)]
        mode = "RGBA" if any(map(has_alpha, both)) else "RGB"
        for part, picture in zip(("image", "edited"), both, strict=True):
            object.__setattr__(self, part, in_mode(picture, mode))
        if self.edited.size != self.image.size:
            raise ExemplarError(
                f"expected the edited picture of {self.name} to have the picture's size {_by(self.image.size)} but got "
                f"{_by(self.edited.size)}; edit the picture itself, and turn it as the picture is turned"
            )
        mask = read_mask(self.mask, size=self.image.size, name=f"the mask of {self.name}")
        object.__setattr__(self, "mask", mask)
        if self.mask.max() < 0.5:
            raise ExemplarError(
                f"expected the mask of {self.name} to mark the concept in white but it is empty; paint the concept"
            )

    @classmethod
    def painted(
        cls,
        image: Image.Image,
        mask: Any,
        replacement: Image.Image,
        *,
        label: int | str | None = None,
    ) -> Self:
        """An exemplar made by painting a texture over the concept.

        Args:
            image: the original, RGB.
            mask: where the concept is, in any form that `read_mask` reads.
            replacement: a texture of any size.
            label: what the picture shows.

        Raises:
            ExemplarError: the mask has another size than the picture, or is empty.
        """
        return cls(image, image, mask, label=label)._painted_over(as_image(replacement))

    @classmethod
    def from_files(
        cls,
        image: Path | str,
        *,
        mask: Path | str,
        replacement: Path | str | None = None,
        edited: Path | str | None = None,
        label: int | str | None = None,
        mask_value: MaskValue | None = None,
    ) -> Self:
        """Read an exemplar from files.

        Args:
            image: the picture.
            mask: white where the concept is, of the picture's size; or in another form that `read_mask` reads.
            replacement: a texture to paint over the concept; or
            edited: the picture with the concept already replaced.
            label: what the picture shows.
            mask_value: which colour or number of the mask is the concept, where it has several.

        Raises:
            ImageError: a file cannot be read.
            MaskError: the mask can be read in several ways.
            ExemplarError: neither or both of `replacement` and `edited` are given, or the parts do not fit.
        """
        if (replacement is None) == (edited is None):
            raise ExemplarError(
                f"expected either a replacement or an edited picture for {image} but got "
                f"{'neither' if edited is None else 'both'}; give one of them"
            )
        picture = read_image(image, alpha=True)
        area = read_mask(mask, value=mask_value, size=picture.size)
        if edited is not None:
            return cls(picture, read_image(edited, alpha=True), area, label=label, name=str(image))
        texture = Path(str(replacement))
        bare = cls(picture, picture, area, label=label, replacement=texture.stem, name=str(image))
        return bare._painted_over(read_image(texture))

    def _painted_over(self, texture: Image.Image) -> Self:
        if self.mask.mean() >= WHOLE:
            warn(
                f"the mask of {self.name} covers the whole picture, so nothing of it is left beside the texture; mark "
                "the concept alone"
            )
        return replace(self, edited=composite(self.image, texture, self.mask))

    def digest(self) -> str:
        """Digest of the three pictures' contents."""
        parts = (np.asarray(self.image), np.asarray(self.edited), self.mask)
        return digest_of_json([[str(part.shape), digest_of_bytes(part.tobytes())] for part in parts])


@dataclass(frozen=True, eq=False)
class Observation:
    """What a site sees of some exemplars.

    Attributes:
        site: the site.
        layer: its module.
        original: the recorded pass of the original pictures.
        edited: the recorded pass of the edited pictures.
        masks: (n, height, width), 0..1, at the model's input size.
    """

    site: Site
    layer: Layer
    original: capture.Recording
    edited: capture.Recording
    masks: Tensor

    @property
    def keys(self) -> Tensor:
        """The edited pictures' keys, as the site's input: (n, c_in, h, w) or (n, …, c_in)."""
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
        """The edited pictures' keys at the marked positions, and the weights of these positions.

        Args:
            architecture: 1 for keys of c_in channels, 2 for unfolded patches of c_in·y·x (thesis fig. 2-3).
            pictures: which; all by default.

        Returns:
            (p, c), and (p,) in 0..1 without zeros, both float64.
        """
        if architecture == 1:
            keys, weights = rows(self.keys, key_axis(self.site.kind)), self.key_weights
        else:
            keys, weights = patches(self.layer, self.keys), self.output_weights
        images = len(self.masks)  # windows of one picture are entries of their own
        keys = keys.reshape(images, -1, keys.shape[-1])[pictures]
        weights = weights.reshape(images, -1)[pictures]
        marked = weights > 0
        return _double(keys)[marked], weights[marked]

    @cached_property
    def marked(self) -> Tensor:
        """Where the mask is at the site's own output, (n, p), bool."""
        return self.output_weights > 0

    @cached_property
    def slope(self) -> Tensor:
        """J at the marked positions, what one more of an output adds to its pre-activation, (k, c_out), float64.

        The pre-activation a is affine in every number of the output by itself, a = a0 + J·output, with J diagonal up to
        the order of the numbers (a batch norm's scale, say).
        """
        return self._times_slope(torch.ones_like(self._head[1]))

    @cached_property
    def residuals(self) -> Tensor:
        """What the output lacks at the marked positions for the original's pre-activation, (k, c_out), float64.

        J⁻¹(a_original − a_edited). Channels with J = 0 lack nothing.
        """
        original = _precise(self.original.route).split()[0](_double(self.original.output))
        squared = self.slope.square()
        lacking = self._times_slope(original - self._head[1].detach())
        return torch.where(squared > torch.finfo(torch.float64).tiny, lacking / squared, 0)

    @cached_property
    def pre_activation(self) -> Tensor:
        """The edited pictures' pre-activation at the marked positions, (k, c_out), float64; 0 where J = 0."""
        found = self._times_slope(self._head[1].detach())
        return torch.where(self.slope == 0, 0, found / self.slope)

    def activation(self) -> Route | None:
        """What makes a value of a pre-activation, if it does so number by number: relu, say, but no pool.

        Returns:
            A function of tensors of any shape; None if a value depends on anything else.
        """
        head, rest = self.edited.route.split()
        in_order = all(kind_of(step) in {"affine", "elementwise"} for step in head.steps)
        return rest if in_order and rest.is_elementwise else None

    @cached_property
    def _head(self) -> tuple[Tensor, Tensor]:
        """The edited pictures' output, and their pre-activation as a differentiable function of it."""
        output = _double(self.edited.output).requires_grad_()
        with torch.enable_grad():
            return output, _precise(self.edited.route).split()[0](output)

    def _times_slope(self, activation: Tensor) -> Tensor:
        """J·a at the marked positions of the output, for numbers of a pre-activation's shape."""
        output, head = self._head
        (found,) = torch.autograd.grad(head, output, activation, retain_graph=True)
        return rows(found, key_axis(self.site.kind))[self.marked]

    def targets(self) -> Tensor:
        """v*, the original pictures' values, (n, p, c)."""
        return rows(self.original.values, self.site.channel_axis)

    def with_style(self, style: Tensor) -> "Observation":
        """What the site would see of edited pictures, from features (thesis 2.3): no edited picture is needed.

        The keys of a picture of the style are pasted onto the concept's positions of the original pictures' keys;
        everything else between the site and its value point is held as it was in the originals' pass.

        Args:
            style: the site's input for a picture that is all style, (1, …).
        """
        axis, recorded, images = key_axis(self.site.kind), self.original, len(self.masks)
        keys = rows(recorded.keys, axis).reshape(images, -1, self.site.shape[1])
        share = self.key_weights.reshape(images, -1, 1)
        pasted = keys + share.to(keys) * (rows(style, axis).reshape(1, *keys.shape[1:]).to(keys) - keys)
        pasted = pasted.reshape(recorded.keys.movedim(axis, -1).shape).movedim(-1, axis).contiguous()
        with torch.no_grad():
            output = self.layer(pasted)
            made = capture.Recording(pasted, output, recorded.route(output), recorded.route)
        return Observation(self.site, self.layer, recorded, made, self.masks)

    def again(self, model: nn.Module, edited: Tensor) -> "Observation":
        """What the site sees of the edited pictures now, with the originals as they were seen before.

        Args:
            model: the model, with edits of sites before this one in place.
            edited: model inputs of the edited pictures, (n, channels, height, width).
        """
        counterpart = capture.record(model, edited, self.site.path, self.site.value_point)
        return Observation(self.site, self.layer, self.original, counterpart, self.masks)

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
        """The masked error of some values of the edited pictures.

        Args:
            values: of the value point's shape.
            error: absolute (the authors' code) or squared (the paper).

        Returns:
            (c,), the mean over the mask's positions.
        """
        found = rows(values, self.site.channel_axis).flatten(0, 1)
        weights = self.value_weights.to(found).flatten()
        return linalg.masked_error(found, self.targets().flatten(0, 1), weights, error)


def observe(model: nn.Module, site: Site, originals: Tensor, edited: Tensor, masks: Tensor) -> Observation:
    """Let a site see some exemplars.

    Args:
        model: the model.
        site: where to look.
        originals: model inputs of the original pictures, (n, channels, height, width).
        edited: model inputs of the edited pictures, (n, channels, height, width).
        masks: (n, height, width), 0..1.

    Returns:
        The observation; the model is run twice, as far as the value point.

    Raises:
        SiteError: the layer's output is not linear in its weight.
    """
    layer = model.get_submodule(site.path)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    original = capture.record(model, originals, site.path, site.value_point)
    counterpart = capture.record(model, edited, site.path, site.value_point)
    if not _is_linear(layer, counterpart.keys):
        raise SiteError(
            f"expected the output of {site.path} to be linear in its weight but it is not "
            f"({type(layer).__name__} may standardise it); choose another site"
        )
    return Observation(site, layer, original, counterpart, masks)


def position_weights(masks: Tensor, tensor: Tensor, channel_axis: int, places: Places | None = None) -> Tensor:
    """Share of the mask at each position of a feature map, of tokens, of windows.

    Shares far below the largest are set to zero, and so are those of positions without a place in the picture (class
    and register tokens). A tensor without positions gets one.

    Args:
        masks: (n, height, width), 0..1.
        tensor: (n, …) with channels on one axis; (n·windows, …) where pictures were cut into windows.
        channel_axis: which.
        places: where its positions lie; a feature map needs none.

    Returns:
        (n, p), or (n·windows, p); float64, 0..1.

    Raises:
        SiteError: positions that cannot be laid over the picture.
    """
    sizes = list(tensor.shape[1:])
    del sizes[(channel_axis % tensor.ndim) - 1]
    if math.prod(sizes) == 1 and len(tensor) == len(masks):
        return masks.new_ones(len(masks), 1, dtype=torch.float64)
    if places is None and len(sizes) == 2:
        places = Places.of_map(sizes[0], sizes[1])
    if places is None or len(tensor) != places.leading * len(masks):
        raise SiteError(
            f"expected a site whose positions lie in the picture but got an output of shape {tuple(tensor.shape)} for "
            f"{len(masks)} pictures; choose another site"
        )
    return places.weights(masks, smallest=SMALLEST_SHARE).reshape(len(tensor), -1)


def _is_linear(layer: Layer, keys: Tensor) -> bool:
    with torch.no_grad():
        once, doubled = (with_weight(layer, factor * layer.weight.detach())(keys) for factor in (1, 2))
    return torch.allclose(doubled, 2 * once, rtol=1e-2, atol=float(once.abs().max()) * 1e-2)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _double(tensor: Tensor) -> Tensor:
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()  # MPS has no float64


def _precise(route: Route) -> Route:
    on_mps = any(tensor.device.type == "mps" for tensor in route.constants.values())
    return route.to(dtype=torch.float64, device=torch.device("cpu") if on_mps else None)
