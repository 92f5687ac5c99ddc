"""The commands about case sets: making them, and discovering rules with them."""

from pathlib import Path
from typing import Annotated

import typer

from rulepatch.cli.commands import app, load_classifier
from rulepatch.cli.messages import print_result
from rulepatch.cli.options import Device, Json, Seed, Weights, example, model_option, out_option

__all__ = ["app"]

Exclude = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help='Concepts that are the class: {"wheel": ["car wheel"]}, as it is proposed.'),
]


@app.command(epilog=example("cases --images photos --concept road --style snow -o cases"))
def cases(
    images: Annotated[Path, typer.Option(metavar="DIR", help="Pictures, in a folder for each class.")],
    concept: Annotated[list[str], typer.Option(metavar="NAME", help="What to replace, such as road; repeatable.")],
    out: Annotated[Path, out_option("DIR", "Folder of the case set; an interrupted one goes on.")],
    style: Annotated[
        list[str] | None,
        typer.Option(metavar="[CONCEPT=]STYLE", help="What to replace it by, such as snow; repeatable. [all eight]"),
    ] = None,
    styles: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Styles of your own: a folder of pictures for each.")
    ] = None,
    instances: Annotated[int, typer.Option(help="Pictures of each style; the first is that of exemplars.")] = 2,
    segmenter: Annotated[
        str, typer.Option(metavar="NAME", help="grounded-sam, clipseg, torchvision/NAME, files/DIR, playground, …")
    ] = "grounded-sam",
    stylizer: Annotated[
        str, typer.Option(metavar="NAME", help="paste, gatys, adain/FILES, ghiasi/DIR, inpainting/ID, playground")
    ] = "paste",
    blend: Annotated[float | None, typer.Option(help="Share of the style in the result. [0.8]")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Probability of a concept's pixels. [the segmenter's]")
    ] = None,
    size: Annotated[int, typer.Option(help="Pixels of the shorter side; 0 to leave pictures as they are.")] = 256,
    smallest: Annotated[float, typer.Option(help="Share of the picture that a concept must cover.")] = 0.02,
    largest: Annotated[float, typer.Option(help="Share of the picture that it may cover.")] = 0.9,
    exclude: Exclude = None,
    model: Annotated[str | None, model_option("To name the classes, and for --segmenter context/EDIT.")] = None,
    weights: Weights = None,
    reference: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures that say what is usual, for context/EDIT.")
    ] = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Make test cases: pictures with concepts in other styles."""
    from rulepatch.concepts.cases import read_classes
    from rulepatch.concepts.make_cases import make_cases, styles_for
    from rulepatch.concepts.segment import load_segmenter
    from rulepatch.concepts.stylize import BLEND, load_stylizer

    classifier = None if model is None else load_classifier(model, weights, device)
    found = make_cases(
        images,
        out,
        concepts=concept,
        styles=styles_for(concept, style or (), stylizer=stylizer, folder=styles, instances=instances),
        segmenter=load_segmenter(segmenter, threshold=threshold, device=device, model=classifier, reference=reference),
        stylizer=load_stylizer(stylizer, blend=BLEND if blend is None else blend, device=device),
        classes=None if classifier is None else classifier.classes,
        size=size or None,
        smallest=smallest,
        largest=largest,
        exclude={} if exclude is None else read_classes(exclude),
        seed=seed,
    )
    print_result(found, as_json)


@app.command(epilog=example("discover cases -m torchvision/resnet50 -o rules"))
def discover(
    cases: Annotated[Path, typer.Argument(metavar="CASES", help="Folder of a case set.")],
    model: Annotated[list[str], model_option("As elsewhere; twice to compare two models.")],
    out: Annotated[Path, out_option("DIR", "Folder for the report, the numbers, and exemplars of each rule.")],
    reference: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For the commands that are printed. [the cases' own pictures]")
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(metavar="FILE", help='Classes tested as one: {"dogs": ["beagle", "n02099601"]}.')
    ] = None,
    exclude: Exclude = None,
    level: Annotated[float, typer.Option(help="Share of chance findings among the rules, at most.")] = 0.05,
    least_drop: Annotated[str, typer.Option(metavar="SHARE", help="Accuracy that a rule must cost.")] = "30%",
    least: Annotated[int, typer.Option(help="Pictures of a class from which on it is tested.")] = 5,
    weights: Weights = None,
    device: Device = "cpu",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Find the concepts that each class relies on. Writes exemplars of these rules, for the command `edit`."""
    from rulepatch.concepts.cases import read_classes
    from rulepatch.discovery.discover import discover as run
    from rulepatch.discovery.report import write_discovery
    from rulepatch.text import read_share

    found = run(
        [load_classifier(name, weights, device) for name in model],
        cases,
        groups=None if groups is None else read_classes(groups),
        exclude=None if exclude is None else read_classes(exclude),
        level=level,
        least_drop=read_share(least_drop),
        least=least,
        seed=seed,
    )
    given = {"reference": reference, "weights": weights, "device": None if device == "cpu" else device}
    told = {key: value for key, value in given.items() if value is not None}
    commands = write_discovery(found, out, models=model, options=told)
    report = str(out / "report.html")
    more = {"report": report, "commands": commands}
    print_result(found, as_json, more=more, then="\n".join(["", *commands[:5], report]))
