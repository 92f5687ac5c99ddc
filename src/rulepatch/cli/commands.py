"""The program, and its commands about edits: one typed function a command, no logic."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rulepatch.cli.grouping import GroupedCommand, MethodCommand, grouped, settings_given, settings_of, taking
from rulepatch.cli.groups import (
    ExemplarOptions,
    LimitOptions,
    MethodOptions,
    ModelOptions,
    OptionalExemplarOptions,
    OptionalModelOptions,
    OptionalReferenceOptions,
    ReferenceOptions,
    RunOptions,
)
from rulepatch.cli.messages import Told, print_result
from rulepatch.cli.options import AnyBase, EditFile, Json, ModelName, Seed, Weights, example, model_option, out_option

__all__ = ["app"]


@dataclass(frozen=True)
class ImageOptions:
    """Input."""

    validation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Labelled images for --site auto, never the tests.")
    ] = None
    from_features: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A texture whose features replace the concept.")
    ] = None
    protect: Annotated[Path | None, typer.Option(metavar="DIR", help="Images that must not change.")] = None
    protect_class: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="A class of the reference set to protect; repeatable.")
    ] = None

    def read(self) -> dict[str, Any]:
        """The images by the names that `make` gives them."""
        from rulepatch.images import read_image

        style = None if self.from_features is None else read_image(self.from_features)
        return {
            "validation": self.validation,
            "style": style,
            "protect": self.protect,
            "protect_classes": self.protect_class,
        }


ORDER = (
    *("demo", "sites", "predict", "exemplar", "edit", "show", "verify", "evaluate", "match", "compare", "compose"),
    *("apply", "new-class", "cases", "discover", "sweep", "statistics", "invert", "web"),
)
"""Commands as they are listed: in the order of the work."""


class _Program(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of the work."""
        return sorted(super().list_commands(ctx), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 done, 2 bad input (one sentence says what), 3 an edit that changes nothing or is not what it "
    "says, 130 interrupted, 143 ended by SIGTERM.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from rulepatch import __version__

        typer.echo(f"rulepatch {__version__}")
        raise typer.Exit()


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Rewrite a wrong rule inside a trained image classifier from one image with a painted mask."""


@app.command(epilog=example("demo"))
def demo(
    out: Annotated[Path, out_option("DIR", "Folder for images, edit and report.")] = Path("rulepatch-demo"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The whole story on the embedded world: seconds, no downloads."""
    from rulepatch.experiments.demo import run_demo

    story = run_demo(out, seed=seed, progress=True)
    print_result(story, as_json)


@app.command(
    cls=MethodCommand,
    epilog=example(
        "edit -m playground --exemplar rulepatch-demo/exemplar --reference rulepatch-demo/reference",
        "--site blocks.4.conv -o my.safetensors",
    ),
)
@grouped
def edit(
    *,
    ctx: typer.Context,
    model: ModelOptions,
    exemplars: ExemplarOptions,
    reference: ReferenceOptions,
    images: ImageOptions,
    site: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH|auto", help="Where to edit; repeatable. Or choose all by itself."),
    ] = None,
    how: MethodOptions,
    out: Annotated[Path, out_option("FILE", "The edit file to write.")],
    limits: LimitOptions,
    run: RunOptions,
) -> None:
    """Make an edit from exemplars and write it to a file."""
    from rulepatch.data.run import Run
    from rulepatch.text import command_line
    from rulepatch.workflows.edit_workflow import run_edit

    made = run_edit(
        model.load(),
        exemplars.read(unedited=images.from_features is not None),
        out=out,
        reference=reference.images,
        site=site or (),
        how=how.settings(settings_given(ctx)),
        leave_out=reference.leave_out or (),
        images=images.read(),
        limits=limits.limits(),
        run=Run(seed=run.seed),
    )
    measured = {
        "model": model.model, "weights": model.weights, "reference": reference.reference,
        "leave_out": reference.leave_out,
    }  # fmt: skip
    then = command_line("evaluate", measured, out)
    print_result(made, run.as_json, then=f"next: {then}\n(and --tests DIR, to see what it repairs)")


@app.command(epilog=example("show rulepatch-demo/snow-to-road.safetensors"))
def show(file: EditFile, as_json: Json = False) -> None:
    """What does an edit file say of itself?"""
    from rulepatch.core.edit import Edit

    found = Edit.load(file)
    print_result(found, as_json)


