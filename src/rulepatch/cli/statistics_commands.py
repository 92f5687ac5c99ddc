"""The command that fills the cache ahead of time, alone or on many machines."""

from pathlib import Path
from typing import Annotated

import typer

from rulepatch.cli.commands import app
from rulepatch.cli.messages import print_result
from rulepatch.cli.options import (
    Dask,
    Device,
    Json,
    LeaveOut,
    ModelArgument,
    OptionalModelName,
    Seed,
    Weights,
    example,
    one_model,
)

__all__ = ["app"]


@app.command(epilog=example("statistics torchvision/resnet50 --reference photos --site layer4.2.conv3 --workers 4"))
def statistics(
    reference: Annotated[Path, typer.Option(metavar="DIR", help="Pictures whose treatment should stay.")],
    site: Annotated[
        list[str], typer.Option(metavar="PATH", help="Where the edit will be; repeatable, name all sites.")
    ],
    model: ModelArgument = None,
    named: OptionalModelName = None,
    leave_out: LeaveOut = None,
    architecture: Annotated[int, typer.Option(help="Of the edit. 1: keys are channels; 2: keys are patches.")] = 1,
    weights: Weights = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes to share the pictures among.")] = 1,
    dask: Dask = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Look at a large reference set ahead of time. With many processes (torchrun) or workers; edits find it done."""
    from rulepatch.parallel.statistics import gather_statistics

    gathered = gather_statistics(
        one_model(model, named),
        reference,
        site,
        weights=weights,
        leave_out=leave_out or (),
        architecture=architecture,
        device=device,
        seed=seed,
        workers=workers,
        dask=dask,
    )
    if gathered is not None:
        print_result(gathered, as_json)
