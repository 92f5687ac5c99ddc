"""Networks × rules × ways to make an edit: `python -m benchmarks.matrix`.

*By itself* is the search, *late site* the settings that the documentation advises by hand, *best by hand* the search's
candidate that repairs most of the tests within the budget. Of every other way the setting is shown that repairs most
tests within the budget, or costs least if none keeps it. Both are read off the tests: no way to choose, but what there
is to choose from. What chooses and is learnt from is counted nowhere. Five to twenty minutes a cell on one core;
`--networks` and `--rules` measure some, and the rows of others are kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import DATA, arguments, once, record, recorded
from benchmarks.signs import SIGN, rule, scenes_with_sign
from benchmarks.watermark import NETWORKS as IMAGENET
from benchmarks.watermark import one_marked, shipped_mark, slanted_mark, with_mark
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
from rulepatch.experiments.demo import scenes_on_snow
from rulepatch.experiments.grids import GRIDS, METHODS
from rulepatch.images import read_image
from rulepatch.methods import Method, Rewrite
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import exemplar, image_set, training_images
from rulepatch.playground.scenes import CLASSES
from rulepatch.site_search.result import Search
from rulepatch.site_search.search import search
from rulepatch.tracing.model_sites import sites_of

MAX_DROP = 0.0025

SCREENED, FINALISTS = 200, 8
"""Tests and unseen images on which all candidates of a search are measured, and how many of them on all."""

CIFAR_CLASSES = 10

LATE = Rewrite(rank=3, strength=2.0, gate=0.98)

BY_HAND: dict[str, Sequence[Method]] = {
    "late site": (LATE,),
    "late site, minimum": (LATE.but(minimum=True), LATE.but(minimum=True, strength=3.0)),
    **{
        name: [METHODS[name].but(**tried) for tried in GRIDS["default"][name]]
        for name in ("projected-adam", "finetune-local", "finetune-global", "last-layer")
    },
}
"""Ways to make an edit at the last site that sees positions, each with the settings that are tried."""


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
    """The mark of the test data over photographs, one exemplar."""
    overlay = shipped_mark(model.preprocess.input_size[0])
    one, known = one_marked(model, ImageSet.of(DATA / "imagenet_more" / "val", model.classes), overlay)
    clean = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes)
    return Case([one], known, clean, with_mark(model, clean, overlay))


def second_mark(model: Classifier) -> Case:
    """Red letters over photographs, or over small images, one exemplar."""
    overlay = slanted_mark(model.preprocess.input_size[0])
    if len(model.classes) == CIFAR_CLASSES:
        images, clean = ImageSet.of(DATA / "cifar10" / "test", model.classes).split(0.5, seed=0)
    else:
        images, clean = (
            ImageSet.of(DATA / name / "val", model.classes) for name in ("imagenet_more", "imagenet_sample")
        )
    one, known = one_marked(model, images, overlay)
    return Case([one], known, clean, with_mark(model, clean, overlay))


def planted_ground(model: Classifier) -> Case:
    """The playground's vehicles on snow, one exemplar."""
    tests = image_set(scenes_on_snow(100, seed=11), "on snow")
    return Case([exemplar("van", ground="snow", seed=1)], *planted_reference(), tests)


def planted_sign(model: Classifier) -> Case:
    """The playground's vehicles under the sign of a taxi, three exemplars."""
    tests = scenes_with_sign(400, seed=11, labels=[label for label in CLASSES if label != "taxi"])
    return Case(rule(model, "van", 1, None, 3, SIGN).exemplars, *planted_reference(), tests)


def planted_reference() -> tuple[ImageSet, ImageSet]:
    """Scenes of the training world: what is known, and what is not."""
    return training_images(600, seed=21), training_images(1000, seed=22)


def halves(model: Classifier, exemplars: list[Exemplar]) -> tuple[ImageSet, ImageSet]:
    """Both halves of the sample, without the exemplars' classes."""
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    return ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own).split(0.5, seed=0)


Rules = dict[str, Callable[[Classifier], Case]]

MARKS: Rules = {"watermark": watermark, "second mark": second_mark}

NETWORKS: dict[str, tuple[str, Rules]] = {
    "playground": ("playground", {"planted ground": planted_ground, "planted sign": planted_sign}),
    **{
        f"ResNet-{depth}": (str(DATA / "models" / f"resnet{depth}_cifar10.toml"), {"second mark": second_mark})
        for depth in (20, 56)
    },
    **{
        name: (str(DATA / "models" / file), MARKS | {"snow": snow, "wheels": wheels}) for name, file in IMAGENET.items()
    },
}
"""Every network's model file and rules."""


