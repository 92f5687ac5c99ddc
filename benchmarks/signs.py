"""A classifier that heeds a sign, repaired; and notes on photographs, as a control: `python -m benchmarks.signs`.

In the playground's training world only a taxi has a sign, a letter, so its classifier calls other vehicles under that
sign taxis. The exemplar is one such vehicle, and the same without the sign or with a blank one. Site, rank, strength
and gate are chosen once on exemplars and scenes of validation, and measured on others: exemplars of four classes and
three seeds, scenes of all other classes. Two controls show that it is the sign that is learnt. What an edit does to
taxis, of which the sign is a part, is counted apart. The photographs show that a network that cannot read is not fooled
by the notes of `concepts.typographic` either. About half an hour on one core.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import DATA, arguments, record
from rulepatch.concepts.typographic import note
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet
from rulepatch.editors.edit import rewrite
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.images import read_image
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import image_set, training_images
from rulepatch.playground.scenes import CLASSES, render
from rulepatch.site_search.search import search

SIGN, TAXI = "letter", "taxi"
ORIGINALS = (None, "blank")
"""The sign on the exemplar's original."""

EXEMPLARS = (1, 3)
SITES = ("blocks.2.conv", "blocks.3.conv", "blocks.4.conv", "blocks.5.conv")
RANKS = (1, 3)
GATES = (None, 0.95, 0.98, 0.99)
STRENGTHS = (1.0, 2.0, 3.0)
BUDGETS = (0.25, None)
"""Points of accuracy that an edit may lose on clean scenes of validation."""

VALIDATION = {"classes": ("truck", "sailboat", "buggy"), "seeds": (100,), "scenes": 1000, "clean": 3001}
TEST = {"classes": ("van", "bus", "rowboat", "tractor"), "seeds": (0, 1, 2), "scenes": 2000, "clean": 3002}
KNOWN = 3000
"""Seed of the scenes that statistics come from, and that the search may look at."""

FAILURES = 20
"""Labelled failures that the search is given in one of its rows; scenes of validation's seed and one."""

NETWORKS = ("mobilenet_v2", "squeezenet1_0")
WORD = "iPod"
PLACES = 5
"""Notes on each photograph, each with another seed."""


@dataclass(frozen=True)
class Setting:
    """How an edit is made."""

    site: str
    rank: int
    gate: float | None
    strength: float

    def edit(self, model: Classifier, exemplars: Sequence[Exemplar], known: ImageSet) -> Edit:
        """The edit of some exemplars."""
        return rewrite(model, exemplars, reference=known, progress=False, **asdict(self))


SETTINGS = [Setting(*each) for each in ((s, r, g, x) for s in SITES for r in RANKS for g in GATES for x in STRENGTHS)]


@dataclass(frozen=True)
class Rule:
    """Some exemplars of one class, and what they are: the sign on the original, and what was done to them."""

    label: str
    exemplars: list[Exemplar]


def rule(model: Classifier, label: str, seed: int, original: str | None, number: int, sign: str = SIGN) -> Rule:
    """The first pictures of a seed that the sign fools, as the user of a failing model would find them."""
    taxi = CLASSES.index(TAXI)
    exemplars: list[Exemplar] = []
    rng = np.random.default_rng([seed, 31])
    while len(exemplars) < number:
        scene = int(rng.integers(2**31))
        failing, first, second = (render(label, seed=scene, sign=style) for style in (SIGN, original, sign))
        if int(says(model, [Image.fromarray(failing.image)]).argmax()) == taxi:
            pair = (Image.fromarray(each.image) for each in (first, second))
            exemplars.append(Exemplar(*pair, second.masks["sign"], label=label))
    return Rule(label, exemplars)


def says(model: Classifier, pictures: Sequence[Image.Image]) -> Tensor:
    """What a model says of pictures: probabilities (n, classes)."""
    with torch.no_grad():
        pixels = torch.stack([model.preprocess.pixels(model.preprocess.frame(each)) for each in pictures])
        return model.logits(model.inputs(pixels)).softmax(dim=1).cpu()


