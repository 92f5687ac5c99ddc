"""Distributions of scenes: which class stands on what, on which wheels, under which sign.

In the training world three things always come with the class, so that a network may learn them as rules:
road vehicles stand on road (snowmobiles on snow, and so on), only wagons and carts have wooden wheels, and
only a taxi has a sign.
"""

from collections.abc import Iterator, Sequence, Set

import numpy as np
from numpy.random import Generator

from rulepatch.errors import SettingError, nearest
from rulepatch.playground.scenes import CLASSES, CONCEPTS, DEFAULT, SIGNS, WHEELS, Scene, render
from rulepatch.playground.shapes import GROUPS

__all__ = ["SHORTCUTS", "sample"]

SHORTCUTS = frozenset(CONCEPTS)
"""The three planted shortcuts, all of them present in the training world."""


def sample(shortcuts: Set[str], seed: int, count: int, *, classes: Sequence[str] = CLASSES) -> Iterator[Scene]:
    """Render scenes of random classes.

    Args:
        shortcuts: concepts whose style is that of the class, a subset of `SHORTCUTS`; the style of any other
            concept is drawn independently of the class.
        seed: which scenes, at least 0; worlds with other shortcuts differ in nothing else.
        count: how many, at least 0.
        classes: which classes, a subset of `scenes.CLASSES`.

    Yields:
        One scene after the other.

    Raises:
        SettingError: a shortcut or class is unknown, or there is no class.

    Examples:
        >>> scenes = sample({"ground", "sign"}, seed=0, count=20, classes=["car", "van"])
        >>> {scene.styles["ground"] for scene in scenes}
        {'road'}
    """
    for name in (*(shortcuts - SHORTCUTS), *(set(classes) - set(CLASSES))):
        options = (*CONCEPTS, *CLASSES)
        raise SettingError(f"expected shortcuts and classes but got {name!r}; try {nearest(name, options)}")
    if not classes or seed < 0:
        raise SettingError(
            f"expected a class and a seed of at least 0 but got {list(classes)} and {seed}; add or raise it"
        )
    rng = np.random.default_rng(seed)
    for _ in range(count):
        label = _any_of(classes, rng)
        ground, wheels, sign = _any_of(tuple(GROUPS), rng), _any_of(WHEELS, rng), _any_sign(rng)
        yield render(
            label,
            seed=int(rng.integers(2**31)),
            ground=DEFAULT if "ground" in shortcuts else ground,
            wheels=DEFAULT if "wheels" in shortcuts else wheels,
            sign=DEFAULT if "sign" in shortcuts else sign,
        )


def _any_of(options: Sequence[str], rng: Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _any_sign(rng: Generator) -> str | None:
    """Return a sign for every third scene."""
    style = _any_of(SIGNS, rng)
    return style if rng.uniform() < 1 / 3 else None
