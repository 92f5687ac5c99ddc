"""Does what the search chooses depend on the reference set? `python -m benchmarks.reference_sets`.

Three exemplars of snow, MobileNetV2, and ten random reference sets of 250 to 1,000 photographs; damage is measured on
the photographs that are not among them. Half an hour on one core; with `--quick` the quick search, ten minutes.
"""

from typing import Any

import numpy as np

from benchmarks.measure import DATA, arguments, once, record, recorded
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.methods import Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.site_search.search import search

SIZES = (250, 250, 350, 350, 500, 500, 750, 750, 1000, 1000)


def row(model: Classifier, exemplars: list[Exemplar], pool: ImageSet, seed: int, *, quick: bool) -> dict[str, Any]:
    """Search with one reference set, and measure on what it was not given."""
    size, order = SIZES[seed], np.random.default_rng(seed).permutation(len(pool))
    known, unseen = (
        ImageSet(tuple(pool.pictures[i] for i in sorted(some)), name)
        for some, name in ((order[:size], "known"), (order[size:], "unseen"))
    )
    seconds, found = once(
        lambda: search(model, exemplars, reference=known, quick=quick, cache=None, progress=False, seed=seed)
    )
    line: dict[str, Any] = {"search": "quick" if quick else "whole", "seed": seed, "images": size, "seconds": seconds}
    line |= {"validation": found.validation, "why": found.why, "candidates": len(found.candidates)}
    if found.edit is None:
        return line | {"edit": "none"}
    how = found.edit.how
    assert isinstance(how, Rewrite)
    seen = evaluate(model, found.edit, tests=DATA / "snow" / "test", reference=unseen)
    assert seen.tests is not None and seen.reference is not None
    gate = "no gate" if how.gate is None else f"gate {how.gate}"
    return line | {
        "edit": f"{' + '.join(found.edit.sites)}, rank {how.rank}, strength {how.strength:g}, {gate}",
        "before, %": 100 * (seen.tests.before or 0),
        "after, %": 100 * (seen.tests.after or 0),
        "repaired": len(seen.tests.repaired),
        "broken": len(seen.tests.broken),
        "points lost": 100 * seen.reference.drop,
        "flips, %": 100 * len(seen.reference.flips) / len(seen.reference),
    }


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--quick", action="store_true", help="the quick search")
    args = parser.parse_args()
    model = load_model(str(DATA / "models" / "mobilenet_v2.toml"), device=args.device)
    exemplars = read_exemplars([DATA / "snow" / "exemplar"])
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    folders = (DATA / name / "val" for name in ("imagenet_sample", "imagenet_more"))
    both = [ImageSet.of(folder, model.classes).without(own) for folder in folders]
    pool = ImageSet(both[0].pictures + both[1].pictures, "photographs")
    name = "quick" if args.quick else "whole"
    kept = [each for each in recorded("reference_sets", args.device) if each["search"] != name]
    new: list[dict[str, Any]] = []
    for seed in range(len(SIZES)):
        new.append(row(model, exemplars, pool, seed, quick=args.quick))
        record("reference_sets", args.device, kept + new)


if __name__ == "__main__":
    main()
