"""Reading the preprocessing off what other libraries prepare pictures with.

What a transform does depends on the order of its steps, on what each is given and on its library's version, so nothing
is taken on trust: a transform's steps only say which settings are worth trying, and those that do the same to pictures
of many sizes are what it is read as.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from typing import Any, NoReturn, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from rulepatch.errors import ModelError, SettingError, reason_of
from rulepatch.models.preprocess import MODES, Interpolation, Mode, OddMargins, Preprocess
from rulepatch.models.transform_steps import Affine, Steps

__all__ = ["Tried", "first_that_repeats", "guesses", "probe", "read", "repeats"]

TOLERANCE = 0.75 / 255
"""Mean absolute difference of pixels, 0..1, up to which two resizes only round differently."""

USUAL_SCALES = (1.0, 256 / 224, 1 / 0.875, 1 / 0.9, 1 / 0.95)
"""Short side before the crop, as a multiple of the input's, where a transform does not say."""


class Tried:
    """A transform and what it makes of pictures; of noise of each size it is asked once.

    Args:
        transform: from a picture (PIL), a tensor (uint8) or an array to what a network is given.
        mode: Pillow's mode of the pictures that it is tried on.

    Raises:
        ModelError: (when it is called) the transform fails, or gives something else than one tensor.
    """

    def __init__(self, transform: Callable[[Any], Any], mode: Mode | None = "RGB") -> None:
        self.mode: Mode = mode or "RGB"
        self._transform = transform
        self._of_noise: dict[tuple[int, int], tuple[Image.Image, Tensor]] = {}

    def __call__(self, picture: Image.Image) -> Tensor:
        """What the transform makes of a picture, (channels, height, width), float32."""
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
        return _refuse(f"one that fails on a picture ({reason})", "try it on a picture of yours")

    def plain(self, side: int, value: int) -> Tensor:
        """What it makes of a square all of whose channels have one value, 0..255."""
        bands = len(self.mode)
        return self(Image.fromarray(np.full((side, side, bands), value, np.uint8).squeeze(2 if bands == 1 else ())))

    def on_noise(self, size: tuple[int, int]) -> tuple[Image.Image, Tensor]:
        """A picture of noise of some width and height, and what the transform makes of it."""
        if size not in self._of_noise:
            shape = (size[1], size[0], len(self.mode))
            noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
            picture = Image.fromarray(noise.squeeze(2) if shape[2] == 1 else noise)
            self._of_noise[size] = picture, self(picture)
        return self._of_noise[size]


def read(transform: Any, *, input_size: int | tuple[int, int] | None = None, channels: int | None = None) -> Preprocess:
    """Read the preprocessing off a transform, an image processor or a configuration; see `Preprocess.of`.

    Raises:
        ModelError: it cannot be read, with the step that stands in the way.
    """
    if isinstance(transform, Preprocess):
        return transform
    if callable(getattr(transform, "transforms", None)):  # weights of torchvision
        transform = transform.transforms()
    if isinstance(transform, Mapping) or hasattr(transform, "to_dict"):
        return _of_library(transform)
    if not callable(transform):
        _refuse(type(transform).__name__, "give one of them")
    steps = Steps.of(transform)
    if steps.hopeless:
        _refuse(*steps.hopeless)
    tried = _tried(transform, steps.modes(channels))
    try:
        seen, affine = probe(tried, 2 * max((*steps.sizes, 64)) + 1, steps.affines)
    except ModelError:
        if steps.stumbling_block:
            _refuse(*steps.stumbling_block)
        raise
    wanted = None if input_size is None else Preprocess(input_size).input_size  # type: ignore[arg-type]
    if seen is None and wanted is None:
        _refuse(
            f"{steps.name} with no Resize or CenterCrop, so that the input size is unknown",
            "give it, as Preprocess.of(transform, input_size=(height, width))",
        )
    if seen is not None and wanted not in {None, seen}:
        _refuse(f"one that makes pictures of {seen}, and the input size {wanted}", "leave the input size out")
    size = seen or wanted
    assert size is not None
    if seen is None:
        candidates = guesses(size, affine, (), ["bilinear"], is_resized=False)
    else:
        sides = steps.sides or [round(min(size) * scale) for scale in USUAL_SCALES]
        candidates = guesses(size, affine, sides, steps.interpolations)
    found = first_that_repeats(candidates, tried)
    if found is None:
        _refuse(
            *(
                steps.foreign
                or steps.stumbling_block
                or (f"{steps.name} in a form that it has no settings for", "check them")
            )
        )
    return found


def _tried(transform: Callable[[Any], Any], modes: Iterable[Mode]) -> Tried:
    """The transform, with pictures of the first mode that it takes."""
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


