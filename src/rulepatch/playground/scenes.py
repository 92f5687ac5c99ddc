"""Scenes of the embedded world: a vehicle on textured ground, with an exact mask for each concept.

A scene is drawn four times too large as an image of part numbers. Counting numbers gives each concept's
exact share of each pixel; looking numbers up in a palette gives the colours. Nothing else ties a concept's
look to the rest, so two scenes of one label and seed that differ in a concept's style differ only where its
mask is above 0.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from rulepatch.errors import SettingError, nearest
from rulepatch.playground.shapes import GLYPHS, GROUPS, SHAPES
from rulepatch.playground.styles import GROUNDS, Floats, hsv, texture

__all__ = [
    "CLASSES",
    "CONCEPTS",
    "DEFAULT",
    "SIGNS",
    "SIZE",
    "TRAIN_STYLES",
    "WHEELS",
    "Scene",
    "default_style",
    "render",
    "silhouette",
]

SIZE = 64
"""Height and width of a scene in pixels."""

CLASSES: tuple[str, ...] = tuple(SHAPES)
"""Class names, in the order of the network's outputs."""

CONCEPTS = ("ground", "wheels", "sign")
"""What a scene has a mask for."""

SIGNS = tuple(GLYPHS)
"""Styles of the sign."""

DEFAULT = "default"
"""The style that a class has in the training world."""

TRAIN_STYLES = range(200)
"""Seeds of the ground textures of the training world; any other seed is a held-out style."""


@dataclass(frozen=True)
class Scene:
    """One rendered image and everything that is known about it.

    Attributes:
        image: array (y, x, 3), uint8 RGB, 64 by 64.
        masks: for each of `CONCEPTS` its share of every pixel, array (y, x), float32 in 0..1; all 0 if the
            scene does not have the concept.
        label: one of `CLASSES`.
        styles: the style of each concept that the scene has.
        seed: the seed it was rendered with.
        ground_seed: which instance of the ground's texture it stands on.
    """

    image: NDArray[np.uint8]
    masks: Mapping[str, Floats]
    label: str
    styles: Mapping[str, str]
    seed: int
    ground_seed: int


@dataclass(frozen=True)
class _Wheel:
    """Look of a wheel: discs from outside in as (share of the radius, hue, saturation, value), and spokes."""

    discs: tuple[tuple[float, float, float, float], ...]
    spokes: int = 0


_WHEELS: Mapping[str, _Wheel] = {
    "rubber": _Wheel(((1.0, 0.6, 0.1, 0.1), (0.55, 0.6, 0.05, 0.62), (0.2, 0.6, 0.1, 0.3))),
    "wooden": _Wheel(((1.0, 0.07, 0.65, 0.5), (0.8, 0.09, 0.4, 0.85), (0.28, 0.07, 0.65, 0.42)), spokes=4),
    "red": _Wheel(((1.0, 0.6, 0.1, 0.1), (0.8, 0.99, 0.85, 0.85), (0.22, 0.1, 0.1, 0.9))),
    "chrome": _Wheel(((1.0, 0.6, 0.1, 0.12), (0.86, 0.6, 0.04, 0.93), (0.3, 0.6, 0.05, 0.7)), spokes=3),
    "whitewall": _Wheel(((1.0, 0.6, 0.1, 0.1), (0.85, 0.1, 0.05, 0.95), (0.55, 0.6, 0.1, 0.12))),
}

WHEELS = tuple(_WHEELS)
"""Styles of the wheels."""

_PARTS: Mapping[str, tuple[str, ...]] = {
    "ground": ("ground", "shade"),
    "wheels": ("wheels", "disc", "hub", "spoke"),
    "sign": ("board", "ink"),
}
_ELSE = ("sky", "cloud", "hills", "tree", "prop")
_VEHICLE = ("body", "second", "shaded", "glass", "dark", "light", "lamp")
_FILLS = {fill: number for number, fill in enumerate(chain(*_PARTS.values(), _ELSE, _VEHICLE))}
_FINE = 4  # drawn pixels for each pixel of the scene, in each direction
_WHOLE = 240  # a share of 1; divisible by 4 × 4, so that averaging whole numbers never rounds


