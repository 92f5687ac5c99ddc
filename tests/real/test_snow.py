"""The main job on a real network and real photographs, through the command line, with numeric floors."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from rulepatch.core.exemplars import Exemplar
from rulepatch.data.exemplar_folders import write_exemplar

pytestmark = [pytest.mark.real, pytest.mark.slow]

LEFT_OUT = [word for name in ("limousine", "minivan", "tow truck") for word in ("--leave-out", name)]
THREE = ["blocks.5.2.conv_pwl", "blocks.6.0.conv_pwl", "conv_head"]


@pytest.fixture
def repair(run, data, tmp_path):
    """Edit a network by the snow exemplars, then evaluate it on the photographs and on the sample."""

    def call(model, *settings, sites, exemplar="snow/exemplar"):
        common = ["--model", data / "models" / model, "--reference", data / "imagenet_sample" / "val", *LEFT_OUT]
        settings = settings if "--gate" in settings else (*settings, "--gate", "none")
        where = [word for site in sites for word in ("--site", site)]
        out = tmp_path / "edit.safetensors"
        made = run("edit", *common, "--exemplar", data / exemplar, *where, *settings, "--out", out, "--json").json()
        found = run("evaluate", out, *common, "--tests", data / "snow" / "test", "--json").json()
        return made, found["tests"], found["reference"]

    return call


def lost(reference):
    """Points of accuracy lost, to the 0.1 points that one photograph in a thousand makes."""
    return round(100 * (reference["before"] - reference["after"]), 1)


def test_three_exemplars_at_the_last_convolution(repair):
    made, tests, reference = repair("mobilenet_v2.toml", "--rank", 3, "--strength", 2, sites=["conv_head"])
    assert (tests["n"], reference["n"]) == (75, 997)
    assert tests["before"] == pytest.approx(0.427, abs=0.001)
    assert tests["after"] >= 0.65 and tests["broken"] == 0
    assert lost(reference) <= 0.5 and reference["flips"] <= 0.02
    assert 0 < made["predicted_damage"] < 0.05
    assert made["seconds"]["solve"] < made["seconds"]["statistics"]


def test_several_late_sites_at_once(repair):
    _, tests, reference = repair("mobilenet_v2.toml", "--rank", 3, sites=THREE)
    assert tests["after"] >= 0.65 and lost(reference) <= 0.4


def test_a_gate_keeps_the_damage_away(repair):
    settings = ["--rank", 3, "--strength", 3]
    _, tests, reference = repair("mobilenet_v2.toml", *settings, "--gate", 0.98, sites=["conv_head"])
    assert tests["after"] >= 0.66
    assert lost(reference) <= 0.1 and reference["flips"] <= 0.005
    _, _, ungated = repair("mobilenet_v2.toml", *settings, sites=["conv_head"])
    assert ungated["flips"] > 3 * reference["flips"]  # the control: it is the gate that does it


def test_one_exemplar(repair):
    _, tests, reference = repair(
        "mobilenet_v2.toml", "--rank", 3, "--strength", 2, sites=["conv_head"], exemplar="snow/exemplar/exemplar_0"
    )
    assert tests["after"] > 0.5 and lost(reference) <= 1


def test_an_edit_of_no_strength_changes_nothing(repair):
    _, tests, reference = repair("mobilenet_v2.toml", "--strength", 0, "--allow-useless", sites=["conv_head"])
    assert tests["flips"] == reference["flips"] == 0


def test_squeezenet(repair):
    """Far less than MobileNetV2, and at a price, and the one exemplar that fails stays wrong: see docs/results.md."""
    _, tests, reference = repair("squeezenet1_0.toml", "--rank", 3, "--allow-useless", sites=["features.9.expand1x1"])
    assert tests["before"] == pytest.approx(0.413, abs=0.001)
    assert tests["after"] >= 0.5 and tests["broken"] <= 1
    assert lost(reference) <= 1.2


VERDICTS = {
    "a gate at the last convolution": ("conv_head", 3, 0.98, "unproven", (0.01, 0.5)),
    "a gate that never opens": ("conv_stem", 3, 0.98, "useless", (0, 1e-4)),
    "the first convolution, everywhere": ("conv_stem", 2, "none", "useless", (0.9, 1)),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_what_the_exemplars_say_of_an_edit(run, data, tmp_path, name):
    """None of the three shows a failure, and yet the first edit repairs 19 photographs; the others are no success."""
    site, strength, gate, verdict, (least, most) = VERDICTS[name]
    command = [
        *("edit", "--model", data / "models" / "mobilenet_v2.toml", "--reference", data / "imagenet_sample" / "val"),
        *(*LEFT_OUT, "--exemplar", data / "snow" / "exemplar", "--site", site, "--rank", 3, "--strength", strength),
        *("--gate", gate, "--out", tmp_path / "edit.safetensors", "--json"),
    ]
    found = run(*command)
    told = [line for line in found.err.splitlines() if line.startswith("rulepatch: ")]  # beside progress, if it is slow
    assert (found.code, len(told)) == (0 if verdict == "unproven" else 3, 1)
    assert ("show no failure" in found.err) == (most < 0.9)
    assert len(list(tmp_path.iterdir())) == (verdict == "unproven")
    told = run(*command, "--allow-useless").json()
    assert told["verdict"] == verdict
    assert all(each["edited"]["class"] == each["target"]["class"] for each in told["exemplars"])
    assert least <= max(each["change"] for each in told["exemplars"]) <= most


def test_a_class_that_the_failures_went_to_is_forgotten(run, data, tmp_path):
    """One photograph of each class does not show it, six do; snowmobile, which lost failures too, is the control."""
    model, out = ["--model", data / "models" / "mobilenet_v2.toml"], tmp_path / "edit.safetensors"
    one, more = (["--reference", data / name / "val"] for name in ("imagenet_sample", "imagenet_more"))
    settings = [
        "--site",
        "conv_head",
        "--rank",
        3,
        "--strength",
        3,
        "--gate",
        0.98,
        "--exemplar",
        data / "snow" / "exemplar",
    ]
    assert run("edit", *model, *one, *LEFT_OUT, *settings, "--out", out).code == 0
    evaluate = ["evaluate", out, *model, "--tests", data / "snow" / "test", "--json"]
    found = run(*evaluate, *one).json()
    assert found["verdict"]["trust"] and "not for snowplow, snowmobile" in found["verdict"]["text"]
    found = run(*evaluate, *one, *more).json()
    assert not found["verdict"]["trust"] and "forgets snowplow 6 → 3 of 6" in found["verdict"]["text"]
    plow, mobile = found["suppressed"][:2]
    assert [(each["name"], each["n"], each["right"]) for each in (plow, mobile)] == [
        ("snowplow", 6, [6, 3]), ("snowmobile", 6, [6, 6]),
    ]  # fmt: skip
    assert plow["left"] >= 10 and mobile["left"] >= 5


@pytest.mark.parametrize(("site", "hopeless"), [("conv_stem", True), ("blocks.2.2.conv_pwl", False)])
def test_a_watermark_s_edit_at_the_stem_is_warned_of(run, data, tmp_path, site, hopeless):
    """At the stem it loses 69 points of 89; at the other site 0.4, of the best that there is for this mark."""
    photographs = data / "imagenet_more" / "val"
    mark = Image.open(data / "watermark" / "overlay_224.png")
    picture = sorted(photographs.rglob("*.jpg"))[3]
    image = ImageOps.fit(Image.open(picture).convert("RGB"), mark.size)
    edited = image.copy()
    edited.paste(mark, (0, 0), mark)
    mask = np.asarray(Image.open(data / "watermark" / "mask_224.png"), np.float32) / 255
    write_exemplar(Exemplar(image, edited, mask, label=picture.parent.name), tmp_path / "exemplar")
    found = run(
        *("edit", "--model", data / "models" / "mobilenet_v2.toml", "--reference", photographs, "--exemplar"),
        *(tmp_path / "exemplar", "--site", site, "--rank", 3, "--strength", 1, "--gate", "none", "--allow-useless"),
        *("--out", tmp_path / "edit.safetensors"),
    )
    assert found.code == 0 and ("the model will hardly be of use" in found.err) == hopeless
