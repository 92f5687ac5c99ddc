"""Style transfer by optimisation (Gatys, Ecker and Bethge, CVPR 2016): `gatys`, or `gatys/WEIGHTS` for a local file."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy import float32
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from rulepatch.concepts.stylize import Style, finished, picture_of_style, stylizer
from rulepatch.concepts.stylizers.networks import (
    ENCODER,
    Chain,
    picture,
    pixels,
    read_chain,
    wide_enough,
)
from rulepatch.digests import digest_of_tensors
from rulepatch.errors import WeightsError, reason_of
from rulepatch.forward import device_named
from rulepatch.progress import Bar
from rulepatch.settings import Settings

__all__ = ["Gatys", "GatysSettings", "gram", "load"]

_STYLE = (0, 2, 4, 8, 12)
"""Convolutions whose Gram matrices are matched: the first of each stage."""

_CONTENT = 9
"""The convolution whose maps are matched: the second of the fourth stage."""

_LEAST = 16
"""Pixels on a side that four poolings leave one of."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GatysSettings(Settings):
    """Settings of `gatys`."""

    title: ClassVar[str] = "settings of the stylizer gatys"

    steps: int = Field(default=100, ge=1, description="Iterations of L-BFGS.")
    style_weight: float = Field(default=1e6, gt=0, description="λ, the weight of the style against the content.")


@dataclass(frozen=True)
class Gatys:
    r"""Optimises pixels so that Gram matrices of VGG19 are those of the style and maps those of the image.

    .. math:: L = \sum_l \lambda \lVert G_l(x) - G_l(s) \rVert^2 + \lVert F_c(x) - F_c(p) \rVert^2

    It starts from the image itself, so that the seed does not matter. https://arxiv.org/abs/1508.06576

    Attributes:
        encoder: the network.
        blend: share of the style in the result, in 0..1.
        how: the settings.
        device: where it runs.
        name: of the stylizer.
    """

    encoder: Chain = field(repr=False)
    blend: float
    how: GatysSettings
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    name: str = "gatys"

    @cached_property
    def _digest(self) -> str:
        return digest_of_tensors(self.encoder.state_dict())

    def describe(self) -> dict[str, Any]:
        """Name, digest of the weights, and settings."""
        return {"name": self.name, "weights": self._digest, "blend": self.blend, **self.how.describe()}

    def __call__(self, image: Image.Image, mask: NDArray[float32], style: Style, *, seed: int = 0) -> Image.Image:
        """Optimise the image; a progress bar is shown after two seconds.

        Returns:
            The image with the region in the style.
        """
        example = picture_of_style(image, mask, style)
        wide_enough(image, _LEAST)
        wide_enough(example, _LEAST)
        if not mask.any():
            return image.copy()
        stylized, _ = self.optimised(pixels(image, self.device), pixels(example, self.device))
        return finished(image, picture(stylized), mask, self.blend)

    def optimised(self, content: Tensor, style: Tensor) -> tuple[Tensor, list[float]]:
        """The optimisation itself.

        Args:
            content: image (1, 3, h, w), 0..1.
            style: image (1, 3, h, w) of any size, 0..1.

        Returns:
            The image found, and the loss at each evaluation.
        """
        with torch.inference_mode(False), torch.enable_grad():
            content = content.clone(memory_format=torch.contiguous_format)
            with torch.no_grad():
                wanted_style = [gram(maps) for maps in self._read(style, _STYLE)]
                (wanted,) = self._read(content, [_CONTENT])
            x = content.clone().requires_grad_()
            losses: list[float] = []
            search = torch.optim.LBFGS(
                [x], max_iter=self.how.steps, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
            )

            def closure() -> Tensor:
                search.zero_grad()
                *maps, kept = self._read(x, [*_STYLE, _CONTENT])
                loss = (kept - wanted).square().mean()
                for found, goal in zip(maps, wanted_style, strict=True):
                    loss = loss + self.how.style_weight * (gram(found) - goal).square().mean()
                loss.backward()
                losses.append(float(loss.detach()))
                bar.update()
                return loss

            with Bar(5 * self.how.steps // 4, "gatys", leave=False) as bar:
                search.step(closure)
            return x.detach(), losses

    def _read(self, x: Tensor, which: Sequence[int]) -> list[Tensor]:
        mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        maps = self.encoder((x - mean) / std)
        return [maps[k] for k in which]


@stylizer("gatys", GatysSettings)
def load(rest: str, how: GatysSettings, *, blend: float, device: str | None = None) -> Gatys:
    """The stylizer `gatys`: VGG19 from a file, or torchvision's, which torchvision downloads if it is not there.

    Raises:
        SettingError: no such device.
        WeightsError: weights that are missing, damaged, of another network, or that could not be downloaded.
    """
    place = device_named(device)
    source = Path(rest) if rest else _published()
    resized = [index in {5, 10, 19, 28} for index in ENCODER]
    encoder = read_chain(source, ENCODER, resized, what="VGG19")
    return Gatys(encoder.to(place), blend, how, place)


def gram(maps: Tensor) -> Tensor:
    """Return the Gram matrix (n, c, c) of maps (n, c, h, w), over their number c·h·w.

    Examples:
        >>> gram(torch.ones(1, 2, 3, 3)).tolist()
        [[[0.5, 0.5], [0.5, 0.5]]]
    """
    flat = maps.flatten(2)
    return flat @ flat.mT / flat[0].numel()


def _published() -> dict[str, Tensor]:
    from torchvision.models import VGG19_Weights, vgg19

    try:
        found: dict[str, Tensor] = vgg19(weights=VGG19_Weights.IMAGENET1K_V1).features.state_dict()
    except (OSError, RuntimeError) as error:  # no network, or a download that was cut
        raise WeightsError(
            f"expected torchvision's VGG19 weights but they are not here and could not be downloaded "
            f"({reason_of(error)}); name a local file, gatys/WEIGHTS"
        ) from None
    return found
