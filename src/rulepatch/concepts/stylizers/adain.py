"""Adaptive instance normalisation (Huang and Belongie, ICCV 2017): `adain/ENCODER+DECODER` or `adain/FOLDER`."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy import float32
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rulepatch.concepts.stylize import NoSettings, Style, finished, picture_of_style, stylizer
from rulepatch.concepts.stylizers.networks import (
    Chain,
    pairs_named,
    picture,
    pixels,
    read_chain,
    wide_enough,
)
from rulepatch.digests import digest_of_tensors
from rulepatch.errors import WeightsError
from rulepatch.forward import device_named

__all__ = ["AdaIN", "adain", "load"]

_ENCODER = (0, 2, 5, 9, 12, 16, 19, 22, 25, 29)
"""Indices of the convolutions in the published `vgg_normalised.pth`, up to relu4_1; the first normalises colours."""

_DECODER = (1, 5, 8, 11, 14, 18, 21, 25, 28)
"""Indices of the convolutions in the published `decoder.pth`."""

_LEAST = 9
"""Pixels on a side that three poolings leave two of, which a mirror needs."""


@dataclass(frozen=True)
class AdaIN:
    """Gives VGG's maps of the image the mean and spread of the style's, and decodes them; the seed does not matter.

    https://arxiv.org/abs/1703.06868

    Attributes:
        encoder: of images, to relu4_1.
        decoder: of its maps.
        blend: share of the style in the result, in 0..1.
        device: where it runs.
        name: of the stylizer.
    """

    encoder: Chain = field(repr=False)
    decoder: Chain = field(repr=False)
    blend: float
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    name: str = "adain"

    @cached_property
    def _digests(self) -> list[str]:
        return [digest_of_tensors(chain.state_dict()) for chain in (self.encoder, self.decoder)]

    def describe(self) -> dict[str, Any]:
        """Name, digests of the weights, and settings."""
        return {"name": self.name, "weights": self._digests, "blend": self.blend}

    def __call__(self, image: Image.Image, mask: NDArray[float32], style: Style, *, seed: int = 0) -> Image.Image:
        """Transfer the style of the style's image.

        Returns:
            The image with the region in the style.
        """
        example = picture_of_style(image, mask, style)
        wide_enough(image, _LEAST)
        wide_enough(example, _LEAST)
        with torch.inference_mode():
            content, goal = (self.encoder(pixels(each, self.device))[-1] for each in (image, example))
            decoded = self.decoder(adain(content, goal))[-1][..., : image.height, : image.width]
        return finished(image, picture(decoded), mask, self.blend)


@stylizer("adain")
def load(rest: str, how: NoSettings, *, blend: float, device: str | None = None) -> AdaIN:
    """The stylizer `adain`: the files of the well-known port to PyTorch, as safetensors or as they were published.

    Raises:
        SettingError: no such device.
        WeightsError: weights that are missing, damaged or of another network.
    """
    place = device_named(device)
    first, second = _files(rest)
    encoder = read_chain(
        first, _ENCODER, [i in {9, 16, 29} for i in _ENCODER], what="the normalised VGG19", mirrored=True
    )
    resized = [i in {5, 18, 25} for i in _DECODER]
    decoder = read_chain(
        second,
        _DECODER,
        resized,
        what="the decoder",
        channels=len(encoder.biases[-1]),
        between="enlarge",
        mirrored=True,
        last_relu=False,
    )
    if len(decoder.biases[-1]) != 3:
        raise WeightsError(
            f"expected a decoder of RGB but {second} gives {len(decoder.biases[-1])} channels; name the right file"
        )
    return AdaIN(encoder.to(place), decoder.to(place), blend, place)


def adain(content: Tensor, style: Tensor) -> Tensor:
    r"""Give maps the mean and standard deviation of others, channel by channel.

    .. math:: \sigma(s) \frac{c - \mu(c)}{\sigma(c)} + \mu(s)

    Args:
        content: maps (n, c, h, w).
        style: maps (n, c, h, w) of any size; of one channel that is flat, nothing but the mean is taken.

    Returns:
        Maps of the content's size.

    Examples:
        >>> found = adain(torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[5.0, 9.0]]]]))
        >>> [round(value, 3) for value in found.flatten().tolist()]
        [5.0, 9.0]
    """
    (own_spread, own_mean), (spread, mean) = (torch.std_mean(x, (2, 3), keepdim=True) for x in (content, style))
    return (content - own_mean) / own_spread.clamp_min(1e-5) * spread + mean


def _files(rest: str) -> tuple[Path, Path]:
    folder = Path(rest)
    if rest and folder.is_dir():
        for suffix in (".safetensors", ".pth"):
            pair = folder / f"vgg_normalised{suffix}", folder / f"decoder{suffix}"
            if all(path.is_file() for path in pair):
                return pair
        raise WeightsError(f"expected vgg_normalised.pth and decoder.pth in {folder} but they are not there; add them")
    for pair in pairs_named(rest):
        if all(path.is_file() for path in pair):
            return pair
    raise WeightsError(
        f"expected two files of weights, adain/ENCODER+DECODER, but got adain/{rest}, which names no such files; "
        "nothing is downloaded: fetch vgg_normalised.pth and decoder.pth yourself"
    )
