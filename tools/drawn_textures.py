"""Textures that are drawn with a pen: flowers, leaves, fur and graffiti, and what all renderers of textures share.

`textures.py` renders the images; the painters here are functions of a generator and an index that give (y, x, 3).
"""

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from rulepatch.playground.styles import Floats, fractal, hsv, mix, stones

__all__ = [
    "FINE",
    "SIDE",
    "fall_colours",
    "floral",
    "furry",
    "graffiti",
    "grid",
    "ink",
    "picture_of",
    "pixels_of",
    "speckle",
    "step",
]

SIDE = 256
"""Side of an image in pixels."""

FINE = 2 * SIDE
"""Side at which images are painted before they are reduced, so that edges are smooth."""


def picture_of(painted: NDArray[np.floating]) -> Image.Image:
    """The image of pixels (y, x, 3) or (y, x), 0..1."""
    return Image.fromarray((255 * painted.clip(0, 1)).round().astype(np.uint8))


def pixels_of(image: Image.Image) -> Floats:
    """The pixels (y, x, 3), 0..1, of an image."""
    return np.asarray(image.convert("RGB"), dtype=np.float32) / np.float32(255)


def ink(colour: Floats) -> tuple[int, int, int]:
    """A colour (3,), 0..1, as Pillow takes it."""
    red, green, blue = (int(value) for value in (255 * np.clip(colour, 0, 1)).round())
    return red, green, blue


def grid() -> tuple[Floats, Floats]:
    """Row and column of each pixel in 0..1, (y, 1) and (1, x)."""
    steps = (np.arange(FINE, dtype=np.float32) + np.float32(0.5)) / np.float32(FINE)
    return steps[:, None], steps[None]


def step(field: NDArray[np.floating], softness: float) -> Floats:
    """1 where a field is positive, 0 where it is negative, a ramp in between."""
    return np.asarray(np.clip(0.5 + field / softness, 0, 1), dtype=np.float32)


def speckle(rng: Generator, strength: float) -> Floats:
    """Independent noise for each pixel, (y, x, 1), mean 0."""
    return np.asarray(strength * rng.standard_normal((FINE, FINE, 1)), dtype=np.float32)


def _scattered(rng: Generator, count: int) -> NDArray[np.float64]:
    """Places in pixels, (count, 2), that keep away from each other: jittered cells in random order."""
    side = math.ceil(math.sqrt(count))
    cells = np.stack(np.meshgrid(np.arange(-1, side + 1), np.arange(-1, side + 1)), axis=-1).reshape(-1, 2)
    return np.asarray(rng.permutation((cells + rng.uniform(0.05, 0.95, size=cells.shape)) * (FINE / side)))


def _placed(
    outline: NDArray[np.float64], at: NDArray[np.float64], size: float, angle: float
) -> list[tuple[float, float]]:
    """An outline (points, 2) around 0, turned, enlarged and moved."""
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return [(float(x), float(y)) for x, y in outline @ turn * size + at]


_FLOWERS = [  # hue, its spread, saturation, petals, their width over their length, heart, ground, how many
    ((0.96, 0.03, 0.55), 5, 0.62, (0.14, 0.75, 0.95), (0.27, 0.35, 0.55), 40),
    ((0.13, 0.01, 0.04), 13, 0.26, (0.13, 0.9, 0.95), (0.32, 0.65, 0.42), 46),
    ((0.77, 0.06, 0.55), 6, 0.5, (0.14, 0.8, 0.98), (0.38, 0.6, 0.24), 60),
    ((0.125, 0.015, 0.9), 18, 0.24, (0.07, 0.75, 0.28), (0.55, 0.4, 0.75), 18),
    ((0.0, 0.03, 0.85), 6, 0.7, (0.12, 0.2, 0.12), (0.12, 0.16, 0.93), 26),
]


