"""The four cells of the paper in the playground, where truth is known: `python -m benchmarks.cells`.

A case is a class, another ground for it and a seed. Exemplars: one class on one instance of the ground's texture.
Tests: the exemplars' class and the others, on that instance (train style) and on others (held-out style). For each
method hyper-parameters are chosen on a third of the tests, to lose at most 0.25 % on reference scenes. Errors
corrected count scenes that were right on road and wrong on the new ground (paper 4), less those newly broken.
About an hour on two cores.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.measure import arguments, record
from rulepatch.core.edit import Edit, base_digest
from rulepatch.data.folders import ImageSet
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.metrics import errors_corrected
from rulepatch.experiments.compare import compare
from rulepatch.experiments.demo import road_vehicles
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, image_set, training_images
from rulepatch.playground.scenes import TRAIN_STYLES, Scene, render

SEEDS = range(12)
GROUNDS = ("snow", "grass", "leaves", "sand", "ice", "cobble")
SITES = ("blocks.3.conv", "blocks.5.conv")
EXEMPLARS = 3
METHODS = (
    "rewrite", "rewrite-mask", "dense", "projected-adam", "projected-adam-mask", "projected-adam-proj",
    "finetune-local", "finetune-local+proj", "finetune-global", "finetune-global+proj", "last-layer",
)  # fmt: skip
CELLS = ("target, train style", "target, held-out style", "other, train style", "other, held-out style")


@dataclass(frozen=True)
class Case:
    """A concept-style case of the playground."""

    target: str
    ground: str
    seed: int

    def scenes(self, *, ground: str | None) -> Iterator[Scene]:
        """The tests, cell by cell, with the new ground or with road."""
        rng = np.random.default_rng([self.seed, 99])
        others = [label for label in road_vehicles() if label != self.target]
        for cell in CELLS:
            labels = [self.target] * 45 if cell.startswith("target") else others * 5
            for label in labels:
                instance = self.texture if "train" in cell else int(rng.integers(TRAIN_STYLES.stop, 100_000))
                seed = int(rng.integers(2**31))
                yield render(label, seed=seed, ground=ground or "road", ground_seed=instance if ground else None)

    @property
    def texture(self) -> int:
        """The instance of the texture that the exemplars show."""
        return 1000 + self.seed


def case_of(seed: int) -> Case:
    """The case of a seed: class and ground are drawn."""
    rng = np.random.default_rng([seed, 5])
    return Case(str(rng.choice(road_vehicles())), GROUNDS[seed % len(GROUNDS)], seed)


def measured(model: Classifier, case: Case, site: str, methods: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a case at a site: a method and its share of errors corrected in each cell."""
    exemplars = [
        exemplar(case.target, seed=10 * case.seed + i, ground=case.ground, ground_seed=case.texture)
        for i in range(EXEMPLARS)
    ]
    tests = image_set(case.scenes(ground=case.ground), f"{case.target} on {case.ground}")
    cell_of = np.repeat(CELLS, 45)
    chosen = np.arange(len(tests)) % 3 == 0  # every third scene of each cell, for validation
    original = image_set(case.scenes(ground=None), "on road")
    nothing = Edit((), base_digest(model.module))
    (on_road,) = outcomes_of(model, [nothing], part(original, ~chosen))
    found = compare(
        model, exemplars, site=site, methods=methods, tests=part(tests, ~chosen), validation=part(tests, chosen),
        reference=training_images(1200, seed=case.seed + 500), seed=case.seed, cache=None, progress=False,
    )  # fmt: skip
    rows = []
    for result in found.results:
        seen, damage = result.evaluation.tests, result.evaluation.reference
        assert seen is not None and damage is not None
        row: dict[str, Any] = {"method": result.method, "site": site, "case": f"{case.target} on {case.ground}"}
        for cell in CELLS:
            here = cell_of[~chosen] == cell
            corrected = errors_corrected(
                seen.labels[here],
                on_road.first.predicted[here],
                seen.first.predicted[here],
                seen.second.predicted[here],
            )
            row |= {cell: corrected.net, f"{cell}, errors": corrected.errors, f"{cell}, caused": corrected.caused}
        rows.append(row | {"points lost": 100 * damage.drop, "no edit": result.settings is None})
    return rows


def part(images: ImageSet, chosen: np.ndarray) -> ImageSet:
    """Some pictures of a set."""
    return ImageSet(tuple(images.pictures[i] for i in np.flatnonzero(chosen)), images.name)


def summary(rows: Sequence[dict[str, Any]], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Means over cases, with intervals by resampling cases."""
    found = []
    for site in SITES:
        for method in methods:
            own = [row for row in rows if (row["method"], row["site"]) == (method, site)]
            line: dict[str, Any] = {"site": site, "method": method}
            for cell in CELLS:
                values = np.array([row[cell] for row in own if row[cell] is not None])
                draws = np.random.default_rng(0).choice(values, (4000, len(values))).mean(axis=1)
                low, high = np.quantile(draws, [0.025, 0.975])
                line |= {cell: values.mean(), f"{cell}, low": low, f"{cell}, high": high}
                line[f"{cell}, cases"] = len(values)
            line |= {
                "points lost": np.mean([row["points lost"] for row in own]),
                "no edit": sum(row["no edit"] for row in own),
            }
            found.append(line)
    return found


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many cases")
    parser.add_argument("--method", action="append", help="measure these alone, and keep the others' recorded rows")
    given = parser.parse_args()
    methods = given.method or METHODS
    model = load_model("playground", device=given.device)
    rows = []
    for seed in range(given.seeds):
        for site in SITES:
            rows += measured(model, case_of(seed), site, methods)
    name = "cells" if given.seeds == len(SEEDS) else "cells-quick"
    record(name, given.device, summary(rows, methods), only=given.method or ())


if __name__ == "__main__":
    main()
