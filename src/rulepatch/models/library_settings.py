"""Preprocessing from configurations of timm and image processors of transformers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rulepatch.errors import ModelError
from rulepatch.models.modes import MODES, Affine, Interpolation
from rulepatch.models.transform_trials import Reading, Tried, guesses, probe

__all__ = ["read_config", "read_processor"]

_FOREIGN = ("do_pad", "do_thumbnail", "do_flip_channel_order", "do_color_quantize")
"""Steps of processors that our preprocessing has not."""

_RESAMPLE: dict[int | None, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
    None: "bilinear",
}
"""Numbers that Pillow and the processors' files have for interpolations, and what none means."""


def read_config(config: Mapping[str, Any]) -> Reading | None:
    """Read the preprocessing off timm's configuration of data.

    Returns:
        What it is; None if it pads the image.
    """
    _, height, width = config["input_size"]
    is_squashed = config["crop_mode"] == "squash"
    if config["crop_mode"] == "border" or config["crop_pct"] > 1:  # pads the image: there is no such setting
        return None
    if height != width and not is_squashed:  # resized until it covers the input, rounded as timm alone does
        return None
    settings = {
        "input_size": (height, width),
        "resize": math.floor(min(height, width) / config["crop_pct"]),
        "interpolation": config["interpolation"],
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "squash": is_squashed,
        "keep_exact_size": False,
    }
    return Reading([settings])


def read_processor(processor: Any) -> Reading | None:
    """Read the preprocessing off an image processor of transformers.

    What a processor does with its settings differs from class to class, so every reading of them that makes sense is
    tried on images, and the one that does the same is taken.

    Args:
        processor: an image processor.

    Returns:
        What it may be; None if it has steps that ours has not: padding, other orders of the channels, patches.
    """
    if type(processor).__name__ == "TimmWrapperImageProcessor":
        return read_config(processor.data_config)
    settings = processor.to_dict()
    size, interpolation = settings.get("size"), _RESAMPLE.get(settings.get("resample"))
    if not settings.get("do_resize") or any(settings.get(step) for step in _FOREIGN):
        return None
    if not isinstance(size, Mapping) or "longest_edge" in size or interpolation is None:
        return None
    means = settings.get("image_mean")
    tried = Tried(
        lambda image: processor(images=image, return_tensors="pt"),
        MODES.get(len(means), "RGB") if isinstance(means, Sequence) and settings.get("do_normalize") else "RGB",
    )
    written = [side for side in (*size.values(), settings.get("resize_short")) if side]
    try:
        seen, affine = probe(tried, 2 * max((*written, 64)) + 1, [_affine(settings)])
    except (ModelError, KeyError, TypeError, ValueError):  # patches, tokens, or settings that do not go together
        return None
    if seen is None:
        return None
    scales = [1.0, 1 / (settings.get("crop_pct") or 1), 256 / 224]
    sides = [math.floor(side * scale) for side in (min(seen), *written) for scale in scales]
    return Reading(guesses(seen, affine, sides, [interpolation]), tried)


def _affine(settings: Mapping[str, Any]) -> Affine:
    """Mean and std, in units of 0..1, of all that is done to the values of pixels."""
    scale = 255 * settings["rescale_factor"] if settings.get("do_rescale") else 255
    offset = 1 if settings.get("do_rescale") and settings.get("rescale_offset") else 0
    normalises = settings.get("do_normalize")
    means = settings["image_mean"] if normalises else [0.0]
    stds = settings["image_std"] if normalises else [1.0]
    if settings.get("include_top"):  # EfficientNet's divides by it once more
        stds = [std * again for std, again in zip(stds, settings["image_std"], strict=True)]
    return tuple((mean + offset) / scale for mean in means), tuple(std / scale for std in stds)
