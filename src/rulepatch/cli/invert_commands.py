"""The command that rebuilds inputs from a layer's output."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rulepatch.cli.commands import app, load_classifier
from rulepatch.cli.messages import print_result
from rulepatch.cli.options import (
    Device,
    Exemplars,
    Json,
    Masks,
    MaskValue,
    ModelName,
    Replacement,
    Seed,
    Weights,
    example,
    out_option,
)

__all__ = ["app"]


class Level(StrEnum):
    """What is rebuilt."""

    key = "key"
    map = "map"
    image = "image"


class Target(StrEnum):
    """Whose output is aimed at."""

    base = "base"
    edited = "edited"


class Optimiser(StrEnum):
    """How it is sought."""

    lbfgs = "lbfgs"
    adam = "adam"


@app.command(epilog=example("invert -m playground --exemplar rulepatch-demo/exemplar --site blocks.4.conv -o inverted"))
def invert(
    model: ModelName,
    exemplar: Exemplars,
    site: Annotated[str, typer.Option(metavar="PATH", help="The layer whose output is the target.")],
    out: Annotated[Path, out_option("DIR", "Folder for the report, the figures and the numbers.")],
    edit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An edit of that layer, to compare before and after.")
    ] = None,
    level: Annotated[list[Level] | None, typer.Option(help="What to rebuild; repeatable. [all three]")] = None,
    architecture: Annotated[int, typer.Option(help="Of keys: 4, a patch for an output; 3, an input for a patch.")] = 4,
    target: Annotated[
        Target, typer.Option(help="Output of the untouched network, or of the edited one.")
    ] = Target.base,
    optimiser: Annotated[Optimiser, typer.Option(help="How it is sought.")] = Optimiser.lbfgs,
    steps: Annotated[int, typer.Option(help="Of each reconstruction.")] = 100,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 0.05,
    variation: Annotated[float, typer.Option(help="Weight of the total variation of rebuilt pictures.")] = 0.0,
    mask: Masks = None,
    mask_value: MaskValue = None,
    replacement: Replacement = None,
    label: Annotated[str | None, typer.Option(metavar="CLASS", help="What the exemplars' pictures show.")] = None,
    weights: Weights = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Rebuild keys, maps and pictures from a layer's output. Before and after an edit."""
    from rulepatch.core.edit import Edit
    from rulepatch.data.exemplar_folders import read_exemplars
    from rulepatch.inverse.reconstruct import invert as run
    from rulepatch.inverse.report import write_inversion
    from rulepatch.inverse.result import LEVELS

    found = run(
        load_classifier(model, weights, device),
        read_exemplars(exemplar, masks=mask or (), replacement=replacement, label=label, mask_value=mask_value),
        site=site,
        edit=None if edit is None else Edit.load(edit),
        levels=LEVELS if level is None else [each.value for each in level],
        architecture=architecture,
        target=target.value,
        optimiser=optimiser.value,
        steps=steps,
        learning_rate=learning_rate,
        variation=variation,
        seed=seed,
    )
    report = write_inversion(found, out)
    print_result(found, as_json, more={"report": str(report)}, then=f"\n{report}")
