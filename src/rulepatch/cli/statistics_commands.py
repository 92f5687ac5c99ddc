"""The command that fills the cache ahead of time, alone or on many machines."""

from typing import Annotated

import typer

from rulepatch.cli.commands import app
from rulepatch.cli.grouping import GroupedCommand, grouped
from rulepatch.cli.groups import NamedModelOptions, ReferenceOptions, RunOptions
from rulepatch.cli.messages import print_result
from rulepatch.cli.options import Dask, Device, example, number_option

__all__ = ["app"]


@app.command(
    cls=GroupedCommand,
    epilog=example("statistics torchvision/resnet50 --reference photos --site layer4.2.conv3 --workers 4"),
)
@grouped
def statistics(
    *,
    model: NamedModelOptions,
    reference: ReferenceOptions,
    site: Annotated[
        list[str], typer.Option(metavar="PATH", help="Where the edit will be; repeatable, name all sites.")
    ],
    architecture: Annotated[int, number_option("Of the edit. 1: keys are channels; 2: keys are patches.")] = 1,
    workers: Annotated[int, number_option("Processes to share the images among.", metavar="N")] = 1,
    dask: Dask = None,
    device: Device = "cpu",
    run: RunOptions,
) -> None:
    """Look at a large reference set ahead of time. With many processes (torchrun) or workers; edits find it done."""
    from rulepatch.data.run import Run
    from rulepatch.parallel.statistics import gather_statistics

    gathered = gather_statistics(
        model.name,
        reference.images,
        site,
        weights=model.weights,
        leave_out=reference.leave_out or (),
        architecture=architecture,
        device=device,
        workers=workers,
        dask=dask,
        run=Run(seed=run.seed),
    )
    if gathered is not None:
        print_result(gathered, run.as_json)
