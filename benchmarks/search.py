"""What the search finds by itself on real networks: `python -m benchmarks.search`.

The search is given one half of the sample and the exemplars; the photographs on snow and the other half of the sample
are used for the final numbers and for nothing else. About twenty minutes on two cores.
"""

from typing import Any

from benchmarks.measure import DATA, RESULTS, arguments, once, record
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.methods import Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.site_search.result import Search
from rulepatch.site_search.search import search

NETWORKS = {"MobileNetV2": "mobilenet_v2.toml", "SqueezeNet 1.0": "squeezenet1_0.toml"}


def row(model: Classifier, name: str, exemplars: list[Exemplar], what: str, *, tests: str | None) -> dict[str, Any]:
    """Search, and measure what was found on pictures that the search did not see."""
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    known, unseen = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own).split(0.5, seed=0)
    seconds, found = once(lambda: search(model, exemplars, reference=known, cache=None))
    assert isinstance(found, Search)
    line: dict[str, Any] = {"network": name, "exemplars": what, "candidates": len(found.candidates), "seconds": seconds}
    line |= {"validation": found.validation, "why": found.why}
    if found.edit is None:
        return line | {"edit": "none"}
    how = found.edit.how
    assert isinstance(how, Rewrite)
    gate = "no gate" if how.gate is None else f"gate {how.gate}"
    line["edit"] = f"{' + '.join(found.edit.sites)}, rank {how.rank}, strength {how.strength:g}, {gate}"
    seen = evaluate(model, found.edit, tests=None if tests is None else DATA / tests, reference=unseen)
    assert seen.reference is not None
    line |= {
        "points lost": 100 * seen.reference.drop,
        "flips, %": 100 * len(seen.reference.flips) / len(seen.reference),
    }
    if seen.tests is not None:
        line |= {
            "before, %": 100 * (seen.tests.before or 0),
            "after, %": 100 * (seen.tests.after or 0),
            "repaired": len(seen.tests.repaired),
            "broken": len(seen.tests.broken),
        }
    found.figure().savefig(
        RESULTS / f"search-{name.split()[0].lower()}-{what.replace(' ', '-')}.svg", metadata={"Date": None}
    )
    return line


def main() -> None:
    """Measure and record."""
    device = arguments(__doc__ or "").parse_args().device
    snow = read_exemplars([DATA / "snow" / "exemplar"])
    rows = []
    for name, file in NETWORKS.items():
        model = load_model(str(DATA / "models" / file), device=device)
        for what, exemplars, tests in (
            ("three of snow", snow, "snow/test"),
            ("one of snow", snow[:1], "snow/test"),
            ("three of wheels", read_exemplars([DATA / "wheels"]), None),
        ):
            rows.append(row(model, name, exemplars, what, tests=tests))
            record("search", device, rows)


if __name__ == "__main__":
    main()
