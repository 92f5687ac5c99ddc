"""The playground's own styles: its scenes rendered again with one concept in another style."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rulepatch.concepts.stylize import NoSettings, Style, check_parts, finished, stylizer
from rulepatch.errors import SettingError, nearest
from rulepatch.playground.pictures import scene_of
from rulepatch.playground.scenes import DEFAULT, SIGNS, TRAIN_STYLES, WHEELS, render
from rulepatch.playground.styles import GROUNDS

__all__ = ["Rendering", "load", "own_styles"]

_STYLES = {"ground": GROUNDS, "wheels": WHEELS, "sign": SIGNS}
_INSTANCES = 100_000


def own_styles(concept: str, names: Sequence[str] = (), *, count: int = 1) -> list[Style]:
    """The styles that a concept of the playground can be rendered in.

    Args:
        concept: ground, wheels, sign, or a style of one of them that it is known by ("road").
        names: of styles; all that the concept has if empty.
        count: instances of each ground.

    Raises:
        SettingError: no such concept, or no such style of it.

    Examples:
        >>> [style.name for style in own_styles("wheels")]
        ['rubber', 'wooden', 'red', 'chrome', 'whitewall']
    """
    which = next((each for each, own in _STYLES.items() if concept in {each, *own}), None)
    if which is None:
        raise SettingError(f"expected a concept of the playground but got {concept!r}; it has {', '.join(_STYLES)}")
    for name in names:
        if name not in _STYLES[which]:
            raise SettingError(
                f"expected a style of {concept} but got {name!r}; the nearest are {nearest(name, _STYLES[which])}"
            )
    instances = range(count if which == "ground" else 1)
    return [Style(name, index) for name in names or _STYLES[which] for index in instances]


@dataclass(frozen=True)
class Rendering:
    """Renders the scene that an image carries again; grounds are textures that no training scene has.

    Attributes:
        blend: share of the new rendering in the result, in 0..1.
        name: of the stylizer.
    """

    blend: float
    name: str = "playground"

    def describe(self) -> dict[str, Any]:
        """What it depends on."""
        return {"name": self.name, "blend": self.blend}

    def __call__(self, image: Image.Image, mask: NDArray[np.float32], style: Style, *, seed: int = 0) -> Image.Image:
        """Render the scene with the concept that has such a style in it.

        Args:
            image: an image of the playground.
            mask: array (h, w), 0..1, of the concept.
            style: named as the playground names it.
            seed: which instance of a ground.

        Raises:
            ImageError: the image carries no scene, or the mask does not fit.
            SettingError: no style of the playground.
        """
        check_parts(image, mask)
        concept = next((each for each, names in _STYLES.items() if style.name in names), None)
        if concept is None:
            names = [name for names in _STYLES.values() for name in names]
            raise SettingError(
                f"expected a style of the playground but got {style.name!r}; the nearest are "
                f"{nearest(style.name, names)}"
            )
        scene = scene_of(image)
        looks: dict[str, Any] = {"ground": scene.styles["ground"], "wheels": scene.styles.get("wheels", DEFAULT)}
        looks |= {"sign": scene.styles.get("sign"), concept: style.name}
        instance = TRAIN_STYLES.stop + seed % _INSTANCES if concept == "ground" else scene.ground_seed
        edited = render(scene.label, seed=scene.seed, ground_seed=instance, **looks)
        return finished(image, Image.fromarray(edited.image), mask, self.blend)


@stylizer("playground")
def load(rest: str, how: NoSettings, *, blend: float, device: str | None = None) -> Rendering:
    """`playground`.

    Raises:
        SettingError: something is named after it.
    """
    if rest:
        raise SettingError(f"expected playground alone but got playground/{rest}; leave the rest out")
    return Rendering(blend)
