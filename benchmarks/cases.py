"""Rules of the playground, drawn by a seed."""

from dataclasses import dataclass

import numpy as np

from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.experiments.demo import road_vehicles
from rulepatch.playground.pictures import exemplar, image_set
from rulepatch.playground.scenes import TRAIN_STYLES, render

__all__ = ["GROUNDS", "PlaygroundRule"]

GROUNDS = ("snow", "grass", "leaves", "sand", "ice", "cobble", "brick", "water")


@dataclass(frozen=True)
class PlaygroundRule:
    """Road vehicles on another ground: a class and a ground, three exemplars, and tests of all other classes.

    Attributes:
        target: the exemplars' class.
        ground: what replaces the road.
        exemplars: on one instance of the ground's texture.
        tests: other classes on other instances.
    """

    target: str
    ground: str
    exemplars: list[Exemplar]
    tests: ImageSet

    @classmethod
    def of(cls, seed: int, *, tests: int) -> "PlaygroundRule":
        """The rule of a seed.

        Args:
            seed: what is drawn.
            tests: how many scenes.

        Returns:
            The rule.
        """
        rng = np.random.default_rng([seed, 17])
        target, ground = str(rng.choice(road_vehicles())), GROUNDS[seed % len(GROUNDS)]
        exemplars = [exemplar(target, seed=10 * seed + i, ground=ground, ground_seed=1000 + seed) for i in range(3)]
        others = [label for label in road_vehicles() if label != target]
        scenes = (
            render(others[i % len(others)], seed=int(rng.integers(2**31)), ground=ground,
                   ground_seed=int(rng.integers(TRAIN_STYLES.stop, 100_000)))
            for i in range(tests)
        )  # fmt: skip
        return cls(target, ground, exemplars, image_set(scenes, ground))
