"""The commands that look: at a model's layers, at what it says of images, alone and with an edit."""

from pathlib import Path
from typing import Annotated

import typer

from rulepatch.cli.commands import app
from rulepatch.cli.grouping import GroupedCommand, grouped
from rulepatch.cli.groups import (
    ModelOptions,
    NamedModelOptions,
    OptionalExemplarOptions,
    OptionalReferenceOptions,
    RunOptions,
)
from rulepatch.cli.messages import print_result
from rulepatch.cli.options import (
    AnyBase,
    Device,
    Json,
    OptionalEditFile,
    OptionalModelName,
    Weights,
    example,
    number_option,
    report_option,
)

__all__ = ["app"]


@app.command(cls=GroupedCommand, epilog=example("sites torchvision/resnet50"))
@grouped
def sites(*, model: NamedModelOptions, as_json: Json = False) -> None:
    """Where can a model be edited? Needs no weights."""
    from rulepatch.models.registry import load_model, load_skeleton
    from rulepatch.tracing.model_sites import sites_of

    name, weights = model.name, model.weights
    classifier = load_skeleton(name) if weights is None else load_model(name, weights=weights)
    site_list = sites_of(classifier)
    classifier.logits_of(site_list.trace.calls[0].result)  # says so now if it returns none
    print_result(site_list, as_json)


@app.command(
    cls=GroupedCommand,
    epilog=example("predict playground rulepatch-demo/tests --edit rulepatch-demo/snow-to-road.safetensors"),
)
def predict(
    words: Annotated[
        list[str],
        typer.Argument(metavar="MODEL PICTURES", help="A model, then files and folders (of classes, or flat)."),
    ],
    model: OptionalModelName = None,
    edit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An edit of the model: what is said before and after it.")
    ] = None,
    top: Annotated[int, number_option("How many of the likeliest classes to tell.")] = 5,
    csv: Annotated[
        str | None, report_option("Write all predictions as a table; - prints it.", "--csv", metavar="FILE|-")
    ] = None,
    weights: Weights = None,
    any_base: AnyBase = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Tell what a model says of images. Of many: the wrong ones first, then the least sure."""
    from rulepatch.core.edit import Edit
    from rulepatch.errors import SettingError
    from rulepatch.evaluation.predict import predict as run
    from rulepatch.models.registry import load_model

    name, *pictures = [*([] if model is None else [model]), *words]
    if not pictures:
        raise SettingError(f"expected images, or folders of them, after the model {name} but got none; name some")
    if csv == "-" and as_json:
        raise SettingError("expected --json or --csv - but got both for standard output; name a file for the table")
    table = None if csv in {None, "-"} else Path(str(csv))
    found = None if edit is None else Edit.load(edit)
    answers = run(load_model(name, weights=weights, device=device), pictures, edit=found, top=top, any_base=any_base)
    if table is not None:
        answers.write_csv(table)
    if csv == "-":
        typer.echo(answers.to_csv(), nl=False)
    else:
        print_result(answers, as_json)


@app.command(
    cls=GroupedCommand,
    epilog=example(
        "evaluate rulepatch-demo/snow-to-road.safetensors -m playground --tests rulepatch-demo/tests",
        "--reference rulepatch-demo/clean",
    ),
)
@grouped
def evaluate(
    *,
    file: OptionalEditFile = None,
    model: ModelOptions,
    tests: Annotated[Path | None, typer.Option(metavar="DIR", help="Images that the edit should repair.")] = None,
    reference: OptionalReferenceOptions,
    exemplars: OptionalExemplarOptions,
    any_base: AnyBase = False,
    report: Annotated[Path | None, report_option("Write an HTML report with images.")] = None,
    run: RunOptions,
) -> None:
    """Measure what an edit repairs and costs. Without FILE: how good the model is by itself."""
    from rulepatch.core.edit import Edit
    from rulepatch.evaluation.evaluate import evaluate as measure
    from rulepatch.evaluation.report import write_report

    found = None if file is None else Edit.load(file)
    shown = exemplars.read()
    evaluation = measure(
        model.load(),
        found,
        tests=tests,
        reference=reference.images,
        leave_out=reference.leave_out or (),
        exemplars=shown,
        any_base=any_base,
    )
    if report is not None:
        write_report(evaluation, report)
    print_result(evaluation, run.as_json)


@app.command(
    cls=GroupedCommand,
    epilog=example(
        "match rulepatch-demo/snow-to-road.safetensors -m playground --images rulepatch-demo/clean",
        "--reference rulepatch-demo/reference",
    ),
)
@grouped
def match(
    *,
    file: OptionalEditFile = None,
    model: ModelOptions,
    images: Annotated[Path, typer.Option(metavar="DIR", help="Images to look in.")],
    reference: Annotated[Path, typer.Option(metavar="DIR", help="Images that say what is usual.")],
    exemplars: OptionalExemplarOptions,
    site: Annotated[
        str | None, typer.Option(metavar="PATH", help="Where to look: one of the edit's sites. [the last]")
    ] = None,
    level: Annotated[
        float, number_option("Quantile of the reference set's positions above which the key fires.")
    ] = 0.99,
    report: Annotated[Path | None, report_option("Write an HTML wall of the best matches.")] = None,
    as_json: Json = False,
) -> None:
    """Rank images by where a key fires. That of an edit, or without FILE that of exemplars."""
    from rulepatch.concepts.match import key_of_concept, key_of_edit
    from rulepatch.concepts.match import match as rank
    from rulepatch.core.edit import Edit
    from rulepatch.evaluation.match_report import write_match_report

    found = None if file is None else Edit.load(file)
    shown = exemplars.read()
    classifier = model.load()
    if found is not None:
        key = key_of_edit(found, site)
    else:
        key = key_of_concept(classifier, shown, site=site, reference=reference, which="replacement")
    matches = rank(classifier, key, images, reference=reference, level=level)
    if report is not None:
        write_match_report(classifier, matches, report)
    print_result(matches, as_json)
