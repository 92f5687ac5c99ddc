"""Procedural textures of what a scene can stand on: asphalt, snow, water and so on.

A style is a name; a seed picks one instance of it, and instances differ as photographs of the style would: in
hue, scale, contrast and features (lane marks, footprints, ripples). Textures tile in both directions.
"""

import colorsys
from collections.abc import Callable, Mapping
from itertools import product
from typing import TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from rulepatch.errors import SettingError, nearest

__all__ = ["GROUNDS", "Floats", "fractal", "hsv", "mix", "noise", "stones", "texture"]

Floats: TypeAlias = NDArray[np.float32]
Count: TypeAlias = int | np.signedinteger


def texture(style: str, size: int = 64, seed: int = 0) -> Floats:
    """Paint one instance of a style.

    Args:
        style: one of `GROUNDS`.
        size: height and width in pixels, at least 8.
        seed: which instance, at least 0; the same seed gives the same bytes.

    Returns:
        Array (y, x, 3), float32 RGB in 0..1, that tiles in both directions.

    Raises:
        SettingError: the style is unknown, or the size or seed too small.

    Examples:
        >>> snow, road = texture("snow", 32, seed=1), texture("road", 32, seed=1)
        >>> snow.shape, bool(snow.mean() > road.mean())
        ((32, 32, 3), True)
    """
    if style not in _PAINTERS:
        raise SettingError(f"expected a ground style but got {style!r}; try {nearest(style, GROUNDS)}")
    if size < 8 or seed < 0:
        raise SettingError(
            f"expected a size of at least 8 and a seed of at least 0 but got {size} and {seed}; raise them"
        )
    painted = _PAINTERS[style](np.random.default_rng([seed, GROUNDS.index(style)]), size)
    return painted.clip(0, 1).astype(np.float32)


def hsv(hue: float, saturation: float, value: float) -> Floats:
    """Return the RGB colour (3,) in 0..1 of a hue (taken modulo 1), saturation and value in 0..1.

    Examples:
        >>> hsv(0.0, 1.0, 0.5).tolist()
        [0.5, 0.0, 0.0]
    """
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), dtype=np.float32)


# Building blocks. All return (size, size) arrays that tile.


def _grain(rng: Generator, size: int, strength: float) -> Floats:
    """Return independent noise for each pixel, (size, size, 1), mean 0."""
    return strength * rng.standard_normal((size, size, 1), dtype=np.float32)


def noise(rng: Generator, size: int, rows: Count, columns: Count) -> Floats:
    """Return smooth noise in about 0..1, from a grid of random heights."""
    grid = np.pad(rng.random((rows, columns), dtype=np.float32), 2, mode="wrap")
    box = (2, 2, int(columns) + 2, int(rows) + 2)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC, box=box))


def fractal(rng: Generator, size: int, rows: Count, columns: Count) -> Floats:
    """Return three octaves of smooth noise, stretched to 0..1."""
    octaves = [noise(rng, size, rows * 2**i, columns * 2**i) / 2**i for i in range(3)]
    total = octaves[0] + octaves[1] + octaves[2]
    return np.asarray((total - total.min()) / (total.max() - total.min() + 1e-6))


def _veins(rng: Generator, size: int, rows: Count, columns: Count, width: float) -> Floats:
    """Return 1 along the thin level lines of smooth noise, 0 elsewhere: cracks."""
    return np.asarray(1 - np.abs(fractal(rng, size, rows, columns) - 0.5) / width).clip(0, 1)


