"""Gated, plain and protected edits, and several sites coupled or not: `python -m benchmarks.gates`.

In the playground, where truth is known, over many rules: how much an edit repairs of other classes on other instances
of the new ground, and how many of other scenes flip. On the real network the same for vehicles on snow. Every way is
tried at several strengths, none is chosen: read repair and flips side by side. About fifteen minutes on two cores.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.cases import GROUNDS, PlaygroundRule
from benchmarks.measure import DATA, arguments, record
from rulepatch.core.edit import Edit
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.editors.edit import rewrite
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.images import read_image
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import training_images

WAYS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"gate": None},
    "gate 0.9": {"gate": 0.9},
    "gate 0.95": {"gate": 0.95},
    "gate 0.98": {"gate": 0.98},
    "gate 0.99": {"gate": 0.99},
    "gate auto": {"gate": "auto"},
    "soft gate 0.98, all directions": {"gate": 0.98, "gate_kind": "soft"},
    "protected, half of the power": {"gate": None, "protected_share": 0.5},
    "protected, 0.9 of the power": {"gate": None, "protected_share": 0.9},
}
COUPLINGS = ("none", "sequence", "joint")
STRENGTHS = (1.0, 2.0, 3.0)
JOINT_STEPS = 100


def edits_of(
    model: Classifier,
    exemplars: Sequence[Exemplar],
    wanted: Sequence[str],
    *,
    site: str,
    sites: Sequence[str],
    known: ImageSet,
    kept: ImageSet,
) -> dict[str, Edit]:
    """Every way to make the edit at one site, and every coupling of several."""
    given: dict[str, Any] = {"reference": known, "rank": 3, "cache": None, "progress": False}
    found = {}
    for name, way in WAYS.items():
        if wanted and name not in wanted:
            continue
        protected = {"protect": kept} if "protected_share" in way else {}
        found[name] = rewrite(model, exemplars, site=site, **way, **protected, **given)
    for coupling in () if wanted else COUPLINGS:
        for gate in (None, 0.98):
            name = f"{len(sites)} sites, {'plain' if gate is None else f'gate {gate}'}, coupling {coupling}"
            found[name] = rewrite(
                model, exemplars, site=sites, coupling=coupling, gate=gate, steps=JOINT_STEPS, **given
            )  # fmt: skip
    return found


def measured(
    model: Classifier, edits: Mapping[str, Edit], tests: ImageSet, reference: ImageSet, wrong: Sequence[int]
) -> list[dict[str, Any]]:
    """Repair and flips of every edit at every strength; and of plain edits that act on given predictions only."""
    scaled = [(name, s, edit.with_strength(s)) for name, edit in edits.items() for s in STRENGTHS]
    on_tests, on_reference = (outcomes_of(model, [edit for *_, edit in scaled], each) for each in (tests, reference))
    rows = []
    for (name, strength, edit), seen, damage in zip(scaled, on_tests, on_reference, strict=True):
        gate = edit.changes[0].gate
        rows.append(row(name, strength, seen, damage, None if gate is None else gate.level))
        if name == "plain":
            rows.append(
                row(
                    "plain, for the exemplars' wrong predictions only",
                    strength,
                    *(only(each, wrong) for each in (seen, damage)),
                    None,
                )
            )
    return rows


def row(name: str, strength: float, seen: Outcomes, damage: Outcomes, level: float | None) -> dict[str, Any]:
    """A row of the table."""
    assert seen.before is not None and seen.after is not None
    return {
        "edit": name,
        "strength": strength,
        "gate's level": level,
        "before, %": 100 * seen.before,
        "after, %": 100 * seen.after,
        "repaired": len(seen.repaired),
        "broken": len(seen.broken),
        "points lost": 100 * damage.drop,
        "flips, %": 100 * len(damage.flips) / len(damage),
    }


def only(found: Outcomes, classes: Sequence[int]) -> Outcomes:
    """What a gate by predicted class would have done: the edit counts where the untouched model says one of these."""
    acts = np.isin(found.first.predicted, list(classes))
    second = type(found.second)(
        *(
            np.where(acts if values.ndim == 1 else acts[:, None], values, kept)
            for values, kept in (
                (getattr(found.second, name), getattr(found.first, name))
                for name in ("predicted", "confidence", "of_label", "watched")
            )
        )
    )
    return Outcomes(found.name, found.pictures, found.first, second)


def wrong_predictions(model: Classifier, exemplars: Sequence[Exemplar]) -> list[int]:
    """What the model says of the edited pictures, where it is not the exemplars' label."""
    images = ImageSet.of([(each.edited, each.label) for each in exemplars], model.classes)
    (found,) = outcomes_of(model, [Edit((), "")], images)
    return sorted(set(found.first.predicted[~found.right_before].tolist()))


def playground(model: Classifier, seed: int, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """A rule of the playground."""
    rule = PlaygroundRule.of(seed, tests=180)
    edits = edits_of(
        model, rule.exemplars, wanted, site="blocks.4.conv", sites=["blocks.3.conv", "blocks.4.conv", "blocks.5.conv"],
        known=training_images(600, seed=seed + 500), kept=training_images(300, seed=seed + 1500),
    )  # fmt: skip
    wrong = wrong_predictions(model, rule.exemplars)
    return measured(model, edits, rule.tests, training_images(600, seed=seed + 900), wrong)


def photographs(model: Classifier, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """Vehicles on snow: statistics from one half of the sample, flips counted on the other."""
    exemplars = read_exemplars([DATA / "snow" / "exemplar"])
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    known, unseen = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own).split(0.5, seed=0)
    edits = edits_of(
        model, exemplars, wanted, site="conv_head", sites=["blocks.5.2.conv_pwl", "blocks.6.0.conv_pwl", "conv_head"],
        known=known, kept=known,
    )  # fmt: skip
    texture = read_image(DATA / "snow" / "texture.jpg")
    given: dict[str, Any] = {"reference": known, "site": "conv_head", "rank": 3, "cache": None, "progress": False}
    for name, gate in {"plain, from features": None, "gate 0.98, from features": 0.98}.items():
        if not wanted or name in wanted:
            edits[name] = rewrite(model, exemplars, style=texture, gate=gate, **given)
    tests = ImageSet.of(DATA / "snow" / "test", model.classes)
    return measured(model, edits, tests, unseen, wrong_predictions(model, exemplars))


def means(cases: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The same rows of all cases, averaged."""
    found = []
    for rows in zip(*cases, strict=True):
        levels = [each["gate's level"] for each in rows if each["gate's level"] is not None]
        line = {"edit": rows[0]["edit"], "strength": rows[0]["strength"], "cases": len(rows)}
        line["gate's level"] = float(np.mean(levels)) if levels else None
        for key in ("before, %", "after, %", "broken", "points lost", "flips, %"):
            line[key] = float(np.mean([each[key] for each in rows]))
        found.append(line)
    return found


def main() -> None:
    """Measure and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--cases", type=int, default=len(GROUNDS), help="rules of the playground")
    parser.add_argument("--edit", action="append", help="measure these alone, and keep the others' recorded rows")
    given = parser.parse_args()
    wanted = given.edit or ()
    model = load_model("playground", device=given.device)
    cases = [playground(model, seed, wanted) for seed in range(given.cases)]
    record("gates", given.device, means(cases), only=wanted)
    network = load_model(str(DATA / "models" / "mobilenet_v2.toml"), device=given.device)
    record("gates-mobilenet", given.device, photographs(network, wanted), only=wanted)


if __name__ == "__main__":
    main()
