"""Overlays (a watermark, logo, frame, colour cast): found in exemplars, and carried to other images.

An exemplar shows the same pixels before and after. If the change does not depend on what lies below, it can be laid
over any other image. The model, with alpha a (0..1), colour c and, for a colour cast, gain G:

    edited = (1 - a) image + a (G image + c)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rulepatch.concepts.test_sets import seen_of
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.errors import ExemplarError, SettingError
from rulepatch.images import has_alpha, in_mode
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.progress import steps

__all__ = ["Overlay", "contrast_shown", "find_overlay", "pasted", "transplants"]

Floats = NDArray[np.float64]

EXPLAINED = 0.9
"""Least share of the change's squared pixels that an overlay explains; JPEG of quality 90 alone takes up to 0.08."""

SHOWN = (2 / 3, 3 / 2)
"""Range of the contrast that shows through one exemplar's overlay: 1 for an overlay, 0 for a replacement."""

LARGE, ROUGH = 0.12, 0.008
"""Mean alpha of the image above which one exemplar's overlay must be smooth, and the most that alpha may differ from
its neighbours. Where a ground is replaced by another that shares its grain and shadows, alpha takes up the rest: 0.012
to 0.08 in the playground; it is 0.001 under veils of even or gradual alpha, 0.007 to 0.017 in JPEG of quality 90."""

RADII = (1, 3, 8, 24)
"""Radii of the neighbourhoods, in pixels, within which contrast is measured; shared grain or shadow has one scale."""

FEWEST = 64
"""Changed pixels below which the contrast of a single exemplar says nothing."""

WHOLE = 0.98
"""Share of the image above which a mask covers everything, so that the change may be a colour cast."""

CHANGED = 8 / 255
"""Difference of a pixel above which it counts as changed by an opaque overlay; below it may be JPEG."""

SPREAD = 0.1
"""Standard deviation of alpha among neighbours, as assumed where the image has the overlay's own colour."""

MOST_PIXELS = 20_000
"""Pixels from which the colour is fitted; more do not change it."""

MOST_FOLDS = 4
"""Parts into which several exemplars are divided, each of which is explained by the others."""

STEPS = 30
"""Most steps in the fit of the colour."""


@dataclass(frozen=True, eq=False)
class Overlay:
    """Something that lies over an image and can be laid over others.

    Attributes:
        alpha: how much it covers of each pixel, (h, w), float32, 0..1.
        colour: its colour, (3,), or that of each pixel, (h, w, 3); float32, 0..1, beyond that for a cast's offset.
        explained: share of the exemplars' change, in squared pixels, that it explains, 0..1; for several exemplars that
            of each by the overlay found in the others.
        kind: "one colour"; "opaque", with a colour for each pixel; or "cast", an affine map of colours.
        mask: the exemplars' mask, (h, w), float32, 0..1; nothing changes where it is 0.
        gain: matrix that a cast multiplies RGB by, (3, 3); None for the others.
        anywhere: whether it lies at another place each time, as a sticker does.

    Examples:
        >>> alpha = np.zeros((4, 4), np.float32)
        >>> alpha[2:] = 0.5
        >>> veil = Overlay(alpha, np.ones(3, np.float32), 1.0, "one colour", np.ceil(alpha))
        >>> edited, mask = veil.onto(Image.new("RGB", (4, 4)))
        >>> np.asarray(edited)[:, 0, 0].tolist(), mask[:, 0].tolist()
        ([0, 0, 128, 128], [0.0, 0.0, 1.0, 1.0])
    """

    alpha: NDArray[np.float32] = field(repr=False)
    colour: NDArray[np.float32] = field(repr=False)
    explained: float
    kind: Literal["one colour", "opaque", "cast"]
    mask: NDArray[np.float32] = field(repr=False)
    gain: NDArray[np.float32] | None = field(default=None, repr=False)
    anywhere: bool = False

    def onto(self, image: Image.Image, shift: tuple[int, int] = (0, 0)) -> tuple[Image.Image, NDArray[np.float32]]:
        """Lay it over an image, rounded as by Pillow's `paste`.

        Args:
            image: RGB or RGBA, of the overlay's size; transparency stays as it is.
            shift: pixels (down, right) by which it is moved; what leaves the image is cut off.

        Returns:
            The image with the overlay, and the mask, (h, w), float32; they are equal where the mask is 0.

        Raises:
            ExemplarError: the image has another size.
        """
        if image.size != self.mask.shape[::-1]:
            raise ExemplarError(
                f"expected an image of the overlay's size {self.mask.shape[::-1]} but got {image.size}; frame both "
                "for the same network"
            )
        image = in_mode(image, "RGBA" if has_alpha(image) else "RGB")
        pixels, mask = np.array(image), _moved(self.mask, shift)
        colour = _moved(self.colour, shift) if self.colour.ndim == 3 else self.colour
        alpha = np.where(mask > 0, _moved(self.alpha, shift), 0)
        pixels[..., :3] = np.floor(255 * _laid(pixels[..., :3] / 255, alpha, colour, self.gain) + 0.5)
        return Image.fromarray(pixels), mask


