"""What edits repair and cost on real networks and photographs: `python -m benchmarks.repair`.

Vehicles on snow, three exemplars in which road is replaced by snow. Key statistics and damage are measured on the
sample without the exemplars' classes; settings are those of the design, chosen on nothing that is counted here, but for
SqueezeNet, of which all late sites are shown.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.measure import DATA, arguments, record
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.exemplar_folders import read_exemplars
from rulepatch.data.folders import ImageSet
from rulepatch.editors.edit import front
from rulepatch.evaluation.evaluate import evaluate_all
from rulepatch.evaluation.result import Evaluation
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model

THREE = ("blocks.5.2.conv_pwl", "blocks.6.0.conv_pwl", "conv_head")

Settings = Mapping[str, Any]
Wanted = Mapping[str, tuple[Sequence[Exemplar], Settings]]


def rows(model: Classifier, wanted: Wanted, reference: ImageSet) -> list[dict[str, Any]]:
    """Make edits and measure them all in one pass."""
    edits = []
    for exemplars, settings in wanted.values():
        own = dict(settings)
        method = own.pop("method", "rewrite")
        if method == "rewrite":
            own.setdefault("gate", None)
        edits.append(front(method)(model, exemplars, reference=reference, **own))
    found = evaluate_all(model, edits, tests=DATA / "snow" / "test", reference=reference)
    return [row(what, evaluation) for what, evaluation in zip(wanted, found, strict=True)]


def row(what: str, evaluation: Evaluation) -> dict[str, Any]:
    """A row of the table."""
    tests, sample = evaluation.tests, evaluation.reference
    assert tests is not None and sample is not None and tests.after is not None
    return {
        "model": evaluation.model_name,
        "edit": what,
        "loss": sum(report.loss_after for report in evaluation.edit.reports),
        "on snow, %": 100 * tests.after,
        "repaired": len(tests.repaired),
        "broken": len(tests.broken),
        "sample, points lost": 100 * sample.drop,
        "sample, flips %": 100 * len(sample.flips) / len(sample),
    }


def mobilenet() -> list[dict[str, Any]]:
    """MobileNetV2 with TensorFlow padding."""
    model = load_model(str(DATA / "models" / "mobilenet_v2.toml"))
    exemplars, reference = given(model)
    head, absolute = {"site": "conv_head", "rank": 3}, {"match": "value", "error": "absolute"}
    settings: dict[str, Settings] = {
        "none": {"site": "conv_head", "strength": 0.0},
        "conv_head, rank 1, strength 1": {"site": "conv_head"},
        "conv_head, rank 3, strength 1": head,
        "conv_head, rank 3, strength 2": {**head, "strength": 2.0},
        "conv_head, rank 3, strength 3": {**head, "strength": 3.0},
        "conv_head, rank 3, strength 3, gate 0.98": {**head, "strength": 3.0, "gate": 0.98},
        "three late sites, rank 3, strength 1": {"site": THREE, "rank": 3},
        "three late sites, rank 3, strength 3, gate 0.98": {"site": THREE, "rank": 3, "strength": 3.0, "gate": 0.98},
        "conv_head, rank 3, absolute error after the activation, strength 1": {**head, **absolute},
        "conv_head, rank 3, absolute error after the activation, strength 2": {**head, **absolute, "strength": 2.0},
    }
    for rate, steps in ((1e-3, 10_000), (1e-4, 20_000)):
        what = f"authors' algorithm, conv_head, rank 3, {steps:,} steps at {rate:g}"
        settings[what] = {**head, "method": "projected-adam", "steps": steps, "learning_rate": rate}
    wanted: dict[str, tuple[Sequence[Exemplar], Settings]] = {what: (exemplars, own) for what, own in settings.items()}
    for one in exemplars:
        for what in ("conv_head, rank 3, strength 2", "conv_head, rank 3, strength 3, gate 0.98"):
            wanted[f"the exemplar {one.name} alone, {what}"] = [one], settings[what]
    return rows(model, wanted, reference)


def squeezenet() -> list[dict[str, Any]]:
    """SqueezeNet 1.0: the two convolutions of the last fire modules, one by one and together."""
    model = load_model(str(DATA / "models" / "squeezenet1_0.toml"))
    exemplars, reference = given(model)
    settings: dict[str, Settings] = {"none": {"site": "features.12.expand3x3", "strength": 0.0}}
    for fire in (9, 10, 12):
        both = [f"features.{fire}.expand1x1", f"features.{fire}.expand3x3"]
        for sites in ([both[0]], [both[1]], both):
            settings |= {
                f"{' + '.join(sites)}, {what}": {"site": sites, **own}
                for what, own in {
                    "rank 1, strength 1": {},
                    "rank 3, strength 1": {"rank": 3},
                    "rank 3, strength 2": {"rank": 3, "strength": 2.0},
                    "rank 3, strength 2, gate 0.98": {"rank": 3, "strength": 2.0, "gate": 0.98},
                }.items()
            }
    return rows(model, {what: (exemplars, own) for what, own in settings.items()}, reference)


def given(model: Classifier) -> tuple[list[Exemplar], ImageSet]:
    """The exemplars, and the sample without their classes."""
    exemplars = read_exemplars([DATA / "snow" / "exemplar"])
    labels = {model.classes.index(one.label) for one in exemplars if one.label is not None}
    return exemplars, ImageSet.of(DATA / "imagenet_sample" / "val", model.classes).without(labels)


def main() -> None:
    """Measure and record."""
    device = arguments(__doc__ or "").parse_args().device
    record("repair", device, [*mobilenet(), *squeezenet()])


if __name__ == "__main__":
    main()
