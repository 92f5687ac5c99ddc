"""The thesis's four tests (Table 2.1) for rubber → wooden wheels on a real network: `python -m benchmarks.wheels`.

Where wheels are is found by context matching; wood is pasted there. *Same class* are the wheeled vehicles among the
pictures whose wheel score is in the top twentieth of the sample, *other classes* the rest of these. The exemplars' own
classes (beach wagon, sports car, convertible) are left out of everything.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.measure import DATA, RESULTS, arguments, record
from rulepatch.concepts.match import key_of_concept, match
from rulepatch.concepts.test_sets import TestSet, make_test_sets
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.editors.edit import rewrite
from rulepatch.evaluation.evaluate import outcomes_of
from rulepatch.evaluation.figures import draw_rocs, rocs_of
from rulepatch.evaluation.outcomes import Outcomes
from rulepatch.images import read_image
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model

SITE = "conv_head"
MATCHED_AT = "blocks.6.0.conv_pw"
SHARE = 0.05

WHEELED = (
    "ambulance", "barrow", "bicycle-built-for-two", "cab", "car wheel", "fire engine", "freight car", "garbage truck",
    "go-kart", "golfcart", "horse cart", "jeep", "jinrikisha", "limousine", "minibus", "minivan", "Model T", "moped",
    "motor scooter", "mountain bike", "moving van", "oxcart", "passenger car", "pickup", "police van", "racer",
    "recreational vehicle", "school bus", "shopping cart", "streetcar", "tow truck", "tractor", "trailer truck",
    "tricycle", "trolleybus", "unicycle", "disk brake",
)  # fmt: skip

EDITS: dict[str, dict[str, Any]] = {
    "rank 1, strength 1": {"rank": 1},
    "rank 3, strength 1": {"rank": 3},
    "rank 3, strength 3, gate 0.98": {"rank": 3, "strength": 3.0, "gate": 0.98},
}


def row(edit: str, test: str, found: Outcomes) -> dict[str, Any]:
    """A row of the table: accuracy, and mean confidence in the label, before and after."""
    assert found.before is not None and found.after is not None
    return {
        "edit": edit,
        "test": test,
        "n": len(found),
        "accuracy before": 100 * found.before,
        "accuracy after": 100 * found.after,
        "confidence before": float(found.first.of_label.mean()),
        "confidence after": float(found.second.of_label.mean()),
    }


def four(edit: str, normal: Outcomes, manipulated: Outcomes, same: Sequence[int]) -> list[dict[str, Any]]:
    """The four tests."""
    inside = np.isin(normal.labels, list(same))
    return [
        row(edit, f"{kind} ({which} class{'' if which == 'same' else 'es'})", found.where(chosen))
        for which, chosen in (("same", inside), ("other", ~inside))
        for kind, found in (("normal", normal), ("manipulated", manipulated))
    ]


def measured(model: Classifier) -> list[dict[str, Any]]:
    """Make the test sets and the edits, and measure them."""
    exemplars = read_exemplars([DATA / "wheels"])
    own = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    sample = ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(own)
    same = sorted({model.classes.index(name) for name in WHEELED} - own)
    key = key_of_concept(model, exemplars, site=MATCHED_AT, reference=sample)
    matches = match(model, key, sample, reference=sample, level=0.99)
    texture = read_image(DATA / "wheels" / "texture.jpg")
    sets = make_test_sets(model, matches, texture, target=same, share=SHARE)
    edits = [
        rewrite(model, exemplars, reference=sample, site=SITE, **({"gate": None} | settings))
        for settings in EDITS.values()
    ]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in EDITS}
    for name, made in sets.items():
        for edit, normal, manipulated in zip(EDITS, *outcomes(model, edits, made, same), strict=True):
            if name == "confusing":
                found[edit] += four(edit, normal, manipulated, same)
            if name == "random":
                found[edit].append(row(edit, "the whole sample", normal))
            if edit == "rank 3, strength 3, gate 0.98":
                figure = draw_rocs(
                    {f"{name}, normal": rocs_of(normal, same), "manipulated": rocs_of(manipulated, same)}
                )
                figure.savefig(RESULTS / f"wheels-roc-{name}.svg", metadata={"Date": None})
    return [each for rows in found.values() for each in rows]


def outcomes(model: Classifier, edits: Sequence[Any], made: TestSet, same: Sequence[int]) -> list[list[Outcomes]]:
    """Outcomes of every edit on the normal and on the manipulated pictures of a set."""
    return [
        outcomes_of(model, edits, images, watched=same, progress=images.name)
        for images in (made.normal, made.manipulated)
    ]


def main() -> None:
    """Measure and record."""
    device = arguments(__doc__ or "").parse_args().device
    record("wheels", device, measured(load_model(str(DATA / "models" / "mobilenet_v2.toml"))))


if __name__ == "__main__":
    main()
