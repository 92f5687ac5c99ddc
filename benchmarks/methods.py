"""All methods at the same site and under the same budget on a real network: `python -m benchmarks.methods`.

MobileNetV2, vehicles on snow, three exemplars. A third of the photographs of each class chooses the hyper-parameters,
the others are the tests; one half of the sample chooses, the other half is what damage is measured on. The authors'
algorithm has the paper's grid (230,000 steps). About forty minutes on two cores.
"""

from typing import Any

from benchmarks.measure import DATA, RESULTS, arguments, record
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.experiments.compare import compare
from rulepatch.experiments.grids import METHODS
from rulepatch.models.registry import load_model

SITE, MAX_DROP, SEED = "conv_head", 0.0025, 0


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--short", action="store_true", help="the default grid for the authors' algorithm, too")
    parser.add_argument("--method", action="append", help="measure these alone, and keep the others' recorded rows")
    given = parser.parse_args()
    model = load_model(str(DATA / "models" / "mobilenet_v2.toml"), device=given.device)
    exemplars = read_exemplars([DATA / "snow" / "exemplar"])
    found = compare(
        model,
        exemplars,
        site=SITE,
        tests=DATA / "snow" / "test",
        reference=DATA / "imagenet_sample" / "val",
        methods=given.method or tuple(METHODS),
        leave_out=[one.label for one in exemplars if one.label is not None],
        max_drop=MAX_DROP,
        grids={} if given.short else {"projected-adam": "paper"},
        seed=SEED,
    )
    rows: list[dict[str, Any]] = []
    for result in found.results:
        told = result.to_json()
        tests, sample, chosen = told["tests"], told["reference"], told["settings"]
        rows.append(
            {
                "method": told["method"],
                "before, %": 100 * tests["before"],
                "on snow, %": 100 * tests["after"],
                "interval": [round(100 * end, 1) for end in tests["intervals"]["after"]],
                "repaired": tests["repaired"],
                "broken": tests["broken"],
                "p": tests["mcnemar_p"],
                "sample, points lost": 100 * sample["drop"],
                "sample, flips %": 100 * sample["flips"],
                "seconds": told["seconds"],
                "seconds of the grid": told["seconds_of_grid"],
                "chosen": "no edit" if chosen is None else ", ".join(f"{k} {v}" for k, v in chosen.items() if v),
            }
        )
    name = "methods-short" if given.short else "methods"
    record(name, given.device, rows, only=given.method or ())
    if not given.method:
        found.figure().savefig(RESULTS / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
