"""The solve beside the authors' algorithm, in one run: `python -m benchmarks.solve`.

At each site: seconds, and the loss reached in the authors' own objective (mean absolute error of the masked values
after the activation), for the closed form, for steps on the coefficients alone, and for Adam on the whole weight with
projections. Takes about twenty minutes on two cores; `--steps 200` gives a quick look.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor

from benchmarks.measure import DATA, arguments, interleaved, once, record
from rulepatch.core import linalg
from rulepatch.core.exemplars import Exemplar
from rulepatch.core.patched_model import Projection
from rulepatch.core.site_activations import SiteActivations
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.data.stream import ImageStream
from rulepatch.editors import rewrite
from rulepatch.editors.problem import Problem, build_problem
from rulepatch.editors.projected_adam import descend
from rulepatch.methods import FLOOR, ProjectedAdam, Rewrite
from rulepatch.models.classes import Classes
from rulepatch.models.classifier import Classifier
from rulepatch.models.preprocess import Preprocess
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, training_images
from rulepatch.tracing import capture
from rulepatch.tracing.sites import clone_with_weight

PLAIN = Rewrite(gate=None)

THEIRS = [(1e-3, 10_000), (1e-4, 20_000)]
"""Learning rate and steps of Adam: the two settings of the authors' grid that move the weight most."""


def vgg16(device: str) -> Problem:
    """The last block of VGG16, one exemplar; random weights, batch norm measured on pictures."""
    torch.manual_seed(0)
    classes = Classes(tuple(map(str, range(1000))), "imagenet")
    model = Classifier(torchvision.models.vgg16_bn(), Preprocess((224, 224), resize=256), classes)
    images, found = pictures(model)
    with torch.no_grad():
        for batch in ImageStream(images, model.preprocess, batch_size=16):
            model.module.train()(model.inputs(batch.pixels))
    model.module.eval().requires_grad_(False).to(device)
    return build_problem(model, found[:1], "features.40", PLAIN, reference=images, run=Run(cache=None))


def mobilenet(device: str) -> Problem:
    """The last convolution of MobileNetV2, three exemplars; real weights and photographs."""
    model = load_model(str(DATA / "models" / "mobilenet_v2.toml"), device=device)
    images, found = pictures(model)
    return build_problem(model, found, "conv_head", PLAIN.but(rank=3), reference=images, run=Run(cache=None))


def pictures(model: Classifier) -> tuple[ImageSet, list[Exemplar]]:
    """Some reference pictures and exemplars without labels: photographs, or scenes of the playground."""
    if (DATA / "snow").is_dir():
        images = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).sample(128, seed=0)
        found = read_exemplars([DATA / "snow" / "exemplar"])
    else:
        images, found = training_images(128, seed=0), [exemplar("van", ground="snow", seed=1)]
    unlabelled = [replace(picture, label=None) for picture in images.pictures]
    return replace(images, pictures=tuple(unlabelled)), [replace(one, label=None) for one in found]


def measured(name: str, problem: Problem, rank: int, steps: int | None) -> list[dict[str, Any]]:
    """The rows of one site."""
    seen = problem.observations[0]
    statistics = problem.statistics[seen.site.path]
    whitener, moment = statistics.whitening(floor=FLOOR), statistics.moment.mean()

    def directions_of(seen: SiteActivations) -> Tensor:
        return linalg.directions(*seen.concept_keys(1), whitener.to(seen.keys.device), rank)[0]

    directions = directions_of(seen)

    def anew(how: Rewrite = PLAIN) -> Tensor:
        return solved(replace(seen), directions, how)  # a copy forgets what was computed before

    def forward() -> None:
        with capture.inference(seen.layer):
            seen.layer(seen.keys)

    jobs: dict[str, Callable[[], object]] = {
        "one forward of the site": forward,
        "whitening, once for a reference set": lambda: linalg.whitening(moment, floor=FLOOR),
        "directions, once for some exemplars": lambda: directions_of(replace(seen)),
        "closed form": anew,
    }
    seconds = interleaved(jobs)
    rows: list[dict[str, Any]] = [{"site": name, "what": what, "seconds": found} for what, found in seconds.items()]
    rows[-1]["loss"] = loss(seen, anew(), directions)
    for count in (100, 600, 2000):
        taken, found = once(partial(anew, PLAIN.but(match="value", error="absolute", steps=count)))
        what = f"absolute error, {count:,} steps on Λ alone"
        rows.append({"site": name, "what": what, "seconds": taken, "loss": loss(seen, found, directions)})
    for rate, full in THEIRS:
        count = full if steps is None else min(full, steps)
        how = ProjectedAdam(rank=rank, steps=count, learning_rate=rate)
        taken, delta = once(partial(descend, seen, directions, how, progress=True))
        reached = loss(seen, linalg.coefficients_of(delta.double(), directions), directions)
        what = f"authors' algorithm, {count:,} steps at {rate:g}"
        rows.append({"site": name, "what": what, "seconds": taken, "loss": reached})
    nothing = loss(seen, torch.zeros_like(anew()), directions)
    slowest, site = rows[-1]["seconds"], seconds["one forward of the site"]
    rows.append({"site": name, "what": "no edit", "loss": nothing})
    for row in rows:
        if "seconds" in row:
            row["forwards of the site"] = row["seconds"] / site
            row["× faster than 20,000 steps"] = slowest / row["seconds"]
    return rows


def solved(seen: SiteActivations, directions: Tensor, how: Rewrite) -> Tensor:
    """The coefficients of given directions, without a gate: the solve of `rewrite` alone, (c_out, r, y, x)."""
    with torch.no_grad():
        projection = Projection(seen.layer, directions, None, dtype=torch.float64)
        features = seen.features(projection(seen.keys.to(directions)))
    weights = seen.output_weights[seen.marked]
    found = linalg.ridge_path(features[seen.marked], seen.residuals, weights, [how.ridge])[0]
    if how.match == "value":
        found = rewrite._descend(seen, features, found, how, progress=False)
    return found.T.reshape(-1, len(directions), *seen.site.shape[2:])


def loss(seen: SiteActivations, coefficients: Tensor, directions: Tensor) -> float:
    """The authors' objective with an edit's coefficients."""
    delta = linalg.low_rank(coefficients, directions).to(seen.keys)
    with torch.no_grad():
        return float(seen.error(clone_with_weight(seen.layer, delta)(seen.keys)).mean())


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--steps", type=int, help="at most so many steps of the authors' algorithm")
    given = parser.parse_args()
    rows = measured("VGG16 features.40, 1 exemplar, rank 1", vgg16(given.device), 1, given.steps)
    if (DATA / "weights").is_dir():
        rows += measured("MobileNetV2 conv_head, 3 exemplars, rank 3", mobilenet(given.device), 3, given.steps)
    record("solve" if given.steps is None else "solve-quick", given.device, rows)


if __name__ == "__main__":
    main()
