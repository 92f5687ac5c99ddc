"""A class from one picture: `python -m benchmarks.new_class [playground|cifar|mobilenet ...]`.

In the playground two vehicles are held out of training, so that the network has never seen them; in the real networks a
class's row is taken out of the head, though the features have been trained with it. Each class is then added from one
picture, by the filter of thesis chapter 4 and by every baseline, with scale and bias set on half of the reference set.
Everything reported is measured on pictures that nothing was made from.

Which negatives the filter has by default was chosen on some classes (`--validation` repeats that); what is reported is
of others, or, of MobileNetV2, whose photographs show four classes, from other exemplars. Half an hour on two cores.
"""

import copy
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from benchmarks.measure import DATA, arguments, record
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, Picture
from rulepatch.images import read_image
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.models.playground_network import PlaygroundNetwork
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import load_model
from rulepatch.new_classes.editor import new_class
from rulepatch.new_classes.evaluate import NewClassEvaluation, evaluate_new_classes
from rulepatch.new_classes.settings import METHODS
from rulepatch.playground.pictures import picture_of
from rulepatch.playground.scenes import CLASSES, SIZE, render, silhouette
from rulepatch.playground.worlds import SHORTCUTS, sample
from rulepatch.tracing.model_sites import sites_of
from tools.train_playground import MEAN, STD, train

MAX_DROP = 0.0025
HELD_OUT = {"validation": ("bus", "tractor"), "tests": ("pickup", "snowcat")}
PARTS = {"pickup": ("car", "truck"), "snowcat": ("snowmobile", "snowplow")}
"""What we would say that a vehicle is composed of."""
FILTERS: dict[str, dict[str, Any]] = {
    "filter, 5 mined": {"method": "filter", "negatives": "mined", "count": 5},
    "filter, 50 random": {"method": "filter", "negatives": "random", "count": 50},
    "filter, no negatives": {"method": "filter", "negatives": "none"},
}
"""The filter with each kind of negatives."""

CIFAR = {
    "validation": ("automobile", "cat", "dog", "ship", "truck"),
    "tests": ("airplane", "bird", "deer", "frog", "horse"),
}
MOBILENET = {"n02974003": 479, "n03791053": 670, "n04037443": 751, "n04389033": 847}


@dataclass(frozen=True, eq=False)
class Trial:
    """One class to be added from one picture.

    Attributes:
        name: of the class.
        model: a classifier that does not know it.
        exemplar: one picture of it, with its silhouette.
        positives: other pictures of it.
        reference: pictures of the other classes that the edit is made with.
        others: pictures of the other classes that it is measured on.
        seed: which trial of the class it is.
        parts: what the class is composed of, in pictures of other classes.
    """

    name: str
    model: Classifier
    exemplar: Exemplar
    positives: ImageSet
    reference: ImageSet
    others: ImageSet
    seed: int
    parts: Sequence[Exemplar] = ()


def disc(height: int, width: int, share: float = 0.8) -> NDArray[np.float32]:
    """An ellipse in the middle, for want of painted silhouettes."""
    y, x = np.mgrid[:height, :width]
    inside = ((2 * y / (height - 1) - 1) ** 2 + (2 * x / (width - 1) - 1) ** 2) < share**2
    return inside.astype(np.float32)


def without(model: Classifier, label: int) -> Classifier:
    """The classifier without a class: its row of the head is taken out."""
    head = sites_of(model).sites[-1].path
    network, (parent, _, name) = copy.deepcopy(model.module), head.rpartition(".")
    layer = network.get_submodule(head)
    assert isinstance(layer, nn.Linear)
    kept = [i for i in range(layer.out_features) if i != label]
    smaller = nn.Linear(layer.in_features, len(kept))
    smaller.weight.data, smaller.bias.data = layer.weight.data[kept].clone(), layer.bias.data[kept].clone()
    setattr(network.get_submodule(parent), name, smaller)
    names = tuple(model.classes.names[i] for i in kept)
    return Classifier(network.eval(), model.preprocess, Classes(names), model.name)


def others_of(images: ImageSet, label: int) -> ImageSet:
    """The pictures of all other classes, labelled as a classifier without the class counts."""
    kept = [Picture(each.source, each.label - (each.label > label)) for each in images.pictures if each.label != label]
    return ImageSet(tuple(kept), images.name)


def cut_out(model: Classifier, images: ImageSet, label: int, pool: Sequence[Path], seed: int, own: int) -> Trial:
    """A trial with a class taken out of a real network; `own` of the pool is the exemplar, the rest are positives."""
    reference, others = others_of(images, label).split(0.5, seed=0)
    picture = read_image(pool[own])
    exemplar = Exemplar(picture, picture, disc(picture.height, picture.width))
    positives = ImageSet(tuple(Picture(path) for i, path in enumerate(pool) if i != own), "positives")
    smaller = without(model, label)
    return Trial(model.classes[label], smaller, exemplar, positives, reference, others, seed)


