"""One typed function a command, no logic."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rulepatch.cli.messages import warnings_so_far
from rulepatch.cli.options import (
    AnyBase,
    Device,
    EditFile,
    Error,
    Exemplars,
    GateKind,
    Json,
    LeaveOut,
    Masks,
    MaskValue,
    Match,
    MaxDrop,
    ModelName,
    Reference,
    Replacement,
    Seed,
    Weights,
)

if TYPE_CHECKING:
    from rulepatch.core.exemplars import Exemplar
    from rulepatch.models.classifier import Classifier

__all__ = ["app", "load_classifier", "print_result"]

app = typer.Typer(
    help="Rewrite a wrong rule inside a trained image classifier from one picture with a painted mask.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures, edit and report.")] = Path("rulepatch-demo"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """The whole story on the embedded world: seconds, no downloads."""
    from rulepatch.experiments.demo import run_demo

    story = run_demo(out, seed=seed, progress=True)
    print_result(story.to_json, story.to_text, as_json)


@app.command()
def sites(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As for --model of the other commands.")],
    as_json: Json = False,
) -> None:
    """Where can a model be edited? Needs no weights."""
    from rulepatch.core.sites import find_sites
    from rulepatch.models.registry import load_skeleton

    skeleton = load_skeleton(model)
    survey = find_sites(skeleton.module, skeleton.example())
    print_result(survey.to_json, survey.to_text, as_json)


@app.command()
def edit(
    model: ModelName,
    exemplar: Exemplars,
    reference: Annotated[Path, typer.Option(metavar="DIR", help="Pictures whose treatment should stay.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The edit file to write.")],
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
    label: Annotated[str | None, typer.Option(metavar="CLASS", help="What the exemplars' pictures show.")] = None,
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
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make an edit from exemplars and write it to a file."""
    from rulepatch.editors.registry import read_settings
    from rulepatch.experiments.make import gate_level, make
    from rulepatch.images import read_image
    from rulepatch.text import read_share

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
        _read_exemplars(exemplar, mask, replacement, label, mask_value, unedited=from_features is not None),
        out=out,
        reference=reference,
        method=method,
        leave_out=leave_out or (),
        settings=settings,
        protect_classes=protect_class or (),
        validation=validation,
        max_drop=None if max_drop is None else read_share(max_drop),
        allow_damage=allow_damage,
    )
    print_result(made.to_json, made.to_text, as_json)


@app.command()
def show(file: EditFile, as_json: Json = False) -> None:
    """What does an edit file say of itself?"""
    from rulepatch.core.edit import Edit

    found = Edit.load(file)
    print_result(found.describe, found.to_text, as_json)


@app.command()
def apply(
    file: EditFile,
    model: ModelName,
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Weights (safetensors), or the whole network (.pt2, .onnx) with its gates."),
    ],
    weights: Weights = None,
    any_base: AnyBase = False,
    as_json: Json = False,
) -> None:
    """Write the edited model: its weights, or the whole network as a program."""
    from rulepatch.core.edit import Edit
    from rulepatch.files import check_writable
    from rulepatch.models.export import FORMATS, export
    from rulepatch.models.registry import save_weights

    check_writable(out)
    classifier = load_classifier(model, weights, "cpu")
    found = Edit.load(file)
    if out.suffix in FORMATS:
        export(found.apply(classifier, any_base=any_base), out)
    else:
        save_weights(found.merged(classifier, any_base=any_base).module, out)
    result = {"weights": str(out), "edit": str(file), "sites": list(found.sites)}
    print_result(lambda: result, lambda: f"{out}: {model}, edited at {', '.join(found.sites)}", as_json)


