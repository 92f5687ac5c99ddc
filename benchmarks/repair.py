"""What edits repair and cost on real networks and photographs: `python -m benchmarks.repair`.

Vehicles on snow, three exemplars in which road is replaced by snow. Key statistics and damage are measured on the
sample without the exemplars' classes; settings are those of the design, chosen on nothing that is counted here, but for
SqueezeNet, of which all late sites are shown.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.measure import DATA, arguments, record
from rulepatch.core.exemplars import Exemplar
from rulepatch.data.folders import ImageSet, read_exemplars
from rulepatch.editors.registry import editor_named
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.models.classifier import Classifier
from rulepatch.models.registry import load_model

THREE = ("blocks.5.2.conv_pwl", "blocks.6.0.conv_pwl", "conv_head")


def row(
    model: Classifier,
    what: str,
    exemplars: Sequence[Exemplar],
    reference: ImageSet,
    method: str = "rewrite",
    **settings: Any,
) -> dict[str, Any]:
    """Make an edit and measure it."""
    edit = editor_named(method)(model, exemplars, reference=reference, **settings)
    found = evaluate(model, edit, tests=DATA / "snow" / "test", reference=reference)
    tests, sample = found.tests, found.reference
    assert tests is not None and sample is not None
    assert tests.after is not None and sample.before is not None and sample.after is not None
    return {
        "model": model.name,
        "edit": what,
        "loss": sum(site["loss"]["after"] for site in edit.provenance["sites"]),
        "on snow, %": 100 * tests.after,
        "repaired": len(tests.repaired),
        "broken": len(tests.broken),
        "sample, points lost": 100 * (sample.before - sample.after),
        "sample, flips %": 100 * len(sample.flips) / len(sample),
    }


def mobilenet() -> list[dict[str, Any]]:
    """MobileNetV2 with TensorFlow padding."""
    model = load_model(str(DATA / "models" / "mobilenet_v2.toml"))
    exemplars, reference = given(model)
    settings: dict[str, dict[str, Any]] = {
        "none": {"site": "conv_head", "strength": 0.0},
        "conv_head, rank 1, strength 1": {"site": "conv_head"},
        "conv_head, rank 3, strength 1": {"site": "conv_head", "rank": 3},
        "conv_head, rank 3, strength 2": {"site": "conv_head", "rank": 3, "strength": 2.0},
        "conv_head, rank 3, strength 3": {"site": "conv_head", "rank": 3, "strength": 3.0},
        "conv_head, rank 3, strength 3, gate 0.98": {"site": "conv_head", "rank": 3, "strength": 3.0, "gate": 0.98},
        "three late sites, rank 3, strength 1": {"site": THREE, "rank": 3},
        "three late sites, rank 3, strength 3, gate 0.98": {"site": THREE, "rank": 3, "strength": 3.0, "gate": 0.98},
    }
    absolute = {"site": "conv_head", "rank": 3, "match": "value", "error": "absolute"}
    settings |= {
        "conv_head, rank 3, absolute error after the activation, strength 1": absolute,
        "conv_head, rank 3, absolute error after the activation, strength 2": absolute | {"strength": 2.0},
        **{
            f"authors' algorithm, conv_head, rank 3, {steps:,} steps at {rate:g}": {
                "method": "projected-adam", "site": "conv_head", "rank": 3, "steps": steps, "learning_rate": rate,
            }
            for rate, steps in ((1e-3, 10_000), (1e-4, 20_000))
        },
    }  # fmt: skip
    rows = [row(model, what, exemplars, reference, **chosen) for what, chosen in settings.items()]
    for one in exemplars:
        what = f"the exemplar {one.name} alone, conv_head, rank 3, strength 2"
        rows.append(row(model, what, [one], reference, site="conv_head", rank=3, strength=2.0))
        what = f"the exemplar {one.name} alone, conv_head, rank 3, strength 3, gate 0.98"
        rows.append(row(model, what, [one], reference, site="conv_head", rank=3, strength=3.0, gate=0.98))
    return rows


def squeezenet() -> list[dict[str, Any]]:
    """SqueezeNet 1.0: the two convolutions of the last fire modules, one by one and together."""
    model = load_model(str(DATA / "models" / "squeezenet1_0.toml"))
    exemplars, reference = given(model)
    rows = [row(model, "none", exemplars, reference, site="features.12.expand3x3", strength=0.0)]
    for fire in (9, 10, 12):
        both = [f"features.{fire}.expand1x1", f"features.{fire}.expand3x3"]
        for sites in ([both[0]], [both[1]], both):
            for further in ({"strength": 2.0}, {"strength": 2.0, "gate": 0.98}):
                tail = ", gate 0.98" if "gate" in further else ""
                what = f"{' + '.join(sites)}, rank 3, strength 2{tail}"
                rows.append(row(model, what, exemplars, reference, site=sites, rank=3, **further))
    return rows


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
