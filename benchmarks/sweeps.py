"""The paper's protocol from end to end: `python -m benchmarks.sweeps playground`, or `photographs`.

In the playground 42 cases are rendered: four grounds in ten others, and wheels in two materials, with classes that
rely on what is replaced. Of photographs there are twelve: road, vegetation and sky, found by the segmentation networks
of the test data (`pip install ai-edge-litert`), in four textures. A folder that is kept is gone on with.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.measure import DATA, arguments, record
from benchmarks.photographs import GROUPS, masks_of
from rulepatch.concepts.cases import CELLS
from rulepatch.concepts.make_cases import make_cases, styles_for
from rulepatch.concepts.segment import load_segmenter
from rulepatch.concepts.stylize import load_stylizer
from rulepatch.data.folders import ImageSet
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import image_set, training_images
from rulepatch.playground.worlds import SHORTCUTS, sample
from rulepatch.sweeps.analysis import SweepReport
from rulepatch.sweeps.plan import Plan
from rulepatch.sweeps.report import write_report
from rulepatch.sweeps.run import Swept, sweep

PLANS = Path(__file__).parent / "plans"
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"

SHOWN = {
    "playground": ("cells-3", "sites-3", "-ablations-3", "exemplars", "damage-3"),
    "photographs": ("cells-3",),
}
"""Drawings of the reports that are in the docs."""

CLASSES = (
    "car", "motorcycle", "pickup", "van", "sleigh", "snowbike", "snowmobile", "snowplow", "combine", "mower", "tractor",
    "rowboat", "sailboat", "steamboat",
)  # fmt: skip
"""Of the playground: those that other grounds confuse."""

STYLES: Mapping[str, Sequence[str]] = {
    "road": ("snow", "sand", "grass", "water", "gravel", "wood", "brick", "leaves", "ice", "cobble"),
    "snow": ("road", "sand", "grass", "water", "gravel", "wood", "brick", "leaves", "mud", "cobble"),
    "grass": ("road", "snow", "sand", "water", "gravel", "wood", "brick", "leaves", "ice", "cobble"),
    "water": ("road", "snow", "sand", "grass", "gravel", "wood", "brick", "leaves", "ice", "cobble"),
    "wheels": ("wooden", "red"),
}
PICTURES_OF_A_CLASS = 36
REFERENCE = 800

CONCEPTS = ("road", "vegetation", "sky")
TEXTURES = ("snow", "graffiti", "gravel", "wood")
PHOTOGRAPHS = 400
"""For the cases, and as many others for the reference set."""


def playground(folder: Path) -> None:
    """Render the pictures and cases of the playground."""
    model = load_model("playground")
    if not (folder / "reference").is_dir():
        training_images(REFERENCE, seed=9).write(folder / "unfinished", model.classes)
        (folder / "unfinished").rename(folder / "reference")
    scenes = [
        scene
        for number, label in enumerate(CLASSES)
        for scene in sample(SHORTCUTS, 1000 + number, PICTURES_OF_A_CLASS, classes=[label])
    ]
    make_cases(
        image_set(scenes, "scenes of classes that rely on their ground"),
        folder / "cases",
        concepts=list(STYLES),
        styles=styles_for(list(STYLES), [f"{c}={s}" for c, own in STYLES.items() for s in own], stylizer="playground"),
        segmenter=load_segmenter("playground"),
        stylizer=load_stylizer("playground", blend=1.0),
        classes=model.classes,
    )


def photographs(folder: Path) -> None:
    """Find concepts in photographs, and give them other textures."""
    model = load_model(str(DATA / "models" / "mobilenet_v2.toml"))
    every = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes)
    images = every.sample(PHOTOGRAPHS, seed=0)
    if not (folder / "reference").is_dir():
        others = tuple(picture for picture in every.pictures if picture not in set(images.pictures))
        ImageSet(others, every.name).sample(PHOTOGRAPHS, seed=1).write(folder / "unfinished", model.classes)
        (folder / "unfinished").rename(folder / "reference")
    if not (folder / "masks").is_dir():
        masks_of(images, folder / "unfinished")
        (folder / "unfinished").rename(folder / "masks")
    make_cases(
        images,
        folder / "cases",
        concepts=CONCEPTS,
        styles=styles_for(CONCEPTS, TEXTURES),
        segmenter=load_segmenter(f"files/{folder / 'masks'}"),
        stylizer=load_stylizer("paste"),
        classes=model.classes,
        smallest=0.05,
        largest=0.8,
    )


def plan_of(name: str, folder: Path) -> Plan:
    """A plan of this folder, on what was made."""
    found = yaml.safe_load((PLANS / f"{name}.yaml").read_text())
    if name.startswith("photographs"):
        found["models"] = [{**each, "name": str(DATA / "models" / each["name"])} for each in found["models"]]
        found["groups"] = {group: [str(label) for label in labels] for group, labels in GROUPS.items()}
    return Plan.of(found, root=folder, name=f"{name}.yaml")


def told(measure: Mapping[str, Any]) -> dict[str, Any]:
    """A mean over cases in percent, its interval, and the number of cases."""
    low, high = measure["interval"] or (None, None)
    return {"mean": measure["mean"], "low": low, "high": high, "cases": measure["cases"]}


def method_rows(report: SweepReport) -> Iterator[dict[str, Any]]:
    """What each method did, with the site chosen by validation and at each site."""
    for study in report.to_json()["studies"]:
        for part in study["results"]:
            about = {"network": study["title"], "exemplars": part["exemplars"]}
            for row in [*({"site": "chosen"} | each for each in part["methods"]), *part["by_site"]]:
                line = about | {"site": row["site"] or "its own", "method": row["method"], "results": row["results"]}
                line |= {"without edit": row["without_edit"]}
                for cell in CELLS:
                    for name, measure in row["cells"][cell].items():
                        line |= {f"{cell}, {name}, {key}": value for key, value in told(measure).items()}
                yield line | {f"points lost, {key}": value for key, value in told(row["points_lost"]).items()}


def pair_rows(report: SweepReport) -> Iterator[dict[str, Any]]:
    """Differences of two methods on the same cases, and of ten and three exemplars."""
    for study in report.to_json()["studies"]:
        pairs = [
            {"first": each["first"], "second": each["second"], "exemplars": str(part["exemplars"])} | each
            for part in study["results"]
            for each in part["comparisons"]
        ]
        pairs += [
            {"exemplars": f"{each['first']} and {each['second']}"} | each
            | {"first": f"{each['method']}, {each['first']}", "second": f"{each['method']}, {each['second']}"}
            for each in study["by_exemplars"]
        ]  # fmt: skip
        for each in pairs:
            if each["measure"] == "net" and each["cases"]:
                kept = ("first", "second", "exemplars", "cell", "wins", "losses", "p")
                yield {"network": study["title"]} | {key: each[key] for key in kept} | told(each)


def main() -> None:
    """Make the cases, run every plan on them, and record what the report says."""
    parser = arguments(__doc__ or "")
    parser.add_argument("what", choices=["playground", "photographs"])
    parser.add_argument("--folder", type=Path, help="to keep pictures and results in; a temporary one by default")
    parser.add_argument("--workers", type=int, help="processes; as many as there are cores by default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        {"playground": playground, "photographs": photographs}[given.what](folder)
        for path in sorted(PLANS.glob(f"{given.what}*.yaml")):
            done: Swept = sweep(
                plan_of(path.stem, folder), folder / "results.sqlite", workers=given.workers, device=given.device
            )
            print(done.to_text())
        report = SweepReport.read(folder / "results.sqlite")
        files = write_report(report, folder / "report")
        for path in files:
            if path.suffix == ".svg" and path.stem.endswith(SHOWN[given.what]):
                shutil.copy(path, PICTURES / f"sweep-{path.name}")
    record(f"sweeps-{given.what}", given.device, list(method_rows(report)))
    record(f"sweeps-{given.what}-pairs", given.device, list(pair_rows(report)))


if __name__ == "__main__":
    main()
