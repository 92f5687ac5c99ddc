"""Two real rules in one network, snow for road and wooden for rubber wheels: `python -m benchmarks.rules`.

Repair is counted on the photographs on snow, and on the sample's pictures that match wheels best with wood pasted on
them. Each rule alone, both put beside each other, and both solved together. About two minutes on two cores.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.measure import DATA, arguments, record
from rulepatch.concepts.match import key_of_concept, match
from rulepatch.concepts.test_sets import make_test_sets
from rulepatch.core.edit import Edit
from rulepatch.data.folders import ImageSet, read_exemplars
from rulepatch.editors.rewrite import rewrite
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.experiments.compose import compose
from rulepatch.images import read_image
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model

SITE, MATCHED_AT, SHARE = "conv_head", "blocks.6.0.conv_pw", 0.05
WAYS: dict[str, dict[str, Any]] = {
    "rank 3, strength 1": {"rank": 3},
    "rank 3, strength 3, gate 0.98": {"rank": 3, "strength": 3.0, "gate": 0.98},
}


def measured(model: Classifier) -> list[dict[str, Any]]:
    """Each rule alone and both, on the tests of both and on half of the sample."""
    snow, wheels = read_exemplars([DATA / "snow" / "exemplar"]), read_exemplars([DATA / "wheels"])
    own = {model.classes.index(one.label) for one in (*snow, *wheels) if one.label is not None}
    sample = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own)
    known, unseen = sample.split(0.5, seed=0)
    key = key_of_concept(model, wheels, site=MATCHED_AT, reference=sample)
    matches = match(model, key, sample, reference=sample, level=0.99)
    target = [model.classes.index("car wheel")]
    wood = make_test_sets(model, matches, read_image(DATA / "wheels" / "texture.jpg"), target=target, share=SHARE)
    sets = {
        "snow": ImageSet.of(DATA / "snow" / "test", model.classes),
        "wood": wood["confusing"].manipulated,
        "sample": unseen,
    }
    rows: list[dict[str, Any]] = []
    for way, settings in WAYS.items():
        given: dict[str, Any] = {"reference": known, "site": SITE, **settings}
        alone = {"snow": rewrite(model, snow, **given), "wood": rewrite(model, wheels, **given)}
        together = compose(model, alone, reference=known, exemplars=[*snow, *wheels])
        edits = {**alone, "both, stacked": Edit.compose(*alone.values()), "both, solved together": together.edit}
        rows += rows_of(model, way, edits, sets, together.interference[SITE][0][1])
    return rows


def rows_of(
    model: Classifier, way: str, edits: dict[str, Edit], sets: dict[str, ImageSet], interference: float
) -> list[dict[str, Any]]:
    """What each edit repairs net of each set, and what is kept of it beside the other."""
    found = {name: outcomes_of(model, list(edits.values()), images) for name, images in sets.items()}

    def net(name: str, index: int) -> int:
        return len(found[name][index].repaired) - len(found[name][index].broken)

    kept_of: Sequence[str] = ("snow", "wood")
    rows = []
    for index, edit in enumerate(edits):
        damage = found["sample"][index]
        line: dict[str, Any] = {"settings": way, "rules": edit, "interference": interference}
        for place, name in enumerate(kept_of):
            line[f"{name}, repaired"] = len(found[name][index].repaired)
            line[f"{name}, broken"] = len(found[name][index].broken)
            alone = net(name, place)
            line[f"{name}, kept"] = net(name, index) / alone if alone > 0 else None
        rows.append(line | {"points lost": 100 * damage.drop, "flips, %": 100 * len(damage.flips) / len(damage)})
    return rows


def main() -> None:
    """Measure and record."""
    device = arguments(__doc__ or "").parse_args().device
    record("rules", device, measured(load_model(str(DATA / "models" / "mobilenet_v2.toml"), device=device)))


if __name__ == "__main__":
    main()