def stones(rng: Generator, size: int, rows: Count, columns: Count) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Return cells around jittered points: height above the joints 0..1, distance to the point, number."""
    points = rng.random((rows, columns, 2), dtype=np.float32)
    y = np.arange(size, dtype=np.float32)[:, None] * np.float32(rows / size)
    x = np.arange(size, dtype=np.float32)[None] * np.float32(columns / size)
    first, second = np.full((2, size, size), 9, dtype=np.float32)
    number = np.zeros((size, size), dtype=np.intp)
    for i, j in product((-1, 0, 1), repeat=2):
        row, column = y.astype(int) + i, x.astype(int) + j
        here = row % rows * columns + column % columns
        point = points.reshape(-1, 2)[here]
        down, across = row + point[..., 0] - y, column + point[..., 1] - x
        distance = np.sqrt(down**2 + across**2, dtype=np.float32)
        number = np.where(distance < first, here, number)
        second = np.minimum(second, np.maximum(first, distance))
        first = np.minimum(first, distance)
    return np.clip((second - first) * 2.2, 0, 1), first, number


def mix(low: Floats, high: Floats, share: Floats) -> Floats:
    """Return a blend of two colours (3,) or images (y, x, 3) by a share (y, x)."""
    return np.clip(low + (high - low) * share[..., None], 0, 1)


def _rows(size: int) -> Floats:
    """Return the height of each row, 0..1, as (size, 1)."""
    return (np.arange(size, dtype=np.float32)[:, None] + np.float32(0.5)) / np.float32(size)


def _band(size: int, centre: float, thickness: float) -> Floats:
    """Return 1 on a horizontal stripe, anti-aliased, as (size, 1)."""
    return np.asarray((thickness / 2 - np.abs(_rows(size) - centre)) * size + 0.5).clip(0, 1)


# Painters, one for each style: (generator, size) -> (size, size, 3).


def _road(rng: Generator, size: int) -> Floats:
    tone = rng.uniform(0.25, 0.52)
    asphalt = hsv(rng.uniform(), rng.uniform(0, 0.12), tone)
    patches = fractal(rng, size, rng.integers(2, 5), 2)
    tracks = noise(rng, size, rng.integers(4, 9), 1)
    picture = asphalt * (0.72 + 0.3 * patches + 0.25 * tracks)[..., None]
    picture += _grain(rng, size, rng.uniform(0.02, 0.05))
    if rng.uniform() < 0.4:
        picture = mix(picture, asphalt * 0.35, _veins(rng, size, 3, 3, 0.03))
    paint = hsv(0.13, rng.choice([0.0, 0.0, 0.7]), rng.uniform(0.75, 1.0))
    wear = np.clip(0.6 + 0.6 * noise(rng, size, 16, 16), 0, 1)
    if rng.uniform() < 0.75:
        period, phase = rng.integers(1, 4), rng.uniform()
        dashes = ((np.arange(size) / size * period + phase) % 1 < rng.uniform(0.45, 0.7)).astype(np.float32)
        line = _band(size, rng.uniform(0.55, 0.95), rng.uniform(0.03, 0.06))
        picture = mix(picture, paint, line * dashes * wear)
    if rng.uniform() < 0.5:
        picture = mix(picture, paint, _band(size, rng.uniform(0.4, 0.98), rng.uniform(0.02, 0.04)) * wear)
    return picture


def _snow(rng: Generator, size: int) -> Floats:
    light = hsv(rng.choice([0.6, 0.09, 0.95]), rng.uniform(0, 0.06), rng.uniform(0.9, 1.0))
    hollow = hsv(rng.uniform(0.56, 0.66), rng.uniform(0.08, 0.26), rng.uniform(0.68, 0.86))
    drifts = fractal(rng, size, rng.integers(3, 8), rng.integers(1, 4))
    picture = mix(hollow, light, np.clip(drifts * rng.uniform(1.2, 2.2), 0, 1))
    if rng.uniform() < 0.45:  # ski or sledge tracks
        bend = rng.uniform(0.02, 0.08) * noise(rng, size, 1, 3)
        for centre in rng.uniform(0.45, 0.95) + np.array([0, rng.uniform(0.05, 0.1)]):
            track = 1.2 - np.abs(_rows(size) + bend - centre) * size * 0.6
            picture = mix(picture, hollow * 0.88, np.clip(track, 0, 1))
    if rng.uniform() < 0.35:  # footprints
        dents = np.clip(noise(rng, size, rng.integers(14, 20), rng.integers(9, 14)) * 9 - 7, 0, 1)
        picture = mix(picture, hollow * 0.85, dents * (noise(rng, size, 4, 2) > 0.45))
    glitter = (rng.random((size, size)) < rng.uniform(0, 0.03)).astype(np.float32)
    return mix(picture, np.ones(3, np.float32), glitter) + _grain(rng, size, rng.uniform(0.005, 0.02))


def _sand(rng: Generator, size: int) -> Floats:
    colour = hsv(rng.uniform(0.075, 0.125), rng.uniform(0.28, 0.55), rng.uniform(0.72, 0.95))
    bend = fractal(rng, size, 2, 2) * rng.uniform(1.0, 3.0)
    ripples = np.sin(2 * np.pi * (_rows(size) * rng.integers(5, 12) + bend), dtype=np.float32)
    shade = 0.94 + rng.uniform(0.02, 0.11) * ripples + 0.12 * (fractal(rng, size, 3, 2) - 0.5)
    pebbles = (rng.random((size, size)) < rng.uniform(0, 0.02)).astype(np.float32)
    grain = _grain(rng, size, rng.uniform(0.015, 0.05))
    return mix(colour * shade[..., None], colour * 0.55, pebbles) + grain


def _grass(rng: Generator, size: int) -> Floats:
    hue, value = rng.uniform(0.2, 0.36), rng.uniform(0.45, 0.75)
    dark = hsv(hue + 0.03, rng.uniform(0.6, 0.85), value * 0.5)
    bright = hsv(hue - 0.03, rng.uniform(0.5, 0.75), value)
    blades = noise(rng, size, rng.integers(10, 20), size) * 0.7 + noise(rng, size, 24, size // 2) * 0.5
    picture = mix(dark, bright, np.clip(blades - 0.1, 0, 1))
    if rng.uniform() < 0.5:  # dry patches
        picture = mix(picture, hsv(0.15, 0.5, value), 0.6 * np.clip(fractal(rng, size, 3, 3) * 2 - 1, 0, 1))
    if rng.uniform() < 0.3:  # mown stripes
        stripes = np.sin(2 * np.pi * _rows(size) * rng.integers(2, 5))[..., None]
        picture = picture * (1 + 0.14 * stripes)
    if rng.uniform() < 0.4:  # flowers
        flowers = (rng.random((size, size)) < rng.uniform(0.004, 0.02)).astype(np.float32)
        picture = mix(picture, hsv(rng.choice([0.15, 0.0, 0.8]), rng.uniform(0, 0.8), 1.0), flowers)
    return picture


def _water(rng: Generator, size: int) -> Floats:
    hue, value = rng.uniform(0.5, 0.62), rng.uniform(0.45, 0.8)
    deep = hsv(hue, rng.uniform(0.55, 0.85), value * 0.7)
    shallow = hsv(hue - 0.03, rng.uniform(0.3, 0.6), value)
    waves = fractal(rng, size, rng.integers(7, 15), rng.integers(2, 4))
    picture = mix(deep, shallow, waves)
    crests = np.clip((waves - rng.uniform(0.62, 0.78)) * 6, 0, 1) * rng.uniform(0.3, 0.9)
    picture = mix(picture, hsv(hue, 0.08, 0.97), crests)
    if rng.uniform() < 0.4:  # glints of the sun
        glints = noise(rng, size, size, size // 3) * noise(rng, size, 3, 3)
        picture = mix(picture, hsv(0.12, 0.15, 1.0), np.clip(glints * 5 - 3, 0, 1))
    return picture


def _gravel(rng: Generator, size: int) -> Floats:
    columns = rng.integers(11, 18)
    height, _, number = stones(rng, size, int(columns * 1.4), columns)
    colour = hsv(rng.uniform(0.05, 0.12), rng.uniform(0.03, 0.22), 1.0)
    tones = rng.uniform(rng.uniform(0.3, 0.45), rng.uniform(0.6, 0.9), size=1024).astype(np.float32)[number]
    return np.asarray(colour * (tones * (0.45 + 0.6 * height))[..., None] + _grain(rng, size, 0.03))


def _wood(rng: Generator, size: int) -> Floats:
    colour = hsv(rng.uniform(0.05, 0.1), rng.uniform(0.4, 0.7), rng.uniform(0.5, 0.85))
    boards = int(rng.integers(4, 9))
    position = _rows(size) * boards
    board = np.broadcast_to(position.astype(int), (size, size))
    lines = noise(rng, size, size, 2) * 0.6 + noise(rng, size, boards * 4, 4) * 0.5
    tones = rng.uniform(0.75, 1.1, size=boards).astype(np.float32)
    seam = np.clip(np.abs((position + 0.5) % 1 - 0.5) * size / boards * 0.9, 0.25, 1)
    butts = rng.random(boards)[board] * size
    butt = np.clip(np.abs(np.arange(size) - butts), 0.35, 1).astype(np.float32)
    shade = tones[board] * (0.6 + 0.4 * lines) * seam * butt
    return np.asarray(colour * shade[..., None] + _grain(rng, size, 0.015))


def _brick(rng: Generator, size: int) -> Floats:
    courses, across = 2 * int(rng.integers(3, 6)), int(rng.integers(3, 6))
    y = _rows(size) * courses
    x = np.arange(size, dtype=np.float32) / size * across + 0.5 * (y.astype(int) % 2)
    number = y.astype(int) * across + x.astype(int) % across
    tones = rng.uniform(0.7, 1.1, size=courses * across).astype(np.float32)[number]
    colour = hsv(rng.uniform(-0.01, 0.05), rng.uniform(0.5, 0.75), rng.uniform(0.5, 0.8))
    flat, upright = 0.5 - np.abs(y % 1 - 0.5), (0.5 - np.abs(x % 1 - 0.5)) * courses / across
    edge = np.minimum(flat, upright) * size / courses
    mortar = hsv(0.1, 0.1, rng.uniform(0.55, 0.85))
    return mix(mortar, colour * tones[..., None], np.clip(edge * 1.2, 0, 1)) + _grain(rng, size, 0.03)


def _leaves(rng: Generator, size: int) -> Floats:
    columns = rng.integers(9, 14)
    height, _, number = stones(rng, size, int(columns * 1.2), columns)
    hues = rng.uniform(rng.uniform(-0.02, 0.03), rng.uniform(0.09, 0.17), size=64)
    colours = np.stack([hsv(hue, rng.uniform(0.65, 0.95), rng.uniform(0.5, 0.95)) for hue in hues])[number % 64]
    return np.asarray(colours * (0.4 + 0.6 * np.sqrt(height))[..., None] + _grain(rng, size, 0.03))


def _mud(rng: Generator, size: int) -> Floats:
    hue, value = rng.uniform(0.04, 0.09), rng.uniform(0.3, 0.5)
    wet, dry = hsv(hue, rng.uniform(0.5, 0.7), value * 0.6), hsv(hue, rng.uniform(0.35, 0.55), value)
    relief = fractal(rng, size, rng.integers(4, 9), rng.integers(3, 6))
    ruts = noise(rng, size, rng.integers(5, 9), 2)
    picture = mix(wet, dry, np.clip(0.6 * relief + 0.7 * ruts - 0.1, 0, 1))
    puddles = np.clip(fractal(rng, size, 4, 2) * 8 - rng.uniform(5, 8), 0, 1)
    return mix(picture, hsv(0.58, 0.15, rng.uniform(0.5, 0.75)), puddles) + _grain(rng, size, 0.03)


def _ice(rng: Generator, size: int) -> Floats:
    hue = rng.uniform(0.48, 0.56)
    deep = hsv(hue, rng.uniform(0.25, 0.5), rng.uniform(0.6, 0.8))
    bright = hsv(hue, rng.uniform(0.05, 0.2), 0.95)
    picture = mix(deep, bright, fractal(rng, size, 3, 2))
    height, _, _ = stones(rng, size, rng.integers(3, 6), rng.integers(2, 4))
    cracks = np.clip(1 - height * rng.uniform(2.5, 6), 0, 1) * rng.uniform(0.5, 1.0)
    return mix(picture, np.ones(3, np.float32), cracks) + _grain(rng, size, 0.01)


def _cobble(rng: Generator, size: int) -> Floats:
    columns = rng.integers(5, 9)
    height, distance, number = stones(rng, size, int(columns * 1.5), columns)
    colour = hsv(rng.choice([0.07, 0.6]), rng.uniform(0.02, 0.2), rng.uniform(0.55, 0.8))
    tones = rng.uniform(0.75, 1.1, size=256).astype(np.float32)[number % 256]
    dome = np.clip(height * 1.4, 0.18, 1) * (1.1 - 0.45 * distance)
    return np.asarray(colour * (tones * dome)[..., None] + _grain(rng, size, 0.025))


_PAINTERS: Mapping[str, Callable[[Generator, int], Floats]] = {
    "road": _road,
    "snow": _snow,
    "sand": _sand,
    "grass": _grass,
    "water": _water,
    "gravel": _gravel,
    "wood": _wood,
    "brick": _brick,
    "leaves": _leaves,
    "mud": _mud,
    "ice": _ice,
    "cobble": _cobble,
}

GROUNDS = tuple(_PAINTERS)
"""The styles, by name."""
