"""The commands about sweeps: running one, and what came of it."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rulepatch.cli.commands import app
from rulepatch.cli.grouping import GroupedCommand
from rulepatch.cli.messages import Told, print_result
from rulepatch.cli.options import Dask, Device, Json, example, number_option, out_option

__all__ = ["app"]

StoreFile = Annotated[Path, typer.Argument(metavar="STORE", help="The file of results of a sweep.")]


class _RunByDefault(TyperGroup):
    """Takes what is no command for the plan of a sweep: `sweep plan.yaml` is `sweep run plan.yaml`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the name of the command before the plan, or before the options of a run."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["run", *args]
        return super().parse_args(ctx, args or ["--help"])


sweep_app = typer.Typer(
    cls=_RunByDefault,
    help="Run many edits by a plan, and report what came of it. `sweep PLAN` is `sweep run PLAN`.",
    rich_markup_mode=None,
)
app.add_typer(sweep_app, name="sweep")


@sweep_app.command(cls=GroupedCommand, epilog=example("sweep plan.yaml --workers 4"))
def run(
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A plan in YAML.")],
    out: Annotated[
        Path | None, out_option("STORE", "The file of results; a sweep goes on in it. [beside the plan]")
    ] = None,
    workers: Annotated[int | None, number_option("Processes. [one for each core, or GPU]", metavar="N")] = None,
    dask: Dask = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count the jobs, try a few, and tell the time.")] = False,
    tries: Annotated[int, number_option("How often a job that fails is tried.")] = 3,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Run all jobs of a plan that are not done yet."""
    from rulepatch.sweeps.run import estimate, sweep

    store = out or plan.with_suffix(".sqlite")
    if dry_run:
        told = estimate(plan, store, workers=workers, dask=dask, device=device)
        print_result(told, as_json)
    else:
        found = sweep(plan, store, workers=workers, dask=dask, device=device, tries=tries)
        print_result(found, as_json)


@sweep_app.command(epilog=example("sweep report plan.sqlite -o report"))
def report(
    store: StoreFile,
    out: Annotated[Path, out_option("DIR", "Folder for the page, figures (SVG) and tables.")],
    least: Annotated[int, number_option("Errors from which on a case counts in a cell.")] = 5,
    site: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Sites in the order of the network; repeatable. [by name]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Figures and tables of the paper from the results of a sweep, finished or not."""
    from rulepatch.sweeps.analysis import SweepReport
    from rulepatch.sweeps.report import write_report

    found = SweepReport.read(store, least=least, sites=site or ())
    files = write_report(found, out)
    more = {"report": str(files[0]), "files": list(map(str, files))}
    print_result(found, as_json, more=more, then=str(files[0]))


@sweep_app.command(epilog=example("sweep export plan.sqlite -o results.csv"))
def export(
    store: StoreFile,
    out: Annotated[Path, out_option("FILE", "The table: .parquet (extra `tables`) or .csv.")],
    as_json: Json = False,
) -> None:
    """Every result as a flat table, for other programs."""
    from rulepatch.sweeps.export import export_records
    from rulepatch.text import plural

    count = export_records(store, out)
    print_result(Told({"table": str(out), "records": count}, f"{out}: {plural(count, 'record')}"), as_json)


@sweep_app.command(epilog=example("sweep failures plan.sqlite"))
def failures(store: StoreFile, as_json: Json = False) -> None:
    """Which jobs failed, and why?"""
    from rulepatch.sweeps.failures import Failures

    found = Failures.read(store)
    print_result(found, as_json)
