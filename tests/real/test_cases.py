"""Cases and discovery on real networks and photographs whose masks were painted, through the command line."""

import json
import shutil

import pytest

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def painted(data, tmp_path_factory):
    """Six photographs in class folders, and the masks of their roads and wheels."""
    root = tmp_path_factory.mktemp("painted")
    for concept, folder in (("road", "snow/exemplar"), ("wheel", "wheels")):
        for exemplar in sorted((data / folder).glob("exemplar_*")):
            label = str(json.loads((exemplar / "exemplar.json").read_text("utf-8"))["label"])
            for part, kind in (("image.jpg", root / "images"), ("mask.png", root / "masks" / concept)):
                (kind / label).mkdir(parents=True, exist_ok=True)
                shutil.copy(exemplar / part, kind / label / f"{exemplar.name}-{concept}{part[-4:]}")
    return root


def test_what_two_networks_rely_on_is_told_apart(run, painted, data, tmp_path):
    made = run(
        *(
            "cases",
            "--images",
            painted / "images",
            "--out",
            tmp_path / "cases",
            "--concept",
            "road",
            "--concept",
            "wheel",
        ),
        *("--segmenter", f"files/{painted / 'masks'}", "--smallest", 0.005, "--json"),
    ).json()
    assert made["pictures"] == 6 and made["counterfactuals"] == 6 * 8 * 2
    models = [
        word for name in ("mobilenet_v2", "squeezenet1_0") for word in ("--model", data / "models" / f"{name}.toml")
    ]
    found = run("discover", tmp_path / "cases", *models, "--least", 3, "--out", tmp_path / "found", "--json").json()
    mobilenet, squeezenet = (
        {
            row["concept"]: row
            for row in each["dependences"]
            if row["label"] == "all classes" and row["style"] is None
        }
        for each in found["models"]
    )  # fmt: skip
    assert mobilenet["road"]["drop"] == 0 and abs(mobilenet["road"]["confidence"]) < 0.05  # the control
    assert mobilenet["wheel"]["drop"] >= 0.1 and mobilenet["wheel"]["confidence"] <= -0.1
    assert squeezenet["road"]["drop"] >= 0.15 and squeezenet["road"]["confidence"] <= -0.08
    assert all(row["n"] == 3 for each in (mobilenet, squeezenet) for row in each.values())
    assert all(
        f"--model {data / 'models'}" in command for command in found["commands"]
    )  # as they were named, not by name
    assert (tmp_path / "found" / "report.html").stat().st_size > 50_000
