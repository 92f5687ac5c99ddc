"""Networks × rules × ways to make an edit: `python -m benchmarks.matrix`.

*By itself* is the search, *late site* the settings that the documentation advises by hand, *best by hand* the search's
candidate that repairs most of the tests within the budget, read off the tests: no way to choose, but what there is to
choose from. One half of the sample chooses and is learnt from; the tests, and damage on the other half, are used for
these numbers alone. Ten to twenty minutes a cell on one core; `--networks` and `--rules` measure some, and the rows of
others are kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import DATA, arguments, once, record, recorded
from benchmarks.watermark import NETWORKS, watermarked
from rulepatch.concepts.match import key_of_concept, match
from rulepatch.concepts.test_sets import make_test_sets
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.editors.edit import edit
from rulepatch.errors import RulepatchError
from rulepatch.evaluation.activations import Activations
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.metrics import mcnemar
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.images import read_image
from rulepatch.methods import FineTuneLocal, LastLayer, Method, ProjectedAdam, Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.site_search.budget import is_within
from rulepatch.site_search.search import search
from rulepatch.tracing.model_sites import sites_of

MAX_DROP = 0.0025

BY_HAND: dict[str, Method] = {
    "late site": Rewrite(rank=3, strength=2.0, gate=0.98),
    "authors' algorithm": ProjectedAdam(rank=1, steps=2000),
    "fine-tuning, local": FineTuneLocal(),
    "last layer": LastLayer(),
}


@dataclass(frozen=True)
class Case:
    """A rule on a network.

    Attributes:
        exemplars: what is learnt from.
        known: the reference set of whoever makes the edit.
        unseen: images on which damage is measured.
        tests: images that should be repaired.
    """

    exemplars: list[Exemplar]
    known: ImageSet
    unseen: ImageSet
    tests: ImageSet


def snow(model: Classifier) -> Case:
    """Vehicles on snow, three exemplars."""
    exemplars = read_exemplars([DATA / "snow" / "exemplar"])
    return Case(exemplars, *halves(model, exemplars), ImageSet.of(DATA / "snow" / "test", model.classes))


def wheels(model: Classifier) -> Case:
    """Wooden wheels, three exemplars; the tests are images of the unseen half that match wheels best."""
    exemplars = read_exemplars([DATA / "wheels"])
    known, unseen = halves(model, exemplars)
    grids = [site.path for site in sites_of(model).sites if site.is_spatial]
    site = grids[len(grids) * 2 // 3]
    key = key_of_concept(model, exemplars, site=site, reference=known)
    found = match(model, key, unseen, reference=known, level=0.99)
    texture, target = read_image(DATA / "wheels" / "texture.jpg"), [model.classes.index("car wheel")]
    tests = make_test_sets(model, found, texture, target=target, share=0.08)["confusing"].manipulated
    return Case(exemplars, known, unseen, tests)


def watermark(model: Classifier) -> Case:
    """The mark over the image, one exemplar."""
    one, reference, clean, tests, _ = watermarked(model)
    return Case([one], reference, clean, tests)


RULES: dict[str, Callable[[Classifier], Case]] = {"snow": snow, "watermark": watermark, "wheels": wheels}


def halves(model: Classifier, exemplars: list[Exemplar]) -> tuple[ImageSet, ImageSet]:
    """Both halves of the sample, without the exemplars' classes."""
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    return ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own).split(0.5, seed=0)


def rows_of(model: Classifier, case: Case) -> Iterator[dict[str, Any]]:
    """A row for each way to make an edit."""
    paths = [site.path for site in sites_of(model).sites]
    seconds, found = once(lambda: search(model, case.exemplars, reference=case.known, max_drop=MAX_DROP, cache=None))
    yield {"way": "by itself", "seconds": seconds, **measured(model, case, found.edit, paths)}
    yield {"way": "best by hand", **best_by_hand(model, case, found, paths)}
    site_list = sites_of(model)
    last = [site.path for site in site_list.sites if site.is_spatial and not site_list.is_shortcut(site)][-1]
    for way, how in BY_HAND.items():
        given = {"site": last} if how.takes_site else {}
        try:
            seconds, made = once(
                lambda given=given, how=how: edit(
                    model, case.exemplars, reference=case.known, how=how, cache=None, **given
                )
            )
        except RulepatchError as error:
            yield {"way": way, "error": str(error)}
            continue
        yield {"way": way, "seconds": seconds, **measured(model, case, made, paths)}


def best_by_hand(model: Classifier, case: Case, found: Any, paths: list[str]) -> dict[str, Any]:
    """The candidate of a search that repairs most of the tests within the budget on the unseen images."""
    trials = [each.trial for each in found.candidates if each.predicted_damage < 1]
    sites = sorted({path for trial in trials for path in trial.sites}, key=paths.index)
    best: tuple[int, Edit] | None = None
    with Activations(model, case.tests, sites) as tests, Activations(model, case.unseen, sites) as unseen:
        for trial in trials:
            made = found.make(trial)
            repaired = tests.outcomes(made)
            gain = net(repaired)
            if gain <= (best[0] if best else 0):
                continue
            damage = unseen.outcomes(made)
            if is_within(damage.drop, len(damage.flips) / len(damage), len(damage), MAX_DROP):
                best = gain, made
    return measured(model, case, best[1] if best else None, paths)


def measured(model: Classifier, case: Case, made: Edit | None, paths: list[str]) -> dict[str, Any]:
    """What an edit does on the tests and on the unseen images."""
    if made is None:
        return {"site": "no edit"}
    tests, unseen = (outcomes_of(model, [made], images)[0] for images in (case.tests, case.unseen))
    failing = int((~tests.right_before).sum())
    return {
        "site": " + ".join(made.sites),
        "depth": [paths.index(site) / (len(paths) - 1) for site in made.sites if site in paths],
        "failures": failing,
        "repaired": len(tests.repaired),
        "broken": len(tests.broken),
        "p": mcnemar(len(tests.repaired), len(tests.broken)),
        "corrected, %": 100 * net(tests) / failing,
        "points lost": 100 * unseen.drop,
        "flips, %": 100 * len(unseen.flips) / len(unseen),
    }


def net(found: Outcomes) -> int:
    """Repaired less broken."""
    return len(found.repaired) - len(found.broken)


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rules", nargs="*", choices=RULES, default=list(RULES))
    args = parser.parse_args()
    for name in args.networks:
        model = load_model(str(DATA / "models" / NETWORKS[name]), device=args.device)
        for rule in args.rules:
            kept = [each for each in recorded("matrix", args.device) if (each["network"], each["rule"]) != (name, rule)]
            new = [{"network": name, "rule": rule, **row} for row in rows_of(model, RULES[rule](model))]
            order = [(network, each) for network in NETWORKS for each in RULES]
            record(
                "matrix", args.device, sorted(kept + new, key=lambda row: order.index((row["network"], row["rule"])))
            )


if __name__ == "__main__":
    main()
