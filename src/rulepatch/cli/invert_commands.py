"""The command that rebuilds inputs from a layer's output."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from rulepatch.cli.commands import app
from rulepatch.cli.grouping import grouped, settings_of, taking
from rulepatch.cli.groups import ExemplarOptions, ModelOptions, RunOptions
from rulepatch.cli.messages import print_result
from rulepatch.cli.options import example, out_option

__all__ = ["app"]


class Level(StrEnum):
    """What is rebuilt."""

    key = "key"
    map = "map"
    image = "image"


@app.command(
    cls=taking("rulepatch.inverse.settings:InvertSettings"),
    epilog=example("invert -m playground --exemplar rulepatch-demo/exemplar --site blocks.4.conv -o inverted"),
)
@grouped
def invert(
    *,
    ctx: typer.Context,
    model: ModelOptions,
    exemplars: ExemplarOptions,
    site: Annotated[str, typer.Option(metavar="PATH", help="The layer whose output is the target.")],
    out: Annotated[Path, out_option("DIR", "Folder for the report, the figures and the numbers.")],
    edit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An edit of that layer, to compare before and after.")
    ] = None,
    level: Annotated[list[Level] | None, typer.Option(help="What to rebuild; repeatable. [all three]")] = None,
    run: RunOptions,
) -> None:
    """Rebuild keys, maps and images from a layer's output. Before and after an edit."""
    from rulepatch.core.edit import Edit
    from rulepatch.data.run import Run
    from rulepatch.inverse.reconstruct import invert as rebuild
    from rulepatch.inverse.report import write_inversion
    from rulepatch.inverse.result import LEVELS

    how = settings_of(ctx)
    found = rebuild(
        model.load(),
        exemplars.read(),
        site=site,
        edit=None if edit is None else Edit.load(edit),
        levels=LEVELS if level is None else [each.value for each in level],
        how=how,
        run=Run(seed=run.seed),
    )
    report = write_inversion(found, out)
    print_result(found, run.as_json, more={"report": str(report)}, then=f"\n{report}")
