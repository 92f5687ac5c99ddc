"""The report of an inversion: curves, similarity maps, images rebuilt (thesis figs. 3-4 to 3-9)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rulepatch.escaping import json_text
from rulepatch.evaluation.page import THUMBNAIL, inline, render, svg_element, svg_of, write_page
from rulepatch.files import write_texts, writing_in
from rulepatch.images import as_image
from rulepatch.inverse.result import Inversion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "draw_similarity", "write_inversion"]

COLOURS = {"before": ("#4b3b8f", "#a99ee0"), "after": ("#17804d", "#86cfa8")}
"""Towards the edited image, and towards the original, as in the thesis: purple before the edit, green after it."""

TITLES = {"key": "keys", "map": "feature map", "image": "image"}

MOST_PICTURES = 4


def write_inversion(inversion: Inversion, folder: Path) -> Path:
    """Write `inversion.json`, `curves.svg`, `similarity.svg` if there are feature maps, and `report.html`.

    Args:
        inversion: what was rebuilt.
        folder: made if there is none.

    Returns:
        The report.

    Raises:
        OutputError: another process is writing to the folder, or it cannot be written to.
    """
    with writing_in(folder):
        return _written(inversion, folder)


def _written(inversion: Inversion, folder: Path) -> Path:
    figures = {"curves": draw_curves(inversion), "similarity": draw_similarity(inversion)}
    drawings = {name: svg_of(figure) for name, figure in figures.items() if figure is not None}
    texts = {
        "inversion.json": json_text(inversion.to_json()) + "\n",
        **{f"{name}.svg": drawing for name, drawing in drawings.items()},
    }
    write_texts(folder, texts)
    page = render(
        "inversion.html.jinja",
        title=f"inverted at {inversion.site}",
        inversion=inversion,
        titles=TITLES,
        drawings={name: svg_element(each) for name, each in drawings.items()},
        pictures=_pictures(inversion),
    )
    write_page(page, folder / "report.html")
    return folder / "report.html"


def draw_curves(inversion: Inversion) -> "Figure":
    """Curves of loss and cosine, a column for each level (thesis figs. 3-7 to 3-9).

    Args:
        inversion: what was rebuilt.
    """
    from matplotlib.figure import Figure

    levels = list(dict.fromkeys(each.level for each in inversion.reconstructions))
    figure = Figure(figsize=(1.2 + 3.4 * len(levels), 5.4), layout="constrained")
    axes = figure.subplots(2, len(levels), squeeze=False)
    for column, level in enumerate(levels):
        for each in inversion.of(level):
            dark, light = COLOURS[each.when]
            axes[0, column].plot(each.steps, np.maximum(each.losses, 1e-16), color=dark, label=each.when)
            axes[1, column].plot(each.steps, each.to_edited, color=dark, label=f"{each.when}: to the edited")
            axes[1, column].plot(each.steps, each.to_original, color=light, label=f"{each.when}: to the original")
        axes[0, column].set(title=TITLES[level], yscale="log")
        axes[1, column].set(xlabel="steps", ylim=(-0.25, 1.02))
    axes[0, 0].set_ylabel("loss, relative")
    axes[1, 0].set_ylabel("cosine")
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].legend(fontsize=8)
    return figure


def draw_similarity(inversion: Inversion) -> "Figure | None":
    """Dot products of rebuilt feature maps with those of both images, over the images (thesis figs. 3-4 and 3-5).

    Args:
        inversion: what was rebuilt.

    Returns:
        A figure of matplotlib; None if no feature map was rebuilt, or its positions have no place in the image.
    """
    from matplotlib.figure import Figure

    found = [each for each in inversion.of("map") if each.similarity]
    if not found:
        return None
    shown = inversion.exemplars[:MOST_PICTURES]
    columns = [(each, side) for each in found for side in ("original", "edited")]
    figure = Figure(figsize=(2.3 * (len(columns) + 1), 2.4 * len(shown) + 0.4), layout="constrained")
    axes = figure.subplots(len(shown), len(columns) + 1, squeeze=False)
    image = None
    for row, exemplar in enumerate(shown):
        sides = {"original": exemplar.image, "edited": exemplar.edited}
        axes[row, 0].imshow(np.asarray(as_image(exemplar.edited)))
        for column, (each, side) in enumerate(columns, start=1):
            grey = np.asarray(sides[side].convert("L").resize((THUMBNAIL, THUMBNAIL)))
            extent = (0, THUMBNAIL, THUMBNAIL, 0)
            axes[row, column].imshow(grey, cmap="gray", extent=extent)
            image = axes[row, column].imshow(
                each.similarity[side][row].numpy(), cmap="viridis", vmin=0, vmax=2, alpha=0.6, extent=extent
            )
            axes[0, column].set_title(f"{each.when}: with the {side}", fontsize=8)
    axes[0, 0].set_title("edited image", fontsize=8)
    for each in axes.ravel():
        each.set_axis_off()
    if image is not None:
        figure.colorbar(image, ax=list(axes.ravel()), shrink=0.7, label="dot product")
    return figure


def _pictures(inversion: Inversion) -> list[dict[str, Any]]:
    """For each exemplar its images and those rebuilt."""
    found = []
    for index, exemplar in enumerate(inversion.exemplars[:MOST_PICTURES]):
        tiles = [("original", exemplar.image), ("edited", exemplar.edited)]
        for each in inversion.of("image"):
            assert each.pictures is not None
            pixels = (255 * each.pictures[index]).round().byte().permute(1, 2, 0).squeeze(2).numpy()
            tiles.append((f"rebuilt {each.when} the edit", Image.fromarray(pixels)))
        found.append(
            {
                "name": exemplar.name,
                "tiles": [{"name": name, "picture": inline(picture, 2 * THUMBNAIL)} for name, picture in tiles],
            }
        )
    return found
