"""A sweep of a real network on photographs: the lower third of each becomes snow or gravel."""

import pytest
from PIL import Image

from rulepatch.concepts.make_cases import make_cases
from rulepatch.concepts.segment import load_segmenter
from rulepatch.concepts.stylize import load_stylizer, styles
from rulepatch.data.folders import ImageSet
from rulepatch.models.registry import load_model
from rulepatch.sweeps.analysis import SweepReport
from rulepatch.sweeps.plan import Plan
from rulepatch.sweeps.run import sweep

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_a_sweep_of_cifar_corrects_errors_within_the_budget(data, tmp_path):
    name = str(data / "models" / "resnet56_cifar10.toml")
    model = load_model(name)
    images, others = ImageSet.of(data / "cifar10" / "test", model.classes).sample(500, seed=3).split(0.5, seed=0)
    others.write(tmp_path / "reference", model.classes)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (0, 22, 32, 32))
    for picture in images.pictures:
        path = tmp_path / "masks" / "ground" / picture.source.parent.name / f"{picture.source.stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        mask.save(path)
    make_cases(
        images, tmp_path / "cases", concepts=["ground"],
        styles=[style for style in styles(["snow", "gravel"]) if style.index < 2],
        segmenter=load_segmenter(f"files/{tmp_path / 'masks'}"), stylizer=load_stylizer("paste"),
        classes=model.classes, progress=False,
    )  # fmt: skip
    plan = Plan.of(
        {
            "models": name, "cases": "cases", "reference": "reference", "sites": ["layer3.8.conv2"], "exemplars": 10,
            "max_drop": "1%", "methods": {"nothing": [{}], "rewrite": {"rank": [1, 3], "gate": "none"}},
        },
        root=tmp_path,
    )  # fmt: skip
    swept = sweep(plan, tmp_path / "results.sqlite", workers=1, progress=False)
    assert (swept.done, swept.failed) == (6, 0)
    (study,) = SweepReport.read(tmp_path / "results.sqlite", least=3).to_json()["studies"]
    nothing, rewritten = sorted(study["results"][0]["methods"], key=lambda row: row["method"])
    assert all(cell["net"]["mean"] == 0 for cell in nothing["cells"].values())  # the negative control
    net = {cell: measures["net"]["mean"] for cell, measures in rewritten["cells"].items()}
    assert net["target, train style"] >= 0.2 and net["other, train style"] >= 0
    assert rewritten["points_lost"]["mean"] <= 0.02
