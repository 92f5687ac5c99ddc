"""What the stylizers that run networks share: images as tensors, plain chains of convolutions, devices."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from rulepatch.errors import ImageError, WeightsError
from rulepatch.models.registry import read_state

__all__ = ["ENCODER", "Chain", "pairs_named", "picture", "pixels", "read_chain", "wide_enough"]

ENCODER = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
"""Indices of VGG19's convolutions up to the first of its fifth stage, in torchvision's `features`."""

Between = Literal["pool", "enlarge"]


class Chain(nn.Module):
    """Convolutions with ReLUs, and pooling or enlarging wherever their published indices leave room for it.

    Attributes:
        weights: of each convolution, (c_out, c_in, y, x), and its bias, (c_out,).

    Examples:
        >>> weights = [(torch.ones(4, 3, 3, 3), torch.zeros(4)), (torch.ones(2, 4, 3, 3), torch.zeros(2))]
        >>> chain = Chain(weights, [False, True], between="pool", mirrored=True)
        >>> [tuple(each.shape) for each in chain(torch.ones(1, 3, 8, 8))]
        [(1, 4, 8, 8), (1, 2, 4, 4)]
    """

    def __init__(
        self,
        weights: Sequence[tuple[Tensor, Tensor]],
        resized: Sequence[bool],
        *,
        between: Between,
        mirrored: bool,
        last_relu: bool = True,
    ) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(w.float(), requires_grad=False) for w, _ in weights])
        self.biases = nn.ParameterList([nn.Parameter(b.float(), requires_grad=False) for _, b in weights])
        self.resized, self.between, self.mirrored, self.last_relu = tuple(resized), between, mirrored, last_relu

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return what each convolution gives after its ReLU, from maps (n, c, h, w)."""
        found = []
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if self.resized[k]:  # the published AdaIN rounds halves up, VGG itself down
                pooled = self.between == "pool"
                x = F.max_pool2d(x, 2, 2, ceil_mode=self.mirrored) if pooled else F.interpolate(x, scale_factor=2.0)
            if pad := weight.shape[-1] // 2:
                x = F.pad(x, (pad,) * 4, mode="reflect" if self.mirrored else "constant")
            x = F.conv2d(x, weight, bias)
            if weight.shape[-1] > 1 and (self.last_relu or k + 1 < len(self.weights)):
                x = x.relu()
            found.append(x)
        return found


def read_chain(
    source: Path | Mapping[str, Tensor],
    indices: Sequence[int],
    resized: Sequence[bool],
    *,
    what: str,
    channels: int = 3,
    between: Between = "pool",
    mirrored: bool = False,
    last_relu: bool = True,
) -> Chain:
    """Build a chain of convolutions of a state dict whose keys are `INDEX.weight` and `INDEX.bias`.

    Args:
        source: a file of weights, or its tensors; keys may begin with `features.`, and other keys are not needed.
        indices: of the convolutions.
        resized: whether something stands before each convolution that pools or enlarges.
        what: the network, for messages.
        channels: that the first convolution reads.
        between: what stands there.
        mirrored: whether maps are padded as in a mirror, rather than by zeros.
        last_relu: whether a ReLU follows the last convolution.

    Returns:
        The chain, in evaluation mode; its widths are those of the weights.

    Raises:
        WeightsError: weights that are missing, damaged or of another architecture.
    """
    state = read_state(source) if isinstance(source, Path) else source
    state = {key.removeprefix("features."): tensor for key, tensor in state.items()}
    origin = source if isinstance(source, Path) else "the state dict"
    weights: list[tuple[Tensor, Tensor]] = []
    for index in indices:
        weight, bias = state.get(f"{index}.weight"), state.get(f"{index}.bias")
        if weight is None or bias is None:
            raise WeightsError(
                f"expected the weights of {what} but {origin} has no convolution {index}; name the right file"
            )
        if weight.ndim != 4 or weight.shape[1] != channels or bias.shape != weight.shape[:1]:
            raise WeightsError(
                f"expected a convolution {index} of {channels} channels in {what} "
                f"but {origin} has one of shape {tuple(weight.shape)}; name the right file"
            )
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise WeightsError(f"expected finite weights but convolution {index} of {origin} holds NaN or infinity")
        weights.append((weight, bias))
        channels = weight.shape[0]
    return Chain(weights, resized, between=between, mirrored=mirrored, last_relu=last_relu).eval()


def pairs_named(rest: str) -> list[tuple[Path, Path]]:
    """Return all ways to read FIRST+SECOND; names of files may hold a plus themselves.

    Examples:
        >>> [(str(first), str(second)) for first, second in pairs_named("a+b")]
        [('a', 'b')]
    """
    parts = rest.split("+")
    return [(Path("+".join(parts[:k])), Path("+".join(parts[k:]))) for k in range(1, len(parts))]


def pixels(image: Image.Image, device: torch.device) -> Tensor:
    """An RGB image as a tensor (1, 3, h, w) in 0..1, contiguous."""
    array = np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[None] / np.float32(255)
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def picture(tensor: Tensor) -> Image.Image:
    """A tensor (1, 3, h, w) in 0..1 as an RGB image."""
    array = tensor.detach()[0].clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(array.contiguous().cpu().numpy())


def wide_enough(image: Image.Image, least: int) -> None:
    """Refuse images that a network halves to nothing.

    Raises:
        ImageError: a side of less than that many pixels.
    """
    if min(image.size) < least:
        raise ImageError(
            f"expected an image of at least {least} pixels a side but got {image.width}x{image.height}; enlarge it"
        )