def floral(rng: Generator, index: int) -> Floats:
    """Flowers with petals and leaves, scattered."""
    (hue, spread, saturation), petals, width, heart, ground, count = _FLOWERS[index]
    base = mix(hsv(*ground) * 0.85, hsv(*ground), fractal(rng, FINE, 4, 4))
    picture = picture_of(base)
    draw = ImageDraw.Draw(picture)
    t = np.linspace(0, 2 * np.pi, 26)
    petal = np.stack([width * np.sin(t) / 2 * (1 + 0.35 * np.cos(t)), 0.5 + 0.5 * np.cos(t)], axis=1)
    radius = FINE / math.sqrt(count)
    leaf = np.stack([0.22 * np.sin(t), 0.5 - 0.5 * np.cos(t)], axis=1)
    green = (0.3 + rng.uniform(-0.02, 0.04), 0.55, 0.5)
    for place in _scattered(rng, 2 * count):
        angle, size = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.7, 1.1)
        colour = hsv(green[0] + rng.uniform(-0.04, 0.04), green[1], green[2] * rng.uniform(0.7, 1.2))
        draw.polygon(_placed(leaf, place, size, angle), fill=ink(colour), outline=ink(colour * 0.6), width=2)
        draw.line([tuple(place), _placed(np.array([[0, 1.0]]), place, size * 0.9, angle)[0]], ink(colour * 0.7), 2)
    for place in _scattered(rng, count):
        size, start = radius * rng.uniform(0.5, 0.72), rng.uniform(0, 2 * np.pi)
        colour = hsv(hue + rng.uniform(-spread, spread), saturation, rng.uniform(0.86, 1.0))
        for ring, scale in ((0, 1.0), (0.5, 0.66)) if petals < 10 or index == 3 else ((0, 1.0),):
            for k in range(petals):
                angle = start + 2 * np.pi * (k + ring) / petals + rng.uniform(-0.05, 0.05)
                shade = colour * (0.94 if ring == 0 else 1.04) * rng.uniform(0.93, 1.03)
                shape = _placed(petal, place, size * scale, angle)
                draw.polygon(shape, fill=ink(shade), outline=ink(shade * 0.72), width=2)
                vein = _placed(np.array([[0, 0.15], [0, 0.7]]), place, size * scale, angle)
                draw.line(vein, fill=ink(shade * 0.82), width=2)
        middle = hsv(*heart)
        r = size * (0.34 if index == 3 else 0.2)
        box = (place[0] - r, place[1] - r, place[0] + r, place[1] + r)
        draw.ellipse(box, fill=ink(middle), outline=ink(middle * 0.7), width=2)
        for dot in place + rng.uniform(-0.6, 0.6, size=(14, 2)) * r:
            draw.ellipse((dot[0] - 2, dot[1] - 2, dot[0] + 2, dot[1] + 2), fill=ink(middle * rng.uniform(0.6, 1.3)))
    return pixels_of(picture.filter(ImageFilter.GaussianBlur(0.7))) + speckle(rng, 0.01)


def _maple() -> NDArray[np.float64]:
    """A leaf with five pointed lobes, (points, 2), its stem at the bottom."""
    tips = [(90, 1.0), (38, 0.92), (-8, 0.62), (142, 0.92), (188, 0.62)]
    notches = [(64, 0.42), (14, 0.4), (116, 0.42), (166, 0.4)]
    teeth = [(a + s * 11, r * 0.72) for a, r in tips for s in (-1, 1)]
    corners = sorted([*tips, *notches, *teeth, (-60, 0.3), (240, 0.3), (-88, 0.12), (268, 0.12)])
    return np.array([(r * math.cos(math.radians(a)), -r * math.sin(math.radians(a))) for a, r in corners]) * 0.6


def _oval(width: float, waves: int = 0) -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, 60)
    edge = 1 + 0.16 * np.cos(waves * t) if waves else 1
    return np.stack([width * np.sin(t) * edge, -np.cos(t) * (1 - 0.15 * np.cos(t))], axis=1) * 0.6


_LEAVES = [  # outline, hues, value, how many, ground
    ("maple", (-0.02, 0.05), (0.6, 0.95), 70, (0.06, 0.6, 0.22)),
    ("oval", (0.1, 0.155), (0.75, 1.0), 230, (0.09, 0.7, 0.3)),
    ("oak", (0.035, 0.085), (0.4, 0.78), 110, (0.06, 0.5, 0.2)),
    ("maple", (-0.01, 0.16), (0.65, 1.0), 170, (0.25, 0.4, 0.25)),
    ("oval", (-0.03, 0.13), (0.6, 1.0), 620, (0.58, 0.28, 0.85)),
]


def fall_colours(rng: Generator, index: int) -> Floats:
    """Fallen leaves with veins, in layers."""
    kind, hues, values, count, ground = _LEAVES[index]
    outline = {"maple": _maple(), "oval": _oval(0.5), "oak": _oval(0.42, 7)}[kind]
    picture = picture_of(mix(hsv(*ground) * 0.7, hsv(*ground), fractal(rng, FINE, 6, 6)))
    for layer in range(2):
        shadow = Image.new("L", picture.size)
        leaves = Image.new("RGBA", picture.size)
        dark, draw = ImageDraw.Draw(shadow), ImageDraw.Draw(leaves)
        for place in _scattered(rng, count):
            size = 1.25 * FINE / math.sqrt(count) * rng.uniform(0.75, 1.15)
            angle = rng.uniform(0, 2 * np.pi)
            colour = hsv(rng.uniform(*hues), rng.uniform(0.75, 0.98), rng.uniform(*values) * (0.8 + 0.2 * layer))
            shape = _placed(outline, place, size, angle)
            dark.polygon([(x + 5, y + 6) for x, y in shape], fill=150)
            draw.polygon(shape, fill=ink(colour), outline=ink(colour * 0.62), width=2)
            ribs = [(0, 0.5, 0, -0.5)] + [(0, y, s * 0.28, y - 0.22) for y in (0.25, 0.05, -0.15) for s in (-1, 1)]
            for x0, y0, x1, y1 in ribs:
                line = _placed(np.array([[x0, y0], [x1, y1]]), place, size * 0.9, angle)
                draw.line(line, fill=ink(colour * rng.choice([0.72, 1.25])), width=2)
        picture.paste((22, 12, 8), mask=shadow.filter(ImageFilter.GaussianBlur(4)))
        picture.paste(leaves, mask=leaves.getchannel("A"))
    return (
        pixels_of(picture.filter(ImageFilter.GaussianBlur(0.6))) * (0.88 + 0.24 * fractal(rng, FINE, 3, 3))[..., None]
    )


