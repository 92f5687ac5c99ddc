"""Rules of real networks from photographs: `python -m benchmarks.photographs`.

Concepts are found by two segmentation networks that run here (`pip install ai-edge-litert`), the ones of the test data:
Cityscapes for road, building, vegetation and sky, Pascal for person. Each is replaced by the eight styles; MobileNetV2
and SqueezeNet are asked about the same pictures. The sample has one picture a class, so groups of classes are tested.
About half an hour on one core.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from benchmarks.measure import DATA, arguments, record
from rulepatch.concepts.cases import CaseSet
from rulepatch.concepts.make_cases import make_cases
from rulepatch.concepts.segment import load_segmenter
from rulepatch.concepts.stylize import load_stylizer, styles
from rulepatch.data.folders import ImageSet
from rulepatch.discovery.discover import discover
from rulepatch.discovery.report import write_discovery
from rulepatch.discovery.result import Discovery
from rulepatch.images import read_image
from rulepatch.models.classes import Classes
from rulepatch.models.registry import load_model

NETWORKS = {
    "deeplab_mobilenet_edgetpu_slim_cityscapes_quant": {
        "road": (0, 1), "building": (2,), "vegetation": (8, 9), "sky": (10,),
    },
    "deeplabv3_mnv2_pascal_quant": {"person": (15,)},
}  # fmt: skip
"""Classes of each network that a concept is made of: road and pavement, vegetation and terrain."""

LEAST_DROP = 0.1
"""Accuracy that counts as a rule: less than by default, as groups of many classes lose less than one class does."""

CONCEPTS = tuple(concept for own in NETWORKS.values() for concept in own)

GROUPS: Mapping[str, tuple[int, ...]] = {
    "fish": (*range(7), *range(389, 398)),
    "birds": (*range(7, 25), *range(80, 101), *range(127, 147)),
    "reptiles and amphibians": tuple(range(25, 69)),
    "insects and spiders": (*range(69, 80), *range(300, 327)),
    "dogs": tuple(range(151, 269)),
    "other mammals": (*range(101, 107), *range(147, 151), *range(269, 300), *range(330, 389)),
    "road vehicles": (
        407, 408, 436, 444, 468, 511, 555, 569, 573, 575, 581, 586, 609, 612, 627, 654, 656, 661, 665, 670, 671, 675,
        705, 717, 734, 751, 757, 779, 803, 802, 817, 847, 864, 866, 867, 870, 874,
    ),
    "ships and boats": (403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 833, 871, 914),
    "buildings": (410, 425, 437, 449, 483, 497, 498, 500, 538, 580, 624, 663, 668, 698, 727, 762, 832, 900),
}  # fmt: skip
"""Indices of ImageNet's classes."""


def masks_of(images: ImageSet, folder: Path) -> None:
    """Write the mask of every concept in every picture, as `files/FOLDER` reads them."""
    from ai_edge_litert.interpreter import Interpreter

    for name, concepts in NETWORKS.items():
        network = Interpreter(str(DATA / "segmentation" / f"{name}.tflite"))
        network.allocate_tensors()
        given, found = network.get_input_details()[0]["index"], network.get_output_details()[0]["index"]
        for picture in tqdm(images.pictures, desc=f"masks by {name}"):
            assert isinstance(picture.source, Path)
            image = read_image(picture.source)
            network.set_tensor(given, np.asarray(image.resize((513, 513)))[None])
            network.invoke()
            labels: NDArray[Any] = network.get_tensor(found)[0]
            for concept, numbers in concepts.items():
                mask = Image.fromarray(np.isin(labels, numbers).astype(np.uint8) * 255)
                path = folder / concept / picture.source.parent.name / f"{picture.source.stem}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                mask.resize(image.size, Image.Resampling.NEAREST).save(path)


def made(folder: Path, classes: Classes) -> CaseSet:
    """The case set: five concepts in eight styles, one picture of each style."""
    images = ImageSet.of(DATA / "imagenet_sample" / "val", classes)
    if not (folder / "masks").is_dir():
        masks_of(images, folder / "unfinished")
        (folder / "unfinished").rename(folder / "masks")
    return make_cases(
        images,
        folder / "cases",
        concepts=CONCEPTS,
        styles=[style for style in styles() if style.index == 0],
        segmenter=load_segmenter(f"files/{folder / 'masks'}"),
        stylizer=load_stylizer("paste"),
        classes=classes,
        smallest=0.05,
        largest=0.8,
    )


def row(found: Discovery, number: int, group: str, concept: str) -> dict[str, Any] | None:
    """What replacing a concept by any style does to a group of classes."""
    rows = {each.key: each for each in found.findings[number].effects}
    here = rows.get((group, concept, None))
    if here is None:
        return None
    rules = [rule.style for rule in found.findings[number].rules if (rule.label, rule.concept) == (group, concept)]
    return {
        "network": found.findings[number].model,
        "classes": group,
        "concept": concept,
        "pictures": here.n,
        "before, %": 100 * here.before,
        "after, %": 100 * here.after,
        "low": 100 * here.interval[0],
        "high": 100 * here.interval[1],
        "q": here.q,
        "is a rule": None in rules,
        "styles that are rules": len([style for style in rules if style is not None]),
        "worst style": max(
            (each for each in rows.values() if each.key[:2] == (group, concept) and each.style),
            key=lambda each: each.drop,
        ).style,
    }


def main() -> None:
    """Measure and record."""
    parser: argparse.ArgumentParser = arguments(__doc__ or "")
    parser.add_argument("--folder", type=Path, help="to keep masks, cases and the report; a temporary one by default")
    given = parser.parse_args()
    models = [
        load_model(str(DATA / "models" / f"{name}.toml"), device=given.device)
        for name in ("mobilenet_v2", "squeezenet1_0")
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        cases = made(folder, models[0].classes)
        print(json.dumps(cases.to_json()["by_case"]))
        groups = {name: [str(i) for i in labels] for name, labels in GROUPS.items()}
        found = discover(models, cases, groups=groups, least_drop=LEAST_DROP)
        write_discovery(found, folder / "found")
    labels = ("all classes", *GROUPS)
    rows = [
        each
        for number in range(len(models))
        for group in labels
        for concept in CONCEPTS
        if (each := row(found, number, group, concept)) is not None
    ]
    record("photographs", given.device, rows)
    differences = [
        {
            "classes": each.label,
            "concept": each.concept,
            "style": each.style or "any style",
            "pictures": each.n,
            "first": 100 * each.drops[0],
            "second": 100 * each.drops[1],
            "q": each.q,
        }
        for each in found.compared
        if each.q <= found.level
    ]
    record("photographs-differences", given.device, differences)


if __name__ == "__main__":
    main()