def cifar(split: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """ResNet-56, 200 test pictures a class; one is the exemplar, an ellipse its silhouette."""
    model = load_model(str(DATA / "models" / "resnet56_cifar10.toml"))
    images = ImageSet.of(DATA / "cifar10" / "test", model.classes)
    for name in CIFAR[split]:
        label = model.classes.index(name)
        pool = [each.source for each in images.pictures if each.label == label and isinstance(each.source, Path)]
        for seed in seeds:
            own = int(np.random.default_rng([seed, label]).integers(len(pool)))
            yield cut_out(model, images, label, pool, seed, own)


def mobilenet(_: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """MobileNetV2: exemplar 0 is the sample's picture, others are photographs on snow; positives are those on snow."""
    model = load_model(str(DATA / "models" / "mobilenet_v2.toml"))
    images = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes)
    for folder, label in MOBILENET.items():
        pool = sorted((DATA / "snow" / "test" / folder).glob("*.jpg"))
        (usual,) = (each.source for each in images.pictures if each.label == label)
        assert isinstance(usual, Path)
        for seed in seeds:
            own = 0 if seed == 0 else 1 + int(np.random.default_rng([seed, label]).integers(len(pool)))
            yield cut_out(model, images, label, [usual, *pool], seed, own)


def masked(name: str, seed: int) -> Exemplar:
    """A scene of a vehicle with its silhouette."""
    scene = render(name, seed=seed)
    return Exemplar(picture_of(scene), picture_of(scene), silhouette(scene))


def playground(split: str, seeds: Sequence[int], weights: Path) -> Iterator[Trial]:
    """A network trained without two vehicles; silhouettes are exact."""
    known = tuple(name for name in CLASSES if name not in HELD_OUT[split])
    if not weights.exists():
        scenes = list(tqdm(sample(SHORTCUTS, seed=0, count=12_000, classes=known), total=12_000, desc="rendering"))
        labels = np.array([known.index(scene.label) for scene in scenes])
        trained = train(np.stack([scene.image for scene in scenes]), labels, classes=len(known), epochs=6, seed=0)
        save_file(trained.state_dict(), weights)
    network = PlaygroundNetwork(classes=len(known)).eval()
    network.load_state_dict(load_file(weights))
    model = Classifier(
        network, Preprocess((SIZE, SIZE), mean=MEAN, std=STD), Classes(known), "playground, two held out"
    )

    def images(seed: int, count: int) -> ImageSet:
        drawn = sample(SHORTCUTS, seed=seed, count=count, classes=known)
        return ImageSet(tuple(Picture(picture_of(each), known.index(each.label)) for each in drawn), f"{count} scenes")

    reference, others = images(2**32, 2000), images(2**32 + 1, 2000)
    for name in HELD_OUT[split]:
        shown = [picture_of(render(name, seed=2**32 + i)) for i in range(300)]
        positives = ImageSet(tuple(Picture(each) for each in shown), name)
        for seed in seeds:
            parts = [masked(part, 2**33 + seed) for part in PARTS.get(name, ())]
            yield Trial(name, model, masked(name, 2**33 + seed), positives, reference, others, seed, parts)


def measured(trial: Trial, methods: Sequence[str]) -> dict[str, NewClassEvaluation]:
    """What every method makes of a trial."""
    plans = {**FILTERS, **{method: {"method": method} for method in methods if method != "filter"}}
    edits = [
        new_class(
            trial.model, [trial.exemplar], "new class", reference=trial.reference, max_drop=MAX_DROP, seed=trial.seed,
            parts=trial.parts, progress=False, **plan,
        )
        for plan in plans.values()
    ]  # fmt: skip
    found = evaluate_new_classes(trial.model, edits, positives=trial.positives, others=trial.others, progress=False)
    return dict(zip(plans, found, strict=True))


KEYS = ("AUC", "AUC of the margin", "TPR at 1 %, %", "TPR of the margin at 1 %, %", "recognised, %", "points lost")


def numbers(found: NewClassEvaluation) -> dict[str, float]:
    """What is recorded of one evaluation."""
    told = found.to_json()
    values = (
        told["auc"]["logit"], told["auc"]["margin"], 100 * told["true_positives"]["logit"],
        100 * told["true_positives"]["margin"], 100 * told["recognised"], 100 * told["drop"],
    )  # fmt: skip
    return dict(zip(KEYS, values, strict=True))


def summed(rows: Sequence[dict[str, Any]], network: str) -> list[dict[str, Any]]:
    """Means over trials, with the standard error over trials."""
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        line: dict[str, Any] = {"network": network, "method": method, "trials": len(own)}
        for key in KEYS:
            values = [row[key] for row in own]
            line[key] = mean(values)
            line[f"{key}, error"] = stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        lines.append(line)
    return lines


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("networks", nargs="*", default=["playground", "cifar", "mobilenet"])
    parser.add_argument("--seeds", type=int, default=5, help="exemplars of each class")
    parser.add_argument("--validation", action="store_true", help="the filters alone, on what chose their negatives")
    parser.add_argument("--weights", type=Path, help="of the playground's network with classes held out, to be kept")
    given = parser.parse_args()
    split, methods = ("validation", ()) if given.validation else ("tests", METHODS)
    seeds = range(3) if given.validation else range(3, 3 + given.seeds)
    for network in given.networks:
        with tempfile.TemporaryDirectory() as temporary:
            weights = given.weights or Path(temporary) / "held_out.safetensors"
            trials = {"cifar": cifar, "mobilenet": mobilenet}.get(network)
            found: list[dict[str, Any]] = []
            for trial in trials(split, seeds) if trials else playground(split, seeds, weights):
                for method, evaluation in measured(trial, methods).items():
                    found.append({"class": trial.name, "seed": trial.seed, "method": method, **numbers(evaluation)})
                    print(found[-1], flush=True)
        name = f"new-class-{network}" + ("-validation" if given.validation else "")
        record(name, "cpu", summed(found, network))
        record(f"{name}-trials", "cpu", found)


if __name__ == "__main__":
    main()
