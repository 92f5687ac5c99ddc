"""Which signal ranks edits as the tests do? `python -m benchmarks.signals`.

In the playground, where truth is known: many rules, every candidate of a search (site, sets of sites, rank, gate,
strength) scored by each signal and by the truth, other classes on other instances of the new ground. On the real
network the same, with the photographs on snow as the truth: measured for this study only, the search never sees them.
About half an hour on two cores.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.cases import PlaygroundRule
from benchmarks.measure import DATA, arguments, record
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import training_images
from rulepatch.site_search.candidates import Candidate
from rulepatch.site_search.result import Search
from rulepatch.site_search.search import search
from rulepatch.site_search.selection import choose
from rulepatch.tracing.model_sites import sites_of

CASES = 8
LABELLED = (5, 20)


def signals(searched: Search, truth: Sequence[Outcomes], order: Sequence[str], seed: int) -> dict[str, list[float]]:
    """What each signal says of each candidate; larger is better."""
    own = searched.candidates
    failures = np.flatnonzero(~truth[0].right_before)
    drawn = np.random.default_rng(seed).permutation(failures)
    found: dict[str, list[float]] = {
        "depth of the last site": [max(order.index(path) for path in each.trial.sites) for each in own],
        "exemplars' masked error": [-each.loss for each in own],
        "predicted damage": [-each.predicted_damage for each in own],
        "flips on the reference set": [each.flips for each in own],
        "counterfactuals, log-probability": [each.score for each in own],
        "counterfactuals, net repaired": [each.repaired - each.broken for each in own],
    }
    for count in LABELLED:
        if len(failures) >= count:
            found[f"{count} labelled failures, log-probability"] = [
                float(each.log_prob_gain[drawn[:count]].mean()) for each in truth
            ]
    return found


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's, 0 where one does not vary."""
    ranks = [np.argsort(np.argsort(np.asarray(each))) for each in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1]) if min(len(set(one)), len(set(other))) > 1 else 0.0


def rows_of(
    case: str, searched: Search, truth: Sequence[Outcomes], order: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """A row for each signal: rank correlation with the truth within the budget, and the truth of its choice."""
    repair = [float(each.after or 0) for each in truth]
    within = [i for i, each in enumerate(searched.candidates) if searched.is_within(each)]
    base: dict[str, Any] = {
        "case": case,
        "before": float(truth[0].before or 0),
        "best": max(repair[i] for i in within),
        "candidates": len(within),
    }
    rows = []
    for name, values in signals(searched, truth, order, seed).items():
        top = max(within, key=lambda i: values[i])
        rho = correlation([values[i] for i in within], [repair[i] for i in within])
        rows.append({**base, "signal": name, "rho": rho, "chosen": repair[top]})
    for name, candidate in choices(searched).items():
        if candidate is not None:
            rows.append({**base, "signal": name, "rho": None, "chosen": repair[searched.candidates.index(candidate)]})
    return rows


def choices(searched: Search) -> dict[str, Candidate | None]:
    """What the search chose, and what the rule alone would have."""
    within = [each for each in searched.candidates if searched.is_within(each)]
    last = [each for each in within[:3] if each.trial.sites == searched.candidates[0].trial.sites]
    rule = last[-1] if last else None
    return {
        "the rule alone": rule,
        "the search": searched.chosen,
        "the search without the rule": choose(within, None)[0],
    }


def playground(model: Classifier, seed: int) -> list[dict[str, Any]]:
    """A rule of the playground."""
    rule = PlaygroundRule.of(seed, tests=270)
    order = [f"blocks.{i}.conv" for i in range(1, 7)]
    reference = training_images(1200, seed=seed + 500)
    searched = search(model, rule.exemplars, reference=reference, sites=order, seed=seed, cache=None, progress=False)
    return rows_of(f"{rule.target} on {rule.ground}", searched, outcomes(model, searched, rule.tests), order, seed)


def photographs(model: Classifier) -> list[dict[str, Any]]:
    """The rule of the photographs on snow, which the search does not see."""
    exemplars = read_exemplars([DATA / "snow" / "exemplar"])
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    known, _ = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own).split(0.5, seed=0)
    searched = search(model, exemplars, reference=known)
    tests = ImageSet.of(DATA / "snow" / "test", model.classes)
    order = [site.path for site in sites_of(model).sites]
    return rows_of(model.name, searched, outcomes(model, searched, tests), order, 0)


def outcomes(model: Classifier, searched: Search, tests: ImageSet) -> list[Outcomes]:
    """The truth of every candidate."""
    return outcomes_of(model, [searched.make(each.trial) for each in searched.candidates], tests)


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each signal's mean over cases."""
    found = []
    for name in dict.fromkeys(row["signal"] for row in rows):
        own = [row for row in rows if row["signal"] == name]
        correlations = [row["rho"] for row in own if row["rho"] is not None]
        found.append(
            {
                "signal": name,
                "cases": len(own),
                "rho": float(np.mean(correlations)) if correlations else None,
                "rho, least": float(np.min(correlations)) if correlations else None,
                "chosen, %": 100 * float(np.mean([row["chosen"] for row in own])),
                "short of the best, points": 100 * float(np.mean([row["best"] - row["chosen"] for row in own])),
            }
        )
    return found


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--cases", type=int, default=CASES, help="rules of the playground")
    given = parser.parse_args()
    model = load_model("playground", device=given.device)
    rows = [row for seed in range(given.cases) for row in playground(model, seed)]
    for row in rows:
        print(row)
    record("signals", given.device, summary(rows))
    network = load_model(str(DATA / "models" / "mobilenet_v2.toml"), device=given.device)
    record("signals-mobilenet", given.device, summary(photographs(network)))


if __name__ == "__main__":
    main()
