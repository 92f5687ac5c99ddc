"""The command that adds a class."""

from pathlib import Path
from typing import Annotated

import typer

from rulepatch.cli.commands import app, load_classifier
from rulepatch.cli.messages import print_result
from rulepatch.cli.options import Device, Json, MaskValue, MaxDrop, ModelName, Seed, Weights, example, out_option

__all__ = ["app"]


@app.command(
    "new-class",
    epilog=example(
        "new-class -m playground --image tram.jpg --mask tram.png --name tram",
        "--reference rulepatch-demo/reference -o tram.safetensors",
    ),
)
def new_class(
    model: ModelName,
    image: Annotated[list[Path], typer.Option(metavar="FILE", help="A picture of the class; repeatable.")],
    mask: Annotated[list[Path], typer.Option(metavar="FILE", help="Its silhouette in white; one for each picture.")],
    name: Annotated[str, typer.Option(metavar="NAME", help="What the class is called.")],
    reference: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Pictures of the old classes, in a folder for each."),
    ],
    out: Annotated[Path, out_option("FILE", "The edit file to write.")],
    site: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="What the filter reads the keys of. [the last layer with positions]"),
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="filter, imprinted, ridge, class-feature, compositional, random")
    ] = "filter",
    negatives: Annotated[
        str, typer.Option(metavar="random|mined|none|DIR", help="What the class is not, for the filter.")
    ] = "random",
    count: Annotated[int | None, typer.Option(help="How many negatives are drawn [50] or mined [5].")] = None,
    balance: Annotated[float | None, typer.Option(help="Weight of each negative. [0.05]")] = None,
    ridge: Annotated[float | None, typer.Option(help="Of the filter [0.01] or the regression [0.1].")] = None,
    part: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="For compositional: a picture of a part; repeatable.")
    ] = None,
    part_mask: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Mask of each part, in order.")] = None,
    mask_value: MaskValue = None,
    max_drop: MaxDrop = "0.25%",
    tests: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Measure it on these: a folder for each class, one called NAME."),
    ] = None,
    weights: Weights = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Add a class from one picture with a painted silhouette."""
    from rulepatch.data.exemplar_folders import read_exemplars
    from rulepatch.new_classes.workflow import add_class
    from rulepatch.text import command_line, read_share

    settings = {
        "site": site,
        "method": method,
        "negatives": negatives,
        "count": count,
        "balance": balance,
        "ridge": ridge,
        "parts": read_exemplars(part or (), masks=part_mask or (), unedited=True, mask_value=mask_value),
        "max_drop": read_share(max_drop or "0.25%"),
        "seed": seed,
    }
    added = add_class(
        load_classifier(model, weights, device),
        read_exemplars(image, masks=mask, unedited=True, mask_value=mask_value),
        name,
        out=out,
        reference=reference,
        settings=settings,
        tests=tests,
    )
    then = command_line("evaluate", {"model": model, "weights": weights, "tests": tests, "reference": reference}, out)
    print_result(added, as_json, then=f"next: {then}")
