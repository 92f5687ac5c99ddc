"""Draw the images of the documentation: `python docs/make_pictures.py`, or with names of some of them."""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

import rulepatch as rp
from rulepatch.concepts.stylize import load_stylizer
from rulepatch.concepts.stylize import styles as all_styles
from rulepatch.experiments.demo import GATE, RANK, SITE, STRENGTH, scenes_on_snow
from rulepatch.playground.pictures import exemplar, image_set, training_images
from rulepatch.thumbnails import marked

PICTURES = Path(__file__).parent / "pictures"
WRONG, RIGHT = "#c22f3d", "#17804d"
SHOWN = ("car", "bus", "truck", "tanker", "motorcycle", "cart")


def show(axes: Axes, picture: Image.Image, title: str, colour: str = "black") -> None:
    """An image with a line of text under it."""
    axes.imshow(picture, interpolation="nearest")
    axes.set_xlabel(title, color=colour, fontsize=9)
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


def before_after() -> None:
    """One exemplar, and what the classifier says of other vehicles on snow before and after the edit."""
    model, one = rp.load_model("playground"), exemplar("van", ground="snow", seed=0)
    reference = training_images(500, seed=1)
    edit = rp.rewrite(model, [one], reference=reference, site=SITE, rank=RANK, strength=STRENGTH, gate=GATE, cache=None)
    tests = image_set(scenes_on_snow(40, seed=0), "vehicles on snow")
    found = rp.evaluate(model, edit, tests=tests).tests
    assert found is not None
    repaired = {model.classes[found.labels[i]]: found[i] for i in reversed(found.repaired.tolist())}

    figure = plt.figure(figsize=(9, 4.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.12])
    upper.suptitle("One exemplar: treat this snow as you treat road", fontsize=11, fontweight="bold")
    shown = [
        (one.image, "the image"),
        (marked(one.image, one.mask), "road, marked"),
        (one.edited, "snow in its place"),
    ]
    grid = upper.subplots(1, 6)
    for axes, (picture, title) in zip(grid[1:4], shown, strict=True):
        show(axes, picture, title)
    for axes in (grid[0], grid[4], grid[5]):
        axes.axis("off")
    assert found.before is not None and found.after is not None
    numbers = f"{found.before:.1%} → {found.after:.1%} of {len(found)} vehicles on snow are right"
    lower.suptitle(f"In every class: {numbers}", fontsize=11, fontweight="bold")
    for axes, label in zip(lower.subplots(1, 6), SHOWN, strict=True):
        outcome = repaired[label]
        assert isinstance(outcome.picture.source, Image.Image)
        show(axes, outcome.picture.source, f"was {model.classes[outcome.before]} {outcome.confidence[0]:.0%}", WRONG)
        after = f"now {model.classes[outcome.after]} {outcome.confidence[1]:.0%}"
        axes.text(0.5, -0.17, after, transform=axes.transAxes, ha="center", va="top", color=RIGHT, fontsize=9)
    figure.savefig(PICTURES / "before-after.png", dpi=130, facecolor="white")


def dahlia() -> tuple[Image.Image, np.ndarray]:
    """The photograph of a flower that comes with scikit-learn, and where the flower is, (h, w), 0..1."""
    photograph = Image.fromarray(load_sample_image("flower.jpg")).resize((224, 224), box=(140, 60, 480, 400))
    red, _, blue = photograph.split()
    warm = Image.fromarray(np.where(np.asarray(red, int) - np.asarray(blue, int) > 45, 255, 0).astype(np.uint8)).copy()
    ImageDraw.floodfill(warm, (72, 109), 128)
    found = Image.fromarray((np.asarray(warm) == 128).astype(np.uint8) * 255)
    outside = Image.new("L", (found.width + 2, found.height + 2))
    outside.paste(found, (1, 1))
    ImageDraw.floodfill(outside, (0, 0), 128)  # what it does not reach lies within the flower
    return photograph, (np.asarray(outside)[1:-1, 1:-1] != 128).astype(np.float32)


def styles() -> None:
    """Every style on a real photograph, by `paste`."""
    photograph, mask = dahlia()
    paste, firsts = load_stylizer("paste"), [style for style in all_styles() if style.index == 0]
    figure, grid = plt.subplots(3, 3, figsize=(7.2, 7.6), layout="constrained")
    show(grid[0, 0], marked(photograph, mask), "the photograph, its mask")
    for axes, style in zip(grid.flat[1:], firsts, strict=True):
        show(axes, paste(photograph, mask, style), style.name)
    figure.savefig(PICTURES / "styles.jpg", dpi=110, facecolor="white", pil_kwargs={"quality": 82})


def textures() -> None:
    """All images of all styles."""
    figure, grid = plt.subplots(8, 5, figsize=(5.6, 9), layout="constrained")
    for axes, style in zip(grid.flat, all_styles(), strict=True):
        assert style.picture is not None
        show(axes, style.picture, "")
        if style.index == 0:
            axes.set_ylabel(style.name, fontsize=8)
    figure.savefig(PICTURES / "textures.jpg", dpi=110, facecolor="white", pil_kwargs={"quality": 80})


if __name__ == "__main__":
    drawings = {"before-after": before_after, "styles": styles, "textures": textures}
    for name in sys.argv[1:] or drawings:
        drawings[name]()
