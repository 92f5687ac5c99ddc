"""Scenes as the rest of rulepatch takes them: sets of images, and exemplars with exact masks."""

import json
from collections.abc import Iterable

from PIL import Image

from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.errors import ImageError, SettingError
from rulepatch.forms import checked
from rulepatch.images import NOTE
from rulepatch.playground.scenes import CLASSES, DEFAULT, Scene, default_style, render
from rulepatch.playground.worlds import SHORTCUTS, sample
from rulepatch.reading import parse_json

__all__ = ["exemplar", "image_set", "picture_of", "scene_of", "training_images"]

_SCENE = f"{NOTE}scene"
_FORM = {
    "label": str, "seed": int, "styles": {"ground": str, "wheels?": str, "sign?": (str, None)},
    "ground_seed": (int, None),
}  # fmt: skip


def picture_of(scene: Scene) -> Image.Image:
    """A scene's image, which carries what it takes to render the scene again, also into a PNG file.

    Returns:
        The image, RGB.
    """
    image = Image.fromarray(scene.image)
    image.info[_SCENE] = json.dumps(
        {"label": scene.label, "seed": scene.seed, "styles": dict(scene.styles), "ground_seed": scene.ground_seed}
    )
    return image


def scene_of(image: Image.Image, name: str = "an image in memory") -> Scene:
    """The scene that an image shows, rendered again from what the image carries.

    Args:
        image: as `picture_of` makes it, or read back from a PNG file.
        name: of the image, for messages.

    Raises:
        ImageError: the image carries no scene, or was changed since it was rendered.

    Examples:
        >>> scene = render("van", seed=3, ground="snow", ground_seed=7)
        >>> scene_of(picture_of(scene)).styles["ground"]
        'snow'
    """
    note = image.info.get(_SCENE)
    if note is None:
        raise ImageError(
            f"expected an image of the playground, which carries its scene, but {name} carries none; "
            "make it with playground.pictures, and keep it as PNG"
        )
    told = parse_json(note, name, ImageError, what="a scene of the playground")
    checked(told, _FORM, f"the scene of {name}", ImageError, advice="make the image again")
    styles = told["styles"]
    try:
        scene = render(
            told["label"],
            seed=told["seed"],
            ground=styles["ground"],
            wheels=styles.get("wheels", DEFAULT),
            sign=styles.get("sign"),
            ground_seed=told["ground_seed"],
        )
    except SettingError as error:
        raise ImageError(
            f"expected a scene of the playground in {name} but it cannot be rendered ({error}); make the image again"
        ) from None
    if image.size != scene.image.shape[1::-1] or Image.fromarray(scene.image).tobytes() != image.tobytes():
        raise ImageError(
            f"expected {name} as its scene is rendered but its pixels differ; take the image before it was changed"
        )
    return scene


def image_set(scenes: Iterable[Scene], name: str) -> ImageSet:
    """Scenes as a set of labelled images.

    Args:
        scenes: the scenes.
        name: of the set.

    Returns:
        The set; labels are indices into `scenes.CLASSES`.
    """
    return ImageSet(tuple(Picture(picture_of(scene), CLASSES.index(scene.label)) for scene in scenes), name)


def training_images(count: int, *, seed: int) -> ImageSet:
    """Fresh images of the world that the playground's classifier was trained in.

    Args:
        count: how many.
        seed: which.

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
        picture_of(original),
        picture_of(edited),
        edited.masks[changed],
        label=label,
        concept=original.styles.get(changed, changed),
        replacement=edited.styles[changed],
        name=f"{label} {seed}",
    )