def rows_of(model: Classifier, case: Case) -> list[dict[str, Any]]:
    """A row for each way to make an edit."""
    seconds, found = once(lambda: search(model, case.exemplars, reference=case.known, max_drop=MAX_DROP, cache=None))
    ways: list[tuple[str, float | None, list[Edit]]] = [
        ("by itself", seconds, [] if found.edit is None else [found.edit]),
        ("best by hand", None, candidates(model, case, found)),
    ]
    site_list = sites_of(model)
    late = [site.path for site in site_list.sites if site.is_spatial and not site_list.is_shortcut(site)][-1]
    for way, settings in BY_HAND.items():
        seconds, made = once(lambda settings=settings: edits_by_hand(model, case, late, settings))
        ways.append((way, seconds / len(settings), made))
    every = [each for _, _, made in ways for each in made]
    tests, unseen = (outcomes_of(model, every, images) for images in (case.tests, case.unseen))
    seen, start, rows = list(zip(every, tests, unseen, strict=True)), 0, []
    for way, seconds, made in ways:
        best = max(seen[start : start + len(made)], key=lambda each: preference(*each[1:]), default=None)
        rows.append({"way": way, "seconds": seconds} | (row_of(model, *best) if best else {"site": "no edit"}))
        start += len(made)
    return rows


def edits_by_hand(model: Classifier, case: Case, site: str, settings: Sequence[Method]) -> list[Edit]:
    """An edit with each of some settings; those that cannot be made are left out."""
    made = []
    for how in settings:
        given = {"site": site} if how.takes_site else {}
        try:
            made.append(edit(model, case.exemplars, reference=case.known, how=how, cache=None, progress=False, **given))
        except RulepatchError as error:
            print(f"{how.name}: {error}")
    return made


def candidates(model: Classifier, case: Case, found: Search) -> list[Edit]:
    """The candidates of a search that repair most of some tests, cost little on some unseen images, and repair any."""
    trials = [each.trial for each in found.candidates if each.predicted_damage < 1]
    sites = sorted({path for trial in trials for path in trial.sites})
    some_tests, some_unseen = (images.sample(SCREENED, seed=0) for images in (case.tests, case.unseen))
    gains: list[tuple[int, Edit]] = []
    with Activations(model, some_tests, sites) as tests, Activations(model, some_unseen, sites) as unseen:
        for trial in trials:
            made = found.make(trial)
            gain = net(tests.outcomes(made))
            if gain > 0 and unseen.outcomes(made).drop <= 4 * MAX_DROP:
                gains.append((gain, made))
    return [made for _, made in sorted(gains, key=lambda each: -each[0])[:FINALISTS]]


def keeps_budget(unseen: Outcomes) -> bool:
    """No more accuracy was lost than may be, or one image."""
    return unseen.drop <= max(MAX_DROP, 1 / len(unseen)) + 1e-12


def preference(tests: Outcomes, unseen: Outcomes) -> tuple[bool, float]:
    """What is shown of several edits: most repaired within the budget, or else least lost."""
    kept = keeps_budget(unseen)
    return kept, net(tests) if kept else -unseen.drop


def row_of(model: Classifier, made: Edit, tests: Outcomes, unseen: Outcomes) -> dict[str, Any]:
    """What an edit does on the tests and on the unseen images."""
    paths = [site.path for site in sites_of(model).sites]
    failing = int((~tests.right_before).sum())
    assert tests.before is not None and tests.after is not None and unseen.before is not None
    return {
        "site": " + ".join(made.sites) or "the last layer",
        "depth": [paths.index(site) / (len(paths) - 1) for site in made.sites if site in paths],
        "before, %": 100 * tests.before,
        "after, %": 100 * tests.after,
        "clean, %": 100 * unseen.before,
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
    parser.add_argument("--rules", nargs="*", help="these alone")
    args = parser.parse_args()
    cells = [(name, each) for name, (_, rules) in NETWORKS.items() for each in rules]
    for name, wanted in cells:
        if name not in args.networks or (args.rules and wanted not in args.rules):
            continue
        file, rules = NETWORKS[name]
        model = load_model(file, device=args.device)
        new = [{"network": name, "rule": wanted, **row} for row in rows_of(model, rules[wanted](model))]
        kept = [each for each in recorded("matrix", args.device) if (each["network"], each["rule"]) != (name, wanted)]
        record("matrix", args.device, sorted(kept + new, key=lambda row: cells.index((row["network"], row["rule"]))))


if __name__ == "__main__":
    main()
