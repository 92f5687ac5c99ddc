"""The search on a real network: it sees exemplars and half of the sample, never the photographs that judge it."""

import pytest

from rulepatch.data.folders import ImageSet
from rulepatch.models.registry import load_model

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_it_chooses_an_edit_that_repairs_photographs_it_never_saw(run, data, tmp_path):
    model = data / "models" / "mobilenet_v2.toml"
    classifier = load_model(str(model))
    own = {classifier.classes.index(name) for name in ("limousine", "minivan", "tow truck")}
    halves = ImageSet.of(data / "imagenet_sample" / "val", classifier.classes).without(own).split(0.5, seed=0)
    for name, half in zip(("known", "unseen"), halves, strict=True):
        for picture in half.pictures:
            link = tmp_path / name / picture.source.parent.name / picture.source.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(picture.source.resolve())
    out = tmp_path / "edit.safetensors"
    made = run(
        "edit", "--model", model, "--exemplar", data / "snow" / "exemplar", "--reference", tmp_path / "known",
        "--site", "auto", "--max-drop", "0.25%", "--out", out, "--json",
    ).json()  # fmt: skip
    assert len(made["candidates"]) > 100 and "by edits that learnt from the others" in made["validation"]
    found = run(
        "evaluate",
        out,
        "--model",
        model,
        "--tests",
        data / "snow" / "test",
        "--reference",
        tmp_path / "unseen",
        "--json",
    ).json()
    assert found["tests"]["before"] == pytest.approx(0.427, abs=0.001)
    # 0.66 before the budget was one that other images keep, too: docs/results.md#budgets-on-other-images
    assert found["tests"]["after"] >= 0.65 and found["tests"]["broken"] == 0
    assert found["reference"]["before"] - found["reference"]["after"] <= 0.0025