_FURS = [  # hue, saturation, value of roots and tips, length, how straight it lies, pattern
    (0.07, 0.6, (0.16, 0.55), 46, 0.5, "plain"),
    (0.08, 0.12, (0.6, 1.0), 60, 0.9, "plain"),
    (0.1, 0.55, (0.45, 0.92), 26, 0.35, "spots"),
    (0.6, 0.06, (0.07, 0.5), 40, 1.2, "plain"),
    (0.062, 0.75, (0.4, 0.95), 40, 0.6, "tiger"),
]


def furry(rng: Generator, index: int) -> Floats:
    """Strands that follow a flow, dark at their roots."""
    hue, saturation, (root, tip), length, wave, pattern = _FURS[index]
    down, _ = grid()
    flow = 1.3 + wave * 2.2 * (fractal(rng, FINE, 2, 2) - 0.5) + 0.25 * index
    tone = fractal(rng, FINE, 4, 4)
    if pattern == "spots":
        _, distance, _ = stones(rng, FINE, 6, 6)
        tone = 1 - step(0.34 - distance, 0.1) * step(distance - 0.14, 0.1) * 0.9
    elif pattern == "tiger":
        tone = 1 - 0.92 * step(np.sin(2 * np.pi * (6 * down + 2.2 * fractal(rng, FINE, 3, 2))) - 0.45, 0.4)
    picture = Image.new("RGB", (FINE, FINE), ink(hsv(hue, saturation, root * 0.6)))
    draw = ImageDraw.Draw(picture)
    strands = 15000
    starts = rng.uniform(-0.1, 1.1, size=(strands, 2)) * FINE
    order = np.argsort(starts[:, 1] + rng.uniform(-90, 90, strands))[::-1]
    for rank, (x, y) in enumerate(starts[order]):
        row, column = (int(np.clip(value, 0, FINE - 1)) for value in (y, x))
        angle = float(flow[row, column]) + rng.normal(0, 0.16)
        level = rank % 100 / 100
        patterned = float(tone[row, column])
        value = (root + (tip - root) * level) * (
            0.7 + 0.4 * patterned if pattern == "plain" else 0.12 + 0.9 * patterned
        )
        colour = hsv(
            hue + rng.normal(0, 0.008), saturation * (1.1 - 0.35 * level), min(1, value * rng.uniform(0.85, 1.15))
        )
        reach, curl = length * rng.uniform(0.6, 1.2), rng.normal(0, 0.3)
        points = [(x, y)]
        for _ in range(3):
            points.append((points[-1][0] + reach / 3 * math.cos(angle), points[-1][1] + reach / 3 * math.sin(angle)))
            angle += curl
        draw.line(points, fill=ink(colour), width=2, joint="curve")
    return pixels_of(picture) + speckle(rng, 0.01)


_PIECES = [  # words, hues of fill and second fill, wall, tilt
    (("ZOK", "RUSH"), (0.93, 0.13), "brick", 9),
    (("WAVE", "OXO"), (0.52, 0.6), "concrete", -8),
    (("FRESH", "KRIS"), (0.28, 0.15), "dark", 6),
    (("BOOM", "TAG"), (0.06, 0.0), "white", -12),
    (("SKE8", "NEON"), (0.78, 0.5), "dark", 12),
]


