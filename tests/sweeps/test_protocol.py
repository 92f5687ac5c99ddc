"""The paper's protocol from end to end, small: cases, sweep, report; editing beats fine-tuning on the other classes."""

import json

import pytest

from rulepatch.concepts.make_cases import make_cases, styles_for
from rulepatch.concepts.segment import load_segmenter
from rulepatch.concepts.stylize import load_stylizer
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import image_set, training_images
from rulepatch.playground.scenes import render
from rulepatch.sweeps.analysis import SweepReport
from rulepatch.sweeps.plan import Plan
from rulepatch.sweeps.report import write_report
from rulepatch.sweeps.run import sweep

CLASSES = ("car", "motorcycle", "pickup", "van", "snowbike", "snowmobile", "sleigh")
STYLES = ["road=snow", "road=leaves", "snow=road", "snow=brick"]
CELL = "other, held-out style"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Four cases, two sites, seven methods, two workers."""
    root = tmp_path_factory.mktemp("protocol")
    model = load_model("playground")
    make_cases(
        image_set([render(label, seed=900 + i) for label in CLASSES for i in range(12)], "scenes"),
        root / "cases",
        concepts=["road", "snow"],
        styles=styles_for(["road", "snow"], STYLES, stylizer="playground"),
        segmenter=load_segmenter("playground"),
        stylizer=load_stylizer("playground", blend=1.0),
        classes=model.classes,
        progress=False,
    )
    training_images(400, seed=8).write(root / "reference", model.classes)
    plan = Plan.of(
        {
            "models": "playground", "cases": "cases", "reference": "reference", "exemplars": 3, "max_drop": "0.5%",
            "sites": ["blocks.3.conv", "blocks.5.conv"],
            "methods": {
                "nothing": [{}],
                "rewrite": {"rank": [1, 3], "gate": "none"},
                "rewrite-mask": {"rank": 1, "gate": "none"},
                "projected-adam": {"rank": 1, "learning_rate": 0.01, "steps": 100},
                "finetune-local": {"learning_rate": [0.001, 0.0001], "steps": 30},
                "finetune-global": {"learning_rate": [0.001, 0.0001], "steps": 30},
                "last-layer": {},
            },
        },
        root=root,
    )  # fmt: skip
    swept = sweep(plan, root / "results.sqlite", workers=2, progress=False)
    assert (swept.done, swept.failed) == (swept.jobs, 0) and swept.jobs == 4 * (2 * 9 + 1)
    return SweepReport.read(root / "results.sqlite", least=3)


@pytest.mark.slow
def test_editing_beats_fine_tuning_on_other_classes_within_the_budget(report):
    (study,) = report.to_json()["studies"]
    methods = {row["method"]: row for row in study["results"][0]["methods"]}
    net = {method: row["cells"][CELL]["net"]["mean"] for method, row in methods.items()}
    assert net["nothing"] == 0  # the negative control
    assert net["rewrite"] >= 0.4
    assert net["rewrite"] > max(net["finetune-local"], net["finetune-global"], net["last-layer"])
    assert all(row["points_lost"]["mean"] <= 0.03 for row in methods.values())
    assert all(row["cells"][CELL]["net"]["cases"] == 4 for row in methods.values())


@pytest.mark.slow
def test_the_report_is_written_whole(report, tmp_path):
    write_report(report, tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert {"report.html", "summary.json", "summary.md", "results.csv", "playground-cells-3.svg"} <= names
    assert {"playground-sites-3.svg", "playground-ablations-3.svg", "playground-damage-3.svg"} <= names
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["failed"] == 0