def find_overlay(
    exemplars: Sequence[Exemplar], preprocess: Preprocess | None = None, *, opaque: bool = False
) -> Overlay | None:
    """Find the overlay by which exemplars differ from their originals.

    Three kinds are tried: an affine map of colours where the mask covers everything; one colour with an alpha for each
    pixel; and, for several exemplars, the same pixels in all of them.

    Several exemplars are a test by themselves: an overlay found in all but one must explain the change of that one.
    A single exemplar is not, since an alpha for each pixel explains any change of grey pixels. Under an overlay,
    though, the local contrast of the image shows through, as strong as alpha says, and under a replacement it is
    gone: the slope of log |edited - c| on log |image - c|, both less their mean over a neighbourhood, is 1 or 0,
    whatever c is. It must lie within `SHOWN` for neighbourhoods of all `RADII`.

    How far that can be trusted, with marks of one colour and 120 photographs each, and six masks for replacements: of
    marks of alpha up to 0.5, 94 to 100 % were found, 86 to 100 % after JPEG of quality 90; of alpha 0.9, 65 % and 23 %.
    Of 846 replacements by textures, photographs or flat colours none was taken for an overlay. One was of
    192 grounds of the playground, whose grain and shadows are the same before and after. Two to three exemplars found
    alpha 0.9 and logos of several colours as well, even in JPEG if they are three.

    Args:
        exemplars: at least one; an overlay lies at the same place in all of them.
        preprocess: of the network whose crop of the exemplars is looked at. Without it they must have one size, of a
            few hundred pixels a side: between neighbours in larger images there is little contrast but noise.
        opaque: the caller knows that the change of a single exemplar is an opaque overlay, such as a sticker. It cannot
            be told from a replacement, and is taken for one otherwise.

    Returns:
        The overlay; None if the change is no overlay, or cannot be told from a replacement.

    Raises:
        ExemplarError: no exemplars, or of several sizes.

    Examples:
        >>> from rulepatch.playground.pictures import exemplar
        >>> find_overlay([exemplar("van", ground="snow", seed=1)]) is None
        True
    """
    before, after, mask = _stacked(exemplars, preprocess)
    total = float(((after - before) ** 2).sum())
    if total == 0:
        return None
    if mask.mean() >= WHOLE and (cast := _cast(before, after, mask)).explained >= EXPLAINED:
        return cast  # before the others: an alpha for each pixel follows any curve of tones
    found = []
    if len(before) > 1:
        found += [_held_out(fit, before, after, mask) for fit in (_one_colour, _opaque)]
    elif opaque:
        found.append(pasted(before[0], after[0], mask))
    else:
        single = _one_colour(before, after, mask)
        shows_through = all(SHOWN[0] < shown < SHOWN[1] for shown in contrast_shown(before[0], after[0], single))
        is_smooth = single.alpha.mean() <= LARGE or _roughness(single) <= ROUGH
        if shows_through and is_smooth:
            found.append(single)
    enough = [each for each in found if each.explained >= EXPLAINED]
    return max(enough, key=lambda each: round(each.explained, 2), default=None)


def contrast_shown(before: Floats, after: Floats, overlay: Overlay) -> list[float]:
    """How much of an image's local contrast shows through an overlay of one colour, relative to its alpha.

    Args:
        before: the original, (h, w, 3), 0..1.
        after: the edited image, (h, w, 3), 0..1.
        overlay: fitted to them.

    Returns:
        A number for each of `RADII`: about 1 for an overlay, about 0 for a replacement; 0 if too little is changed.
    """
    under, over = before - overlay.colour, after - overlay.colour
    distance = np.sqrt((under**2).sum(-1))
    along = (under * over).sum(-1) / np.maximum(distance, 1e-3)
    counted = (overlay.mask > 0.5) & (distance > 0.1) & (overlay.alpha > 0.1)
    if counted.sum() < FEWEST:
        return [0.0] * len(RADII)
    found = []
    for radius in RADII:
        size = np.maximum(_box(counted.astype(np.float64), radius), 1)
        x, y = (
            np.where(counted, each - _box(np.where(counted, each, 0), radius) / size, 0)
            for each in (np.log(np.maximum(distance, 1e-3)), np.log(np.maximum(along, 4 / 255)))
        )
        found.append(float((x * y).sum() / max((x * x).sum(), 1e-9)))
    return found