def graffiti(rng: Generator, index: int) -> Floats:
    """Fat sprayed letters with outlines and drips, on a wall."""
    words, (first, second), wall, tilt = _PIECES[index]
    picture = picture_of(_wall(rng, wall))
    for _ in range(9):  # clouds of spray
        cloud = Image.new("L", (FINE, FINE))
        x, y, r = rng.uniform(0, FINE), rng.uniform(0, FINE), rng.uniform(40, 110)
        ImageDraw.Draw(cloud).ellipse((x - r, y - r, x + r, y + r), fill=int(rng.uniform(90, 200)))
        spray = np.asarray(cloud.filter(ImageFilter.GaussianBlur(r / 3)), dtype=np.float32) / 255
        spray = np.where(rng.random(spray.shape) < spray, np.maximum(spray, 0.6), spray * 0.5)
        picture.paste(ink(hsv(rng.uniform(0, 1), 0.8, 0.95)), mask=picture_of(spray))
    draw = ImageDraw.Draw(picture)
    for _ in range(5):  # tags: strokes of one sweep
        points = np.cumsum(rng.normal(0, 42, size=(9, 2)), axis=0) + rng.uniform(0.1, 0.9, 2) * FINE
        paint = ink(hsv(rng.uniform(), 0.9, rng.choice([0.1, 0.95])))
        draw.line(
            [tuple(point) for point in _smooth(points)], fill=paint, width=int(rng.integers(5, 11)), joint="curve"
        )
    for row, word in enumerate(words):
        middle = (FINE * rng.uniform(0.42, 0.58), FINE * (0.28 + 0.44 * row) + rng.uniform(-14, 14))
        _piece(rng, picture, word, middle, tilt + rng.uniform(-5, 5), (first, second) if row == 0 else (second, first))
    return pixels_of(picture.filter(ImageFilter.GaussianBlur(0.6))) + speckle(rng, 0.02)


def _wall(rng: Generator, kind: str) -> Floats:
    down, across = grid()
    base = {
        "brick": (0.03, 0.5, 0.55),
        "concrete": (0.1, 0.05, 0.62),
        "dark": (0.62, 0.3, 0.25),
        "white": (0.1, 0.06, 0.9),
    }
    painted = mix(hsv(*base[kind]) * 0.8, hsv(*base[kind]), fractal(rng, FINE, 5, 5))
    if kind == "brick":
        x = across * 7 + 0.5 * ((down * 16).astype(int) % 2)
        joint = np.minimum(np.minimum(down * 16 % 1, 1 - down * 16 % 1), 2.2 * np.minimum(x % 1, 1 - x % 1))
        painted = mix(np.array([0.7, 0.67, 0.62], np.float32), painted, step(joint - 0.08, 0.06))
    return painted


def _smooth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A curve through points, (n, 2), by cutting corners thrice."""
    for _ in range(3):
        points = np.stack([0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]], 1).reshape(
            -1, 2
        )
    return points


def _piece(
    rng: Generator, picture: Image.Image, word: str, middle: tuple[float, float], tilt: float, hues: tuple[float, float]
) -> None:
    """Spray a word in fat letters: shadow, outline, halo, a fill that fades, highlights and drips."""
    font = ImageFont.load_default(FINE * 0.86 / len(word) ** 0.85)

    def letters(stroke: int, shift: tuple[float, float] = (0, 0)) -> Image.Image:
        layer = Image.new("L", picture.size)
        pen = ImageDraw.Draw(layer)
        width = font.getlength(word)
        x = middle[0] - width / 2
        for k, letter in enumerate(word):
            at = (x + shift[0], middle[1] + shift[1] + (-1) ** k * 14)
            pen.text(at, letter, fill=255, font=font, anchor="lm", stroke_width=stroke)
            x += font.getlength(letter) * 0.97
        return layer.rotate(tilt, Image.Resampling.BICUBIC, center=middle)

    outline, fill = ink(hsv(0, 0, 0.05)), letters(9)
    for step in range(14, 0, -2):
        picture.paste(ink(hsv(hues[1], 0.85, 0.45)), mask=letters(17, (step * 1.3, step * 1.3)))
    picture.paste(ink(hsv(0, 0, 0.97)), mask=letters(23))
    picture.paste(outline, mask=letters(17))
    down, _ = grid()
    share = np.broadcast_to(np.clip((down - middle[1] / FINE) * 4 + 0.5, 0, 1), (FINE, FINE))
    picture.paste(picture_of(mix(hsv(hues[0], 0.85, 1.0), hsv(hues[1], 0.9, 0.95), share)), mask=fill)
    shine = np.asarray(letters(4), dtype=np.float32) * (1 - np.asarray(letters(4, (6, 7)), dtype=np.float32) / 255)
    picture.paste((255, 255, 255), mask=Image.fromarray(shine.astype(np.uint8)))
    draw, inside = ImageDraw.Draw(picture), np.argwhere(np.asarray(fill) > 200)
    for row, column in inside[rng.integers(0, len(inside), 7)]:
        reach = rng.uniform(30, 90)
        draw.line((column, row, column, row + reach), fill=ink(hsv(hues[0], 0.85, 0.95)), width=5)
        draw.ellipse((column - 4, row + reach - 4, column + 4, row + reach + 5), fill=ink(hsv(hues[0], 0.85, 0.95)))
