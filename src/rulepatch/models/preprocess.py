"""Preprocessing of images: resizing, cropping, normalisation."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from numbers import Integral, Real
from typing import Any, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from rulepatch.errors import ModelError, SettingError
from rulepatch.images import in_mode
from rulepatch.models import transforms
from rulepatch.models.modes import MODES, Interpolation, Mode, OddMargins
from rulepatch.models.transform_trials import Reading, Tried, refuse
from rulepatch.text import brief

__all__ = ["Preprocess"]

TOLERANCE = 0.75 / 255
"""Mean absolute difference of pixels, 0..1, up to which two resizes only round differently."""


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of images for a network.

    The short side is resized (further if the input would not be filled), the centre is cropped, pixels are scaled to
    0..1 and normalised. An image that already has the input size is taken as it is, unless the preprocessing was read
    off a library's (`Preprocess.of`), which does the same to images of every size.

    Attributes:
        input_size: (height, width) of the network's input; one number for a square.
        resize: short side before the crop; the input's own short side if None.
        interpolation: of the resize.
        mean: for each channel, in units of 0..1. Their number is that of the channels: 1 for grey images, 2 for grey
            ones with transparency, 3 for RGB, 4 for RGBA.
        std: for each channel, in units of 0..1.
        squash: resize both sides in proportion to the input's, without keeping the image's own proportions.
        mode: Pillow's mode that images are brought into; by the number of channels if None. "L" with three channels
            repeats grey in each.
        keep_exact_size: take an image that already has the input size as it is: it was cropped before.
        odd_margins: where the crop lies if a margin cannot be halved: rounded "even", as torchvision does, or to the
            "floor", as transformers does.

    Raises:
        SettingError: settings out of their ranges, or a number of channels that images do not have.

    Examples:
        >>> preprocess = Preprocess((32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        >>> pixels = preprocess.pixels(Image.new("RGB", (80, 60), "white"))
        >>> tuple(pixels.shape), float(pixels.max()), float(preprocess.normalise(pixels).max())
        ((3, 32, 32), 1.0, 1.0)
        >>> Preprocess(28, mean=[0.1307], std=[0.3081]).pixels(Image.new("RGB", (80, 60))).shape
        torch.Size([1, 28, 28])
    """

    input_size: tuple[int, int]
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    squash: bool = False
    mode: Mode | None = None
    keep_exact_size: bool = True
    odd_margins: OddMargins = "even"

    def __repr__(self) -> str:
        return brief(
            "Preprocess",
            f"{self.mode} {'×'.join(map(str, self.input_size))}",
            "" if self.resize is None else f"resize {self.resize}",
            self.interpolation,
            "squash" if self.squash else "",
            f"mean {' '.join(f'{mean:.3g}' for mean in self.mean)}",
            f"std {' '.join(f'{std:.3g}' for std in self.std)}",
        )

    def __post_init__(self) -> None:
        many = next((len(each) for each in (self.mean, self.std) if hasattr(each, "__len__")), 3)
        object.__setattr__(self, "input_size", _whole("input_size", self.input_size, 2))
        if self.resize is not None:
            object.__setattr__(self, "resize", _whole("resize", self.resize, 1)[0])
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(map(float, _numbers(name, getattr(self, name), many))))
        if min(self.input_size) < 1 or (self.resize is not None and self.resize < min(self.input_size)):
            raise SettingError(
                f"expected an input size of at least 1 and a resize no smaller but got input size {self.input_size} "
                f"and resize {self.resize}; check the preprocessing"
            )
        if len(self.mean) not in MODES or len(self.mean) != len(self.std):
            raise SettingError(
                "expected a mean and a std for each of 1 (grey), 2 (grey and transparency), 3 (RGB) or 4 (RGBA) "
                f"channels but got {len(self.mean)} and {len(self.std)}; give as many of each, images have no others"
            )
        if self.mode is None:
            object.__setattr__(self, "mode", MODES[self.channels])
        options = {
            "interpolation": get_args(Interpolation),
            "mode": get_args(Mode),
            "odd_margins": get_args(OddMargins),
        }
        for name, known in options.items():
            if getattr(self, name) not in known:
                raise SettingError(f"expected one of {', '.join(known)} but got {name} {getattr(self, name)!r}")
        if self.mode not in {MODES[self.channels], "L" if self.channels == 3 else None}:
            raise SettingError(
                f"expected a mode of {self.channels} channels but got {self.mode}; leave it out, or check mean and std"
            )
        if not all(math.isfinite(mean) and std > 0 for mean, std in zip(self.mean, self.std, strict=True)):
            raise SettingError(
                f"expected a finite mean and a std above 0 for every channel but got {self.mean} and {self.std}; "
                "check the preprocessing"
            )

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.mean)

    @property
    def has_alpha(self) -> bool:
        """Whether the network uses the alpha channel."""
        return self.mode in {"LA", "RGBA"}

    def with_channels(self, channels: int) -> Self:
        """The same preprocessing for a network of another number of channels: averaged for grey, else repeated in turn.

        Args:
            channels: 1 to 4.

        Returns:
            This one if it has as many.

        Raises:
            SettingError: a number of channels that images do not have.
        """
        if channels == self.channels:
            return self
        mean, std = (
            (sum(values) / len(values),) if channels == 1 else tuple(values[i % len(values)] for i in range(channels))
            for values in (self.mean, self.std)
        )
        return replace(self, mean=mean, std=std, mode=None)

    def frame(self, image: Image.Image) -> Image.Image:
        """The network's crop of an image, at its input size, in the image's own mode.

        Returns:
            An image of the input size.
        """
        if self._is_kept(image.size):
            return image
        height, width = self.input_size
        wide, high = self._resized(image.size)
        resized = TF.resize(image, [high, wide], InterpolationMode(self.interpolation))
        left, top = self._corner((wide, high))
        return TF.crop(resized, top, left, height, width)

    def window(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Box of the network's crop in an image.

        Args:
            size: (width, height) of the image.

        Returns:
            Left, top, right and bottom in the image's own pixels, whose corners are whole numbers.

        Examples:
            >>> Preprocess((32, 32), resize=32).window((128, 64))
            (32.0, 0.0, 96.0, 64.0)
        """
        height, width = self.input_size
        if self._is_kept(size):
            return 0.0, 0.0, float(width), float(height)
        wide, high = self._resized(size)
        left, top = self._corner((wide, high))
        across, up = size[0] / wide, size[1] / high
        return left * across, top * up, (left + width) * across, (top + height) * up

    def _is_kept(self, size: tuple[int, int]) -> bool:
        return self.keep_exact_size and size == self.input_size[::-1]

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height that an image of some width and height is resized to, rounded as torchvision does."""
        height, width = self.input_size
        if self.squash:
            target = self.resize or min(height, width)
            return target * width // min(height, width), target * height // min(height, width)
        filling = max(-(-height * min(size) // size[1]), -(-width * min(size) // size[0]))
        short = max(self.resize or 1, filling)
        long = int(short * max(size) / min(size))
        return (short, long) if size[0] <= size[1] else (long, short)

    def _corner(self, resized: tuple[int, int]) -> tuple[int, int]:
        """Left and top of the crop within a resized image."""
        rounded = round if self.odd_margins == "even" else math.floor
        height, width = self.input_size
        return rounded((resized[0] - width) / 2), rounded((resized[1] - height) / 2)

    def pixels(self, image: Image.Image, *, framed: bool = False) -> Tensor:
        """Pixels of the network's crop.

        Args:
            image: of any size; brought into the mode of the network's channels.
            framed: whether it is that part already, as `frame` gives it.

        Returns:
            (channels, height, width), float32, 0..1.
        """
        assert self.mode is not None
        image = in_mode(image, self.mode)
        seen = np.array(image if framed else self.frame(image), dtype=np.float32)
        found = torch.from_numpy(seen.reshape(*self.input_size, -1)).permute(2, 0, 1) / 255
        return found if len(found) == self.channels else found.repeat(self.channels, 1, 1)

    def mask(self, mask: NDArray[np.float32]) -> Tensor:
        """A mask, framed like the image that it belongs to.

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
            pixels: (…, channels, height, width), 0..1.

        Returns:
            A tensor of the same shape.
        """
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (pixels - mean) / std

    def describe(self) -> dict[str, Any]:
        """The settings as JSON."""
        return asdict(self)

    @classmethod
    def of(
        cls, transform: Any, *, input_size: int | tuple[int, int] | None = None, channels: int | None = None
    ) -> "Preprocess":
        """Convert the preprocessing of another library.

        The result is checked against the transform on images of many sizes, including the input size.

        Args:
            transform: a `Preprocess`; weights of torchvision or their preset; transforms of torchvision (either
                version), timm or open_clip; an image processor of transformers; or timm's configuration of data.
            input_size: (height, width) of the images, for a transform without Resize; images of other sizes are
                resized to it.
            channels: of the network, for a transform that leaves it open; as many as it normalises, or else 3, if None.

        Returns:
            The same preprocessing, which can also be applied to masks.

        Raises:
            ModelError: a transform that cannot be read, with the step that stands in the way.

        Examples:
            >>> from torchvision import transforms
            >>> from torchvision.models import ResNet18_Weights
            >>> Preprocess.of(ResNet18_Weights.DEFAULT).resize
            256
            >>> mnist = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.13,), (0.31,))])
            >>> Preprocess.of(mnist, input_size=28).mode
            'L'
        """
        if isinstance(transform, Preprocess):
            return transform
        size = None if input_size is None else cls(input_size).input_size  # type: ignore[arg-type]
        reading = transforms.read(transform, input_size=size, channels=channels)
        return cls.first_of(reading) or refuse(*reading.otherwise)

    @classmethod
    def first_of(cls, reading: Reading | None) -> "Preprocess | None":
        """The first candidate of a reading that does what the transform does.

        Args:
            reading: what a transform may be; None if nothing.
        """
        if reading is None:
            return None
        if reading.tried is None:
            return cls(**next(iter(reading.candidates)))
        try:
            made = (cls(**settings) for settings in reading.candidates)
            return next((each for each in made if each._does_as(reading.tried)), None)
        except SettingError:  # a std below 0, as of a negative
            return None

    def repeats(self, transform: Callable[[Image.Image], Tensor]) -> bool:
        """Whether this does what a transform does, up to rounding; one for squares alone is held to squares.

        Args:
            transform: from an image to (channels, height, width).

        Returns:
            Whether it does, on images of noise of many sizes.
        """
        return self._does_as(Tried(transform, self.mode))

    def _does_as(self, tried: Tried) -> bool:
        """Whether it does, wherever the transform gives an image of the input size."""
        compared = 0
        for size in _sizes(self):
            try:
                picture, expected = tried.on_noise(size)
            except ModelError:
                return False
            if expected.shape != (self.channels, *self.input_size):
                if size[0] == size[1] and not self.keep_exact_size:
                    return False
                continue
            difference = self.normalise(self.pixels(picture)) - expected
            if not (difference * expected.new_tensor(self.std)[:, None, None]).abs().mean() < TOLERANCE:
                return False
            compared += 1
        return compared > 0


def _sizes(preprocess: Preprocess) -> Iterator[tuple[int, int]]:
    """Widths and heights on which a mistake would be seen: larger, smaller, long, of the input size, of odd margins."""
    height, width = preprocess.input_size
    larger = 3 * width // 2 + 7, 3 * height // 2 + 7
    yield larger
    yield width, height
    yield from ((2 * width, larger[1]), (larger[0], 2 * height), (width + 1, height), (width, height + 3))
    yield from ((width // 2 + 1, height // 3 + 1), (width // 3 + 1, height))
    resize = preprocess.resize or min(height, width)
    if not preprocess.squash:  # not resized at all but cropped, from margins that are rounded up and down
        yield from ((resize + more, resize) for more in range(1, 5) if (resize + more - width) % 2)
        yield from ((resize, resize + more) for more in range(1, 5) if (resize + more - height) % 2)


def _whole(name: str, values: Any, count: int) -> tuple[int, ...]:
    found = _numbers(name, values, count)
    if len(found) != count or not all(isinstance(each, Integral) for each in found):
        wanted = "a whole number" if count == 1 else f"{count} whole numbers"
        raise SettingError(f"expected {name} to be {wanted} but got {values!r}; check the preprocessing")
    return tuple(map(int, found))


def _numbers(name: str, values: Any, count: int) -> list[Any]:
    """Numbers from a tuple, list, array or tensor, or one number for all."""
    given = np.asarray(values, dtype=object if isinstance(values, list | tuple) else None)
    found = given.tolist() if given.ndim else [given.item()] * count
    if given.ndim > 1 or not all(isinstance(each, Real) and not isinstance(each, bool) for each in found):
        raise SettingError(f"expected {name} to be numbers but got {values!r}; check the preprocessing")
    return found
