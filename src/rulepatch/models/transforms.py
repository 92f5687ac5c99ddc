"""Candidate preprocessing settings from transforms and processors of other libraries."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from rulepatch.errors import ModelError
from rulepatch.models.library_settings import read_config, read_processor
from rulepatch.models.modes import Mode
from rulepatch.models.transform_steps import Steps
from rulepatch.models.transform_trials import Reading, Tried, guesses, probe, refuse

__all__ = ["read"]

USUAL_SCALES = (1.0, 256 / 224, 1 / 0.875, 1 / 0.9, 1 / 0.95)
"""Short side before the crop, as a multiple of the input's, where a transform does not say."""


def read(transform: Any, *, input_size: tuple[int, int] | None = None, channels: int | None = None) -> Reading:
    """Read the preprocessing off a transform, an image processor or a configuration; see `Preprocess.of`.

    Args:
        transform: another library's transform.
        input_size: (height, width) of the images, for a transform without Resize.
        channels: of the network, for a transform that leaves it open.

    Returns:
        The candidates.

    Raises:
        ModelError: it cannot be read, with the step that stands in the way.
    """
    if callable(getattr(transform, "transforms", None)):  # weights of torchvision
        transform = transform.transforms()
    if isinstance(transform, Mapping) or hasattr(transform, "to_dict"):
        return _of_library(transform)
    if not callable(transform):
        refuse(type(transform).__name__, "give one of them")
    steps = Steps.of(transform)
    if steps.hopeless:
        refuse(*steps.hopeless)
    tried = _tried(transform, steps.modes(channels))
    try:
        seen, affine = probe(tried, 2 * max((*steps.sizes, 64)) + 1, steps.affines)
    except ModelError:
        if steps.stumbling_block:
            refuse(*steps.stumbling_block)
        raise
    if seen is None and input_size is None:
        refuse(
            f"{steps.name} with no Resize or CenterCrop, so that the input size is unknown",
            "give it, as Preprocess.of(transform, input_size=(height, width))",
        )
    if seen is not None and input_size not in {None, seen}:
        refuse(f"one that makes images of {seen}, and the input size {input_size}", "leave the input size out")
    size = seen or input_size
    assert size is not None
    if seen is None:
        candidates = guesses(size, affine, (), ["bilinear"], is_resized=False)
    else:
        sides = steps.sides or [round(min(size) * scale) for scale in USUAL_SCALES]
        candidates = guesses(size, affine, sides, steps.interpolations)
    unknown = f"{steps.name} in a form that it has no settings for", "check them"
    return Reading(candidates, tried, steps.foreign or steps.stumbling_block or unknown)


def _tried(transform: Callable[[Any], Any], modes: Iterable[Mode]) -> Tried:
    """The transform, with images of the first mode that it takes."""
    failed = None
    for mode in modes:
        tried = Tried(transform, mode)
        try:
            tried.plain(65, 255)
        except ModelError as error:
            failed = failed or error
        else:
            return tried
    raise failed or AssertionError("no mode to try")


def _of_library(settings: Any) -> Reading:
    if isinstance(settings, Mapping):
        found = read_config(settings) if "crop_pct" in settings else None
    else:
        found = read_processor(getattr(settings, "image_processor", settings))
    if found is None:
        refuse(*_otherwise(settings))
    return replace(found, otherwise=_otherwise(settings))


def _otherwise(settings: Any) -> tuple[str, str]:
    return f"{type(settings).__name__} with steps that it has no settings for, such as padding", "leave them out"