@app.command(
    cls=GroupedCommand,
    epilog=example(
        "verify rulepatch-demo/snow-to-road.safetensors -m playground --reference rulepatch-demo/reference",
    ),
)
@grouped
def verify(*, file: EditFile, model: ModelOptions, reference: OptionalReferenceOptions, as_json: Json = False) -> None:
    """Is an edit what its file says? Exit code 3 if not."""
    from rulepatch.core.edit import Edit
    from rulepatch.evaluation.verification import verify as look

    found = look(
        Edit.load(file), model.load(), reference=reference.images, leave_out=reference.leave_out or (), progress=False
    )
    print_result(found, as_json)
    if not found.holds:
        raise typer.Exit(3)


@app.command(
    cls=GroupedCommand, epilog=example("apply rulepatch-demo/snow-to-road.safetensors -m playground -o edited.pt2")
)
def apply(
    file: EditFile,
    model: ModelName,
    out: Annotated[
        Path, out_option("FILE", "Weights (.safetensors); or the whole network, gates and all (.pt2, .onnx).")
    ],
    weights: Weights = None,
    any_base: AnyBase = False,
    as_json: Json = False,
) -> None:
    """Write the edited model: its weights, or the whole network."""
    from rulepatch.core.edit import Edit
    from rulepatch.models.registry import load_model
    from rulepatch.workflows.apply import check_format, write_edited

    found = Edit.load(file)
    check_format(found, out)
    write_edited(load_model(model, weights=weights), found, out, any_base=any_base)
    result = {"weights": str(out), "edit": str(file), "sites": list(found.sites)}
    print_result(Told(result, f"{out}: {model}, edited at {', '.join(found.sites)}"), as_json)


@dataclass(frozen=True)
class TestOptions:
    """Input."""

    tests: Annotated[Path, typer.Option(metavar="DIR", help="Images that an edit should repair.")]
    validation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images to choose on. [a share of the tests]")
    ] = None


@app.command(
    cls=taking("rulepatch.experiments.settings:CompareSettings"),
    epilog=example(
        "compare -m playground --exemplar rulepatch-demo/exemplar --tests rulepatch-demo/tests",
        "--reference rulepatch-demo/reference --site blocks.4.conv -o compared",
    ),
)
@grouped
def compare(
    *,
    ctx: typer.Context,
    model: ModelOptions,
    exemplars: ExemplarOptions,
    tests: TestOptions,
    reference: ReferenceOptions,
    site: Annotated[list[str], typer.Option(metavar="PATH", help="Where to edit; repeatable.")],
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", metavar="NAME", help="What to compare; repeatable. [all methods and ablations]"),
    ] = None,
    grids: Annotated[
        list[str] | None,
        typer.Option("--grid", metavar="METHOD=GRID", help="Another grid for a method, such as paper; repeatable."),
    ] = None,
    out: Annotated[Path, out_option("DIR", "Folder for the table (JSON, CSV, Markdown) and the figure.")],
    run: RunOptions,
) -> None:
    """Compare methods on the same exemplars, tests and budget."""
    from rulepatch.data.run import Run
    from rulepatch.experiments.compare import compare as measure
    from rulepatch.text import read_pairs

    how = settings_of(ctx, methods=methods, grids=read_pairs(grids or ()))
    comparison = measure(
        model.load(),
        exemplars.read(),
        site=site,
        tests=tests.tests,
        reference=reference.images,
        validation=tests.validation,
        leave_out=reference.leave_out or (),
        how=how,
        run=Run(seed=run.seed),
    )
    comparison.write(out)
    print_result(comparison, run.as_json)


@dataclass(frozen=True)
class BaseModelOptions(OptionalModelOptions):
    """Input."""

    model: Annotated[str | None, model_option("That the edits were computed on, to measure where they conflict.")] = (
        None
    )


@app.command(cls=GroupedCommand, epilog=example("compose one.safetensors other.safetensors -o both.safetensors"))
@grouped
def compose(
    *,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Edit files, at least two.")],
    model: BaseModelOptions,
    reference: OptionalReferenceOptions,
    exemplars: OptionalExemplarOptions,
    out: Annotated[Path, out_option("FILE", "The edit file to write.")],
    as_json: Json = False,
) -> None:
    """Make one edit of several, and say where their rules conflict. With their exemplars they are solved together."""
    from rulepatch.workflows.compose import compose_files

    composition = compose_files(
        files,
        out,
        model=model.load(),
        reference=reference.images,
        leave_out=reference.leave_out or (),
        exemplars=exemplars.read(),
    )
    print_result(composition, as_json)
