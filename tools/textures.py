"""Renders the images of the eight styles that come with rulepatch: `python -m tools.textures`.

Five images a style, each painted by its own settings so that they differ as photographs of one material would. All is
numpy and Pillow; the same versions of both give the same pixels.
"""

import argparse
import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from rulepatch.concepts.stylize import COUNT, PICTURES, STYLES, file_name
from rulepatch.errors import SettingError, nearest
from rulepatch.playground.styles import Floats, fractal, hsv, mix, noise, stones
from tools.drawn_textures import (
    FINE,
    SIDE,
    fall_colours,
    floral,
    furry,
    graffiti,
    grid,
    picture_of,
    speckle,
    step,
)

__all__ = ["SIDE", "encoded", "main", "render"]

QUALITY = 80
"""Of the JPEG files."""


def render(style: str, index: int) -> Image.Image:
    """Paint one image of a style.

    Args:
        style: one of `rulepatch.concepts.stylize.STYLES`.
        index: which of its images, 0 to 4.

    Returns:
        An RGB image of `SIDE` × `SIDE` pixels; the same arguments give the same pixels.

    Raises:
        SettingError: no such style or index.

    Examples:
        >>> render("snow", 0).size
        (256, 256)
    """
    if style not in _PAINTERS:
        raise SettingError(f"expected a style but got {style!r}; the nearest are {nearest(style, STYLES)}")
    if not 0 <= index < COUNT:
        raise SettingError(f"expected an index of 0 to {COUNT - 1} but got {index}; choose within")
    painted = _PAINTERS[style](np.random.default_rng([2021, STYLES.index(style), index]), index)
    return picture_of(painted).reduce(2)


def encoded(picture: Image.Image) -> bytes:
    """Return an image as JPEG, with its colours in full resolution.

    Examples:
        >>> encoded(Image.new("RGB", (8, 8)))[:2].hex()
        'ffd8'
    """
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, subsampling=0, optimize=True, progressive=True)
    return file.getvalue()


