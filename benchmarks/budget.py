"""What a few hundred images tell of the damage on others: `python -m benchmarks.budget`.

Edits from three exemplars of snow at eight late sites are measured on the sample; statistics come from other images.
A thousand times two fifths of the sample choose, of the edits within the budget, the one that gains most on the tests
(as greedy as a search can be), and the rest of the sample says whether it keeps the budget. About ten minutes a network
on one core; `--networks` measures some, and the rows of others are kept.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.felt_damage import rank_correlation
from benchmarks.measure import DATA, arguments, record, recorded
from benchmarks.watermark import NETWORKS
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.data.run import Run
from rulepatch.editors.problem import build_problem
from rulepatch.errors import RulepatchError
from rulepatch.evaluation.activations import Activations
from rulepatch.methods import Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.site_search.budget import FLIPS, flips_by_shift
from rulepatch.site_search.candidates import EditFactory, Trial
from rulepatch.tracing.model_sites import sites_of

BUDGET, CHOOSING, SPLITS = 0.0025, 0.4, 1000

FEW = 64
"""Images from which flips for each change of probability are learnt alone, to be compared."""

Numbers = NDArray[np.float64]


def measured(model: Classifier) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Of each edit and image: flip, accuracy lost, change of probability, (edits, images); and gain on the tests."""
    exemplars = read_exemplars([DATA / "snow" / "exemplar"])
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    known = ImageSet.of(DATA / "imagenet_more" / "val", model.classes).without(own).sample(250, seed=3)
    sample = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own)
    site_list = sites_of(model)
    late = [site.path for site in site_list.sites if site.is_spatial and not site_list.is_shortcut(site)]
    sites = late[len(late) // 2 :][::-1][::2][:8][::-1]
    run = Run(cache=None)
    factory = EditFactory(build_problem(model, exemplars, sites, Rewrite(), reference=known, run=run), known)
    found: list[tuple[Numbers, Numbers, Numbers, float]] = []
    tests = ImageSet.of(DATA / "snow" / "test", model.classes)
    with Activations(model, sample, sites) as on_sample, Activations(model, tests, sites) as on_tests:
        for site in sites:
            for rank in (1, 3):
                for gate, strengths in ((0.98, (1.0, 2.0, 3.0)), (0.95, (2.0,)), (None, (1.0,))):
                    for strength in strengths:
                        try:
                            edit = factory.make(Trial((site,), Rewrite(rank=rank, gate=gate, strength=strength)))
                        except RulepatchError:
                            continue
                        seen = on_sample.outcomes(edit)
                        lost = seen.right_before.astype(float) - seen.right_after
                        flips = (seen.first.predicted != seen.second.predicted).astype(float)
                        shift = np.abs(seen.second.of_label - seen.first.of_label).astype(float)
                        found.append((flips, lost, shift, float(on_tests.outcomes(edit).log_prob_gain.mean())))
    flips, lost, shift, gain = (np.array(each) for each in zip(*found, strict=True))
    return flips, lost, shift, gain


def row_of(flips: Numbers, lost: Numbers, shift: Numbers, gain: Numbers) -> dict[str, Any]:
    """What is known of the unseen images by each measure, and how often the budget is kept."""
    images = flips.shape[1]
    correlations: list[list[float]] = []
    chosen: dict[str, list[tuple[bool, float, float, float]]] = {"flips": [], "few": [], "shift": []}
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(images)
        seen, unseen = order[: round(CHOOSING * images)], order[round(CHOOSING * images) :]
        told = {name: each[:, seen].mean(axis=1) for name, each in (("flips", flips), ("lost", lost), ("shift", shift))}
        true = {name: each[:, unseen].mean(axis=1) for name, each in (("flips", flips), ("lost", lost))}
        pairs = [(x, y) for y in ("lost", "flips") for x in ("lost", "flips", "shift") if (x, y) != ("lost", "flips")]
        correlations.append([rank_correlation(told[x], true[y]) for x, y in pairs])
        by_shift = flips_by_shift(zip(flips[:, seen].sum(axis=1), shift[:, seen].sum(axis=1), strict=True))
        few = seen[:FEW]
        by_few = flips[:, few].sum() / shift[:, few].sum()
        within = {
            "flips": (told["lost"] <= max(BUDGET, 1 / len(seen)) + 1e-12) & (told["flips"] <= 4 * BUDGET),
            "few": (told["lost"] <= BUDGET + 1 / len(seen) + 1e-12) & (by_few * told["shift"] <= FLIPS * BUDGET),
            "shift": (told["lost"] <= BUDGET + 1 / len(seen) + 1e-12) & (by_shift * told["shift"] <= FLIPS * BUDGET),
        }
        for name, fits in within.items():
            if fits.any():
                best = int(np.where(fits, gain, -np.inf).argmax())
                kept = bool(true["lost"][best] <= max(BUDGET, 1 / len(unseen)) + 1e-12)
                chosen[name].append((kept, float(gain[best]), true["flips"][best], true["lost"][best]))
    names = ["lost by lost", "lost by flips", "lost by shift", "flips by flips", "flips by shift"]
    found: dict[str, Any] = {
        "edits": len(flips),
        **dict(zip(names, np.mean(correlations, axis=0).tolist(), strict=True)),
    }
    for name, each in chosen.items():
        kept, gains, flipped, points = (np.array(column, float) for column in zip(*each, strict=True))
        found |= {
            f"{name}: kept, %": 100 * kept.mean(),
            f"{name}: gain": gains.mean(),
            f"{name}: spread": gains.std(),
            f"{name}: flips, %": 100 * flipped.mean(),
            f"{name}: points lost": 100 * points.mean(),
        }
    return found


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    args = parser.parse_args()
    for name in args.networks:
        known = {each["network"]: each for each in recorded("budget", args.device)}
        model = load_model(str(DATA / "models" / NETWORKS[name]), device=args.device)
        known[name] = {"network": name, **row_of(*measured(model))}
        record("budget", args.device, [known[each] for each in NETWORKS if each in known])


if __name__ == "__main__":
    main()
