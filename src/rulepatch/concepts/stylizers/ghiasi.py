"""Arbitrary stylisation in one pass (Ghiasi et al., BMVC 2017), as in the paper: `ghiasi/FOLDER`.

The weights are those published for TensorFlow.js, as files: a folder for the predictor and one for the transformer.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy import float32
from numpy.typing import NDArray
from PIL import Image

from rulepatch.concepts.stylize import NoSettings, Style, finished, picture_of_style, stylizer
from rulepatch.concepts.stylizers.ghiasi_networks import Predictor, Transformer
from rulepatch.concepts.stylizers.networks import pairs_named, picture, pixels, wide_enough
from rulepatch.concepts.stylizers.tfjs import TfjsModel, read_tfjs
from rulepatch.digests import digest_of_tensors
from rulepatch.errors import WeightsError
from rulepatch.forward import device_named

__all__ = ["Ghiasi", "load"]

_LEAST = {"mobilenet": 8, "inception": 75}
"""Pixels on a side of the style's image that a predictor leaves some of."""


@dataclass(frozen=True)
class Ghiasi:
    """Predicts the norms of a small network from the style's image; the seed does not matter.

    Attributes:
        predictor: of the style numbers.
        transformer: of the image.
        blend: share of the style in the result, in 0..1.
        device: where it runs.
        name: of the stylizer.
    """

    predictor: Predictor = field(repr=False)
    transformer: Transformer = field(repr=False)
    blend: float
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    name: str = "ghiasi"

    @cached_property
    def _digests(self) -> list[str]:
        return [digest_of_tensors(network.state_dict()) for network in (self.predictor, self.transformer)]

    def describe(self) -> dict[str, Any]:
        """Name, digests of the weights, how the networks are laid out, and settings."""
        return {
            "name": self.name,
            "weights": self._digests,
            "predictor": self.predictor.kind,
            "mirrored": self.transformer.mirrored,
            "blend": self.blend,
        }

    def __call__(self, image: Image.Image, mask: NDArray[float32], style: Style, *, seed: int = 0) -> Image.Image:
        """Transfer the style of the style's image.

        Returns:
            The image with the region in the style.
        """
        example = picture_of_style(image, mask, style)
        wide_enough(image, 16)
        wide_enough(example, _LEAST[self.predictor.kind])
        with torch.inference_mode():
            numbers = self.predictor(pixels(example, self.device))
            found = self.transformer(pixels(image, self.device), numbers)[..., : image.height, : image.width]
        return finished(image, picture(found), mask, self.blend)


@stylizer("ghiasi")
def load(rest: str, how: NoSettings, *, blend: float, device: str | None = None) -> Ghiasi:
    """The stylizer `ghiasi`: FOLDER holds a predictor and a transformer; PREDICTOR+TRANSFORMER names them.

    Raises:
        SettingError: no such device.
        WeightsError: weights that are missing, damaged or of another network, or more of them than can be told apart.
    """
    place = device_named(device)
    first, second = _models(rest)
    predictor, transformer = Predictor(first).eval().to(place), Transformer(second).eval().to(place)
    side = max(_LEAST.values()) + 1
    try:
        with torch.inference_mode():
            transformer(torch.zeros(1, 3, 16, 16, device=place), predictor(torch.zeros(1, 3, side, side, device=place)))
    except RuntimeError as error:  # sizes of tensors that do not go with each other
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"expected networks whose layers fit together but those of {rest} do not ({reason}); get a sound copy"
        ) from None
    return Ghiasi(predictor, transformer, blend, place)


def _models(rest: str) -> tuple[TfjsModel, TfjsModel]:
    """The predictor and the transformer."""
    folder = Path(rest)
    for first, second in pairs_named(rest):
        if first.is_dir() and second.is_dir():
            return read_tfjs(first), read_tfjs(second)
    if not rest or not folder.is_dir():
        raise WeightsError(
            f"expected a folder of weights, ghiasi/FOLDER, but got ghiasi/{rest}, which is none; "
            "nothing is downloaded: fetch saved_model_style_js and saved_model_transformer_js of the TensorFlow.js port"
        )
    found = [read_tfjs(path.parent) for path in sorted(folder.glob("*/model.json"))]
    transformers = [model for model in found if any(name.startswith("transformer/") for name in model.tensors)]
    predictors = [model for model in found if model not in transformers]
    if len(predictors) != 1 or len(transformers) != 1:
        raise WeightsError(
            f"expected one predictor and one transformer in {folder} but found {len(predictors)} and "
            f"{len(transformers)}; name them, ghiasi/PREDICTOR+TRANSFORMER"
        )
    return predictors[0], transformers[0]
