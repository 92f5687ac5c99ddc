"""Identification of another library's transform by applying it to test images.

A transform depends on the order of its steps, on their arguments and on the library's version. So its steps only
suggest candidate settings, and the candidate that gives the same results on images of many sizes is accepted.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NoReturn, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from rulepatch.errors import ModelError, reason_of
from rulepatch.models.modes import MODES, Affine, Interpolation, Mode, OddMargins

__all__ = ["Reading", "Tried", "guesses", "probe", "refuse"]


class Tried:
    """A transform and what it makes of images; of noise of each size it is asked once.

    Args:
        transform: from an image (PIL), a tensor (uint8) or an array to what a network is given.
        mode: Pillow's mode of the images that it is tried on.

    Raises:
        ModelError: (when it is called) the transform fails, or gives something else than one tensor.
    """

    def __init__(self, transform: Callable[[Any], Any], mode: Mode | None = "RGB") -> None:
        self.mode: Mode = mode or "RGB"
        self._transform = transform
        self._of_noise: dict[tuple[int, int], tuple[Image.Image, Tensor]] = {}

    def __call__(self, picture: Image.Image) -> Tensor:
        """Output of the transform for an image, (channels, height, width), float32."""
        first: Exception | None = None
        for given in (picture.copy, lambda: TF.pil_to_tensor(picture), lambda: np.array(picture)):
            try:
                with torch.device("cpu"), torch.no_grad(), warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of its library
                    return _one_tensor(self._transform(given()))
            except ModelError:
                raise
            except Exception as error:  # whatever it raises
                first = first or error
        reason = "" if first is None else reason_of(first)
        return refuse(f"one that fails on an image ({reason})", "try it on an image of yours")

    def plain(self, side: int, value: int) -> Tensor:
        """Output for a square image whose channels all have one value, 0..255."""
        bands = len(self.mode)
        return self(Image.fromarray(np.full((side, side, bands), value, np.uint8).squeeze(2 if bands == 1 else ())))

    def on_noise(self, size: tuple[int, int]) -> tuple[Image.Image, Tensor]:
        """A noise image of a given width and height, and the transform's output for it."""
        if size not in self._of_noise:
            shape = (size[1], size[0], len(self.mode))
            noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            picture = Image.fromarray(noise.squeeze(2) if shape[2] == 1 else noise)
            self._of_noise[size] = picture, self(picture)
        return self._of_noise[size]


@dataclass(frozen=True)
class Reading:
    """Candidate settings of a transform.

    Attributes:
        candidates: settings of a `Preprocess`, the likelier first.
        tried: what the right ones do to images; None if there is one candidate, which is certain.
        otherwise: what stands in the way if none is right, and what to do.
    """

    candidates: Iterable[Mapping[str, Any]]
    tried: Tried | None = None
    otherwise: tuple[str, str] = ("", "")


def guesses(
    size: tuple[int, int],
    affine: Affine,
    sides: Iterable[int],
    interpolations: Iterable[Interpolation],
    *,
    is_resized: bool = True,
) -> Iterator[dict[str, Any]]:
    """Yield settings of a `Preprocess` that may be meant, the likelier first.

    Args:
        size: (height, width) that is made of every image.
        affine: what is done to the values of pixels.
        sides: short sides that an image may be resized to, beside the input's own.
        interpolations: of the resize.
        is_resized: whether images of the input size are resized and cropped, too.
    """
    mean, std = affine
    modes: list[Mode] = ["RGB", "L"] if len(mean) == 3 else [MODES[len(mean)]]
    resizes = dict.fromkeys((*(side for side in sides if side > min(size)), min(size)))
    margins: tuple[OddMargins, ...] = get_args(OddMargins)
    for mode, squash, resize, interpolation, odd in product(modes, (False, True), resizes, interpolations, margins):
        yield {
            "input_size": size, "resize": resize, "interpolation": interpolation, "mean": mean, "std": std,
            "squash": squash, "mode": mode, "keep_exact_size": not is_resized, "odd_margins": odd,
        }  # fmt: skip


def probe(tried: Tried, side: int, known: Iterable[Affine]) -> tuple[tuple[int, int] | None, Affine]:
    """Measure a transform on squares of one colour.

    Args:
        tried: the transform.
        side: of the squares; longer than its crop.
        known: what may be done to the values of pixels, more exactly than it can be measured.

    Returns:
        (height, width) of its results, None if they have the image's own, and what it does to values.

    Raises:
        ModelError: it gives no image, fills in a border, or makes the same of black and white.
    """
    black, white = tried.plain(side, 0), tried.plain(side, 255)
    if white.ndim != 3 or len(white) not in MODES:
        refuse(f"one that gives shape {tuple(white.shape)}", "let it give (channels, height, width)")
    if any((each - each[:, :1, :1]).abs().max() > 1e-4 for each in (black, white)):
        refuse("one that fills in a border", "leave that out")
    first, last = black[:, 0, 0].double(), white[:, 0, 0].double()
    if (last - first).abs().min() < 1e-9:
        refuse("one that makes the same of black and white", "check it")
    fitted = -first / (last - first), 1 / (last - first)
    measured = [tuple(float(f"{value:.7g}") + 0.0 for value in values.tolist()) for values in fitted]
    found: Affine = (measured[0], measured[1])
    for written in (*known, ((0.0,), (1.0,))):
        pair = [first.new_tensor(values) for values in written]
        if all(len(each) in {1, len(white)} for each in pair):
            mean, std = (each.expand(len(white)) for each in pair)
            if torch.allclose(mean, fitted[0], rtol=1e-4, atol=1e-5) and torch.allclose(std, fitted[1], rtol=1e-4):
                found = (tuple(mean.tolist()), tuple(std.tolist()))
                break
    is_sized = tried.plain(side + 10, 255).shape == white.shape
    return (white.shape[1], white.shape[2]) if is_sized else None, found


def _one_tensor(result: Any) -> Tensor:
    """The image in a transform's output, float32."""
    if hasattr(result, "keys") and "pixel_values" in result:
        result = result["pixel_values"]
    if isinstance(result, list | tuple) and len(result) == 1:
        result = result[0]
    if isinstance(result, Image.Image):
        refuse("one that gives an image, not a tensor", "end it with ToTensor and Normalize")
    if isinstance(result, list | tuple):
        refuse(f"one that gives {len(result)} results for an image", "let it give one tensor")
    if not isinstance(result, Tensor | np.ndarray):
        refuse(f"one that gives {type(result).__name__} for an image", "let it give one tensor")
    found = torch.as_tensor(result).as_subclass(Tensor).float()
    return found[0] if found.ndim == 4 and len(found) == 1 else found


def refuse(got: str, advice: str) -> NoReturn:
    """Say that a transform cannot be read.

    Args:
        got: what stands in the way.
        advice: what to do about it.

    Raises:
        ModelError: always.
    """
    raise ModelError(
        f"expected a Preprocess, or a transform that it can repeat, but got {got}; {advice}, or describe the "
        "preprocessing as rulepatch.Preprocess(…)"
    )
