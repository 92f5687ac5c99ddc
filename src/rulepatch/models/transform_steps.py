"""Steps of another library's transform: their settings, and those that cannot be reproduced."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image

from rulepatch.models.modes import MODES, Affine, Interpolation, Mode

__all__ = ["Steps"]

_RESIZES, _CROPS = {"Resize", "ResizeKeepRatio"}, {"CenterCrop"}
_SEVERAL, _PADS = {"FiveCrop", "TenCrop"}, {"Pad", "CenterCropOrPad", "LetterBox"}
_TRAINING = {
    "AugMix", "AugMixAugment", "AutoAugment", "ColorJitter", "CutMix", "ElasticTransform", "GaussianNoise", "MixUp",
    "RandAugment", "ScaleJitter", "TrivialAugmentWide",
}  # fmt: skip
_TO_TENSOR = {"MaybePILToTensor", "MaybeToTensor", "PILToTensor", "ToImage", "ToImageTensor", "ToTensor"}
_UNDERSTOOD = {
    *_RESIZES, *_CROPS, *_TO_TENSOR, "ConvertDtype", "ConvertImageDtype", "Grayscale", "Identity",
    "ImageClassification", "MaybeConvertMode", "Normalize", "RGB", "ToDtype", "ToPILImage", "ToPureTensor",
    "_convert_image_to_rgb",
}  # fmt: skip


@dataclass(frozen=True)
class Steps:
    """The steps of a transform, as far as they can be told apart."""

    whole: Any
    steps: tuple[Any, ...]

    @classmethod
    def of(cls, transform: Any) -> "Steps":
        """The steps of a transform and of those within it."""
        return cls(transform, tuple(_flat(transform)))

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return ((_name(step), step) for step in self.steps)

    @cached_property
    def name(self) -> str:
        """What the whole is called."""
        return _name(self.whole)

    @cached_property
    def hopeless(self) -> tuple[str, str] | None:
        """The step that no setting could repeat, and what to do; None if there is none."""
        for name, step in self:
            if type(step).__module__.partition(".")[0] == "albumentations":
                return f"{name} of albumentations, whose resize is not Pillow's", "resize with torchvision"
            if name in _SEVERAL:
                return f"{name}, which makes several images of one", "put CenterCrop in its place"
            if name in _TRAINING or name.startswith("Random"):
                return f"{name}, a step of training", "give the transform of evaluation"
        return None

    def modes(self, channels: int | None) -> list[Mode]:
        """Modes of the images that it may be for, the likeliest first.

        Args:
            channels: of the network, where the steps leave it open.
        """
        means = [step.mean for _, step in self if np.ndim(getattr(step, "mean", 0))]  # a mere number is of any channel
        written = next((len(mean) for mean in means if len(mean) > 1 or channels is None), channels or 3)
        own = MODES.get(written, "RGB")
        return list(dict.fromkeys((own, *reversed(MODES.values()))))

    @cached_property
    def affines(self) -> list[Affine]:
        """Means and stds that are written in steps, for each channel or one for all."""
        pairs = [(step.mean, step.std) for _, step in self if hasattr(step, "mean") and hasattr(step, "std")]
        return [(_floats(mean), _floats(std)) for mean, std in pairs]

    @cached_property
    def sizes(self) -> list[int]:
        """All sides that are written in steps."""
        written = [getattr(step, key, None) for _, step in self for key in ("size", "resize_size", "crop_size")]
        return [side for size in written for side in _sides(size)]

    @cached_property
    def sides(self) -> list[int]:
        """Short sides that steps resize to."""
        sizes = [getattr(step, "resize_size", None) or getattr(step, "size", None) for _, step in self._resizing]
        return [min(sides) for size in sizes if (sides := _sides(size))]

    @cached_property
    def interpolations(self) -> list[Interpolation]:
        """Of the steps that resize; all if none says."""
        found = [_interpolation(step.interpolation) for _, step in self._resizing]
        return list(dict.fromkeys(each for each in found if each)) or list(get_args(Interpolation))

    @cached_property
    def _resizing(self) -> list[tuple[str, Any]]:
        return [(name, step) for name, step in self if hasattr(step, "interpolation")]

    @cached_property
    def foreign(self) -> tuple[str, str] | None:
        """The steps that may do anything, and what to do; None if all are known."""
        foreign = [name for name, _ in self if name not in _UNDERSTOOD | _PADS]
        if foreign and len(self.steps) == 1:
            return f"{self.name}, whose steps cannot be told", "give them as a Compose"
        return (f"{', '.join(foreign)}, which it has no setting for", "leave that out") if foreign else None

    @cached_property
    def stumbling_block(self) -> tuple[str, str] | None:
        """The known step that cannot be repeated, and what to do; None if it is none of them."""
        names = [name for name, _ in self]
        resizes, crops, tensors = (
            [i for i, name in enumerate(names) if name in kind] for kind in (_RESIZES, _CROPS, _TO_TENSOR)
        )
        for name, step in self:
            if name in _PADS or getattr(step, "longest", False):
                return f"{name}, which fills in a border", "leave it out"
            if getattr(step, "max_size", None):
                return f"{name} with max_size", "leave max_size out"
        if len(resizes) > 1:
            return "more than one Resize", "resize once"
        if crops and not resizes:
            return "CenterCrop without a Resize before it", "resize first, or leave it out and give the input_size"
        if crops and crops[0] < resizes[0]:
            return "CenterCrop before Resize", "resize first"
        if crops and max(_sides(self.steps[crops[0]].size)) > min(_sides(self.steps[resizes[0]].size)):
            return "CenterCrop of more than Resize may leave, which fills in a border", "resize to a longer side"
        if resizes and tensors and tensors[0] < resizes[0]:
            return "Resize of tensors, which is not that of images", f"put it before {names[tensors[0]]}"
        return None


def _flat(transform: Any) -> Iterator[Any]:
    """Yield the steps of nested compositions."""
    inner = list(transform) if isinstance(transform, torch.nn.Sequential) else getattr(transform, "transforms", None)
    if isinstance(inner, list | tuple):
        for step in inner:
            yield from _flat(step)
    else:
        yield transform


def _floats(given: Any) -> tuple[float, ...]:
    """Numbers of a list, array or tensor, or the one number that there is."""
    return tuple(np.atleast_1d(np.asarray(given, dtype=np.float64)).tolist())


def _name(step: Any) -> str:
    return str(getattr(step, "__name__", type(step).__name__))


def _sides(size: Any) -> list[int]:
    """The sides in what a step has for its size."""
    given = size if isinstance(size, list | tuple) else [size]
    return [side for side in given if isinstance(side, int)]


def _interpolation(given: Any) -> Interpolation | None:
    """Our name of an interpolation: torchvision's, Pillow's number or timm's name of it."""
    if isinstance(given, int):
        given = Image.Resampling(given).name
    name = str(getattr(given, "value", given)).lower().removesuffix("-exact")
    return next((each for each in get_args(Interpolation) if each == name), None)