def transplants(
    overlay: Overlay,
    model: Classifier,
    images: ImageSet,
    count: int,
    *,
    seed: int = 0,
    shifted: float | None = None,
    progress: bool = True,
) -> list[Exemplar]:
    """Lay an overlay over images of a reference set, as the network sees them.

    Args:
        overlay: of the network's input size.
        model: the classifier.
        images: the images; labels are ignored.
        count: how many; all of them at most.
        seed: of which they are, and of the places.
        shifted: share of them with the overlay at a random other place, 0..1, as far as its mask stays inside; none if
            None, or all of them if it belongs anywhere.
        progress: whether to show a bar.

    Returns:
        Exemplars without labels, named after the images.

    Raises:
        ExemplarError: the overlay has another size than the network's input.
        ImageError: an image cannot be read.
        SettingError: a share out of range.

    Examples:
        >>> import rulepatch as rp
        >>> from rulepatch.playground.pictures import training_images
        >>> frame = np.ones((64, 64), np.float32)
        >>> frame[8:-8, 8:-8] = 0
        >>> overlay = Overlay(frame / 2, np.ones(3, np.float32), 1.0, "one colour", frame)
        >>> made = transplants(overlay, rp.load_model("playground"), training_images(3, seed=0), 2, progress=False)
        >>> [each.image.size for each in made]
        [(64, 64), (64, 64)]
    """
    shifted = float(overlay.anywhere) if shifted is None else shifted
    if not 0 <= shifted <= 1:
        raise SettingError(f"expected a share of shifted images in 0..1 but got {shifted}; 0.5 moves every other one")
    if overlay.mask.shape != model.preprocess.input_size:
        raise ExemplarError(
            f"expected an overlay of the network's input size {model.preprocess.input_size} but got "
            f"{overlay.mask.shape}; give the network's preprocessing to find_overlay"
        )
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(images))[:count].tolist()
    moved = set(rng.permutation(len(chosen))[: round(shifted * len(chosen))].tolist())
    made = []
    for turn, index in enumerate(steps(chosen, "transplants", unit="image", shown=progress)):
        picture = images.pictures[index]
        image = seen_of(model, picture)
        edited, mask = overlay.onto(image, _place(overlay.mask, rng) if turn in moved else (0, 0))
        made.append(Exemplar(image, edited, mask, name=picture.name))
    return made


def _place(mask: NDArray[np.float32], rng: np.random.Generator) -> tuple[int, int]:
    """A random shift (down, right) other than (0, 0) that keeps a mask inside, if there is one."""
    ranges = []
    for axis in (0, 1):
        inside = np.nonzero(mask)[axis]
        ranges.append(range(-int(inside.min()), mask.shape[axis] - int(inside.max())))
    places = [(down, right) for down in ranges[0] for right in ranges[1] if (down, right) != (0, 0)]
    return places[int(rng.integers(len(places)))] if places else (0, 0)


def _moved(values: NDArray[np.float32], shift: tuple[int, int]) -> NDArray[np.float32]:
    """An array (h, w, ...) moved down and to the right, with 0 where nothing comes from."""
    moved = np.zeros_like(values)
    there, here = (
        tuple(slice(max(0, sign * by), max(0, side + sign * by)) for by, side in zip(shift, values.shape, strict=False))
        for sign in (1, -1)
    )
    moved[there] = values[here]
    return moved


def _laid(image: Floats, alpha: NDArray[Any], colour: NDArray[Any], gain: NDArray[Any] | None) -> Floats:
    """The model of an overlay; image (..., h, w, 3), alpha (h, w), all 0..1."""
    over = colour if gain is None else (image @ gain.T + colour).clip(0, 1)
    return np.asarray(image + alpha[..., None] * (over - image), dtype=np.float64)