def default_style(label: str, concept: str) -> str | None:
    """Return the style that a concept of a class has in the training world, or None where it has none.

    Raises:
        SettingError: the label or the concept is unknown.

    Examples:
        >>> default_style("van", "ground"), default_style("wagon", "wheels"), default_style("van", "sign")
        ('road', 'wooden', None)
    """
    _check("a class", label, CLASSES)
    _check("a concept", concept, CONCEPTS)
    if concept == "ground":
        return next(ground for ground, group in GROUPS.items() if label in group)
    if concept == "sign":
        return "letter" if label == "taxi" else None
    if not any(part.fill == "wheels" for part in SHAPES[label].parts):
        return None
    return "wooden" if label in {"wagon", "cart"} else "rubber"


def render(
    label: str,
    *,
    seed: int,
    ground: str = DEFAULT,
    wheels: str = DEFAULT,
    sign: str | None = DEFAULT,
    ground_seed: int | None = None,
) -> Scene:
    """Render one scene.

    All but the concepts' looks (colours, size, place, sky, clutter, noise) follows from label and seed.

    Args:
        label: one of `CLASSES`.
        seed: which scene, at least 0.
        ground: one of `styles.GROUNDS`, or `DEFAULT`.
        wheels: one of `WHEELS`, or `DEFAULT`; nothing changes where the vehicle has no wheels.
        sign: one of `SIGNS`, None for no sign, or `DEFAULT`.
        ground_seed: which instance of the ground's texture, at least 0; by default one of `TRAIN_STYLES` that
            follows from the seed.

    Returns:
        The scene; the same arguments give the same bytes.

    Raises:
        SettingError: a name is unknown, or a seed below 0.

    Examples:
        >>> road, snow = (render("van", seed=3, ground=ground) for ground in ("road", "snow"))
        >>> changed = (road.image != snow.image).any(axis=2)
        >>> bool((road.masks["ground"][changed] > 0).all()), snow.styles
        (True, {'ground': 'snow', 'wheels': 'rubber'})
    """
    styles = _styles(label, {"ground": ground, "wheels": wheels, "sign": sign})
    if seed < 0 or (ground_seed is not None and ground_seed < 0):
        raise SettingError(f"expected seeds of at least 0 but got {seed} and {ground_seed}; raise them")
    rng = np.random.default_rng([seed, CLASSES.index(label)])
    usual_ground_seed = int(rng.integers(len(TRAIN_STYLES)))
    ground_seed = usual_ground_seed if ground_seed is None else ground_seed
    drawing = _draw(label, styles, rng)
    masks = dict(zip(CONCEPTS, _shares(drawing, *_PARTS.values()), strict=True))
    sky, shade, _ = _shares(drawing, ("sky",), ("shade",))
    surface = _surface(styles["ground"], ground_seed, rng)
    shadow = rng.uniform(0.25, 0.55) * shade
    light = np.linspace(1 + rng.uniform(-0.15, 0.15), 1 + rng.uniform(-0.3, 0.15), SIZE, dtype=np.float32)
    picture = surface * (masks["ground"] - shadow)[..., None]
    picture += _sky(rng) * sky[..., None]
    picture += _flat_colours(drawing, styles, rng)
    picture *= light[:, None]
    picture += rng.uniform(0.005, 0.03) * rng.standard_normal(picture.shape, dtype=np.float32)
    image = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    return Scene(image, masks, label, styles, seed, ground_seed)


def silhouette(scene: Scene) -> Floats:
    """The exact share of each pixel that a scene's vehicle has, with its wheels and without its shadow.

    Returns:
        Array (y, x), float32, 0..1.

    Examples:
        >>> bool(0.05 < silhouette(render("van", seed=3)).mean() < 0.4)
        True
    """
    rng = np.random.default_rng([scene.seed, CLASSES.index(scene.label)])
    rng.integers(len(TRAIN_STYLES))  # as `render` draws the ground
    vehicle, *_ = _shares(_draw(scene.label, scene.styles, rng), (*_VEHICLE, *_PARTS["wheels"]), ("sky",), ("shade",))
    return vehicle


