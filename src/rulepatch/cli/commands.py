"""The program, and its commands about edits: one typed function a command, no logic."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from rulepatch.cli.messages import Told, print_result
from rulepatch.cli.options import (
    AnyBase,
    Device,
    EditFile,
    Error,
    Exemplars,
    GateKind,
    Json,
    Label,
    LeaveOut,
    Masks,
    MaskValue,
    Match,
    MaxDrop,
    ModelName,
    OptionalExemplars,
    Reference,
    Replacement,
    Seed,
    Weights,
    example,
    model_option,
    out_option,
)

if TYPE_CHECKING:
    from rulepatch.core.exemplars import Exemplar
    from rulepatch.models.classifier import Classifier

__all__ = ["app", "load_classifier", "read_exemplars_of"]

ORDER = (
    *("demo", "sites", "predict", "exemplar", "edit", "show", "evaluate", "match", "compare", "compose", "apply"),
    *("new-class", "cases", "discover", "sweep", "statistics", "invert", "web"),
)
"""Commands as they are listed: in the order of the work."""


class _Program(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands in the order of the work."""
        return sorted(super().list_commands(ctx), key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


app = typer.Typer(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 2 bad input (one sentence says what), 3 an edit that changes nothing, 130 interrupted.",
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
    """Rewrite a wrong rule inside a trained image classifier from one picture with a painted mask."""


@app.command(epilog=example("demo"))
def demo(
    out: Annotated[Path, out_option("DIR", "Folder for pictures, edit and report.")] = Path("rulepatch-demo"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The whole story on the embedded world: seconds, no downloads."""
    from rulepatch.experiments.demo import run_demo

    story = run_demo(out, seed=seed, progress=True)
    print_result(story, as_json)


@app.command(
    epilog=example(
        "edit -m playground --exemplar rulepatch-demo/exemplar --reference rulepatch-demo/reference",
        "--site blocks.4.conv -o my.safetensors",
    )
)
def edit(
    model: ModelName,
    exemplar: Exemplars,
    reference: Annotated[Path, typer.Option(metavar="DIR", help="Pictures whose treatment should stay.")],
    out: Annotated[Path, out_option("FILE", "The edit file to write.")],
    site: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH|auto", help="Where to edit, repeatable; or auto, to choose site and settings."),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Labelled pictures that --site auto chooses on, never the tests.")
    ] = None,
    mask: Masks = None,
    mask_value: MaskValue = None,
    replacement: Replacement = None,
    label: Label = None,
    weights: Weights = None,
    leave_out: LeaveOut = None,
    method: Annotated[str, typer.Option(help="How: rewrite, projected-adam, dense, finetune-local, …")] = "rewrite",
    rank: Annotated[int | None, typer.Option(help="Number of directions at each site. [1]")] = None,
    strength: Annotated[float | None, typer.Option(help="1 is the solve, 1 to 4 is usual. [1]")] = None,
    gate: Annotated[
        str | None,
        typer.Option(metavar="Q|auto|none", help="Act only on keys beyond this quantile of the reference set. [auto]"),
    ] = None,
    gate_kind: Annotated[GateKind | None, typer.Option(help="[hard]")] = None,
    architecture: Annotated[
        int | None, typer.Option(help="1: keys are channels; 2: patches; 3, 4: of inverse methods. [1, or 4]")
    ] = None,
    match: Annotated[Match | None, typer.Option(help="[auto]")] = None,
    error: Annotated[Error | None, typer.Option(help="[squared]")] = None,
    ridge: Annotated[float | None, typer.Option(help="Of the closed form. [0.001]")] = None,
    floor: Annotated[float | None, typer.Option(help="Smallest eigenvalue kept, relative. [0.00001]")] = None,
    steps: Annotated[int | None, typer.Option(help="Of methods that take steps.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of projected-adam. [0.0001]")] = None,
    value_point: Annotated[str | None, typer.Option(metavar="PATH", help="The module whose output is matched.")] = None,
    from_features: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A texture whose features replace the concept's; no edited picture needed."),
    ] = None,
    protect: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures that must not change, as far as can be.")
    ] = None,
    protect_class: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS", help="Protect a class's pictures of the reference set; repeatable."),
    ] = None,
    further: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting of the method; repeatable."),
    ] = None,
    max_drop: MaxDrop = None,
    allow_damage: Annotated[bool, typer.Option(help="Write the edit even if it loses more than --max-drop.")] = False,
    allow_useless: Annotated[
        bool, typer.Option(help="Write the edit even if it does nothing for its own exemplars (else exit code 3).")
    ] = False,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make an edit from exemplars and write it to a file."""
    from rulepatch.editors.registry import read_settings
    from rulepatch.images import read_image
    from rulepatch.text import command_line, read_share
    from rulepatch.workflows.make import gate_level, make

    classifier = load_classifier(model, weights, device)
    settings = {
        "site": site,
        "rank": rank,
        "strength": strength,
        "gate": None if gate is None else gate_level(gate),
        "gate_kind": gate_kind,
        "architecture": architecture,
        "match": match,
        "error": error,
        "ridge": ridge,
        "floor": floor,
        "steps": steps,
        "learning_rate": learning_rate,
        "value_point": value_point,
        "style": None if from_features is None else read_image(from_features),
        "protect": protect,
        "seed": seed,
        **read_settings(method, further or ()),
    }
    made = make(
        classifier,
        read_exemplars_of(exemplar, mask, replacement, label, mask_value, unedited=from_features is not None),
        out=out,
        reference=reference,
        method=method,
        leave_out=leave_out or (),
        settings=settings,
        protect_classes=protect_class or (),
        validation=validation,
        max_drop=None if max_drop is None else read_share(max_drop),
        allow_damage=allow_damage,
        allow_useless=allow_useless,
    )
    measured = {"model": model, "weights": weights, "reference": reference, "leave_out": leave_out}
    then = command_line("evaluate", measured, out)
    print_result(made, as_json, then=f"next: {then}\n(and --tests DIR, to see what it repairs)")


@app.command(epilog=example("show rulepatch-demo/snow-to-road.safetensors"))
def show(file: EditFile, as_json: Json = False) -> None:
    """What does an edit file say of itself?"""
    from rulepatch.core.edit import Edit

    found = Edit.load(file)
    print_result(found, as_json)


@app.command(epilog=example("apply rulepatch-demo/snow-to-road.safetensors -m playground -o edited.pt2"))
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
    from rulepatch.workflows.apply import check_format, write_edited

    found = Edit.load(file)
    check_format(found, out)
    write_edited(load_classifier(model, weights, "cpu"), found, out, any_base=any_base)
    result = {"weights": str(out), "edit": str(file), "sites": list(found.sites)}
    print_result(Told(result, f"{out}: {model}, edited at {', '.join(found.sites)}"), as_json)


@app.command(
    epilog=example(
        "compare -m playground --exemplar rulepatch-demo/exemplar --tests rulepatch-demo/tests",
        "--reference rulepatch-demo/reference --site blocks.4.conv -o compared",
    )
)
def compare(
    model: ModelName,
    exemplar: Exemplars,
    tests: Annotated[Path, typer.Option(metavar="DIR", help="Pictures that an edit should repair.")],
    reference: Annotated[Path, typer.Option(metavar="DIR", help="Pictures whose treatment should stay.")],
    site: Annotated[list[str], typer.Option(metavar="PATH", help="Where to edit; repeatable.")],
    out: Annotated[Path, out_option("DIR", "Folder for the table (JSON, CSV, Markdown) and the figure.")],
    method: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="What to compare; repeatable. [all methods and ablations]")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures to choose on. [30 % of each class of the tests]")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD=GRID", help="Another grid for a method, such as paper; repeatable."),
    ] = None,
    max_drop: MaxDrop = "0.25%",
    mask: Masks = None,
    mask_value: MaskValue = None,
    replacement: Replacement = None,
    label: Label = None,
    weights: Weights = None,
    leave_out: LeaveOut = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compare methods on the same exemplars, tests and budget."""
    from rulepatch.experiments.compare import compare as run
    from rulepatch.experiments.grids import METHODS
    from rulepatch.text import read_pairs, read_share

    comparison = run(
        load_classifier(model, weights, device),
        read_exemplars_of(exemplar, mask, replacement, label, mask_value),
        site=site,
        tests=tests,
        reference=reference,
        methods=method or tuple(METHODS),
        validation=validation,
        leave_out=leave_out or (),
        max_drop=read_share(max_drop or "0.25%"),
        grids=read_pairs(grid or ()),
        seed=seed,
    )
    comparison.write(out)
    print_result(comparison, as_json)


@app.command(epilog=example("compose one.safetensors other.safetensors -o both.safetensors"))
def compose(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Edit files, at least two.")],
    out: Annotated[Path, out_option("FILE", "The edit file to write.")],
    model: Annotated[str | None, model_option("That the edits were computed on, to measure where they fight.")] = None,
    reference: Reference = None,
    exemplar: OptionalExemplars = None,
    mask: Masks = None,
    mask_value: MaskValue = None,
    replacement: Replacement = None,
    label: Label = None,
    weights: Weights = None,
    leave_out: LeaveOut = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Make one edit of several, and say where their rules fight. With their exemplars they are solved together."""
    from rulepatch.workflows.compose import compose_files

    composition = compose_files(
        files,
        out,
        model=None if model is None else load_classifier(model, weights, device),
        reference=reference,
        leave_out=leave_out or (),
        exemplars=read_exemplars_of(exemplar, mask, replacement, label, mask_value),
    )
    print_result(composition, as_json)


def load_classifier(model: str, weights: Path | None, device: str) -> "Classifier":
    """The model that the command line names."""
    from rulepatch.models.registry import load_model

    return load_model(model, weights=weights, device=device)


def read_exemplars_of(
    paths: Sequence[Path] | None,
    masks: Sequence[Path] | None,
    replacement: Path | None,
    label: str | None,
    mask_value: str | None = None,
    *,
    unedited: bool = False,
) -> "Sequence[Exemplar]":
    """The exemplars that the command line names.

    Returns:
        The exemplars; none if none are named.
    """
    from rulepatch.data.exemplar_folders import read_exemplars

    return read_exemplars(
        paths or (),
        masks=masks or (),
        replacement=replacement,
        label=label,
        unedited=unedited,
        mask_value=mask_value,
    )