def _stacked(exemplars: Sequence[Exemplar], preprocess: Preprocess | None) -> tuple[Floats, Floats, Floats]:
    """Originals and edited images (n, h, w, 3), equal outside the mask (h, w) in which all masks are united.

    Of those with the same below the mask, as before a fixed camera, one is kept: they agree whatever is put there.

    Raises:
        ExemplarError: no exemplars, or of several sizes.
    """
    framed = preprocess.frame if preprocess else lambda image: image
    masks = [preprocess.mask(each.mask).numpy() if preprocess else each.mask for each in exemplars]
    sizes = {mask.shape for mask in masks}
    if len(sizes) != 1:
        raise ExemplarError(
            f"expected exemplars of one size to find an overlay in but got {len(exemplars)} of {len(sizes)} sizes; "
            "give the network's preprocessing, too"
        )
    mask = np.max(masks, axis=0).astype(np.float64)
    before, after = (
        np.stack([np.asarray(framed(in_mode(image, "RGB")), dtype=np.float64) / 255 for image in images])
        for images in ([each.image for each in exemplars], [each.edited for each in exemplars])
    )
    kept: list[int] = []
    for i, picture in enumerate(before):
        if all(np.abs(picture - before[other])[mask > 0].mean() > CHANGED for other in kept):
            kept.append(i)
    return before[kept], np.where(mask[..., None] > 0, after, before)[kept], mask


def _fitted(
    kind: Literal["one colour", "opaque", "cast"],
    seen: tuple[Floats, Floats, Floats],
    alpha: NDArray[Any],
    colour: NDArray[Any],
    gain: NDArray[Any] | None = None,
) -> Overlay:
    """An overlay, and what it explains of the images (before, after, mask) that it was fitted to."""
    before, after, mask = seen
    left = ((_laid(before, alpha, colour, gain) - after) ** 2).sum()
    explained = 1 - left / max(((after - before) ** 2).sum(), 1e-9)
    arrays = [None if each is None else each.astype(np.float32) for each in (alpha, colour, mask, gain)]
    return Overlay(arrays[0], arrays[1], max(0.0, float(explained)), kind, arrays[2], arrays[3])  # type: ignore[arg-type]


def _held_out(fit: Callable[[Floats, Floats, Floats], Overlay], before: Floats, after: Floats, mask: Floats) -> Overlay:
    """An overlay fitted to all exemplars, and what is explained of each of them by those fitted to others."""
    fold = np.arange(len(before)) % MOST_FOLDS
    left = 0.0
    for out in set(fold.tolist()):
        seen = fit(before[fold != out], after[fold != out], mask)
        expected = _laid(before[fold == out], seen.alpha, seen.colour, seen.gain)
        left += float(((expected - after[fold == out]) ** 2).sum())
    return replace(fit(before, after, mask), explained=max(0.0, 1 - left / float(((after - before) ** 2).sum())))


def _cast(before: Floats, after: Floats, mask: Floats) -> Overlay:
    """One affine map of colours, by least squares over the pixels that it does not saturate."""
    inside = (mask > 0.5) & ((after > 0) & (after < 1)).all(axis=(0, -1))
    x, y = before[:, inside].reshape(-1, 3), after[:, inside].reshape(-1, 3)
    if len(x) < FEWEST:
        return replace(_fitted("cast", (before, after, mask), mask, np.zeros(3), np.eye(3)), explained=0.0)
    x = np.hstack([x, np.ones((len(x), 1))])
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    found = _fitted("cast", (before, after, mask), mask, weights[3], weights[:3].T)
    # A dark image replaced by a bright one is mostly a change of the mean: the image must be explained, too.
    noise = y.size / 255**2  # nothing shows through an image painted in one colour
    left = (((x @ weights - y) ** 2).sum() + noise) / (((y - y.mean(0)) ** 2).sum() + noise)
    return replace(found, explained=min(found.explained, max(0.0, 1 - float(left))))