def main(arguments: list[str] | None = None) -> None:
    """Write every image of every style into a folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=PICTURES, help="the folder; made if it is not there")
    folder = parser.parse_args(arguments).out
    folder.mkdir(parents=True, exist_ok=True)
    for style in STYLES:
        for index in range(COUNT):
            (folder / file_name(style, index)).write_bytes(encoded(render(style, index)))


# Painters of reliefs and patterns: (generator, index) -> (y, x, 3).


def _lit(height: Floats, strength: float, angle: float = -2.3) -> Floats:
    """Light on a relief from the side of an angle: 1 where it is flat."""
    down, across = np.gradient(height * np.float32(FINE))
    return np.asarray(1 + strength * (math.cos(angle) * across + math.sin(angle) * down), dtype=np.float32)


def _black_and_white(rng: Generator, index: int) -> Floats:
    down, across = grid()
    bend = fractal(rng, FINE, 3, 3) - 0.5
    if index == 0:  # zebra
        field = np.sin(2 * np.pi * (7 * across + 3.2 * bend + 1.2 * noise(rng, FINE, 2, 2)))
    elif index == 1:  # chequers
        field = 6 * np.sin(2 * np.pi * 4 * across) * np.sin(2 * np.pi * 4 * down)
    elif index == 2:  # dots
        y, x = (down * 7) % 1 - 0.5, (across * 7 + 0.5 * ((down * 7).astype(int) % 2)) % 1 - 0.5
        field = 6 * (np.sqrt(y**2 + x**2) - 0.34)
    elif index == 3:  # zigzag
        field = np.sin(2 * np.pi * (6 * down + 0.9 * np.abs((across * 4) % 1 - 0.5) * 2))
    else:  # cow
        field = 14 * (fractal(rng, FINE, 7, 7) - 0.5)
    white = step(np.asarray(field, dtype=np.float32) + np.zeros((FINE, FINE), np.float32), 0.35)
    paper = 0.94 + 0.06 * (fractal(rng, FINE, 4, 4) - 0.5)
    return np.asarray((0.04 + (paper - 0.04) * white)[..., None] * np.ones(3, np.float32) + speckle(rng, 0.012))


_STONES = [  # columns of stones, hue, saturation, darkest and brightest, how round
    (15, 0.1, 0.06, (0.3, 0.75), 0.5),
    (9, 0.075, 0.28, (0.35, 0.85), 1.0),
    (19, 0.6, 0.14, (0.2, 0.55), 0.35),
    (12, 0.12, 0.05, (0.72, 1.0), 0.6),
    (24, 0.05, 0.34, (0.3, 0.72), 0.45),
]


def _gravel(rng: Generator, index: int) -> Floats:
    columns, hue, saturation, (low, high), roundness = _STONES[index]
    layers = []
    for scale in (1.0, 1.7):  # large stones on top of small ones
        height, distance, number = stones(rng, FINE, round(columns * scale), round(columns * scale))
        dome = np.clip(height * (2.0 - roundness), 0, 1) ** (0.35 + 0.4 * roundness)
        size = FINE / columns / scale
        relief = (dome - 0.25 * distance * roundness) * np.float32(size / FINE / 2)
        rough = (fractal(rng, FINE, columns * 3, columns * 3) - 0.5) * np.float32(size / FINE / 6)
        count = columns**2 * 4
        tones = rng.uniform(low, high, size=count)[number % count]
        hues = hue + rng.normal(0, 0.02, size=count)
        tints = np.stack([hsv(h, max(0, saturation * rng.uniform(0.3, 1.6)), 1.0) for h in hues])[number % count]
        lit = np.clip(_lit(relief + rough, 0.45), 0.25, 1.6)
        joint = np.clip(height * 3.2, 0.12, 1)
        layers.append((tints * (tones * lit * joint)[..., None], number, height))
    (top, number, height), (below, _, _) = layers
    gone = rng.random(columns**2 * 4)[number % (columns**2 * 4)] < 0.3
    shown = np.where(gone, 0, step(height - 0.1, 0.1))
    return np.asarray(mix(below * 0.8, top, np.asarray(shown, dtype=np.float32)) + speckle(rng, 0.035))


def _snow(rng: Generator, index: int) -> Floats:
    down, across = grid()
    bumps = fractal(rng, FINE, 5, 5)
    fine = fractal(rng, FINE, 40, 40)
    flat = np.zeros((FINE, FINE), np.float32)
    if index == 0:  # soft drifts
        relief, strength = 0.10 * fractal(rng, FINE, 3, 2) + 0.006 * fine, 0.55
    elif index == 1:  # footprints
        relief, strength = 0.05 * bumps + 0.008 * fine, 0.5
        for k in range(7):
            y, x = 1.05 - k * 0.17, 0.42 + 0.05 * math.sin(k) + (0.14 if k % 2 else 0)
            for dy, stretch in ((0, 0.55), (0.055, 1.0)):
                hole = ((across - x) / 0.034) ** 2 + ((down - y - dy) / 0.05 * stretch) ** 2
                relief = relief - 0.030 * step(1.0 - hole + 0.3 * (fine - 0.5), 1.0)
    elif index == 2:  # ripples of the wind
        bend = fractal(rng, FINE, 3, 3)
        wave = np.sin(2 * np.pi * (9 * down + 3 * across + 2.2 * bend))
        relief, strength = 0.012 * (wave + 0.4 * np.abs(wave)) + 0.05 * bumps + 0.006 * fine, 0.5
    elif index == 3:  # powder, in clumps
        relief, strength = 0.035 * fractal(rng, FINE, 14, 14) + 0.05 * bumps + 0.012 * fine, 0.6
    else:  # tracks of skis
        relief, strength = 0.06 * fractal(rng, FINE, 3, 3) + 0.007 * fine, 0.55
        for x in (0.3, 0.39, 0.68, 0.77):
            bent = x + 0.35 * (down - 0.5) + 0.12 * np.sin(3 * down + x)
            relief = relief - 0.016 * step(0.017 - np.abs(across - bent) + flat, 0.012)
    light = np.clip(_lit(np.asarray(relief + flat, np.float32), strength), 0.45, 1.3)
    shadow, sun = hsv(0.59, 0.33, 0.66), hsv(0.1 if index % 2 else 0.58, 0.025, 1.0)
    painted = mix(shadow, sun, np.clip((light - 0.55) / 0.5, 0, 1))
    glitter = step(rng.random((FINE, FINE)).astype(np.float32) - 0.996, 0.002)
    return np.asarray(mix(painted, np.ones(3, np.float32), glitter) + speckle(rng, 0.018))


_BOARDS = [  # boards across, hue, saturation, value, stretch of the grain, knots, upright
    (4, 0.085, 0.5, 0.78, 26, 1, False),
    (3, 0.055, 0.62, 0.42, 34, 0, True),
    (3, 0.105, 0.42, 0.92, 18, 4, False),
    (6, 0.1, 0.1, 0.62, 40, 2, True),
    (8, 0.045, 0.7, 0.6, 30, 0, False),
]


def _wood(rng: Generator, index: int) -> Floats:
    boards, hue, saturation, value, lines, knots, upright = _BOARDS[index]
    down, across = grid()
    position = down * boards
    board = position.astype(int) + np.zeros((FINE, FINE), int)
    butts = rng.uniform(0.15, 0.85, size=boards)[board]
    piece = board * 2 + (across > butts)
    shift = rng.uniform(0, 9, size=2 * boards)[piece]
    along = np.asarray(across + shift, np.float32)
    warp = 0.25 * noise(rng, FINE, 3 * boards, 2) + 0.06 * noise(rng, FINE, 8 * boards, 5)
    rings = down * lines / 6 + 1.6 * warp + 0.5 * np.sin(1.2 * along) + shift
    for _ in range(knots):
        y, x = rng.uniform(0.1, 0.9, 2)
        away = np.sqrt(((down - y) * 2.4) ** 2 + (across - x) ** 2)
        rings = rings + 1.3 * np.exp(-((away / 0.09) ** 2)).astype(np.float32)
    grain = np.asarray(rings * 2 % 1, np.float32)
    grain = grain * step(0.93 - grain, 0.1)  # it darkens slowly, and begins anew at once, as year rings do
    fibres = noise(rng, FINE, FINE // 2, 5) * 0.6 + noise(rng, FINE, FINE // 4, 9) * 0.4
    tone = rng.uniform(0.82, 1.12, size=2 * boards)[piece]
    shade = tone * (1.08 - 0.3 * grain) * (0.86 + 0.24 * fibres)
    picture = hsv(hue, saturation, value) * np.asarray(shade, np.float32)[..., None]
    if index == 3:  # weathered: cracks
        cracks = step(noise(rng, FINE, FINE // 3, 3) - 0.86, 0.1)
        picture = mix(picture, picture * 0.45, cracks)
    edge = np.minimum(position % 1, 1 - position % 1) / boards
    seam = step(np.minimum(edge, np.abs(across - butts)) - 0.0035, 0.004)
    picture = mix(picture * 0.22, picture, seam) + speckle(rng, 0.012)
    return np.ascontiguousarray(np.swapaxes(picture, 0, 1)) if upright else picture


_PAINTERS: Mapping[str, Callable[[Generator, int], Floats]] = {
    "black and white": _black_and_white,
    "floral": floral,
    "fall colours": fall_colours,
    "furry": furry,
    "graffiti": graffiti,
    "gravel": _gravel,
    "snow": _snow,
    "wood": _wood,
}

if __name__ == "__main__":
    main()
