import json
import logging
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch
from PIL import Image

import rulepatch as rp
from rulepatch.cli.commands import ORDER
from rulepatch.evaluation.evaluate import evaluate
from rulepatch.models.registry import load_model


@pytest.fixture
def net(world):
    return f"{world / 'net.py'}:build"


@pytest.mark.parametrize("command", [[], *([name] for name in ORDER)], ids=str)
def test_help_is_printed_and_succeeds(command, run):
    found = run(*command, "--help")
    assert found.code == 0
    assert "Usage" in found.out
    assert found.err == ""


def test_without_arguments_the_commands_are_shown(run):
    found = run()
    assert (found.code, found.err) == (0, "")
    assert all(name in found.out for name in ORDER)
    assert "Usage: rulepatch [OPTIONS]" in found.out


@pytest.mark.slow
def test_help_loads_no_torch_and_bad_arguments_neither():
    program = """
import sys
from rulepatch.cli import main
try:
    main({})
except SystemExit:
    print("torch" in sys.modules)
"""
    for arguments in (["--help"], ["edit", "--help"], ["edit", "--rank", "x"], ["nonsense"]):
        done = subprocess.run([sys.executable, "-c", program.format(arguments)], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "False"


# sites


def test_sites_lists_them_as_in_the_design(run, net):
    found = run("sites", net, "--json").json()
    assert set(found) >= {"sites", "refused"}
    assert [site["site"] for site in found["sites"]] == ["0", "3", "8"]
    assert found["sites"][1] == {
        "site": "3",
        "kind": "conv",
        "shape": [8, 8, 3, 3],
        "stride": [1, 1],
        "value_point": "5",
        "exact": True,
        "positions": [16, 16],
        "grid": [16, 16],
        "tokens_apart": 0,
    }
    text = run("sites", net).out
    assert all(word in text for word in ("site", "value point", "8×8×3×3", "linear"))


@pytest.mark.parametrize("model", ["torchvision/squeezenet1_0", "timm/test_resnet"])
def test_sites_of_a_library_need_no_weights(model, run):
    found = run("sites", model, "--json").json()
    assert len(found["sites"]) > 5


def test_sites_of_a_model_file(run, world):
    named = run("sites", world / "model.toml", "--trust", "--json").json()
    assert named == run("sites", f"{world}/net.py:build", "--json").json()


# edit


def test_an_edit_is_written_and_told_as_in_the_design(run, editing, tmp_path):
    out = tmp_path / "edit.safetensors"
    found = run(*editing(out), "--json").json()
    assert found["edit"] == str(out)
    assert (found["site"], found["rank"], found["strength"], found["method"]) == ("3", 2, 3.0, "rewrite")
    assert set(found["loss"]) == {"before", "after"}
    assert found["predicted_damage"] > 0
    assert set(found["seconds"]) == {"statistics", "solve", "total"}
    assert all(seconds >= 0 for seconds in found["seconds"].values())
    edit = rp.Edit.load(out)
    assert edit.sites == ("3",)
    assert (edit.changes[0].rank, edit.changes[0].strength) == (2, 3.0)
    assert [file.name for file in tmp_path.iterdir()] == ["edit.safetensors"]


def test_the_text_of_an_edit_names_the_file_and_what_to_do_next(run, editing, tmp_path):
    found = run(*editing(tmp_path / "edit.safetensors"))
    assert found.code == 0
    (sentence,) = found.err.splitlines()
    assert "the edit forgets green 6 → 0 of 6" in sentence  # the exemplar's failure went there
    assert "where the failures went (right before and after): green 6 → 0 of 6\n" in found.out
    assert str(tmp_path / "edit.safetensors") in found.out
    assert "rulepatch evaluate" in found.out


def test_the_command_line_makes_what_the_library_makes(run, editing, net, world, tmp_path):
    run(*editing(tmp_path / "edit.safetensors"))
    exemplars = rp.read_exemplars([world / "exemplar"])
    reference = str(world / "reference")
    edit = rp.rewrite(
        load_model(net), exemplars, reference=reference, site="3", rank=2, strength=3, gate=None, cache=None
    )
    found = rp.Edit.load(tmp_path / "edit.safetensors")
    assert torch.equal(found.changes[0].delta(), edit.changes[0].delta())
    assert found.base == edit.base
    assert found.provenance["settings"] == edit.provenance["settings"]


def test_same_arguments_same_bits(run, editing, tmp_path, monkeypatch):
    contents = []
    for name in ("one", "other"):
        monkeypatch.setenv("RULEPATCH_CACHE", str(tmp_path / name))
        run(*editing(tmp_path / f"{name}.safetensors"))
        contents.append((tmp_path / f"{name}.safetensors").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    "options",
    [
        ["--gate", "0.9"],
        ["--gate", "0.9", "--gate-kind", "soft"],
        ["--gate", "none"],
        ["--architecture", "2"],
        ["--match", "value", "--error", "absolute", "--steps", "5"],
        ["--ridge", "0.1", "--floor", "0.001"],
        ["--value-point", "4"],
        ["--seed", "7"],
        ["--leave-out", "red", "--leave-out", "1"],
        ["--method", "projected-adam", "--steps", "3", "--learning-rate", "0.01"],
        ["--site", "0"],
        ["--device", "cpu"],
        ["--method", "dense", "--set", "balance=3"],
        ["--method", "finetune-local", "--steps", "3", "--set", "projected=yes"],
        ["--set", "whole-image=yes"],
        ["--max-drop", "100%"],
    ],
    ids=" ".join,
)
def test_every_option_is_taken_and_recorded(options, run, editing, tmp_path):
    command = editing(tmp_path / "edit.safetensors")
    for name in ("--rank", "--gate"):
        if "dense" in options or ("finetune-local" in options and name == "--gate"):
            del command[command.index(name) : command.index(name) + 2]
    found = run(*command, *options, "--allow-useless", "--json").json()
    edit = rp.Edit.load(tmp_path / "edit.safetensors")
    settings = edit.provenance["settings"] | {"method": edit.provenance["method"], "device": "cpu", "leave_out": None}
    given = dict(zip(options[::2], options[1::2], strict=True))
    for name, value in given.items():
        if name == "--max-drop":
            assert found["damage"]["n"] == 18
            continue
        if name == "--set":
            key, text = value.replace("-", "_").split("=")
            assert settings[key] == (True if text == "yes" else float(text))
            continue
        recorded = settings[name.removeprefix("--").replace("-", "_")]
        if name == "--site":
            assert recorded == ["3", "0"]
            assert found["site"] == "3+0"
            assert edit.sites == ("3", "0")
        elif name != "--leave-out":
            assert recorded == (None if value == "none" else type(recorded)(value))
    if "--leave-out" in options:
        assert edit.provenance["reference_keys"] == {"3": 6 * 256}


def test_an_exemplar_can_be_a_picture_with_a_mask_and_a_texture(run, world, net, tmp_path):
    picture, mask = world / "exemplar" / "image.png", world / "exemplar" / "mask.png"
    out = tmp_path / "edit.safetensors"
    found = run(
        *("edit", "--model", net, "--exemplar", picture, "--mask", mask, "--replacement", world / "sand.png"),
        *("--label", "red", "--reference", world / "flat", "--site", "3", "--out", out, "--json"),
    )
    assert found.json()["edit"] == str(out)
    (exemplar,) = rp.Edit.load(out).provenance["exemplars"]
    assert (exemplar["label"], exemplar["replacement"]) == ("red", "sand")


def test_an_edit_replaces_a_file_of_its_name(run, editing, tmp_path):
    (tmp_path / "edit.safetensors").write_text("old")
    assert run(*editing(tmp_path / "edit.safetensors")).code == 0
    assert rp.Edit.load(tmp_path / "edit.safetensors").sites == ("3",)


def test_local_weights_make_another_base(run, editing, world, tmp_path):
    bases = []
    for options in ([], ["--weights", world / "weights.safetensors"]):
        run(*editing(tmp_path / "edit.safetensors"), *options)
        bases.append(rp.Edit.load(tmp_path / "edit.safetensors").base)
    assert bases[0] != bases[1]


# show


@pytest.mark.parametrize("name", ["edit", "gated"])
def test_show_tells_what_the_file_says(name, run, world):
    found = run("show", world / f"{name}.safetensors", "--json").json()
    assert found == json.loads(json.dumps(rp.Edit.load(world / f"{name}.safetensors").describe()))
    assert found["schema"] == 1
    assert found["provenance"]["exemplars"][0]["concept"] == "road"
    text = run("show", world / f"{name}.safetensors").out
    assert found["base"] in text
    assert ("hard 0.5" in text) == (name == "gated")


# apply


def test_applied_weights_predict_what_the_edit_predicts(run, world, net, tmp_path):
    out = tmp_path / "edited.safetensors"
    found = run("apply", world / "edit.safetensors", "--model", net, "--out", out, "--json").json()
    assert (found["weights"], found["sites"]) == (str(out), ["3"])
    assert [file.name for file in tmp_path.iterdir()] == ["edited.safetensors"]
    base, inputs = load_model(net), torch.randn(20, 3, 16, 16)
    edited = rp.Edit.load(world / "edit.safetensors").apply(base)
    loaded = load_model(net, weights=out)
    assert torch.equal(loaded.logits(inputs), edited.logits(inputs))
    assert not torch.equal(loaded.logits(inputs), base.logits(inputs))


@pytest.mark.parametrize("ending", ["", ".pth", ".pt", ".bin", ".h5", ".ckpt", ".safetensor", ".PT2", ".onnx.bak"])
@pytest.mark.parametrize("edit", ["edit", "gated"])
def test_a_file_that_cannot_hold_the_model_is_refused_before_the_model_is_loaded(
    edit, ending, run, world, tmp_path, monkeypatch
):
    monkeypatch.setattr("rulepatch.models.registry.load_model", lambda *_, **__: pytest.fail("loaded"))
    for out in (tmp_path / f"edited{ending}", tmp_path / f"edited{ending or '.safetensors'}")[: 1 + (edit == "gated")]:
        found = run("apply", world / f"{edit}.safetensors", "--model", "torchvision/resnet50", "--out", out)
        assert found.code == 2 and not list(tmp_path.iterdir())
        assert ".pt2 or .onnx" in found.err and ("of weights (.safetensors)" in found.err) == (edit == "edit")


def test_a_gated_edit_says_so_and_what_can_hold_it(run, editing, world, tmp_path):
    from rulepatch.models.export import FORMATS

    shown = run("show", world / "gated.safetensors").out
    made = run(*editing(tmp_path / "edit.safetensors"), "--gate", "0.5").out
    note = "gated: acts only where its key fires beyond the 0.5 quantile of the reference set; `apply` needs "
    assert all(note + " or ".join(FORMATS) in told for told in (shown, made))
    assert "gated" not in run("show", world / "edit.safetensors").out.split("base ")[0]


def test_a_minimum_says_so_and_needs_a_whole_network(run, editing, world, net, tmp_path):
    made = run(*editing(tmp_path / "edit.safetensors"), "--minimum", "yes").out
    assert all(
        "a minimum: of each logit the lower one" in told
        for told in (made, run("show", tmp_path / "edit.safetensors").out)
    )
    apply = ["apply", tmp_path / "edit.safetensors", "--model", net, "--out"]
    refused = run(*apply, tmp_path / "w.safetensors")
    assert refused.code == 2 and "is a minimum at 3, which is no change of weights" in refused.err
    report = tmp_path / "report.html"
    run("evaluate", tmp_path / "edit.safetensors", "--model", net, "--tests", world / "tests", "--report", report)
    assert "It is a minimum: of each logit the lower one counts" in report.read_text("utf-8")
    assert run(*apply, tmp_path / "net.pt2").code == 0
    program = torch.export.load(str(tmp_path / "net.pt2")).module()
    inputs, base = torch.randn(20, 3, 16, 16), load_model(net)
    edited = rp.Edit.load(tmp_path / "edit.safetensors").apply(base).logits(inputs)
    assert torch.allclose(program(inputs), edited, atol=1e-5) and (edited <= base.logits(inputs)).all()


def test_a_gated_edit_is_no_change_of_weights(run, world, net, tmp_path):
    found = run("apply", world / "gated.safetensors", "--model", net, "--out", tmp_path / "w.safetensors")
    assert found.code == 2
    assert "gated at 3" in found.err
    assert list(tmp_path.iterdir()) == []


def test_another_base_is_accepted_only_if_told_to(run, world, net, tmp_path):
    other = ["--model", net, "--weights", world / "weights.safetensors"]
    edit, out = world / "edit.safetensors", tmp_path / "w.safetensors"
    for command in (["evaluate", edit, *other, "--tests", world / "tests"], ["apply", edit, *other, "--out", out]):
        refused = run(*command)
        assert refused.code == 2
        assert rp.Edit.load(edit).base[:12] in refused.err
        assert not out.exists()
        assert run(*command, "--any-base").code == 0
    expected = rp.Edit.load(edit).apply(load_model(net, weights=world / "weights.safetensors"), any_base=True)
    loaded = load_model(net, weights=out)
    inputs = torch.randn(5, 3, 16, 16)
    assert torch.equal(loaded.logits(inputs), expected.logits(inputs))


# evaluate


def test_evaluate_tells_what_the_design_asks(run, world, net):
    found = run(
        *("evaluate", world / "edit.safetensors", "--model", net),
        *("--tests", world / "tests", "--reference", world / "reference", "--json"),
    ).json()
    for name in ("tests", "reference"):
        numbers = found[name]
        assert numbers["n"] == 18
        assert 0 <= numbers["before"] <= 1
        assert 0 <= numbers["after"] <= 1
        assert 0 <= numbers["flips"] <= 1
        assert {type(numbers[key]) for key in ("repaired", "broken")} == {int}
    assert set(found["tests"]["classes"]) == {"red", "green", "blue"}
    assert found["tests"]["flips"] > 0
    edit, model = rp.Edit.load(world / "edit.safetensors"), load_model(net)
    again = evaluate(model, edit, tests=world / "tests", reference=world / "reference", progress=False)
    assert again.to_json() == found
    both = run(
        *("evaluate", world / "edit.safetensors", "--model", net, "--tests", world / "tests"),
        *("--reference", world / "reference", "--reference", world / "reference", "--json"),
    ).json()
    assert both["reference"]["n"] == 2 * found["reference"]["n"] and both["tests"] == found["tests"]


def test_evaluate_writes_a_report_with_the_exemplars(run, world, net, tmp_path):
    found = run(
        *("evaluate", world / "edit.safetensors", "--model", net, "--reference", world / "flat"),
        *("--report", tmp_path / "report.html", "--exemplar", world / "exemplar", "--json"),
    ).json()
    assert set(found) == {"reference", "predicted_damage", "suppressed", "verdict"}
    assert found["reference"]["before"] is None
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Treat snow as road" in page and "do not trust it" in page
    assert "marked" in page


def test_the_text_of_an_evaluation_is_a_table(run, world, net):
    found = run("evaluate", world / "edit.safetensors", "--model", net, "--tests", world / "tests")
    assert (found.code, found.err) == (0, "")
    verdict, *lines = found.out.splitlines()
    assert verdict.endswith("do not trust it, because it breaks more than it repairs and there is no reference set")
    assert lines[0].split() == ["images", "before", "after", "repaired", "broken", "flips"]
    assert [line.split()[0] for line in lines[1:5]] == ["tests", "red", "green", "blue"]


# match and compare


def test_match_ranks_pictures_and_writes_a_wall(run, world, net, tmp_path):
    found = run(
        *("match", world / "edit.safetensors", "--model", net, "--images", world / "tests"),
        *("--reference", world / "reference", "--report", tmp_path / "match.html", "--json"),
    ).json()
    scores = [each["score"] for each in found["matches"]]
    assert (found["site"], found["concept"], found["n"]) == ("3", "snow", 18) and scores == sorted(scores, reverse=True)
    assert (tmp_path / "match.html").read_text("utf-8").count("data:image/jpeg") == 18


def test_compare_writes_its_table_and_figure(run, world, net, tmp_path):
    found = run(
        *("compare", "--model", net, "--exemplar", world / "exemplar", "--tests", world / "tests", "--site", "3"),
        *("--reference", world / "reference", "--method", "nothing", "--method", "rewrite", "--max-drop", "50%"),
        *("--out", tmp_path / "out", "--json"),
    ).json()
    assert [result["method"] for result in found["results"]] == ["nothing", "rewrite"]
    assert found["max_drop"] == 0.5
    assert json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8")) == found


# Processes of their own


def test_a_rule_from_features_needs_no_edited_picture(run, editing, world, tmp_path):
    for name in ("image.png", "mask.png", "exemplar.json"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        (tmp_path / "bare" / name).write_bytes((world / "exemplar" / name).read_bytes())
    words = [
        tmp_path / "bare" if word == world / "exemplar" else word for word in editing(tmp_path / "edit.safetensors")
    ]
    assert "edited" in run(*words).err
    found = run(*words, "--from-features", world / "sand.png", "--strength", "1", "--json").json()
    assert found["loss"]["after"] < found["loss"]["before"]
    assert rp.Edit.load(tmp_path / "edit.safetensors").provenance["style"]


@pytest.mark.parametrize(
    "options", [["--protect", "{world}/tests"], ["--protect-class", "red", "--protect-class", "1"]]
)
def test_protected_pictures_are_told_of(run, editing, world, tmp_path, options):
    given = [option.format(world=world) for option in options]
    found = run(*editing(tmp_path / "edit.safetensors"), "--set", "protected-share=0.3", *given, "--json").json()
    assert found["sites"][0]["protected_damage"] >= 0


def test_a_gate_can_choose_itself(run, editing, tmp_path):
    found = run(*editing(tmp_path / "edit.safetensors"), "--gate", "auto", "--json").json()
    assert 0.9 <= found["gate"] <= 0.98


def choosing(editing, out):
    words = [str(word) for word in editing(out)]
    for option in ("--site", "--rank", "--strength", "--gate"):
        del words[words.index(option) : words.index(option) + 2]
    return [*words, "--site", "auto"]


def test_site_auto_chooses_and_tells_what_it_tried(run, editing, world, tmp_path):
    out = tmp_path / "edit.safetensors"
    found = run(*choosing(editing, out), "--max-drop", "100%", "--validation", world / "failures", "--json")
    told = found.json()
    assert (found.err, told["verdict"]) == ("", "repairs") and "repairs 1 of 1 failing exemplar" in told["why"]
    assert {each["failing"] for each in told["candidates"]} == {4}
    assert len(told["candidates"]) > 10 and "chosen" in told["why"]
    assert {"site", "rank", "strength", "gate", "score", "drop", "flips"} <= set(told["candidates"][0])
    assert rp.Edit.load(out).sites == tuple(told["site"].split("+"))


def test_what_is_set_beside_auto_stays(run, editing, world, tmp_path):
    words = [*choosing(editing, tmp_path / "edit.safetensors"), "--site", "3", "--gate", "none", "--rank", "1"]
    told = run(*words, "--max-drop", "100%", "--validation", world / "failures", "--json").json()
    assert {(*each["site"], each["gate"], each["rank"]) for each in told["candidates"]} == {("3", None, 1)}
    assert (told["site"], told["gate"], told["rank"]) == ("3", None, 1) and len(told["candidates"]) > 3


@pytest.mark.parametrize("options", [[], ["--allow-useless"]])
@pytest.mark.parametrize("validation", ["right already", "never right"])
def test_site_auto_never_chooses_a_gain_of_nothing(run, editing, world, tmp_path, options, validation):
    """What is right already cannot be repaired; of green that should be blue, treating green as red repairs none."""
    (tmp_path / "never right").mkdir()
    (tmp_path / "never right" / "blue").symlink_to(world / "failures" / "red")
    pictures = world / "tests" if validation == "right already" else tmp_path / validation
    out = tmp_path / "edit.safetensors"
    found = run(*choosing(editing, out), "--max-drop", "100%", "--validation", pictures, *options)
    assert (found.code, found.out, len(found.err.splitlines())) == (3, "", 1) and "nothing helps" in found.err
    assert not out.exists()


# What the model says of the exemplars


def test_an_edit_tells_what_the_model_says_of_its_exemplars(run, editing, tmp_path):
    out = tmp_path / "edit.safetensors"
    found = run(*editing(out), "--json").json()
    (said,) = found["exemplars"]
    assert found["verdict"] == "repairs" and said["verdict"] == "repaired"
    assert [said[when]["class"] for when in ("original", "edited", "after")] == ["red", "green", "red"]
    assert all(0 < said[when]["confidence"] <= 1 for when in ("original", "edited", "after"))
    assert rp.Edit.load(out).on_exemplars.to_json() == found["exemplars"]
    (green,) = found["suppressed"]
    assert (green["name"], green["failures"], green["left"]) == ("green", 1, 1)
    assert (green["n"], green["right"], green["forgotten"]) == (6, [6, 0], True)
    for told in (run(*editing(out)), run("show", out)):
        assert "repairs 1 of 1 failing exemplar" in told.out
        assert any(line.split()[:2] == ["exemplar", "red"] and "repaired" in line for line in told.out.splitlines())


USELESS = {
    "no strength": ["--strength", "0"],
    "one wrong answer for another": ["--strength", "-1"],
    "another site": ["--site", "0", "--strength", "0.1"],
    "a gate that does not open": ["--gate", "0.999999", "--strength", "0.01"],
    "no change asked for": ["--method", "nothing"],
}


@pytest.mark.parametrize("name", USELESS)
def test_an_edit_that_does_nothing_for_its_exemplars_is_no_success(run, editing, tmp_path, name):
    out, words = tmp_path / "edit.safetensors", [str(word) for word in editing(tmp_path / "edit.safetensors")]
    if name == "no change asked for":
        for option in ("--rank", "--gate"):
            del words[words.index(option) : words.index(option) + 2]
    refused = run(*words, *USELESS[name])
    assert (refused.code, refused.out, len(refused.err.splitlines())) == (3, "", 1)
    assert "repairs 0 of 1 failing exemplar" in refused.err and "--allow-useless" in refused.err
    assert not list(tmp_path.iterdir())
    written = run(*words, *USELESS[name], "--allow-useless", "--json")
    assert written.json()["verdict"] == rp.Edit.load(out).on_exemplars.verdict == "useless"
    assert len(written.err.splitlines()) == (name != "no change asked for")


def test_an_exemplar_that_shows_no_failure_is_said_to_show_none(run, editing, world, tmp_path):
    """Without a label the edited image should be what the original is, and so it is where little was edited."""
    picture = Image.open(world / "exemplar" / "image.png")
    mask = Image.open(world / "exemplar" / "mask.png")
    (tmp_path / "bland").mkdir()
    picture.save(tmp_path / "bland" / "image.png")
    mask.save(tmp_path / "bland" / "mask.png")
    green = Image.new("RGB", picture.size, (0, 250, 0))
    Image.composite(Image.blend(picture, green, 0.3), picture, mask).save(tmp_path / "bland" / "edited.png")
    out = tmp_path / "edit.safetensors"
    words = [tmp_path / "bland" if word == world / "exemplar" else word for word in editing(out)]
    found = run(*words, "--strength", "1", "--json")
    assert found.json()["verdict"] == "unproven" and found.json()["exemplars"][0]["verdict"] == "right"
    (sentence,) = found.err.splitlines()
    assert "show no failure" in sentence and [sentence.removeprefix("rulepatch: warning: ")] == found.json()["warnings"]
    assert out.is_file()


def test_a_rule_from_features_is_said_to_be_untested(run, editing, world, tmp_path):
    found = run(*editing(tmp_path / "edit.safetensors"), "--from-features", world / "sand.png", "--strength", "1")
    assert (found.code, found.err) == (0, "") and "not tried on exemplars" in found.out


def test_compose_writes_one_edit_of_several(run, world, net, tmp_path):
    out = tmp_path / "both.safetensors"
    files = [world / "edit.safetensors", world / "gated.safetensors"]
    told = run("compose", *files, "--out", out, "--json").json()
    assert told["edits"] == ["edit", "gated"] and told["interference"] == {}
    measured = run("compose", *files, "--out", out, "--model", net, "--reference", world / "reference", "--json").json()
    assert measured["interference"]["3"][0][1] == pytest.approx(1)  # they read the same directions
    assert measured["conflicts"]
    joint = run(
        "compose", *files, "--out", out, "--model", net, "--reference", world / "reference",
        "--exemplar", world / "exemplar", "--json",
    ).json()  # fmt: skip
    assert joint["jointly"] and len(rp.Edit.load(out).changes) == 2


@pytest.mark.slow
def test_json_is_alone_on_standard_output_and_what_was_skipped_is_told_on_the_other(shell, world, tmp_path):
    (tmp_path / "loud.py").write_text((world / "net.py").read_text() + "\nprint('a word on standard output')\n")
    (tmp_path / "set" / "0").mkdir(parents=True)
    for i in range(120):
        (tmp_path / "set" / "0" / f"{i:03}.png").symlink_to(world / "tests" / "0" / "0.png")
    (tmp_path / "set" / "0" / "050.png").unlink()
    (tmp_path / "set" / "0" / "050.png").write_text("no image")
    found = shell(
        *("evaluate", world / "edit.safetensors", "--model", f"{tmp_path / 'loud.py'}:build"),
        *("--tests", tmp_path / "set", "--json"),
    )
    assert found.json()["tests"]["n"] == 119
    word, skipped = found.err.splitlines()
    assert word == "a word on standard output"
    assert skipped.startswith("rulepatch: skipped ")
    assert "050.png" in skipped


@pytest.mark.slow
def test_bad_input_of_a_process_is_one_sentence(shell, editing, tmp_path):
    found = shell(*editing(tmp_path / "edit.safetensors"), "--rank", "few", "--json")
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("rulepatch: expected rank to be a whole number")
    assert found.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


SLEEPER = """
import sys
import time

import rulepatch as rp
from torch import nn


class Sleeper(nn.Conv2d):
    def forward(self, x):
        if len(x) > 1:
            print("asleep", file=sys.stderr, flush=True)
            time.sleep(3600)
        return super().forward(x)


def build():
    net = nn.Sequential(Sleeper(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return rp.Classifier(net, rp.Preprocess((16, 16)), ["red", "green", "blue", "white"])
"""


def test_only_our_own_messages_bear_our_name(run, world, net, monkeypatch):
    def talkative(*arguments, **options):
        logging.getLogger("rulepatch").warning("a word of ours")
        logging.getLogger("some_library").warning("a word of theirs")
        raise rp.RulepatchError("the\nend")

    monkeypatch.setattr("rulepatch.models.registry.load_model", talkative)
    for _ in range(2):  # a second run does not say everything twice
        found = run("apply", world / "edit.safetensors", "--model", net, "--out", "unused.safetensors")
        assert found.code == 2
        assert found.err == "rulepatch: a word of ours\nrulepatch: the end\n"


@pytest.mark.slow
def test_an_interrupted_run_ends_at_once_without_a_trace(world, tmp_path):
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    (tmp_path / "out").mkdir()
    arguments = [
        *("--model", f"{tmp_path / 'sleeper.py'}:build", "--exemplar", world / "exemplar", "--site", "2"),
        *("--reference", world / "reference", "--out", tmp_path / "out" / "edit.safetensors"),
    ]
    command = [sys.executable, "-m", "rulepatch", "edit", *map(str, arguments)]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # jobs in the background are started deaf to it
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        assert process.stderr.readline() == "asleep\n"
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=600)[1]  # it would have slept for an hour
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "rulepatch: interrupted"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_the_demo_repairs_most_of_what_it_shows_and_breaks_next_to_nothing(shell, tmp_path):
    found = shell("demo", "--out", tmp_path / "demo", "--json").json()
    tests, reference = found["tests"], found["reference"]
    wrong = round(tests["n"] * (1 - tests["before"]))
    assert wrong > tests["n"] / 4  # the failure is real
    assert tests["repaired"] - tests["broken"] > wrong / 2
    assert reference["after"] > reference["before"] - 0.01
    assert "data:image/jpeg;base64," in (tmp_path / "demo" / "report.html").read_text("utf-8")
    rp.Edit.load(found["edit"]).check(load_model("playground").module)
    again = shell(
        *("edit", "--model", "playground", "--exemplar", tmp_path / "demo" / "exemplar", "--site", "blocks.3.conv"),
        *("--reference", tmp_path / "demo" / "reference", "--gate", 0.95, "--out", tmp_path / "mine", "--json"),
    ).json()
    mine, shown = (rp.Edit.load(path) for path in (again["edit"], found["edit"]))
    assert torch.equal(mine.changes[0].delta(), shown.changes[0].delta())  # the demo does what the commands do
