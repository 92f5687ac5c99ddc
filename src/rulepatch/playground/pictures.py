"""Scenes as the rest of rulepatch takes them: sets of pictures, and exemplars with exact masks."""

from collections.abc import Iterable

from PIL import Image

from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.playground.scenes import CLASSES, DEFAULT, Scene, default_style, render
from rulepatch.playground.worlds import SHORTCUTS, sample

__all__ = ["exemplar", "image_set", "training_images"]


def image_set(scenes: Iterable[Scene], name: str) -> ImageSet:
    """Scenes as a set of labelled pictures.

    Args:
        scenes: the scenes.
        name: of the set.

    Returns:
        The set; labels are indices into `scenes.CLASSES`.
    """
    return ImageSet(tuple(Picture(Image.fromarray(scene.image), CLASSES.index(scene.label)) for scene in scenes), name)


def training_images(count: int, *, seed: int) -> ImageSet:
    """Fresh pictures of the world that the playground's classifier was trained in.

    Args:
        count: how many.
        seed: which.

    Returns:
        The set.

    Examples:
        >>> len(training_images(3, seed=0))
        3
    """
    return image_set(sample(SHORTCUTS, seed, count), f"{count} scenes of the training world")


def exemplar(
    label: str,
    *,
    seed: int,
    ground: str = DEFAULT,
    wheels: str = DEFAULT,
    sign: str | None = DEFAULT,
    ground_seed: int | None = None,
) -> Exemplar:
    """A scene of the training world, its counterpart with one concept in another style, and the concept's exact mask.

    Args:
        label: one of `scenes.CLASSES`.
        seed: which scene.
        ground: the other style, if the concept is the ground.
        wheels: the other style, if the concept is the wheels.
        sign: the other style, if the concept is the sign.
        ground_seed: which instance of the other ground's texture; one that follows from the seed if None.

    Returns:
        The exemplar.

    Examples:
        >>> found = exemplar("van", ground="snow", seed=1)
        >>> found.concept, found.replacement, found.label
        ('road', 'snow', 'van')
    """
    edited = render(label, seed=seed, ground=ground, wheels=wheels, sign=sign, ground_seed=ground_seed)
    original = render(label, seed=seed)
    changed = next(
        (concept for concept, style in edited.styles.items() if style != default_style(label, concept)), "ground"
    )
    return Exemplar(
        Image.fromarray(original.image),
        Image.fromarray(edited.image),
        edited.masks[changed],
        label=label,
        concept=original.styles.get(changed, changed),
        replacement=edited.styles[changed],
        name=f"{label} {seed}",
    )
