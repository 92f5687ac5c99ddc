"""The commands about case sets: making them, and discovering rules with them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rulepatch.cli.commands import app
from rulepatch.cli.grouping import GroupedCommand, grouped, settings_of, taking
from rulepatch.cli.groups import ModelOptions, OptionalModelOptions, RunOptions
from rulepatch.cli.messages import print_result
from rulepatch.cli.options import Device, Weights, example, model_option, number_option, out_option

if TYPE_CHECKING:
    from rulepatch.concepts.segment import Segmenter
    from rulepatch.concepts.stylize import Style, Stylizer
    from rulepatch.models.classifier import Classifier

__all__ = ["app"]

Exclude = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help='Concepts that are the class: {"wheel": ["car wheel"]}, as it is proposed.'),
]


@dataclass(frozen=True)
class CaseModelOptions(OptionalModelOptions):
    """Model."""

    model: Annotated[str | None, model_option("To name the classes, and for --segmenter context/EDIT.")] = None


@dataclass(frozen=True)
class SegmenterOptions:
    """Segmenter."""

    segmenter: Annotated[
        str, typer.Option(metavar="NAME", help="grounded-sam, clipseg, torchvision/NAME, files/DIR, playground, …")
    ] = "grounded-sam"
    threshold: Annotated[float | None, number_option("Probability of a concept's pixels. [the segmenter's]")] = None
    reference: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images that say what is usual, for context/EDIT.")
    ] = None

    def load(self, device: str, model: "Classifier | None") -> "Segmenter":
        """The segmenter."""
        from rulepatch.concepts.segment import load_segmenter

        return load_segmenter(
            self.segmenter, threshold=self.threshold, device=device, model=model, reference=self.reference
        )


@dataclass(frozen=True)
class StyleOptions:
    """Styles."""

    style: Annotated[
        list[str] | None,
        typer.Option(metavar="[CONCEPT=]STYLE", help="What to replace it by, such as snow; repeatable. [all eight]"),
    ] = None
    styles: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Styles of your own: a folder of images for each.")
    ] = None
    instances: Annotated[int, number_option("Images of each style; the first is that of exemplars.")] = 2
    stylizer: Annotated[
        str, typer.Option(metavar="NAME", help="paste, gatys, adain/FILES, ghiasi/DIR, inpainting/ID, playground")
    ] = "paste"
    blend: Annotated[float | None, number_option("Share of the style in the result. [0.8]")] = None

    def of(self, concepts: list[str]) -> "dict[str, list[Style]]":
        """The styles of each concept."""
        from rulepatch.concepts.make_cases import styles_for

        return styles_for(
            concepts, self.style or (), stylizer=self.stylizer, folder=self.styles, instances=self.instances
        )

    def load(self, device: str) -> "Stylizer":
        """The stylizer."""
        from rulepatch.concepts.stylize import BLEND, load_stylizer

        return load_stylizer(self.stylizer, blend=BLEND if self.blend is None else self.blend, device=device)


@app.command(
    cls=taking("rulepatch.concepts.case_settings:CaseSettings"),
    epilog=example("cases --images photos --concept road --style snow -o cases"),
)
@grouped
def cases(
    *,
    ctx: typer.Context,
    images: Annotated[Path, typer.Option(metavar="DIR", help="Images, in a folder for each class.")],
    concept: Annotated[list[str], typer.Option(metavar="NAME", help="What to replace, such as road; repeatable.")],
    exclude: Exclude = None,
    model: CaseModelOptions,
    segmenter: SegmenterOptions,
    style: StyleOptions,
    out: Annotated[Path, out_option("DIR", "Folder of the case set; an interrupted one goes on.")],
    run: RunOptions,
) -> None:
    """Make test cases: images with concepts in other styles."""
    from rulepatch.concepts.make_cases import make_cases
    from rulepatch.data.run import Run

    how = settings_of(ctx, exclude=_classes(exclude))
    classifier = model.load()
    found = make_cases(
        images,
        out,
        concepts=concept,
        styles=style.of(concept),
        segmenter=segmenter.load(model.device, classifier),
        stylizer=style.load(model.device),
        classes=None if classifier is None else classifier.classes,
        how=how,
        run=Run(seed=run.seed),
    )
    print_result(found, run.as_json)


@dataclass(frozen=True)
class ComparedModelOptions:
    """Input."""

    model: Annotated[list[str], model_option("As elsewhere; twice to compare two models.")]
    weights: Weights = None
    device: Device = "cpu"

    def load(self) -> "list[Classifier]":
        """The classifiers."""
        return [ModelOptions(name, self.weights, self.device).load() for name in self.model]

    def given(self) -> dict[str, Any]:
        """What else was said of them."""
        return {"weights": self.weights, "device": None if self.device == "cpu" else self.device}


@dataclass(frozen=True)
class FindingOptions:
    """What counts as a rule."""

    groups: Annotated[
        Path | None, typer.Option(metavar="FILE", help='Classes tested as one: {"dogs": ["beagle", "n02099601"]}.')
    ] = None
    exclude: Exclude = None
    level: Annotated[float, number_option("Share of chance findings among the rules, at most.")] = 0.05
    least_drop: Annotated[str, typer.Option(metavar="SHARE", help="Accuracy that a rule must cost.")] = "30%"
    least: Annotated[int, number_option("Images of a class from which on it is tested.")] = 5

    def read(self) -> dict[str, Any]:
        """What `discover` takes, by name."""
        from rulepatch.text import read_share

        return {
            "groups": _classes(self.groups),
            "exclude": _classes(self.exclude),
            "level": self.level,
            "least_drop": read_share(self.least_drop),
            "least": self.least,
        }


def _classes(path: Path | None) -> dict[str, list[str]] | None:
    from rulepatch.concepts.cases import read_classes

    return None if path is None else read_classes(path)


@app.command(cls=GroupedCommand, epilog=example("discover cases -m torchvision/resnet50 -o rules"))
@grouped
def discover(
    *,
    cases: Annotated[Path, typer.Argument(metavar="CASES", help="Folder of a case set.")],
    models: ComparedModelOptions,
    reference: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For the commands that are printed. [the cases' own images]")
    ] = None,
    finding: FindingOptions,
    out: Annotated[Path, out_option("DIR", "Folder for the report, the numbers, and exemplars of each rule.")],
    run: RunOptions,
) -> None:
    """Find the concepts that each class relies on. Writes exemplars of these rules, for the command `edit`."""
    from rulepatch.discovery.discover import discover as find
    from rulepatch.discovery.report import write_discovery

    found = find(models.load(), cases, seed=run.seed, **finding.read())
    told = {key: value for key, value in {"reference": reference, **models.given()}.items() if value is not None}
    commands = write_discovery(found, out, models=models.model, options=told)
    report = str(out / "report.html")
    more = {"report": report, "commands": commands}
    print_result(found, run.as_json, more=more, then="\n".join(["", *commands[:5], report]))
