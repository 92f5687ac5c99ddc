"""The main job on a real network and real photographs, through the command line, with numeric floors."""

import pytest

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
    assert (found.code, len(found.err.splitlines())) == (0 if verdict == "unproven" else 3, 1)
    assert ("show no failure" in found.err) == (most < 0.9)
    assert len(list(tmp_path.iterdir())) == (verdict == "unproven")
    told = run(*command, "--allow-useless").json()
    assert told["verdict"] == verdict
    assert all(each["edited"]["class"] == each["target"]["class"] for each in told["exemplars"])
    assert least <= max(each["change"] for each in told["exemplars"]) <= most
