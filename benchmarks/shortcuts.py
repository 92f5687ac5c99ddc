"""Does discovery find the shortcuts that were planted, and no others? `python -m benchmarks.shortcuts`.

The playground's network is trained in worlds with one shortcut, with all three and with none, by three seeds each; the
networks are kept in `$RULEPATCH_CACHE`. All see the same scenes of the training world, with every concept in every
style that it can be rendered in, and with the eight textures pasted. Training aside, about
half an hour on one core.
"""

import os
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import arguments, record
from rulepatch.concepts.cases import CaseSet
from rulepatch.concepts.make_cases import make_cases
from rulepatch.concepts.segment import load_segmenter
from rulepatch.concepts.stylize import Style, load_stylizer, styles
from rulepatch.concepts.stylizers.playground import own_styles
from rulepatch.discovery.concept_effects import EVERY_CLASS, ConceptEffect
from rulepatch.discovery.discover import discover
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import training_images
from rulepatch.playground.scenes import CLASSES
from rulepatch.playground.shapes import GROUPS
from tools.train_playground import main as train

SEEDS = (1, 2, 3)
WORLDS = ("", "ground", "wheels", "sign", "ground,wheels,sign")
CONCEPTS = (*GROUPS, "wheels", "sign")
"""What is replaced: the ground by the name of what it is, and wheels and signs."""

LEAST_DROPS = (0.1, 0.2, 0.3)
LEVEL = 0.05
SCENES = 800


def network(world: str, seed: int) -> Path:
    """Weights of a network trained in a world."""
    folder = Path(os.environ.get("RULEPATCH_CACHE", Path(tempfile.gettempdir()))) / "shortcuts"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{world.replace(',', '+') or 'none'}-{seed}.safetensors"
    if not path.exists():
        train(["--shortcuts", world, "--seed", str(seed), "--out", str(path)])
    return path


def shortcut_of(concept: str) -> str:
    """Which of the three shortcuts a concept belongs to."""
    return "ground" if concept in GROUPS else concept


def case_set(folder: Path, how: str) -> CaseSet:
    """The scenes with every concept in other styles: rendered, or pasted."""
    by_concept: dict[str, Sequence[Style]] = {
        concept: own_styles(concept) if how == "rendered" else [s for s in styles() if s.index == 0]
        for concept in CONCEPTS
    }
    return make_cases(
        training_images(SCENES, seed=77),
        folder / how,
        concepts=CONCEPTS,
        styles=by_concept,
        segmenter=load_segmenter("playground"),
        stylizer=load_stylizer("playground" if how == "rendered" else "paste", blend=1.0),
        classes=load_model("playground").classes,
        smallest=0.003,
    )


def counted(world: str, rows: Sequence[ConceptEffect], rules: Sequence[ConceptEffect], how: str) -> dict[str, Any]:
    """Classes × shortcuts that a network's rules name, over all styles, where a shortcut was planted and where not."""
    planted = set(world.split(",")) if world else set()
    tested = {(row.label, shortcut_of(row.concept)) for row in rows if row.style is None and row.label in CLASSES}
    named = {(rule.label, shortcut_of(rule.concept)) for rule in rules if rule.style is None and rule.label in CLASSES}
    there = {(label, shortcut) for label, shortcut in tested if shortcut in planted}
    found = {shortcut for _, shortcut in named}
    return {
        "cases": how,
        "world": world or "none",
        "planted": len(there),
        "found": len(there & named),
        "not planted": len(tested - there),
        "false": len(named - there),
        "shortcuts planted": len(planted),
        "shortcuts found": len(planted & found),
        "shortcuts false": len(found - planted),
    } | {
        f"{shortcut}, points": 100 * float(np.mean([row.drop for row in rows if row.label == EVERY_CLASS
                                                    and row.style is None and shortcut_of(row.concept) == shortcut]))
        for shortcut in ("ground", "wheels", "sign")
    }  # fmt: skip


def summed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row of several networks."""
    total = {key: sum(row[key] for row in rows) if type(value) is int else value for key, value in rows[0].items()} | {
        key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key.endswith("points")
    }
    named = total["found"] + total["false"]
    return total | {
        "networks": len(rows),
        "precision, %": 100 * total["found"] / named if named else None,
        "recall, %": 100 * total["found"] / total["planted"] if total["planted"] else None,
        "false discoveries, %": 100 * total["false"] / named if named else 0.0,
    }


def main() -> None:
    """Measure and record."""
    given = arguments(__doc__ or "").parse_args()
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for how in ("rendered", "pasted"):
            cases = case_set(Path(folder), how)
            print(f"{how}: {len(cases.cases)} cases, {len(cases)} counterfactuals")
            by_world: dict[tuple[float, str], list[dict[str, Any]]] = {}
            for world, seed in product(WORLDS, SEEDS):
                model = load_model("playground", weights=network(world, seed), device=given.device)
                found = discover(model, cases, level=LEVEL, least_drop=0.0, progress=False).findings[0]
                for least in LEAST_DROPS:
                    rules = [rule for rule in found.rules if rule.drop >= least]
                    row = counted(world, found.effects, rules, how) | {"least drop": least}
                    by_world.setdefault((least, world), []).append(row)
            for least in LEAST_DROPS:
                rows = [summed(by_world[least, world]) for world in WORLDS]
                rows.append(summed([row for world in WORLDS for row in by_world[least, world]]) | {"world": "all five"})
                table += [row | {"cases made": len(cases.cases)} for row in rows]
    record("shortcuts", given.device, table)


if __name__ == "__main__":
    main()