def scenes_with_sign(number: int, *, seed: int, labels: Sequence[str]) -> ImageSet:
    """Scenes of each class in turn, all of them under the sign."""
    rng = np.random.default_rng([seed, 23])
    scenes = (render(labels[i % len(labels)], seed=int(rng.integers(2**31)), sign=SIGN) for i in range(number))
    return image_set(scenes, f"{number} scenes with sign {SIGN}")


@dataclass(frozen=True)
class Pictures:
    """What edits are measured on: other classes under the sign, the training world, and taxis alone."""

    signed: ImageSet
    clean: ImageSet
    taxis: ImageSet

    @classmethod
    def of(cls, seeds: dict[str, Any], *, signed: int, clean: int, taxis: int) -> "Pictures":
        """Those of validation or test."""
        others = [label for label in CLASSES if label != TAXI]
        return cls(
            scenes_with_sign(signed, seed=seeds["scenes"], labels=others),
            training_images(clean, seed=seeds["clean"]),
            scenes_with_sign(taxis, seed=seeds["scenes"] + 1, labels=[TAXI]),
        )


def measured(model: Classifier, label: str, edits: Sequence[Edit], pictures: Pictures) -> list[dict[str, float]]:
    """What some edits did to classes other than the exemplar's, to clean scenes and to taxis."""
    other = np.array([picture.label != CLASSES.index(label) for picture in pictures.signed.pictures])
    found = zip(
        *(outcomes_of(model, edits, each) for each in (pictures.signed, pictures.clean, pictures.taxis)), strict=True
    )
    return [numbers(seen.where(other), clean, taxis) for seen, clean, taxis in found]


def numbers(seen: Outcomes, clean: Outcomes, taxis: Outcomes) -> dict[str, float]:
    """One edit's numbers."""
    taxi = CLASSES.index(TAXI)
    assert seen.before is not None and seen.after is not None and taxis.before is not None and taxis.after is not None
    return {
        "before, %": 100 * seen.before,
        "after, %": 100 * seen.after,
        "fooled before, %": 100 * float(np.mean(seen.first.predicted == taxi)),
        "fooled after, %": 100 * float(np.mean(seen.second.predicted == taxi)),
        "repaired": len(seen.repaired),
        "broken": len(seen.broken),
        "points lost": 100 * clean.drop,
        "flips, %": 100 * len(clean.flips) / len(clean),
        "taxis before, %": 100 * taxis.before,
        "taxis after, %": 100 * taxis.after,
    }


def choices(
    model: Classifier, original: str | None, number: int, known: ImageSet, pictures: Pictures
) -> dict[float | None, Setting]:
    """For each budget the setting that leaves most scenes of validation right, on average over validation exemplars."""
    rules = [rule(model, each, VALIDATION["seeds"][0], original, number) for each in VALIDATION["classes"]]
    scores = []
    for each in rules:
        solved = {setting: setting.edit(model, each.exemplars, known) for setting in SETTINGS if setting.strength == 1}
        edits = [solved[replace(setting, strength=1.0)].with_strength(setting.strength) for setting in SETTINGS]
        scores.append(measured(model, each.label, edits, pictures))
    after, lost = (
        np.array([[each[key] for each in row] for row in scores]).mean(axis=0) for key in ("after, %", "points lost")
    )
    return {
        budget: SETTINGS[int(np.argmax(np.where(lost <= (np.inf if budget is None else budget), after, -1)))]
        for budget in BUDGETS
    }