def _of_library(settings: Any) -> Preprocess:
    from rulepatch.models import huggingface, timm_models  # which describe what they find as a `Preprocess`

    if isinstance(settings, Mapping):
        found = timm_models.preprocess_of(settings) if "crop_pct" in settings else None
    else:
        found = huggingface.read_processor(getattr(settings, "image_processor", settings))
    if found is None:
        _refuse(f"{type(settings).__name__} with steps that it has no settings for, such as padding", "leave them out")
    return found


def guesses(
    size: tuple[int, int],
    affine: Affine,
    sides: Iterable[int],
    interpolations: Iterable[Interpolation],
    *,
    is_resized: bool = True,
) -> Iterator[Preprocess]:
    """Yield what settings may mean, the likelier first.

    Args:
        size: (height, width) that is made of every picture.
        affine: what is done to the values of pixels.
        sides: short sides that a picture may be resized to, beside the input's own.
        interpolations: of the resize.
        is_resized: whether pictures of the input size are resized and cropped, too.
    """
    mean, std = affine
    modes: list[Mode] = ["RGB", "L"] if len(mean) == 3 else [MODES[len(mean)]]
    resizes = dict.fromkeys((*(side for side in sides if side > min(size)), min(size)))
    margins: tuple[OddMargins, ...] = get_args(OddMargins)
    for mode, squash, resize, interpolation, odd in product(modes, (False, True), resizes, interpolations, margins):
        try:
            yield Preprocess(size, resize, interpolation, mean, std, squash, mode, not is_resized, odd)
        except SettingError:  # a std below 0, as of a negative
            return


def first_that_repeats(candidates: Iterable[Preprocess], tried: Tried) -> Preprocess | None:
    """The first that does what a transform does.

    Returns:
        One of the candidates, or None.
    """
    return next((each for each in candidates if repeats(each, tried)), None)


def repeats(preprocess: Preprocess, tried: Tried) -> bool:
    """Whether a preprocessing does what a transform does, up to rounding; one for squares alone is held to squares.

    Args:
        preprocess: the preprocessing.
        tried: the transform.

    Returns:
        Whether it does, wherever the transform gives a picture of the input size.
    """
    compared = 0
    for size in _sizes(preprocess):
        try:
            picture, expected = tried.on_noise(size)
        except ModelError:
            return False
        if expected.shape != (preprocess.channels, *preprocess.input_size):
            if size[0] == size[1] and not preprocess.keep_exact_size:
                return False
            continue
        difference = preprocess.normalise(preprocess.pixels(picture)) - expected
        if not (difference * expected.new_tensor(preprocess.std)[:, None, None]).abs().mean() < TOLERANCE:
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


def probe(tried: Tried, side: int, known: Iterable[Affine]) -> tuple[tuple[int, int] | None, Affine]:
    """Find out what a transform makes of squares of one colour.

    Args:
        tried: the transform.
        side: of the squares; longer than its crop.
        known: what may be done to the values of pixels, more exactly than it can be measured.

    Returns:
        (height, width) of its results, None if they have the picture's own, and what it does to values.

    Raises:
        ModelError: it gives no picture, fills in a border, or makes the same of black and white.
    """
    black, white = tried.plain(side, 0), tried.plain(side, 255)
    if white.ndim != 3 or len(white) not in MODES:
        _refuse(f"one that gives shape {tuple(white.shape)}", "let it give (channels, height, width)")
    if any((each - each[:, :1, :1]).abs().max() > 1e-4 for each in (black, white)):
        _refuse("one that fills in a border", "leave that out")
    first, last = black[:, 0, 0].double(), white[:, 0, 0].double()
    if (last - first).abs().min() < 1e-9:
        _refuse("one that makes the same of black and white", "check it")
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
    """The picture in what a transform gave, float32."""
    if hasattr(result, "keys") and "pixel_values" in result:
        result = result["pixel_values"]
    if isinstance(result, list | tuple) and len(result) == 1:
        result = result[0]
    if isinstance(result, Image.Image):
        _refuse("one that gives a picture, not a tensor", "end it with ToTensor and Normalize")
    if isinstance(result, list | tuple):
        _refuse(f"one that gives {len(result)} results for a picture", "let it give one tensor")
    if not isinstance(result, Tensor | np.ndarray):
        _refuse(f"one that gives {type(result).__name__} for a picture", "let it give one tensor")
    found = torch.as_tensor(result).as_subclass(Tensor).float()
    return found[0] if found.ndim == 4 and len(found) == 1 else found


def _refuse(got: str, advice: str) -> NoReturn:
    raise ModelError(
        f"expected a Preprocess, or a transform that it can repeat, but got {got}; {advice}, or describe the "
        "preprocessing as rulepatch.Preprocess(…)"
    )
