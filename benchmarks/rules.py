"""Two real rules in one network, snow for road and wooden for rubber wheels: `python -m benchmarks.rules`.

Repair is counted on the photographs on snow, and on the pictures of one half of the sample that match wheels best, with
wood pasted on them; statistics come from the other half. Each rule alone, both put beside each other, and both solved
together where they share a site. About two minutes on two cores.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.measure import DATA, arguments, record
from rulepatch.concepts.match import key_of_concept, match
from rulepatch.concepts.test_sets import make_test_sets
from rulepatch.core.edit import Edit
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.editors.edit import rewrite
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.images import read_image
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model
from rulepatch.workflows.compose import compose

MATCHED_AT, SHARE = "blocks.4.0.conv_pwl", 0.08
LATE, EARLIER = "conv_head", "blocks.5.0.conv_pwl"
PLAIN, GATED = {"rank": 3, "gate": None}, {"rank": 3, "gate": 0.98}
WAYS: dict[str, dict[str, dict[str, Any]]] = {
    "both at conv_head, rank 3": {"snow": {"site": LATE, **PLAIN}, "wood": {"site": LATE, **PLAIN}},
    "both at conv_head, rank 3, gate 0.98, strength 3": {
        "snow": {"site": LATE, "strength": 3.0, **GATED},
        "wood": {"site": LATE, "strength": 3.0, **GATED},
    },
    "wheels at blocks.5.0.conv_pwl, gates 0.98": {
        "snow": {"site": LATE, "strength": 3.0, **GATED},
        "wood": {"site": EARLIER, "strength": 1.0, **GATED},
    },
}


def measured(model: Classifier) -> list[dict[str, Any]]:
    """Each rule alone and both, on the tests of both and on half of the sample."""
    snow, wheels = read_exemplars([DATA / "snow" / "exemplar"]), read_exemplars([DATA / "wheels"])
    own = {model.classes.index(one.label) for one in (*snow, *wheels) if one.label is not None}
    sample = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own)
    known, unseen = sample.split(0.5, seed=0)
    key = key_of_concept(model, wheels, site=MATCHED_AT, reference=known)
    matches = match(model, key, unseen, reference=known, level=0.99)
    target = [model.classes.index("car wheel")]
    wood = make_test_sets(model, matches, read_image(DATA / "wheels" / "texture.jpg"), target=target, share=SHARE)
    sets = {
        "snow": ImageSet.of(DATA / "snow" / "test", model.classes),
        "wood": wood["confusing"].manipulated,
        "sample": unseen,
    }
    rows: list[dict[str, Any]] = []
    for way, settings in WAYS.items():
        alone = {
            name: rewrite(model, exemplars, reference=known, **settings[name])
            for name, exemplars in (("snow", snow), ("wood", wheels))
        }
        together = compose(model, alone, reference=known, exemplars=[*snow, *wheels])
        edits = {**alone, "both, stacked": Edit.compose(*alone.values())}
        if together.jointly:
            edits["both, solved together"] = together.edit
        rows += rows_of(model, way, edits, sets, max(matrix[0][1] for matrix in together.interference.values()))
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
            gain, by_itself = (float(found[name][each].log_prob_gain.mean()) for each in (index, place))
            line[f"{name}, gain"] = gain
            line[f"{name}, gain kept"] = gain / by_itself if by_itself > 0 else None
        rows.append(line | {"points lost": 100 * damage.drop, "flips, %": 100 * len(damage.flips) / len(damage)})
    return rows


def main() -> None:
    """Measure and record."""
    device = arguments(__doc__ or "").parse_args().device
    record("rules", device, measured(load_model(str(DATA / "models" / "mobilenet_v2.toml"), device=device)))


if __name__ == "__main__":
    main()
