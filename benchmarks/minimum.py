"""Edits that lower logits and raise none beside plain ones: `python -m benchmarks.minimum`.

Vehicles on snow, three exemplars, the last site of three real networks, rank 3, gate 0.98. Statistics come from a half
of the sample, damage is counted on the other, for several halves. Every strength is shown; beside them the one that is
chosen on the first half alone: the largest that keeps to the budget of a quarter of a point there. No test chooses.
About ten minutes on two cores.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.measure import DATA, arguments, record
from rulepatch.core.edit import Edit
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.editors.edit import rewrite
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.methods import MAX_DROP
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.tracing.model_sites import sites_of

NETWORKS = {
    "MobileNetV2": "mobilenet_v2.toml",
    "EfficientNet-Lite0": "efficientnet_lite0.toml",
    "MobileNetV1": "mobilenet_v1.toml",
}
SPLITS = 3
STRENGTHS = (1.0, 2.0, 3.0)
Cell = tuple[str, float, Outcomes, Outcomes, Outcomes]
"""Kind of edit, its strength, and outcomes on the tests, on the half that chooses and on the other half."""


def measured(model: Classifier, seed: int) -> list[Cell]:
    """Both kinds of edit at all strengths, for one half of the sample."""
    exemplars = read_exemplars([DATA / "snow" / "exemplar"])
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    halves = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own).split(0.5, seed=seed)
    site = [site.path for site in sites_of(model).sites if site.is_spatial][-1]
    edits: list[tuple[str, float, Edit]] = []
    for kind, minimum in (("plain", False), ("minimum", True)):
        edit = rewrite(
            model, exemplars, reference=halves[0], site=site, rank=3, gate=0.98, minimum=minimum, progress=False
        )
        edits += [(kind, strength, edit.with_strength(strength)) for strength in STRENGTHS]
    tests = ImageSet.of(DATA / "snow" / "test", model.classes)
    found = (outcomes_of(model, [edit for *_, edit in edits], images) for images in (tests, *halves))
    return [(kind, strength, *seen) for (kind, strength, _), *seen in zip(edits, *found, strict=True)]  # type: ignore[misc]


def chosen(cells: Sequence[Cell]) -> Cell:
    """The strongest edit of one kind and half whose damage on that half is within the budget; else the weakest."""
    allowed = [cell for cell in cells if cell[3].drop <= MAX_DROP]
    return allowed[-1] if allowed else cells[0]


def row(network: str, strength: str, cells: Sequence[Cell], plain: Sequence[Cell]) -> dict[str, Any]:
    """A row of the table, averaged over halves; `plain` are the cells that it is compared with, half by half."""
    tests, damage = [cell[2] for cell in cells], [cell[4] for cell in cells]
    gains = [len(cell[2].repaired) - len(cell[2].broken) for cell in cells]
    others = [len(cell[2].repaired) - len(cell[2].broken) for cell in plain]
    after = [100 * float(each.right_after.mean()) for each in tests]
    return {
        "network": network,
        "edit": cells[0][0],
        "strength": strength,
        "before, %": 100 * float(tests[0].right_before.mean()),
        "after, %": float(np.mean(after)),
        "after, % in each half": after,
        "repaired": float(np.mean([len(each.repaired) for each in tests])),
        "broken": float(np.mean([len(each.broken) for each in tests])),
        "points lost": float(np.mean([100 * each.drop for each in damage])),
        "flips, %": float(np.mean([100 * len(each.flips) / len(each) for each in damage])),
        "strengths": [cell[1] for cell in cells],
        "halves better than plain": sum(a > b for a, b in zip(gains, others, strict=True)),
        "halves worse than plain": sum(a < b for a, b in zip(gains, others, strict=True)),
        "halves": len(cells),
    }


def rows(network: str, model: Classifier) -> Iterator[dict[str, Any]]:
    """All rows of one network."""
    splits = [measured(model, seed) for seed in range(SPLITS)]
    kinds = {kind: [[cell for cell in cells if cell[0] == kind] for cells in splits] for kind in ("plain", "minimum")}
    for own in kinds.values():
        for i, strength in enumerate(STRENGTHS):
            yield row(network, f"{strength:g}", [cells[i] for cells in own], [cells[i] for cells in kinds["plain"]])
        yield row(network, "chosen", list(map(chosen, own)), list(map(chosen, kinds["plain"])))


def main() -> None:
    """Measure and record."""
    device = arguments(__doc__ or "").parse_args().device
    found = []
    for network, file in NETWORKS.items():
        found += list(rows(network, load_model(str(DATA / "models" / file), device=device)))
        record("minimum", device, found)


if __name__ == "__main__":
    main()