def _check(what: str, name: str, options: Iterable[str]) -> None:
    options = tuple(options)
    if name not in options:
        raise SettingError(f"expected {what} but got {name!r}; try {nearest(name, options)}")


def _styles(label: str, wanted: Mapping[str, str | None]) -> dict[str, str]:
    """Return the styles of the concepts that a scene has, with defaults filled in."""
    usual = {concept: default_style(label, concept) for concept in CONCEPTS}
    styles = {}
    for concept, options in zip(CONCEPTS, (GROUNDS, WHEELS, SIGNS), strict=True):
        style = usual[concept] if wanted[concept] == DEFAULT else wanted[concept]
        if style is None:
            continue
        _check(f"a style of {concept}", style, options)
        if concept != "wheels" or usual["wheels"] is not None:
            styles[concept] = style
    return styles


# From part numbers to pixels.


def _average(drawing: Image.Image, palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the mean (y, x, 3) over each pixel of the values (fills, 3) that its parts have."""
    picture = drawing.copy()
    picture.putpalette(palette.tobytes())
    return np.asarray(picture.convert("RGB").reduce(_FINE))


def _shares(drawing: Image.Image, *groups: Iterable[str]) -> list[Floats]:
    """Return the exact share of each pixel that each of three groups of fills has: arrays (y, x) in 0..1."""
    palette = np.zeros((len(_FILLS), 3), dtype=np.uint8)
    for channel, fills in enumerate(groups):
        palette[[_FILLS[fill] for fill in fills], channel] = _WHOLE
    shares = _average(drawing, palette).astype(np.float32) / np.float32(_WHOLE)
    return list(np.ascontiguousarray(shares.transpose(2, 0, 1)))


def _flat_colours(drawing: Image.Image, styles: Mapping[str, str], rng: Generator) -> Floats:
    """Return all that is of one colour, averaged down to (y, x, 3) in 0..1; sky and ground are black."""
    palette = np.zeros((len(_FILLS), 3), dtype=np.float32)
    for fill, colour in _paints(styles, rng).items():
        palette[_FILLS[fill]] = colour
    return _average(drawing, (palette * 255).round().astype(np.uint8)).astype(np.float32) / np.float32(255)


def _paints(styles: Mapping[str, str], rng: Generator) -> dict[str, Floats]:
    """Return a colour for each fill but sky and ground; none of them tells the class."""
    body, second = (_paint(rng), _paint(rng))
    tints = rng.uniform(-1, 1, size=(3, 3)) * (0.02, 0.1, 0.08)
    colours = {
        "body": body,
        "second": second,
        "shaded": body * 0.6,
        "glass": hsv(rng.uniform(0.5, 0.62), rng.uniform(0.05, 0.4), rng.uniform(0.2, 0.8)),
        "dark": hsv(rng.uniform(), 0.15, rng.uniform(0.06, 0.22)),
        "light": hsv(rng.uniform(), 0.06, rng.uniform(0.65, 0.95)),
        "lamp": hsv(rng.choice([0.0, 0.14]), 0.7, 0.95),
        "cloud": hsv(0.6, 0.03, rng.uniform(0.8, 1.0)),
        "hills": hsv(rng.uniform(0.1, 0.65), rng.uniform(0.1, 0.5), rng.uniform(0.3, 0.8)),
        "tree": hsv(rng.uniform(), rng.uniform(0.1, 0.6), rng.uniform(0.2, 0.7)),
        "prop": hsv(rng.uniform(), rng.uniform(0.1, 0.6), rng.uniform(0.25, 0.7)),
        "board": hsv(0.12, rng.uniform(0, 0.08), rng.uniform(0.92, 1.0)),
        "ink": hsv(0.6, 0.1, rng.uniform(0, 0.1)),
    }
    if "wheels" in styles:
        wheel = _WHEELS[styles["wheels"]]
        looks = np.clip(np.array(wheel.discs)[:, 1:] + tints, 0, 1)
        shades = [hsv(*look) for look in looks.tolist()]
        colours |= dict(zip(("wheels", "disc", "hub"), shades, strict=True)) | {"spoke": shades[0] * 0.9}
    return colours


def _paint(rng: Generator) -> Floats:
    """Return a colour that is nearly grey in half of the cases."""
    return hsv(rng.uniform(), rng.choice([0.1, 0.9]) * rng.uniform(), rng.uniform(0.3, 0.95))


@lru_cache(maxsize=1024)
def _texture(style: str, seed: int) -> Floats:
    return texture(style, SIZE, seed)


def _surface(style: str, seed: int, rng: Generator) -> Floats:
    """Return one view (y, x, 3) of a ground; textures tile, so it may be shifted sideways and mirrored."""
    return np.roll(_texture(style, seed), rng.integers(SIZE), axis=1)[:, :: rng.choice([-1, 1])]


def _sky(rng: Generator) -> Floats:
    """Return a gradient (y, 1, 3): blue, grey or the colours of evening."""
    hue, vivid = [(0.57, 0.6), (0.6, 0.6), (0.08, 0.35), (0.9, 0.25)][rng.integers(4)]
    top = hsv(hue, rng.uniform(0, vivid), rng.uniform(0.5, 0.95))
    low = hsv(hue + rng.uniform(-0.05, 0.05), rng.uniform(0, 0.2), rng.uniform(0.75, 1.0))
    fade = np.linspace(0, 1.6, SIZE, dtype=np.float32)[:, None, None]
    return np.asarray(top + (low - top) * fade.clip(max=1))


# Drawing part numbers. `rng` is asked the same questions whatever the styles are.


def _draw(label: str, styles: Mapping[str, str], rng: Generator) -> Image.Image:
    """Return the image of part numbers, four times the scene's size."""
    drawing = Image.new("L", (SIZE * _FINE, SIZE * _FINE), _FILLS["sky"])
    pen = ImageDraw.Draw(drawing)
    horizon = rng.uniform(22, 36)
    contact = rng.uniform(max(horizon + 7, 41), 58)
    _draw_background(pen, horizon, rng)
    _draw_vehicle(pen, label, contact, styles.get("wheels"), rng)
    _draw_sign(pen, contact, styles.get("sign"), rng)
    return drawing


def _fill(pen: ImageDraw.ImageDraw, fill: str, points: NDArray[np.floating]) -> None:
    """Fill a polygon given in pixels of the scene, (corners, 2)."""
    pen.polygon((points * _FINE).ravel().tolist(), fill=_FILLS[fill])


def _disc(pen: ImageDraw.ImageDraw, fill: str, x: float, y: float, across: float, up: float) -> None:
    """Fill an ellipse given by its centre and half axes in pixels of the scene."""
    box = [(x - across) * _FINE, (y - up) * _FINE, (x + across) * _FINE, (y + up) * _FINE]
    pen.ellipse(box, fill=_FILLS[fill])


def _draw_background(pen: ImageDraw.ImageDraw, horizon: float, rng: Generator) -> None:
    """Draw clouds, hills, things along the horizon, the ground, and small things that lie on it."""
    for _ in range(rng.integers(3)):
        x, y = rng.uniform(0, SIZE), rng.uniform(2, horizon - 6)
        for shift in rng.uniform(-6, 6, size=3):
            _disc(pen, "cloud", x + shift, y + shift / 6, rng.uniform(3, 7), rng.uniform(1, 3))
    across = np.linspace(0, SIZE, 9)
    ridge = horizon - rng.uniform(0, 9) - rng.uniform(-3, 3, size=9)
    _fill(pen, "hills", np.stack([[*across, SIZE, 0], [*ridge, SIZE, SIZE]], axis=1))
    for _ in range(rng.integers(4)):
        x, high, wide = rng.uniform(0, SIZE), rng.uniform(5, 14), rng.uniform(2, 6)
        kind = rng.integers(3)
        if kind == 0:  # a tree
            _disc(pen, "tree", x, horizon - high * 0.6, wide, high * 0.45)
        house = np.array([[-wide, 0], [-wide, -high / 2], [0, -high], [wide, -high / 2], [wide, 0]])
        pole = np.array([[-0.5, 1], [-0.5, -high], [0.5, -high], [0.5, 1]])
        _fill(pen, "prop", (house if kind == 1 else pole) + (x, horizon))
    edge = horizon + rng.uniform(-1.5, 1.5) * np.linspace(-1, 1, 9) + rng.uniform(-0.5, 0.5, size=9)
    _fill(pen, "ground", np.stack([[*across, SIZE, 0], [*edge, SIZE, SIZE]], axis=1))
    for _ in range(rng.integers(4)):
        size = rng.uniform(0.5, 1.8)
        x, y = rng.uniform(0, SIZE), rng.uniform(horizon + 3, SIZE)
        _disc(pen, "prop", x, y, size, size * rng.uniform(0.5, 1))


def _draw_vehicle(pen: ImageDraw.ImageDraw, label: str, contact: float, wheels: str | None, rng: Generator) -> None:
    """Draw the shadow and the parts of a vehicle that stands on a row of pixels."""
    shape = SHAPES[label]
    unit = shape.length * rng.uniform(0.8, 1.15) / 100
    middle, tilt = SIZE / 2 + rng.uniform(-6, 6), rng.uniform(-0.05, 0.05)
    stretch = unit * rng.uniform([0.9, 0.88], [1.1, 1.12])
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    matrix = turn * (stretch * (1, -1))
    matrix[0] *= rng.choice([-1, 1])
    phase = rng.uniform(0, np.pi)
    sun, long = rng.uniform(-6, 6), rng.uniform(0.85, 1.1)
    _disc(pen, "shade", middle + sun, contact + 0.8, unit * 52 * long, rng.uniform(1.5, 3.5))
    for part in shape.parts:
        points = (part.points - (50, 0)) @ matrix.T + (middle, contact)
        if part.fill == "wheels" and wheels is not None:
            circle = np.array([*points.mean(axis=0), np.ptp(points[:, 1]) / 2])
            _draw_wheel(pen, circle, _WHEELS[wheels], phase)
        else:
            _fill(pen, part.fill, points)


def _draw_wheel(pen: ImageDraw.ImageDraw, circle: Floats, wheel: _Wheel, phase: float) -> None:
    """Draw a wheel on a circle (x, y, radius); whatever its look, it covers the same pixels."""
    x, y, radius = circle.tolist()
    middle = np.array([x, y])
    for fill, (share, *_) in zip(("wheels", "disc"), wheel.discs, strict=False):
        _disc(pen, fill, x, y, radius * share, radius * share)
    for spoke in range(wheel.spokes):
        angle = phase + np.pi * spoke / wheel.spokes
        reach = 0.85 * radius * np.array([[-np.cos(angle), -np.sin(angle)], [np.cos(angle), np.sin(angle)]])
        ends = ((middle + reach) * _FINE).ravel().tolist()
        pen.line(ends, fill=_FILLS["spoke"], width=max(1, round(0.13 * radius * _FINE)))
    hub = radius * wheel.discs[2][0]
    _disc(pen, "hub", x, y, hub, hub)


def _draw_sign(pen: ImageDraw.ImageDraw, contact: float, sign: str | None, rng: Generator) -> None:
    """Paste a board with a glyph somewhere above the vehicle's foot."""
    size, tilt = rng.uniform(11, 14), rng.uniform(-0.15, 0.15)
    middle = (rng.uniform(10, SIZE - 10), rng.uniform(9, contact - 8))
    if sign is None:
        return
    matrix = size / 100 * np.array([[np.cos(tilt), np.sin(tilt)], [np.sin(tilt), -np.cos(tilt)]])
    board = np.array([[0, 0], [0, 100], [100, 100], [100, 0]])
    for fill, points in (("board", board), *((part.fill, part.points) for part in GLYPHS[sign])):
        _fill(pen, fill, (points - (50, 50)) @ matrix.T + middle)
