"""The command that serves the browser app."""

import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from rulepatch.cli.commands import app
from rulepatch.cli.grouping import GroupedCommand
from rulepatch.cli.options import Device, example, model_option, number_option

__all__ = ["app"]


@app.command(cls=GroupedCommand, epilog=example("web"))
def web(
    model: Annotated[
        list[str] | None,
        model_option("A model to offer beside the playground, repeatable; named as elsewhere."),
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images whose treatment should stay; needed for --model.")
    ] = None,
    tests: Annotated[Path | None, typer.Option(metavar="DIR", help="Labelled images that edits should repair.")] = None,
    clean: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images on which damage is measured. [those of --reference]")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Labelled images that a search chooses on, never the tests.")
    ] = None,
    segmenter: Annotated[
        str | None, typer.Option(metavar="NAME", help="To mark concepts by name, as for `rulepatch cases`.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; the default is reached from this machine alone.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int | None, number_option("[the first free one from 7860 on]")] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    device: Device = "cpu",
) -> None:
    """Rewrite rules with a brush, in a browser. Ctrl-C ends it."""
    from rulepatch.memory import share_freed_memory
    from rulepatch.web.catalog import Catalog
    from rulepatch.web.serve import serving

    share_freed_memory()
    catalog = Catalog(
        model or (),
        reference=reference,
        tests=tests,
        clean=clean,
        validation=validation,
        segmenter=segmenter,
        device=device,
    )
    with serving(catalog, host=host, port=port) as address:
        typer.echo(f"rulepatch is at {address} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(address)
        while True:
            time.sleep(3600)
