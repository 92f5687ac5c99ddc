"""Interpretation of the numbers and colours of a drawn mask.

A mask is unambiguous if it has a background and one other colour. Colours between the two are soft edges, weighted by
their distance from the background. Ambiguous masks are rejected, with the colours found.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import ImageColor

from rulepatch.colours import ALIKE, BESIDE, FEW, Colours, chroma, distances, grid, nearest, ring
from rulepatch.errors import MaskError

__all__ = ["Drawing", "MaskValue", "weights_of"]

MaskValue = int | str | Sequence[int | str]
"""What of a mask is the concept: a level or index, a colour ("#800000", "red"), "opaque", "transparent", or several."""

Weights = NDArray[np.float32]

WHITES = (1, 255, 1023, 4095, 16383, 65535)
"""Levels that are white, by the number of bits."""

BUSY = 1.0
"""How often the rows and columns of a photograph go from black to white, times its share of greys, at least."""

VOID = np.array([224, 224, 192])
"""Colour of the borders in Pascal VOC's masks, which belong to no class."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A mask as it was drawn.

    Attributes:
        pixels: levels, (h, w); or colours, (h, w, 3), or with opacity, (h, w, 4), of type uint8.
        index: entries of the palette, (h, w); None without a palette.
        lossy: whether compression may have changed colours.
        shares: whether the levels are shares in 0..1, whatever they look like.
        is_array: whether somebody has it as an array, and can compare its numbers.
        name: of the mask, for messages.
    """

    pixels: NDArray[Any]
    index: NDArray[np.uint8] | None = None
    lossy: bool = False
    shares: bool = False
    is_array: bool = False
    name: str = "the mask"

    @property
    def rgb(self) -> NDArray[Any]:
        """Colours without opacity, (h, w, 3)."""
        return self.pixels[..., :3] if self.pixels.ndim == 3 else np.repeat(self.pixels[..., None], 3, axis=2)

    @property
    def opacity(self) -> NDArray[Any] | None:
        """Opacity, (h, w), 0..255; None without."""
        return self.pixels[..., 3] if self.pixels.ndim == 3 and self.pixels.shape[2] == 4 else None


def weights_of(drawing: Drawing, value: MaskValue | None = None) -> Weights:
    """Share of the concept in each pixel.

    Args:
        drawing: the mask.
        value: what of it is the concept, where it has several colours.

    Returns:
        Array (h, w), 0..1.

    Raises:
        MaskError: the mask has several readings, or does not have the value.

    Examples:
        >>> weights_of(Drawing(np.array([[0, 0, 1, 1]]))).tolist()
        [[0.0, 0.0, 1.0, 1.0]]
        >>> weights_of(Drawing(np.array([[0, 3, 1, 3]])), 3).tolist()
        [[0.0, 1.0, 0.0, 1.0]]
    """
    if value is not None:
        return _picked(drawing, value)
    if drawing.shares:
        return drawing.pixels.astype(np.float32)
    opacity = drawing.opacity
    if opacity is None or opacity.min() == opacity.max() > 0:
        return _of_opaque(replace(drawing, pixels=drawing.pixels[..., :3]) if opacity is not None else drawing)
    return _of_layer(drawing, opacity)


def _of_opaque(drawing: Drawing) -> Weights:
    """Colours that are all grey are levels; a palette of one colour only says nothing, its index does."""
    pixels, index = drawing.pixels, drawing.index
    if pixels.ndim == 3:
        colour = chroma(pixels)
        if colour > (ALIKE // 3 if pixels.max() >= 128 else 0):
            return _of_colours(drawing)
        pixels = pixels.mean(axis=2).round().astype(np.uint8) if colour else pixels[..., 0]
    if index is not None and pixels.min() == pixels.max() and index.min() < index.max():
        pixels = index
    return _of_levels(replace(drawing, pixels=pixels))


# Levels: black is the background


def _of_levels(drawing: Drawing) -> Weights:
    levels = drawing.pixels
    if levels.dtype == bool:
        return levels.astype(np.float32)
    found = np.unique(levels)
    low, high = float(found[0]), float(found[-1])
    if levels.dtype.kind == "f" and low >= 0 and high <= 1:
        if not _are_scaled_labels(found):
            return levels.astype(np.float32, copy=False)
        return _of_levels(replace(drawing, pixels=(levels * 255).round().astype(np.uint8)))
    if len(found) == 2 and low == 0 and np.isfinite(high):
        return (levels == high).astype(np.float32)
    if not 0 <= low <= high <= WHITES[-1]:
        raise MaskError(
            f"expected {drawing.name} to lie in 0..1 or 0..255, with 0 outside of the concept, but it has values from "
            f"{low:g} to {high:g}; scale it"
        )
    white = next(white for white in WHITES if white >= high)
    if len(found) == 1:
        if levels.dtype.kind == "f" or white / 2 <= high < white:
            raise MaskError(
                f"expected {drawing.name} to lie in 0..1 or 0..255, with 0 outside of the concept, but it is {high:g} "
                "all over; paint the concept alone"
            )
        return np.full(levels.shape, high / white, np.float32)
    if not drawing.lossy and _are_labels(found, white, white / 2 if high < white else FEW):
        _ask(drawing, found[found > 0, None], found[:1, None] if low == 0 else None)
    return _of_greys(drawing, white)


def _are_labels(found: NDArray[Any], white: float, highest: float) -> bool:
    """Whether levels are the numbers of a few classes, which are dark, beside which there may be white for void."""
    dark = found[found < white]
    return bool(1 < len(found) <= FEW and 0 < dark[-1] < highest)


def _are_scaled_labels(found: NDArray[Any]) -> bool:
    """Whether shares are the numbers of a few classes that were divided by 255."""
    levels = found.astype(np.float64) * 255
    return bool(np.abs(levels - levels.round()).max() < 0.02) and _are_labels(levels.round(), 255, FEW)


def _of_greys(drawing: Drawing, white: float) -> Weights:
    levels = drawing.pixels.astype(np.float32)
    small = grid(levels) * np.float32(255 / white)
    seen = Colours.of(small[..., None], lossy=drawing.lossy)
    changes = (np.abs(np.diff(small, axis=axis)).sum() / small.shape[1 - axis] / 255 for axis in (0, 1))
    if seen.mixed * float(sum(changes)) / 2 > BUSY:
        _refuse_photograph(drawing)
    solid = np.sort(seen.values[:, 0])
    solid = np.append(solid[solid < 255 - ALIKE / 2], solid[solid >= 255 - ALIKE / 2][-1:])  # one white
    brightest = float(np.quantile(small, 0.999))
    if len(solid) == 2 and brightest - solid[1] > ALIKE:
        solid = np.append(solid, brightest)
    if len(solid) > 2 or (len(solid) == 2 and solid[0] > 64 and solid[1] < 192):
        levels_found = (solid[:, None] / 255 * white).round()
        _ask(drawing, levels_found[1:], levels_found[:1])
    back = solid[0] if len(solid) and solid[0] <= 64 else 0.0
    front = solid[-1] if len(solid) and solid[-1] > max(64, back) else 255.0
    back, front = (np.float32(level / 255 * white) for level in (back, front))
    return np.clip((levels - back) / (front - back), 0, 1, dtype=np.float32)


# Colours


def _of_colours(drawing: Drawing) -> Weights:
    """The reading of two colours: one is the background."""
    rgb = drawing.rgb
    small = grid(rgb).astype(np.float64)
    is_void = np.logical_and.reduce([rgb[..., channel] == VOID[channel] for channel in range(3)])
    where = ~grid(is_void)
    seen = Colours.of(small, lossy=drawing.lossy, where=where if len(np.unique(small[where], axis=0)) > 1 else None)
    if seen.is_photograph:
        _refuse_photograph(drawing)
    colours = seen.values
    back = _background(colours, small)
    fronts = [i for i in range(len(colours)) if i != back]
    if back is None or len(fronts) != 1:
        _ask(drawing, colours[fronts], None if back is None else colours[[back]])
    start, along = colours[back], colours[fronts[0]] - colours[back]
    along, length = along.astype(np.float32), np.float32(along @ along)
    share = sum((rgb[..., i] - np.float32(start[i])) * (along[i] / length) for i in range(3)).clip(0, 1)
    if drawing.lossy:  # colours run over an edge, so it cannot be told how soft it was
        return (share >= 0.5).astype(np.float32)
    share[is_void & ~(colours[fronts[0]] == VOID).all()] = 0
    return share


def _background(colours: NDArray[np.float64], small: NDArray[np.float64]) -> int | None:
    """Black; or else white that reaches the border, or what most of the border is."""
    darkest, lightest = int(colours.max(axis=1).argmin()), int(colours.min(axis=1).argmax())
    if colours[darkest].max() <= ALIKE:
        return darkest
    of_border = np.bincount(nearest(ring(small)[None], colours)[0], minlength=len(colours)) / len(ring(small))
    if colours[lightest].min() >= 255 - ALIKE and of_border[lightest] >= 0.25:
        return lightest
    return int(of_border.argmax()) if of_border.max() >= 0.75 and len(colours) > 1 else None


# Opacity


def _of_layer(drawing: Drawing, opacity: NDArray[Any]) -> Weights:
    """The reading of a layer that is transparent in part: what is opaque, unless that has a background of its own."""
    if opacity.max() == 0:
        return np.zeros(opacity.shape, np.float32)
    inside = grid(opacity) >= opacity.max() / 2
    small = grid(drawing.rgb).astype(np.float64)
    alone = replace(drawing, pixels=opacity, index=None)
    if np.ptp(np.quantile(small[inside], (0.02, 0.98), axis=0), axis=0).max() <= ALIKE:
        return _of_levels(alone)  # one colour on nothing
    if not Colours.of(small, lossy=drawing.lossy, where=inside).is_photograph:
        shown = (drawing.rgb * (opacity[..., None] / 255)).round().astype(np.uint8)
        return _of_opaque(replace(drawing, pixels=shown))
    of_border = float((ring(grid(opacity)) >= opacity.max() / 2).mean())
    if of_border <= 0.25:
        return _of_levels(alone)  # a thing cut out
    if of_border >= 0.75:
        return _of_levels(replace(alone, pixels=opacity.max() - opacity))  # a hole cut into an image
    raise MaskError(
        f"expected {drawing.name} to show the concept but it is an image that is transparent in part; say "
        'mask_value="opaque" or mask_value="transparent"'
    )


# What the caller says


def _picked(drawing: Drawing, value: MaskValue) -> Weights:
    wanted = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else list(value)
    found = [_one_picked(drawing, each.strip() if isinstance(each, str) else each) for each in wanted]
    for each, weights in zip(wanted, found, strict=True):
        if not weights.any():
            colours = Colours.of(_colour_grid(drawing), lossy=drawing.lossy).values
            raise MaskError(
                f"expected {each} in {drawing.name} but it has none of it; it has "
                f"{_listed(drawing, colours)}: choose among them"
            )
    return np.maximum.reduce(found)


def _one_picked(drawing: Drawing, value: int | str) -> Weights:
    opacity = drawing.opacity
    if isinstance(value, str) and value.lower() in {"opaque", "transparent"}:
        if opacity is None:
            raise MaskError(f"expected {drawing.name} to be transparent in part but it is not; name a colour")
        share = opacity.astype(np.float32) / np.float32(255)
        return share if value.lower() == "opaque" else 1 - share
    if isinstance(value, int) or (value.isdecimal() and len(value) < 20):
        levels = drawing.pixels if drawing.index is None else drawing.index
        if levels.ndim == 3 and chroma(drawing.rgb) == 0:
            levels = levels[..., 0]
        if levels.ndim == 2:
            return (levels == int(value)).astype(np.float32)
        raise MaskError(f"expected a colour of {drawing.name}, such as #800000, but got {value}; it has no palette")
    try:
        colour = np.array(ImageColor.getrgb(value)[:3], np.float64)
    except ValueError:
        raise MaskError(
            f'expected a number, a colour such as #800000, "opaque" or "transparent" as mask_value but got {value!r}'
        ) from None
    others = Colours.of(grid(drawing.rgb).astype(np.float64), lossy=drawing.lossy).values
    exact = len(others) <= FEW and not drawing.lossy
    others = others[distances(others, colour[None])[:, 0] > (0 if exact else ALIKE)]
    known = np.concatenate([colour[None], others])
    rgb = drawing.rgb
    near = (nearest(rgb, known) == 0) & (np.abs(rgb - colour).max(axis=2) <= BESIDE)
    present = (np.abs(rgb - colour).max(axis=2) <= (ALIKE if drawing.lossy else 0)).any()
    return (near & present & (True if opacity is None else opacity >= 128)).astype(np.float32)


# What is said


def _colour_grid(drawing: Drawing) -> NDArray[np.float64]:
    return grid(drawing.pixels[..., None] if drawing.pixels.ndim == 2 else drawing.rgb).astype(np.float64)


def _listed(drawing: Drawing, colours: Iterable[NDArray[Any]]) -> str:
    """Colours as a person writes them, with the share of the mask that they cover."""
    colours = np.array(list(colours), np.float64)
    pixels = _colour_grid(drawing)
    if pixels.shape[2] != colours.shape[1]:
        pixels = pixels[..., :1]
    known = Colours.of(pixels, lossy=drawing.lossy).values
    known = np.concatenate([colours, known[distances(known, colours).min(axis=1, initial=np.inf) > 0]])
    owner = nearest(pixels, known)
    small_index = None if drawing.index is None else grid(drawing.index)
    names = {ImageColor.getrgb(name)[:3]: name for name in reversed(ImageColor.colormap)}
    found = []
    for i, colour in enumerate(colours[:8]):
        triple = tuple(int(channel) for channel in colour)
        text = f"{colour[0]:g}" if len(triple) == 1 else "#{:02x}{:02x}{:02x}".format(*triple)
        about = [names[triple]] if triple in names else []
        if small_index is not None and (entries := np.unique(small_index[owner == i])).size == 1:
            about.append(f"index {entries[0]}")
        about.append(f"{(owner == i).mean():.1%}")
        found.append(f"{text} ({', '.join(about)})")
    return ", ".join(found) + (", …" if len(colours) > 8 else "")


def _ask(drawing: Drawing, fronts: NDArray[Any], back: NDArray[Any] | None) -> NoReturn:
    beside = "none of which is plainly the background" if back is None else f"beside {_listed(drawing, back)}"
    example = _listed(drawing, fronts).split(" ")[0].rstrip(",")
    advice = (
        f"give one of them, such as labels == {example}"
        if drawing.is_array
        else (
            f"say by mask_value (--mask-value) which is meant, such as {example}, or several with commas; or save the "
            "concept alone, white on black"
        )
    )
    raise MaskError(
        f"expected {drawing.name} to mark one concept but it has {len(fronts)} colours {beside}: "
        f"{_listed(drawing, fronts)}; {advice}"
    )


def _refuse_photograph(drawing: Drawing) -> NoReturn:
    raise MaskError(
        f"expected {drawing.name} to be drawn in one colour on a background but it looks like a photograph; save what "
        "is painted on it alone, in white on black"
    )
