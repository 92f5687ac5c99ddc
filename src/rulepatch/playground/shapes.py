"""The vehicles of the embedded world as data: polygons in unit coordinates.

A vehicle faces right and is about 100 units long; y counts upwards from the ground, in the same units.
Every part is one filled polygon, and later parts cover earlier ones. A fill is a role (`body`, `glass`); its
colour is drawn for each scene.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rulepatch.playground.styles import Floats

__all__ = ["GLYPHS", "GROUPS", "SHAPES", "Part", "Shape"]


@dataclass(frozen=True)
class Part:
    """One filled polygon.

    Attributes:
        fill: what it is made of: `body`, `second` (another paint), `shaded` (body in shade), `glass`, `dark`,
            `light`, `lamp`, or the concept `wheels`; on a sign `ink` or `board`.
        points: array (corners, 2), float32, x and y in units.
    """

    fill: str
    points: Floats


@dataclass(frozen=True)
class Shape:
    """The side view of one kind of vehicle.

    Attributes:
        length: usual length in pixels of a 64-pixel image.
        parts: from back to front.
    """

    length: float
    parts: tuple[Part, ...]


def _points(text: str) -> Floats:
    return np.array(text.split(), dtype=np.float32).reshape(-1, 2)


def _polygon(fill: str, text: str) -> Part:
    return Part(fill, _points(text))


def _round(fill: str, text: str) -> Part:
    """Return a polygon with its corners cut twice (Chaikin), which rounds them."""
    points = _points(text)
    for _ in range(2):
        after = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * after, 0.25 * points + 0.75 * after], axis=1).reshape(-1, 2)
    return Part(fill, points)


def _ellipse(fill: str, x: float, y: float, across: float, up: float) -> Part:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    points = np.stack([x + across * np.cos(angles), y + up * np.sin(angles)], axis=1)
    return Part(fill, points.astype(np.float32))


def _wheel(x: float, radius: float) -> Part:
    return _ellipse("wheels", x, radius, radius, radius)


def _line(fill: str, width: float, text: str) -> tuple[Part, ...]:
    """Return a thick line through the points: one quadrilateral for each piece."""
    points = _points(text)
    pieces = []
    for start, end in pairwise(points):
        along = (end - start) / np.hypot(*(end - start)) * width / 2
        across = np.array([-along[1], along[0]], dtype=np.float32)
        start, end = start - along, end + along
        pieces.append(Part(fill, np.stack([start + across, end + across, end - across, start - across])))
    return tuple(pieces)


def _windows(fill: str, left: float, right: float, low: float, high: float, count: int) -> tuple[Part, ...]:
    """Return a row of equal panes."""
    pitch = (right - left) / count
    edges = [(left + i * pitch, left + (i + 0.78) * pitch) for i in range(count)]
    return tuple(_polygon(fill, f"{a} {low} {a} {high} {b} {high} {b} {low}") for a, b in edges)


_ROAD = {
    "car": Shape(
        46,
        (
            _round("body", "1 8 0 25 6 29 22 31 33 46 62 46 78 31 96 28 100 20 99 8"),
            _polygon("glass", "27 31 36 43 48 43 48 31"),
            _polygon("glass", "51 31 51 43 61 43 73 31"),
            _polygon("shaded", "2 9 2 14 98 14 98 9"),
            _ellipse("lamp", 96, 23, 3, 2.5),
            _wheel(20, 11),
            _wheel(79, 11),
        ),
    ),
    "taxi": Shape(
        45,
        (
            _round("body", "1 8 0 28 5 33 18 35 25 55 64 55 75 36 96 33 100 24 99 8"),
            _polygon("glass", "22 36 28 51 44 51 44 36"),
            _polygon("glass", "47 36 47 51 62 51 70 36"),
            _polygon("shaded", "2 9 2 14 98 14 98 9"),
            _ellipse("lamp", 95, 27, 3.5, 3.5),
            _wheel(20, 11),
            _wheel(80, 11),
        ),
    ),
    "van": Shape(
        48,
        (
            _round("body", "0 8 0 50 2 58 66 58 82 38 97 32 100 22 99 8"),
            _polygon("glass", "62 37 62 53 66 53 77 37"),
            _polygon("second", "1 24 1 31 97 31 99 24"),
            _polygon("shaded", "1 9 1 14 98 14 98 9"),
            *_line("shaded", 1.5, "58 15 58 54"),
            _ellipse("lamp", 97, 22, 2.5, 3),
            _wheel(19, 11),
            _wheel(80, 11),
        ),
    ),
    "bus": Shape(
        57,
        (
            _round("body", "0 8 0 48 1 53 99 53 100 46 100 8"),
            *_windows("glass", 4, 84, 30, 46, 5),
            _polygon("glass", "86 12 86 46 97 46 98 12"),
            _polygon("second", "1 22 1 26 84 26 84 22"),
            _polygon("shaded", "1 9 1 13 99 13 99 9"),
            _wheel(19, 9),
            _wheel(74, 9),
        ),
    ),
    "truck": Shape(
        54,
        (
            _polygon("dark", "2 9 2 15 98 15 98 9"),
            _polygon("second", "0 16 0 66 66 66 66 16"),
            *_line("shaded", 1.5, "22 18 22 64"),
            *_line("shaded", 1.5, "44 18 44 64"),
            _round("body", "70 10 70 54 86 54 96 34 100 30 99 10"),
            _polygon("glass", "78 34 78 49 85 49 92 34"),
            _wheel(13, 10),
            _wheel(36, 10),
            _wheel(84, 10),
        ),
    ),
    "pickup": Shape(
        50,
        (
            _round("body", "0 10 0 31 41 31 42 32 46 50 66 50 78 33 97 30 100 22 99 10"),
            _polygon("dark", "2 28 2 32 40 32 40 28"),
            _polygon("glass", "48 33 51 46 64 46 73 33"),
            _polygon("shaded", "2 10 2 14 98 14 98 10"),
            *_line("shaded", 1.5, "43 14 43 31"),
            _ellipse("lamp", 97, 25, 2.5, 2.5),
            _wheel(19, 12),
            _wheel(80, 12),
        ),
    ),
    "tanker": Shape(
        56,
        (
            _polygon("dark", "2 9 2 16 98 16 98 9"),
            _ellipse("second", 8, 34, 8, 17),
            _ellipse("second", 60, 34, 8, 17),
            _polygon("second", "8 17 8 51 60 51 60 17"),
            _polygon("light", "6 40 6 45 62 45 62 40"),
            *_line("shaded", 1.6, "22 18 22 50"),
            *_line("shaded", 1.6, "46 18 46 50"),
            _polygon("dark", "30 50 30 55 38 55 38 50"),
            _round("body", "73 10 73 52 87 52 95 34 100 30 99 10"),
            _polygon("glass", "79 33 79 47 86 47 92 33"),
            _wheel(12, 10),
            _wheel(34, 10),
            _wheel(84, 10),
        ),
    ),
    "motorcycle": Shape(
        36,
        (
            _wheel(19, 19),
            _wheel(81, 19),
            *_line("dark", 5, "19 19 46 24 60 38"),
            *_line("light", 4, "81 19 68 56 58 60"),
            _polygon("dark", "36 14 34 32 58 34 60 14"),
            _round("body", "36 40 42 55 66 54 70 42 56 36"),
            _round("second", "4 44 8 50 42 46 42 38 20 40"),
            *_line("light", 4, "8 14 40 15"),
            _ellipse("lamp", 75, 50, 5, 5),
            *_line("body", 4, "66 38 82 42 96 36"),
        ),
    ),
    "wagon": Shape(
        48,
        (
            _round("second", "6 34 -4 76 14 84 34 78 66 78 86 84 104 76 94 34"),
            *_line("light", 2, "20 36 14 78"),
            *_line("light", 2, "40 36 38 76"),
            *_line("light", 2, "60 36 62 76"),
            *_line("light", 2, "80 36 86 78"),
            _polygon("body", "4 20 2 38 98 38 96 20"),
            *_line("shaded", 2, "3 29 97 29"),
            *_line("dark", 3, "90 18 108 14"),
            _wheel(20, 18),
            _wheel(80, 15),
        ),
    ),
    "cart": Shape(
        44,
        (
            _round("second", "6 44 12 66 34 70 46 62 60 68 74 44"),
            _polygon("body", "6 24 0 52 82 52 76 24"),
            *_line("shaded", 2, "3 38 79 38"),
            *_line("shaded", 2, "2 46 80 46"),
            *_line("dark", 4, "70 28 106 42"),
            *_line("dark", 4, "72 26 76 2"),
            _wheel(36, 23),
        ),
    ),
}

_SNOW = {
    "snowmobile": Shape(
        46,
        (
            _round("dark", "4 0 0 8 6 18 52 18 62 8 56 0"),
            *_line("light", 3, "8 4 52 4"),
            _round("second", "6 22 4 30 14 36 46 34 48 22"),
            _round("body", "30 14 40 32 56 36 64 42 80 34 98 20 90 12"),
            _polygon("glass", "62 38 52 58 56 60 80 34"),
            *_line("dark", 3, "56 36 46 46"),
            *_line("dark", 3, "78 14 74 3"),
            *_line("dark", 4, "60 2 90 2 104 10"),
            _ellipse("lamp", 90, 23, 4, 3),
        ),
    ),
    "snowbike": Shape(
        38,
        (
            _round("dark", "-8 0 -12 8 6 24 40 20 52 4 48 0"),
            *_line("light", 3, "2 5 42 5"),
            *_line("dark", 5, "22 18 46 26 60 38"),
            *_line("light", 4, "84 6 68 56 58 60"),
            *_line("dark", 4, "66 2 98 2 108 10"),
            _polygon("dark", "38 16 36 32 58 34 60 16"),
            _round("body", "36 40 42 55 66 54 70 42 56 36"),
            _round("second", "4 44 8 50 42 46 42 38 20 40"),
            _ellipse("lamp", 75, 50, 5, 5),
            *_line("body", 4, "66 38 82 42 96 36"),
        ),
    ),
    "sleigh": Shape(
        44,
        (
            *_line("dark", 4, "4 3 88 3 100 10 102 24 94 30"),
            *_line("dark", 3, "24 3 28 20"),
            *_line("dark", 3, "70 3 66 20"),
            _round("body", "2 22 -8 76 10 70 16 46 40 38 62 40 74 58 86 66 84 40 76 16 20 14"),
            _polygon("second", "18 40 18 48 44 46 44 38"),
            *_line("light", 2.5, "8 28 76 26"),
        ),
    ),
    "snowcat": Shape(
        46,
        (
            _round("dark", "2 0 -4 12 6 26 84 26 94 12 86 0"),
            *(_ellipse("light", x, 12, 6, 6) for x in (12, 32, 54, 76)),
            _round("body", "2 24 0 60 6 68 62 68 78 48 92 42 96 24"),
            _polygon("glass", "58 46 58 63 62 63 74 46"),
            *_windows("glass", 10, 54, 46, 60, 2),
            _polygon("second", "2 32 2 38 94 38 95 32"),
        ),
    ),
    "snowplow": Shape(
        50,
        (
            _polygon("dark", "2 9 2 16 90 16 90 9"),
            _polygon("second", "0 18 -4 48 58 48 54 18"),
            *_line("shaded", 1.5, "18 20 17 46"),
            *_line("shaded", 1.5, "38 20 38 46"),
            _round("body", "60 10 60 54 78 54 88 36 92 30 91 10"),
            _polygon("glass", "68 35 68 49 77 49 84 35"),
            _ellipse("lamp", 70, 56, 4, 3),
            *_line("dark", 3, "88 14 98 14"),
            _round("second", "98 2 94 16 98 32 108 36 102 18 108 2"),
            _wheel(14, 10),
            _wheel(76, 10),
        ),
    ),
}

_WATER = {
    "sailboat": Shape(
        40,
        (
            *_line("dark", 3, "50 12 50 112"),
            _polygon("second", "46 22 46 110 4 24"),
            _polygon("light", "54 22 54 100 92 22"),
            _round("body", "0 18 12 -2 84 -2 104 20"),
            _polygon("shaded", "6 12 6 15 96 15 96 12"),
        ),
    ),
    "rowboat": Shape(
        48,
        (
            _round("second", "38 12 36 40 42 46 52 46 58 38 56 12"),
            _ellipse("light", 49, 53, 7, 8),
            _round("body", "-4 26 8 -2 88 -2 106 28 50 18"),
            *_line("shaded", 2, "8 12 92 12"),
            *_line("dark", 3, "50 36 64 26 34 0"),
        ),
    ),
    "steamboat": Shape(
        54,
        (
            _polygon("second", "34 44 34 66 46 66 46 44"),
            _polygon("dark", "33 62 33 68 47 68 47 62"),
            _polygon("light", "14 18 14 34 80 34 80 18"),
            _polygon("light", "24 34 24 46 72 46 72 34"),
            *_windows("glass", 18, 80, 22, 30, 6),
            *_windows("glass", 54, 72, 37, 43, 2),
            _round("body", "0 20 6 -2 90 -2 106 24 60 18"),
            *_line("second", 2.5, "6 9 95 9"),
        ),
    ),
}

_GRASS = {
    "tractor": Shape(
        42,
        (
            *_line("dark", 3, "70 40 70 64"),
            _polygon("glass", "18 42 22 72 50 72 54 42"),
            *_line("body", 4, "18 42 22 74"),
            *_line("body", 4, "54 42 50 74"),
            _polygon("body", "14 72 14 78 56 78 56 72"),
            _round("body", "20 22 20 44 56 48 94 44 98 24 60 18"),
            _polygon("shaded", "62 24 62 36 92 35 92 24"),
            _ellipse("lamp", 95, 36, 3, 3.5),
            _wheel(26, 25),
            _wheel(82, 14),
        ),
    ),
    "mower": Shape(
        40,
        (
            *_line("dark", 4, "44 20 4 72 -4 72"),
            _round("body", "30 6 30 26 48 30 96 28 104 6"),
            _polygon("second", "52 28 54 44 80 44 82 28"),
            _ellipse("dark", 67, 46, 10, 5),
            _polygon("dark", "8 6 14 30 34 26 32 8"),
            _wheel(40, 11),
            _wheel(92, 11),
        ),
    ),
    "combine": Shape(
        52,
        (
            *_line("second", 5, "24 60 4 66"),
            _polygon("body", "4 20 2 48 10 60 56 60 58 20"),
            _polygon("shaded", "8 30 8 38 50 38 50 30"),
            _polygon("glass", "58 30 58 62 74 62 80 30"),
            _polygon("body", "56 60 56 66 76 66 76 60"),
            _polygon("second", "58 20 58 32 82 30 90 10 78 10"),
            _ellipse("light", 94, 16, 11, 14),
            *_line("dark", 2.5, "84 10 104 22"),
            *_line("dark", 2.5, "84 22 104 10"),
            *_line("dark", 2.5, "94 3 94 29"),
            _wheel(62, 18),
            _wheel(16, 11),
        ),
    ),
}

_SAND = {
    "buggy": Shape(
        44,
        (
            _round("body", "2 16 0 34 22 38 60 32 98 28 104 18 90 14"),
            *_line("second", 4, "12 36 30 62 58 62 74 32"),
            *_line("second", 4, "42 34 44 62"),
            _round("dark", "32 32 28 50 36 52 42 34"),
            _ellipse("lamp", 92, 30, 4, 4),
            _wheel(18, 18),
            _wheel(82, 16),
        ),
    ),
    "quad": Shape(
        36,
        (
            _round("dark", "22 44 24 56 58 54 58 42"),
            _polygon("dark", "34 16 34 40 66 40 66 16"),
            *_line("dark", 4, "70 44 60 68 52 70"),
            _round("body", "-4 34 2 50 32 48 44 36 30 40"),
            _round("body", "54 38 66 54 86 52 106 36 80 42"),
            _ellipse("lamp", 92, 48, 4.5, 4),
            _wheel(18, 19),
            _wheel(82, 19),
        ),
    ),
}

GROUPS: Mapping[str, Mapping[str, Shape]] = {
    "road": _ROAD,
    "snow": _SNOW,
    "water": _WATER,
    "grass": _GRASS,
    "sand": _SAND,
}
"""The vehicles of each ground of the training world."""

SHAPES: Mapping[str, Shape] = {label: shape for group in GROUPS.values() for label, shape in group.items()}
"""The shape of each class."""

GLYPHS: Mapping[str, tuple[Part, ...]] = {
    "letter": (_polygon("ink", "16 86 16 68 40 68 40 14 60 14 60 68 84 68 84 86"),),
    "cross": (*_line("ink", 16, "24 24 76 76"), *_line("ink", 16, "24 76 76 24")),
    "ring": (_ellipse("ink", 50, 50, 36, 36), _ellipse("board", 50, 50, 17, 17)),
    "bars": (
        *_line("ink", 14, "20 28 80 28"),
        *_line("ink", 14, "20 50 80 50"),
        *_line("ink", 14, "20 72 80 72"),
    ),
    "blank": (),
}
"""What is written on a sign, on a board of 100 by 100 units."""
