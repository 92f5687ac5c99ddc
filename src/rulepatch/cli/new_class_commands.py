"""The command that adds a class."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rulepatch.cli.commands import app
from rulepatch.cli.grouping import grouped, settings_of, taking
from rulepatch.cli.groups import ModelOptions, RunOptions
from rulepatch.cli.messages import print_result
from rulepatch.cli.options import MaskValue, example, out_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rulepatch.core.exemplars import Exemplar

__all__ = ["app"]


@dataclass(frozen=True)
class ClassOptions:
    """Input."""

    image: Annotated[list[Path], typer.Option(metavar="FILE", help="An image of the class; repeatable.")]
    mask: Annotated[list[Path], typer.Option(metavar="FILE", help="Its silhouette in white; one for each image.")]
    name: Annotated[str, typer.Option(metavar="NAME", help="What the class is called.")]
    part: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="For compositional: an image of a part; repeatable.")
    ] = None
    part_mask: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Mask of each part, in order.")] = None
    mask_value: MaskValue = None

    def exemplars(self) -> "Sequence[Exemplar]":
        """Images of the class."""
        return self._read(self.image, self.mask)

    def parts(self) -> "Sequence[Exemplar]":
        """Images of its parts; none if none are named."""
        return self._read(self.part or [], self.part_mask or [])

    def _read(self, images: list[Path], masks: list[Path]) -> "Sequence[Exemplar]":
        from rulepatch.data.exemplar_folders import read_exemplars

        return read_exemplars(images, masks=masks, unedited=True, mask_value=self.mask_value)


@app.command(
    "new-class",
    cls=taking("rulepatch.new_classes.settings:NewClassSettings"),
    epilog=example(
        "new-class -m playground --image tram.jpg --mask tram.png --name tram",
        "--reference rulepatch-demo/reference -o tram.safetensors",
    ),
)
@grouped
def new_class(
    *,
    ctx: typer.Context,
    model: ModelOptions,
    shown: ClassOptions,
    reference: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Images of the old classes, in a folder for each."),
    ],
    out: Annotated[Path, out_option("FILE", "The edit file to write.")],
    site: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="What the filter reads the keys of. [the last layer with positions]"),
    ] = None,
    negatives: Annotated[
        str, typer.Option(metavar="random|mined|none|DIR", help="What the class is not, for the filter.")
    ] = "random",
    tests: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Measure it on these: a folder for each class, one called NAME."),
    ] = None,
    run: RunOptions,
) -> None:
    """Add a class from one image with a painted silhouette."""
    from rulepatch.data.run import Run
    from rulepatch.new_classes.workflow import add_class
    from rulepatch.text import command_line

    how = settings_of(ctx)
    added = add_class(
        model.load(),
        shown.exemplars(),
        shown.name,
        out=out,
        tests=tests,
        run=Run(seed=run.seed),
        how=how,
        reference=reference,
        site=site,
        negatives=negatives,
        parts=shown.parts(),
    )
    measured = {"model": model.model, "weights": model.weights, "tests": tests, "reference": reference}
    print_result(added, run.as_json, then=f"next: {command_line('evaluate', measured, out)}")