@app.command()
def evaluate(
    file: EditFile,
    model: ModelName,
    tests: Annotated[Path | None, typer.Option(metavar="DIR", help="Pictures that the edit should repair.")] = None,
    reference: Reference = None,
    weights: Weights = None,
    leave_out: LeaveOut = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML report with pictures.")] = None,
    exemplar: Annotated[list[Path] | None, typer.Option(metavar="DIR", help="To be shown in the report.")] = None,
    any_base: AnyBase = False,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """What does an edit repair, and what does it cost?"""
    from rulepatch.core.edit import Edit
    from rulepatch.evaluation.evaluate import evaluate as measure
    from rulepatch.files import check_writable

    if report is not None:
        check_writable(report)
    found = Edit.load(file)
    exemplars = _read_exemplars(exemplar, None, None, None) if exemplar else ()
    evaluation = measure(
        load_classifier(model, weights, device),
        found,
        tests=tests,
        reference=reference,
        leave_out=leave_out or (),
        exemplars=exemplars,
        any_base=any_base,
    )
    if report is not None:
        evaluation.to_html(report)
    print_result(evaluation.to_json, evaluation.to_text, as_json)


@app.command()
def match(
    file: EditFile,
    model: ModelName,
    images: Annotated[Path, typer.Option(metavar="DIR", help="Pictures to look in.")],
    reference: Annotated[Path, typer.Option(metavar="DIR", help="Pictures that say what is usual.")],
    site: Annotated[str | None, typer.Option(metavar="PATH", help="One of the edit's sites. [the last]")] = None,
    level: Annotated[
        float, typer.Option(help="Quantile of the reference set's positions above which the key fires.")
    ] = 0.99,
    report: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML wall of the best matches.")] = None,
    weights: Weights = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Where does an edit's key fire? Ranks pictures by how much they look like the concept."""
    from rulepatch.concepts.match import key_of_edit
    from rulepatch.concepts.match import match as run
    from rulepatch.core.edit import Edit
    from rulepatch.evaluation.match_report import write_match_report
    from rulepatch.files import check_writable

    if report is not None:
        check_writable(report)
    found, classifier = Edit.load(file), load_classifier(model, weights, device)
    matches = run(classifier, key_of_edit(found, site), images, reference=reference, level=level)
    if report is not None:
        write_match_report(classifier, matches, report)
    print_result(matches.to_json, matches.to_text, as_json)


@app.command()
def compare(
    model: ModelName,
    exemplar: Exemplars,
    tests: Annotated[Path, typer.Option(metavar="DIR", help="Pictures that an edit should repair.")],
    reference: Annotated[Path, typer.Option(metavar="DIR", help="Pictures whose treatment should stay.")],
    site: Annotated[list[str], typer.Option(metavar="PATH", help="Where to edit; repeatable.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the table (JSON, CSV, Markdown) and the figure.")
    ],
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
    label: Annotated[str | None, typer.Option(metavar="CLASS", help="What the exemplars' pictures show.")] = None,
    weights: Weights = None,
    leave_out: LeaveOut = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """What else would have worked? Several methods, the same exemplars, tests and budget."""
    from rulepatch.experiments.compare import compare as run
    from rulepatch.experiments.methods import METHODS
    from rulepatch.text import read_pairs, read_share

    comparison = run(
        load_classifier(model, weights, device),
        _read_exemplars(exemplar, mask, replacement, label, mask_value),
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
    print_result(comparison.to_json, comparison.to_text, as_json)


@app.command()
def compose(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Edit files, at least two.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The edit file to write.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="That the edits were computed on, to measure where they fight.")
    ] = None,
    reference: Reference = None,
    exemplar: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Exemplars of the edits, to solve them together; repeatable."),
    ] = None,
    weights: Weights = None,
    leave_out: LeaveOut = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Make one edit of several, and say where their rules fight."""
    from rulepatch.experiments.compose import compose_files

    composition = compose_files(
        files,
        out,
        model=None if model is None else load_classifier(model, weights, device),
        reference=reference,
        leave_out=leave_out or (),
        exemplars=_read_exemplars(exemplar, None, None, None) if exemplar else (),
    )
    print_result(composition.to_json, composition.to_text, as_json)


def load_classifier(model: str, weights: Path | None, device: str) -> "Classifier":
    """The model that the command line names.

    Returns:
        The classifier.
    """
    from rulepatch.models.registry import load_model

    return load_model(model, weights=weights, device=device)


def _read_exemplars(
    paths: Sequence[Path],
    masks: Sequence[Path] | None,
    replacement: Path | None,
    label: str | None,
    mask_value: str | None = None,
    *,
    unedited: bool = False,
) -> "Sequence[Exemplar]":
    from rulepatch.data.exemplar_folders import read_exemplars

    return read_exemplars(
        paths, masks=masks or (), replacement=replacement, label=label, unedited=unedited, mask_value=mask_value
    )


def print_result(to_json: Callable[[], Any], to_text: Callable[[], str], as_json: bool) -> None:
    """Print what came out, for people or as one JSON object, which names the warnings."""
    if not as_json:
        typer.echo(to_text())
        return
    found = to_json()
    if warnings := warnings_so_far():
        found = {**found, "warnings": warnings}
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