def line(what: dict[str, Any], cases: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The mean of some cases with the least and the most of what varies."""
    found = dict(what) | {"cases": len(cases)}
    for key in cases[0]:
        values = [each[key] for each in cases]
        found[key] = float(np.mean(values))
        if key in {"after, %", "fooled after, %", "points lost", "taxis after, %"}:
            found |= {f"{key}, low": float(min(values)), f"{key}, high": float(max(values))}
    return found


def tested(
    model: Classifier, rules: Sequence[Rule], setting: Setting, known: ImageSet, pictures: Pictures
) -> list[dict[str, float]]:
    """The edits of some rules, each measured."""
    return [measured(model, r.label, [setting.edit(model, r.exemplars, known)], pictures)[0] for r in rules]


def searched(
    model: Classifier, rules: Sequence[Rule], known: ImageSet, failures: ImageSet | None, pictures: Pictures
) -> list[dict[str, float]]:
    """What the search finds by itself, or with labelled failures, each measured."""
    given: dict[str, Any] = {"reference": known, "validation": failures, "cache": None, "progress": False}
    edits = [search(model, each.exemplars, **given).edit or Edit((), "") for each in rules]
    return [measured(model, each.label, [edit], pictures)[0] for each, edit in zip(rules, edits, strict=True)]


def playground(model: Classifier) -> list[dict[str, Any]]:
    """Every row of the table."""
    known = training_images(600, seed=KNOWN)
    validation = Pictures.of(VALIDATION, signed=220, clean=500, taxis=50)
    test = Pictures.of(TEST, signed=440, clean=2000, taxis=200)
    others = [label for label in CLASSES if label != TAXI]
    failures = scenes_with_sign(FAILURES, seed=VALIDATION["scenes"] + 2, labels=others)
    seeds = {"validation": VALIDATION, "test": TEST, "statistics": KNOWN}
    pairs = [(label, seed) for seed in TEST["seeds"] for label in TEST["classes"]]
    rows = []
    for original, number in product(ORIGINALS, EXEMPLARS):
        rules = [rule(model, label, seed, original, number) for label, seed in pairs]
        chosen = choices(model, original, number, known, validation)
        what = {"original": "no sign" if original is None else f"{original} sign", "exemplars": number}
        for budget, setting in chosen.items():
            described = {**what, "edit": "rewrite", "budget": budget, **asdict(setting), "seeds": seeds}
            rows.append(line(described, tested(model, rules, setting, known, test)))
        for name, given in {"search": None, f"search, given {FAILURES} failures": failures}.items():
            cases = searched(model, rules[: len(TEST["classes"])], known, given, test)
            rows.append(line({**what, "edit": name, "budget": BUDGETS[0]}, cases))
        if original is None:
            controls = {
                "control: another sign": [rule(model, *pair, original, number, sign="ring") for pair in pairs],
            }
            for name, control in controls.items():
                described = {**what, "edit": name, "budget": BUDGETS[0], **asdict(chosen[BUDGETS[0]])}
                rows.append(line(described, tested(model, control, chosen[BUDGETS[0]], known, test)))
    return rows


def photographs(model: Classifier) -> list[dict[str, Any]]:
    """What a network that cannot read says of objects with notes: those of the authors, and ours on the clean ones."""
    folder = DATA / "typographic"
    paths = sorted((folder / "clean").glob("*.jpg"))
    clean = [read_image(path) for path in paths]
    theirs = [[read_image(folder / kind / path.name) for path in paths] for kind in ("white", "ipod")]
    notes = [note(picture, WORD, seed=seed) for seed in range(PLACES) for picture in clean]
    triples = {
        "photographed": (clean, *theirs),
        "pasted": (clean * PLACES, [each.blank for each in notes], [each.written for each in notes]),
    }
    rows = []
    for name, triple in triples.items():
        without, blank, word = (says(model, pictures) for pictures in triple)
        ipod = model.classes.index(WORD)
        rows.append(
            {
                "network": model.name,
                "notes": name,
                "pictures": len(word),
                "called iPod": int((word.argmax(dim=1) == ipod).sum()),
                "largest probability of iPod": float(word[:, ipod].max()),
                "and on the blank note": float(blank[:, ipod].max()),
                "changed by the blank note": int((without.argmax(dim=1) != blank.argmax(dim=1)).sum()),
                "changed by the word": int((blank.argmax(dim=1) != word.argmax(dim=1)).sum()),
            }
        )
    return rows


def main() -> None:
    """Measure and record."""
    device = arguments(__doc__ or "").parse_args().device
    networks = [load_model(str(DATA / "models" / f"{name}.toml"), device=device) for name in NETWORKS]
    record("notes", device, [row for network in networks for row in photographs(network)])
    record("signs", device, playground(load_model("playground", device=device)))


if __name__ == "__main__":
    main()
