"""How a picture becomes a network's input: resized, cropped, normalised."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from rulepatch.errors import ModelError, SettingError
from rulepatch.text import brief

__all__ = ["Interpolation", "Preprocess"]

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes a network's input.

    The short side is resized (further if the input would not be filled), the centre is cropped, pixels are scaled to
    0..1 and normalised. A picture that already has the input size is taken as it is: it was cropped before.

    Attributes:
        input_size: (height, width) of the network's input.
        resize: short side before the crop; the input's own short side if None.
        interpolation: of the resize.
        mean: for each channel, in units of 0..1.
        std: for each channel, in units of 0..1.
        squash: resize both sides in proportion to the input's, without keeping the picture's own proportions.

    Examples:
        >>> preprocess = Preprocess((32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> pixels = preprocess.pixels(Image.new("RGB", (80, 60), "white"))
        >>> tuple(pixels.shape), float(pixels.max()), float(preprocess.normalise(pixels).max())
        ((3, 32, 32), 1.0, 1.0)
    """

    input_size: tuple[int, int]
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    squash: bool = False

    def __repr__(self) -> str:
        return brief(
            "Preprocess",
            "×".join(map(str, self.input_size)),
            "" if self.resize is None else f"resize {self.resize}",
            self.interpolation,
            "squash" if self.squash else "",
            f"mean {' '.join(f'{mean:.3g}' for mean in self.mean)}",
            f"std {' '.join(f'{std:.3g}' for std in self.std)}",
        )

    def __post_init__(self) -> None:
        if min(self.input_size) < 1 or (self.resize is not None and self.resize < min(self.input_size)):
            raise SettingError(
                f"expected an input size of at least 1 and a resize no smaller but got input size {self.input_size} "
                f"and resize {self.resize}; check the preprocessing"
            )
        if self.interpolation not in get_args(Interpolation):
            raise SettingError(
                f"expected one of {', '.join(get_args(Interpolation))} but got interpolation {self.interpolation!r}"
            )
        if not all(math.isfinite(mean) and std > 0 for mean, std in zip(self.mean, self.std, strict=True)):
            raise SettingError(
                f"expected a finite mean and a std above 0 for every channel but got {self.mean} and {self.std}; "
                "check the preprocessing"
            )

    def frame(self, image: Image.Image) -> Image.Image:
        """The part of a picture that the network sees, at its input size, in the picture's own mode.

        Returns:
            A picture of the input size.
        """
        height, width = self.input_size
        if image.size == (width, height):
            return image
        sides = self._sides(image.size)
        return TF.center_crop(TF.resize(image, sides, InterpolationMode(self.interpolation)), [height, width])

    def window(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Where the part that the network sees lies in a picture.

        Args:
            size: (width, height) of the picture.

        Returns:
            Left, top, right and bottom in the picture's own pixels, whose corners are whole numbers.

        Examples:
            >>> Preprocess((32, 32), resize=32).window((128, 64))
            (32.0, 0.0, 96.0, 64.0)
        """
        height, width = self.input_size
        if size == (width, height):
            return 0.0, 0.0, float(width), float(height)
        sides = self._sides(size)
        short, long = sides[0], int(sides[0] * max(size) / min(size))  # as `TF.resize` rounds
        wide, high = sides[::-1] if len(sides) == 2 else (short, long) if size[0] <= size[1] else (long, short)
        left, top = round((wide - width) / 2), round((high - height) / 2)  # as `TF.center_crop` rounds
        across, up = size[0] / wide, size[1] / high
        return left * across, top * up, (left + width) * across, (top + height) * up

    def _sides(self, size: tuple[int, int]) -> list[int]:
        """What a picture of a width and height is resized to: both sides, or the short one."""
        height, width = self.input_size
        if self.squash:
            return [(self.resize or min(height, width)) * side // min(height, width) for side in (height, width)]
        filling = max(-(-height * min(size) // size[1]), -(-width * min(size) // size[0]))
        return [max(self.resize or 1, filling)]

    def pixels(self, image: Image.Image) -> Tensor:
        """Pixels of the part that the network sees.

        Args:
            image: an RGB picture of any size.

        Returns:
            (3, height, width), float32, 0..1.
        """
        framed = np.array(self.frame(image), dtype=np.float32)
        return torch.from_numpy(framed).permute(2, 0, 1) / 255

    def mask(self, mask: NDArray[np.float32]) -> Tensor:
        """A mask, framed like the picture that it belongs to.

        Args:
            mask: (h, w), 0..1.

        Returns:
            (height, width), float32, 0..1.
        """
        framed = replace(self, interpolation="bilinear").frame(Image.fromarray(mask, mode="F"))
        return torch.from_numpy(np.array(framed)).clamp(0, 1)

    def normalise(self, pixels: Tensor) -> Tensor:
        """The network's input from pixels.

        Args:
            pixels: (…, 3, height, width), 0..1.

        Returns:
            A tensor of the same shape.
        """
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std

    def describe(self) -> dict[str, Any]:
        """The settings as JSON.

        Returns:
            A dictionary.
        """
        return asdict(self)

    @classmethod
    def of(cls, transform: Any) -> "Preprocess":
        """Read the preprocessing off a torchvision transform: a weights' preset or a `Compose`.

        Args:
            transform: a `Preprocess`, a preset as `weights.transforms()` gives it, or a `Compose` of Resize,
                CenterCrop, ToTensor and Normalize.

        Returns:
            The same preprocessing, which can also be applied to masks.

        Raises:
            ModelError: a transform that cannot be read.

        Examples:
            >>> from torchvision.models import ResNet18_Weights
            >>> Preprocess.of(ResNet18_Weights.DEFAULT.transforms()).resize
            256
        """
        if isinstance(transform, Preprocess):
            return transform
        try:
            found = cls._read_off(transform)
        except SettingError:
            found = None
        if found is None or not found.repeats(transform):
            raise ModelError(
                "expected a Preprocess, a torchvision preset or a Compose of Resize, CenterCrop, ToTensor and "
                f"Normalize but got {type(transform).__name__} with other steps; describe it as rulepatch.Preprocess(…)"
            )
        return found

    @classmethod
    def _read_off(cls, transform: Any) -> "Preprocess | None":
        if hasattr(transform, "crop_size") and hasattr(transform, "resize_size"):
            return cls._of_steps(
                transform.resize_size, transform.crop_size, transform.interpolation, transform.mean, transform.std
            )
        steps = {type(step).__name__: step for step in getattr(transform, "transforms", [])}
        resize, crop, normalise = (steps.get(name) for name in ("Resize", "CenterCrop", "Normalize"))
        if resize is None or normalise is None:
            return None
        size = resize.size if crop is None else crop.size
        return cls._of_steps(resize.size, size, resize.interpolation, normalise.mean, normalise.std)

    def repeats(self, transform: Callable[[Image.Image], Tensor], *, slack: int = 0) -> bool:
        """Whether this does what a transform does, up to rounding; one for squares alone is held to squares.

        Args:
            transform: from an RGB picture to (3, height, width).
            slack: pixels by which its crop may lie to the side, as libraries round odd margins up or down.

        Returns:
            Whether it does, on three pictures of noise.
        """
        height, width = self.input_size
        generator = np.random.default_rng(0)
        for size in [(2 * height + 7, 2 * height + 7), (2 * height + 7, 3 * width), (3 * height, 2 * width + 7)]:
            picture = Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8))
            try:
                with torch.device("cpu"):
                    expected = transform(picture)
            except (TypeError, ValueError, RuntimeError):
                return False
            if size[0] != size[1] and expected.shape != (3, height, width):
                continue
            got = self.normalise(self.pixels(picture))
            if expected.shape != got.shape:
                return False
            inner = slice(slack, -slack or None)  # a roll brings in what was cut off at the other side
            differences = [
                (got.roll((dy, dx), dims=(1, 2)) - expected)[:, inner, inner].abs().mean()
                for dy in range(-slack, slack + 1)
                for dx in range(-slack, slack + 1)
            ]
            if min(differences) > 0.02:
                return False
        return True

    @classmethod
    def _of_steps(cls, resize: Any, crop: Any, interpolation: Any, mean: Any, std: Any) -> "Preprocess":
        height, width = _pair(crop)
        sides = [resize] if isinstance(resize, int) else list(resize)
        return cls(
            (height, width),
            resize=min(sides),
            interpolation=InterpolationMode(interpolation).value,
            mean=tuple(mean),
            std=tuple(std),
            squash=len(sides) == 2,
        )


def _pair(size: Any) -> tuple[int, int]:
    sizes = [size] if isinstance(size, int) else list(size)
    return sizes[0], sizes[-1]