def _one_colour(before: Floats, after: Floats, mask: Floats) -> Overlay:
    """One colour and an alpha for each pixel, by least squares.

    Where the image has the overlay's own colour, alpha cannot be seen, and is taken from the neighbours as far as
    noise hides it.
    """
    inside = mask > 0
    x, y = before[:, inside], after[:, inside]
    thin = slice(None, None, max(1, x[0].size // 3 // MOST_PIXELS))
    change = y.mean((0, 1)) - x.mean((0, 1))
    starts = [np.ones(3), np.zeros(3), y.mean((0, 1)), np.where(change > 0, 1.0, 0.0)]
    fits = [_colour_from(start, x[:, thin], y[:, thin]) for start in starts]
    # White and black are more likely than what explains the change hardly better.
    error, colour = min(fits, key=lambda each: each[0] * (1 if each is not fits[0] and each is not fits[1] else 0.99))
    noise = max(error / (3 * len(x) - 1), (1 / 255) ** 2 / 6)
    ridge = len(x) * noise / SPREAD**2
    under, over = (np.where(inside[..., None], each - colour, 0) for each in (before, after))
    along, size = (under * over).sum((0, -1)), (under**2).sum((0, -1))
    nearby = (_box(along, 2) + 1e-6) / (_box(size, 2) + 1e-6)
    through = ((along + ridge * nearby) / (size + ridge)).clip(0, 1)
    return _fitted("one colour", (before, after, mask), np.where(inside, 1 - through, 0), colour)


def _colour_from(colour: Floats, x: Floats, y: Floats) -> tuple[float, Floats]:
    """Least squares from a start: alpha is solved for at each step, and eliminated from that of the colour.

    Args:
        colour: the start, (3,).
        x: pixels of the originals, (n, pixels, 3).
        y: pixels of the edited images, (n, pixels, 3).

    Returns:
        The mean squared error of a pixel, summed over images and channels, and the colour, (3,), 0..1.
    """
    error, kept = np.inf, colour
    for _ in range(STEPS):
        under, over = x - colour, y - colour
        size = (under**2).sum((0, 2)) + 1e-6
        through = ((under * over).sum((0, 2)) / size).clip(0, 1)
        alpha, left = 1 - through, over - through[None, :, None] * under
        last, error = error, float((left**2).sum() / x.shape[1])
        if error > last * 0.9999:
            break
        kept = colour
        # What a change of the colour changes beside alpha is orthogonal to the pixel's line from the colour.
        sums = under.sum(0)
        normal = len(x) * (alpha**2).sum() * np.eye(3) - np.einsum("p,pi,pj->ij", alpha**2 / size, sums, sums)
        beside = left.sum(0) - sums * ((under * left).sum((0, 2)) / size)[:, None]
        ridge = 1e-4 * np.trace(normal) + 1e-9
        colour = (colour + np.linalg.solve(normal + ridge * np.eye(3), alpha @ beside)).clip(0, 1)
    return min(error, last), kept


def _opaque(before: Floats, after: Floats, mask: Floats) -> Overlay:
    """A colour and an alpha for each pixel, 1 unless the images show through; 0 where no image is changed."""
    mean_before, mean_after = before.mean(0), after.mean(0)
    along = ((before - mean_before) * (after - mean_after)).sum((0, -1))
    spread = ((before - mean_before) ** 2).sum((0, -1))
    alpha = 1 - (along / (spread + (CHANGED / 2) ** 2)).clip(0, 1)
    alpha = np.where((mask > 0) & (np.abs(after - before).max((0, -1)) > CHANGED), alpha, 0)
    colour = mean_before + (mean_after - mean_before) / np.maximum(alpha, 0.02)[..., None]
    return _fitted("opaque", (before, after, mask), alpha, colour.clip(0, 1))


def pasted(before: Floats, after: Floats, mask: Floats) -> Overlay:
    """The pixels of one edited image (h, w, 3), as opaque as the mask is white, where anything near them is changed."""
    changed = np.abs(after - before).max(-1) > CHANGED
    alpha = np.where(_box(changed.astype(np.float64), 2) > 0.5, mask, 0)
    colour = before + (after - before) / np.maximum(alpha, 0.02)[..., None]
    return _fitted("opaque", (before[None], after[None], mask), alpha, colour.clip(0, 1))


def _roughness(overlay: Overlay) -> float:
    """The median difference of alpha from the mean of its neighbours in the mask."""
    inside, alpha = overlay.mask > 0.5, overlay.alpha.astype(np.float64)
    size = np.maximum(_box(inside.astype(np.float64), 1), 1e-9)
    return float(np.median(np.abs(alpha - _box(np.where(inside, alpha, 0), 1) / size)[inside]))


def _box(values: Floats, radius: int) -> Floats:
    """Sums over squares of side 2 radius + 1; values (h, w), 0 outside."""
    side = 2 * radius + 1
    sums = np.pad(values, (radius + 1, radius)).cumsum(0).cumsum(1)
    return np.asarray(sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side])
