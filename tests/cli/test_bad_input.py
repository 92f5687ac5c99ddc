import json
import re
import shutil
import struct
import zlib

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

NET, MODEL = "{world}/net.py:build", ("--model", "{world}/net.py:build")
APPLY, EVALUATE = ("apply", "{world}/edit.safetensors"), ("evaluate", "{world}/edit.safetensors", *MODEL)
EDIT = {
    "--model": NET,
    "--exemplar": "{world}/exemplar",
    "--reference": "{world}/reference",
    "--site": "3",
    "--out": "{out}/edit.safetensors",
}


@pytest.fixture(scope="module")
def bad(world, tmp_path_factory):
    """Everything that can be wrong with files, made from what is right."""
    root = tmp_path_factory.mktemp("bad")
    (root / "empty").mkdir()
    (root / "text.png").write_text("no image")
    Image.new("RGB", (20, 10)).save(root / "wide.png")
    (root / "huge.png").write_bytes(bomb())
    for name, change in {
        "no-image": lambda folder: (folder / "image.png").unlink(),
        "no-mask": lambda folder: (folder / "mask.png").unlink(),
        "no-edited": lambda folder: (folder / "edited.png").unlink(),
        "unreadable-image": lambda folder: (folder / "image.png").write_bytes(b""),
        "unreadable-mask": lambda folder: (folder / "mask.png").write_text("no image"),
        "huge-image": lambda folder: (folder / "image.png").write_bytes(bomb()),
        "empty-mask": lambda folder: Image.new("L", (16, 16)).save(folder / "mask.png"),
        "faint-mask": lambda folder: Image.new("L", (16, 16), 90).save(folder / "mask.png"),
        "wide-mask": lambda folder: Image.new("L", (20, 10), 255).save(folder / "mask.png"),
        "wide-edited": lambda folder: Image.new("RGB", (20, 10)).save(folder / "edited.png"),
        "broken-json": lambda folder: (folder / "exemplar.json").write_text("{"),
        "unknown-label": lambda folder: (folder / "exemplar.json").write_text('{"label": "vann"}'),
        "label-of-a-wrong-kind": lambda folder: (folder / "exemplar.json").write_text('{"label": [1]}'),
    }.items():
        shutil.copytree(world / "exemplar", root / "exemplars" / name)
        change(root / "exemplars" / name)
    shutil.copytree(world / "reference" / "red", root / "strange" / "reed")
    shutil.copytree(world / "reference", root / "unreadable")
    (root / "unreadable" / "red" / "3.png").write_text("no image")
    for name, text in {
        "unknown-key": 'architecture = "net.py:build"\nclases = ["a"]\n',
        "no-architecture": 'name = "x"\n',
        "no-toml": "architecture: x\n",
        "wrong-type": 'architecture = "net.py:build"\nresize = "big"\n',
        "no-weights": 'architecture = "net.py:build"\nweights = "missing.safetensors"\n',
        "no-preprocessing": 'architecture = "net.py:module"\nclasses = ["a", "b", "c"]\n',
        "two-classes": 'architecture = "net.py:build"\nclasses = ["a", "b"]\n',
    }.items():
        (root / f"{name}.toml").write_text(text)
    shutil.copy(world / "net.py", root / "net.py")
    (root / "broken.py").write_text("def build(:\n")
    (root / "raises.py").write_text("def build():\n    raise ValueError('two\\nlines')\n")
    bad_weights(world, root)
    bad_edits(world, root)
    return root


def bomb():
    """A PNG that claims to be 20,000 by 20,000."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def bad_weights(world, root):
    state, content = load_file(world / "weights.safetensors"), (world / "weights.safetensors").read_bytes()
    (root / "truncated.safetensors").write_bytes(content[:-20])
    (root / "header.safetensors").write_bytes(content[:30])
    (root / "text.pth").write_text("no weights")
    save_file(state | {"3.weight": state["3.weight"] * torch.nan}, root / "nan.safetensors")
    save_file(state | {"3.weight": torch.ones(8, 8, 1, 1)}, root / "shapes.safetensors")
    save_file({"features.0.weight": torch.ones(3)}, root / "architecture.safetensors")
    torch.save({"state_dict": state, "code": print}, root / "code.pth")


def bad_edits(world, root):
    path = world / "edit.safetensors"
    content = path.read_bytes()
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    said = json.loads(metadata["rulepatch"])
    (root / "edit-empty.safetensors").write_bytes(b"")
    (root / "edit-half.safetensors").write_bytes(content[: len(content) // 2])
    (root / "edit-bit.safetensors").write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    save_file(tensors, root / "edit-foreign.safetensors")
    first = next(iter(tensors))
    for name, (about, changed) in {
        "edit-strength": ({**said, "changes": [{**said["changes"][0], "strength": 9.0}]}, tensors),
        "edit-nan": ({**said, "changes": [{**said["changes"][0], "strength": float("nan")}]}, tensors),
        "edit-base": ({**said, "base": "0" * 64}, tensors),
        "edit-schema": ({**said, "schema": 99}, tensors),
        "edit-without-schema": ({key: value for key, value in said.items() if key != "schema"}, tensors),
        "edit-tensor": (said, {**tensors, first: tensors[first] * 1.001}),
        "edit-fewer": (said, {name: tensor for name, tensor in tensors.items() if name != first}),
        "edit-more": (said, {**tensors, "extra": torch.ones(1)}),
        "edit-list": ([said], tensors),
    }.items():
        save_file(changed, root / f"{name}.safetensors", metadata={"rulepatch": json.dumps(about)})


@pytest.fixture
def refused(run, world, bad, tmp_path):
    """Run the command line, expect one sentence and exit code 2, and nothing written anywhere."""

    def check(*arguments):
        def files():
            found = (path for folder in (world, bad, tmp_path) for path in folder.rglob("*"))
            return {path: path.stat().st_mtime_ns for path in found if "pycache" not in str(path)}

        before = files()
        filled = [argument.format(world=world, bad=bad, out=tmp_path) for argument in arguments]
        found = run(*filled)
        assert found.code == 2, found
        assert found.out == ""
        assert found.err.startswith("rulepatch: ")
        assert found.err.count("\n") == 1
        assert found.err.endswith("\n")
        assert "Traceback" not in found.err
        assert files() == before
        return found.err

    return check


EDITS = {
    # sites
    "a budget that is no share": ({"--max-drop": "a little"}, "0.25%"),
    "a budget beyond 1": ({"--max-drop": "150%"}, "0.25%"),
    "more damage than is allowed": ({"--max-drop": "0%", "--strength": "400"}, "at most 0.00 points .* loses"),
    "a setting without a value": ({"--set": "balance"}, "NAME=VALUE"),
    "a setting that the method does not take": ({"--set": "balence=3", "--method": "dense"}, "nearest are balance"),
    "a setting of another type": ({"--set": "whole-image=maybe"}, "yes or no"),
    "an unknown site": ({"--site": "33"}, "'33'; the nearest are 3"),
    "a site that is no layer": ({"--site": "2"}, "'2'"),
    "no site": ({"--site": None}, "at least one site .* --site 0 --site 3"),
    "a site twice": ({"--site": ("3", "3")}, "different sites"),
    "an unknown value point": ({"--value-point": "99"}, "'99'"),
    "a value point before the site": ({"--value-point": "0"}, "'0'"),
    "a value point for two sites": ({"--site": ("0", "3"), "--value-point": "5"}, "one site with a value point"),
    # settings
    "rank 0": ({"--rank": "0"}, "rank to be a whole number ≥ 1 but got '0'"),
    "a negative rank": ({"--rank": "-1"}, "whole number ≥ 1 but got '-1'"),
    "a rank beyond the channels": ({"--rank": "9"}, "from 1 to 8 .* but got 9"),
    "a rank that is no number": ({"--rank": "two"}, "rank to be a whole number.*two"),
    "strength not a number": ({"--strength": "nan"}, "strength to be a finite number"),
    "strength infinite": ({"--strength": "inf"}, "strength to be a finite number"),
    "a gate beyond 1": ({"--gate": "1.5"}, "gate to be .*≥ 0 and < 1 .*1.5"),
    "a gate of 1": ({"--gate": "1"}, "≥ 0 and < 1"),
    "a gate that is no number": ({"--gate": "wide"}, "'wide'"),
    "a gate that is nan": ({"--gate": "nan"}, "a finite number"),
    "an unknown kind of gate": ({"--gate": "0.9", "--gate-kind": "firm"}, "hard"),
    "an unknown architecture": ({"--architecture": "3"}, "architecture to be 1 or 2"),
    "a negative ridge": ({"--ridge": "-1"}, "ridge to be a finite number ≥ 0"),
    "a ridge that is nan": ({"--ridge": "nan"}, "ridge to be a finite number ≥ 0"),
    "an infinite ridge": ({"--ridge": "inf"}, "ridge"),
    "a floor of 1": ({"--floor": "1"}, "floor to be a finite number ≥ 0 and < 1"),
    "a floor that is nan": ({"--floor": "nan"}, "floor to be a finite number ≥ 0 and < 1"),
    "negative steps": ({"--steps": "-1", "--error": "absolute"}, "steps to be a whole number ≥ 0 but got '-1'"),
    "an unknown method": ({"--method": "rewrit"}, "'rewrit'.*rewrite"),
    "a setting of another method": ({"--learning-rate": "0.1"}, "settings of rewrite but got .learning.rate"),
    "a learning rate of 0": (
        {"--method": "projected-adam", "--learning-rate": "0"},
        "learning_rate to be a finite number > 0",
    ),
    "an exploding learning rate": (
        {"--method": "projected-adam", "--learning-rate": "inf", "--steps": "3"},
        "learning_rate to be a finite number",
    ),
    "a soft gate for Adam": (
        {"--method": "projected-adam", "--gate": "0.9", "--gate-kind": "soft"},
        "gate_kind to be hard",
    ),
    "a negative seed": ({"--seed": "-1"}, "--seed"),
    "an enormous seed": ({"--seed": "9" * 30}, "--seed"),
    "an unknown device": ({"--device": "gpu"}, "device .* 'gpu'"),
    "an unknown option": ({"--rnak": "3"}, "--rnak"),
    # exemplars
    "no exemplar": ({"--exemplar": None}, "--exemplar"),
    "a missing exemplar": ({"--exemplar": "{world}/missing"}, "missing"),
    "an empty exemplar folder": ({"--exemplar": "{bad}/empty"}, r"image\.\*"),
    "no image": ({"--exemplar": "{bad}/exemplars/no-image"}, r"image\.\* .*no-image"),
    "no mask": ({"--exemplar": "{bad}/exemplars/no-mask"}, r"mask\.\* .*no-mask"),
    "no edited image": ({"--exemplar": "{bad}/exemplars/no-edited"}, r"edited\.\* .*no-edited"),
    "an unreadable image": ({"--exemplar": "{bad}/exemplars/unreadable-image"}, r"unreadable-image/image\.png"),
    "an unreadable mask": ({"--exemplar": "{bad}/exemplars/unreadable-mask"}, r"unreadable-mask/mask\.png"),
    "a huge image": ({"--exemplar": "{bad}/exemplars/huge-image"}, r"pixels .*huge-image/image\.png"),
    "an empty mask": ({"--exemplar": "{bad}/exemplars/empty-mask"}, "empty"),
    "a faint mask": ({"--exemplar": "{bad}/exemplars/faint-mask"}, "empty"),
    "a mask of another size": ({"--exemplar": "{bad}/exemplars/wide-mask"}, "16x16 but got 20x10"),
    "an edited image of another size": ({"--exemplar": "{bad}/exemplars/wide-edited"}, "16x16 but got 20x10"),
    "broken JSON": ({"--exemplar": "{bad}/exemplars/broken-json"}, r"exemplar\.json"),
    "an unknown label": ({"--exemplar": "{bad}/exemplars/unknown-label"}, "'vann'"),
    "a label of a wrong kind": ({"--exemplar": "{bad}/exemplars/label-of-a-wrong-kind"}, r"label .*exemplar\.json"),
    "a mask too many": ({"--mask": "{world}/exemplar/mask.png"}, "0 images and 1 mask;"),
    "an image without a mask": ({"--exemplar": "{world}/sand.png"}, "1 image and 0 masks"),
    "a missing texture": ({"--replacement": "{bad}/missing.png"}, r"missing\.png"),
    "an unreadable texture": ({"--replacement": "{bad}/text.png"}, r"text\.png"),
    # the reference set
    "no reference": ({"--reference": None}, "--reference"),
    "a missing reference": ({"--reference": "{bad}/missing"}, "missing"),
    "an empty reference": ({"--reference": "{bad}/empty"}, "found none"),
    "a file as reference": ({"--reference": "{world}/sand.png"}, "expected a folder"),
    "a class folder that no class matches": ({"--reference": "{bad}/strange"}, "reed but no class .* nearest are red"),
    "too many unreadable": ({"--reference": "{bad}/unreadable"}, r"at most 0 unreadable .* 18 .*red/3\.png"),
    "an unknown class to leave out": ({"--leave-out": "vans"}, "'vans'"),
    "all classes left out": ({"--leave-out": ("red", "green", "2")}, "leave out fewer"),
    # models and weights
    "no model": ({"--model": None}, "--model"),
    "an unknown source": ({"--model": "torchvison/resnet18"}, "torchvision"),
    "an unknown model": ({"--model": "torchvision/resnet81"}, "resnet18"),
    "a missing Python file": ({"--model": "{bad}/missing.py:build"}, r"missing\.py"),
    "a missing function": ({"--model": "{world}/net.py:biuld"}, "build"),
    "a broken Python file": ({"--model": "{bad}/broken.py:build"}, "SyntaxError"),
    "a function that raises": ({"--model": "{bad}/raises.py:build"}, "ValueError .two lines"),
    "a bare network": ({"--model": "{world}/net.py:module"}, "preprocessing"),
    "a missing model file": ({"--model": "{bad}/missing.toml"}, "missing.toml"),
    **{
        f"a model file with {name}": ({"--model": f"{{bad}}/{name}.toml"}, message)
        for name, message in {
            "unknown-key": "'clases'; the nearest are classes",
            "no-architecture": "key architecture",
            "no-toml": "cannot be read",
            "wrong-type": "resize .* int but got str",
            "no-weights": r"missing\.safetensors",
            "no-preprocessing": "preprocessing",
        }.items()
    },
    **{
        f"weights: {name}": ({"--weights": f"{{bad}}/{name}"}, message)
        for name, message in {
            "missing.safetensors": "no such file",
            "truncated.safetensors": "damaged",
            "header.safetensors": "damaged",
            "text.pth": r"text\.pth",
            "nan.safetensors": "3.weight .* NaN",
            "shapes.safetensors": r"3\.weight of shape \(8, 8, 3, 3\)",
            "architecture.safetensors": "lacks",
            "code.pth": r"other objects \(print",
            "shapes.safetensors::model": r"expected model in .*but it holds \d+ tensors",
            "empty": "no such file",
        }.items()
    },
    # where to write
    "no place to write": ({"--out": None}, "--out"),
    "a missing folder to write in": ({"--out": "{out}/missing/edit.safetensors"}, "make it"),
    "a folder to write over": ({"--out": "{out}"}, "is a folder|Is a directory"),
    "a file as folder to write in": ({"--out": "{world}/net.py/edit.safetensors"}, "folder"),
}


@pytest.mark.parametrize("name", EDITS)
def test_edit_refuses(name, refused):
    changes, message = EDITS[name]
    arguments = ["edit", "--json", "--trust"]
    for option, value in (EDIT | changes).items():
        for each in (value,) if isinstance(value, str) else value or ():
            arguments += [option, each]
    assert_matches(message, refused(*arguments))


def assert_matches(message, err):
    assert re.search(message, err), err


BAD_EDITS = {
    "missing": "there is none",
    "empty": "there is none",
    "text.png": "damaged or of another kind",
    "edit-empty.safetensors": "damaged",
    "edit-half.safetensors": "damaged",
    "edit-bit.safetensors": "have been changed",
    "edit-foreign.safetensors": "not written by rulepatch",
    "edit-strength.safetensors": "have been changed",
    "edit-nan.safetensors": "have been changed",
    "edit-base.safetensors": "have been changed",
    "edit-schema.safetensors": "schema 1 but .* has 99",
    "edit-without-schema.safetensors": "lacks 'schema'",
    "edit-tensor.safetensors": "have been changed",
    "edit-fewer.safetensors": "have been changed",
    "edit-more.safetensors": "have been changed",
    "edit-list.safetensors": "not written by rulepatch",
}


@pytest.mark.parametrize("name", BAD_EDITS)
@pytest.mark.parametrize("command", ["show", "apply", "evaluate"])
def test_an_edit_file_that_is_not_as_it_was_saved_is_refused(command, name, refused):
    options = {
        "show": [],
        "apply": [*MODEL, "--out", "{out}/weights.safetensors"],
        "evaluate": [*MODEL, "--tests", "{world}/tests", "--report", "{out}/report.html"],
    }
    assert_matches(BAD_EDITS[name], refused(command, f"{{bad}}/{name}", *options[command]))


OTHERS = {
    "apply: another base": (
        [*APPLY, *MODEL, "--weights", "{world}/weights.safetensors", "--out", "{out}/w.safetensors"],
        "base [0-9a-f]{12} .* digest [0-9a-f]{12}",
    ),
    "apply: other shapes": (
        [*APPLY, "--model", "{world}/net.py:wide", "--any-base", "--out", "{out}/w.safetensors"],
        r"shape \(8, 8, 3, 3\) at 3 but the model's has \(9, 8, 3, 3\)",
    ),
    "apply: a model without the site": (
        [*APPLY, "--model", "timm/test_resnet", "--weights", "{bad}/nan.safetensors", "--out", "{out}/w.safetensors"],
        "lacks",
    ),
    "apply: weights with NaN": (
        [*APPLY, *MODEL, "--weights", "{bad}/nan.safetensors", "--out", "{out}/w.safetensors"],
        "NaN",
    ),
    "apply: a gated edit": (
        ["apply", "{world}/gated.safetensors", *MODEL, "--out", "{out}/w.safetensors"],
        "gated at 3",
    ),
    "apply: a missing folder": (
        [*APPLY, *MODEL, "--out", "{out}/missing/w"],
        "make it",
    ),
    "apply: a folder to write over": ([*APPLY, *MODEL, "--out", "{out}"], "folder"),
    "apply: no model": ([*APPLY, "--out", "{out}/w.safetensors"], "--model"),
    "evaluate: another base": (
        [*EVALUATE, "--weights", "{world}/weights.safetensors", "--tests", "{world}/tests"],
        "base [0-9a-f]{12}",
    ),
    "evaluate: nothing to look at": ([*EVALUATE], "tests|reference"),
    "evaluate: tests without labels": (
        [*EVALUATE, "--tests", "{world}/flat"],
        "a folder for each class",
    ),
    "evaluate: an empty folder": (
        [*EVALUATE, "--tests", "{bad}/empty"],
        "found none",
    ),
    "evaluate: a strange class": (
        [*EVALUATE, "--reference", "{bad}/strange"],
        "reed",
    ),
    "evaluate: too many unreadable": (
        [*EVALUATE, "--tests", "{bad}/unreadable", "--report", "{out}/r.html"],
        "at most 0 unreadable",
    ),
    "evaluate: two class names for three logits": (
        [
            "evaluate",
            "{world}/edit.safetensors",
            "-m",
            "{bad}/two-classes.toml",
            "--trust",
            "--reference",
            "{world}/flat",
        ],
        r"\(n, 2\)",
    ),
    "evaluate: a report in a missing folder": (
        [*EVALUATE, "--tests", "{world}/tests", "--report", "{out}/no/r.html"],
        "make it",
    ),
    "evaluate: a folder as report": (
        [*EVALUATE, "--tests", "{world}/tests", "--report", "{out}"],
        "folder",
    ),
    "evaluate: an image as exemplar": (
        [*EVALUATE, "--tests", "{world}/tests", "--exemplar", "{world}/sand.png"],
        "masks",
    ),
    "compose: one edit": (["compose", "{world}/edit.safetensors", "--out", "{out}/both"], "at least two"),
    "compose: exemplars without a model": (
        [
            "compose",
            "{world}/edit.safetensors",
            "{world}/gated.safetensors",
            "--out",
            "{out}/both",
            "--exemplar",
            "{world}/exemplar",
        ],
        "--model",
    ),
    "compose: no edit": (["compose", "{world}/edit.safetensors", "{world}/sand.png", "--out", "{out}/both"], "sand"),
    "edit: auto and another method": (
        [
            "edit",
            *MODEL,
            "--exemplar",
            "{world}/exemplar",
            "--reference",
            "{world}/reference",
            "--site",
            "auto",
            "--method",
            "dense",
            "--out",
            "{out}/edit",
        ],
        "dense",
    ),
    "edit: validation without auto": (
        [
            "edit",
            *MODEL,
            "--exemplar",
            "{world}/exemplar",
            "--reference",
            "{world}/reference",
            "--site",
            "3",
            "--validation",
            "{world}/tests",
            "--out",
            "{out}/edit",
        ],
        "auto",
    ),
    "edit: auto and validation without labels": (
        [
            "edit",
            *MODEL,
            "--exemplar",
            "{world}/exemplar",
            "--reference",
            "{world}/reference",
            "--site",
            "auto",
            "--validation",
            "{world}/flat",
            "--out",
            "{out}/edit",
        ],
        "a folder for each class",
    ),
    "match: an edit without directions there": (
        [
            "match",
            "{world}/edit.safetensors",
            *MODEL,
            "--images",
            "{world}/flat",
            "--reference",
            "{world}/flat",
            "--site",
            "9",
        ],
        "directions at 9",
    ),
    "match: a level of 1": (
        [
            "match",
            "{world}/edit.safetensors",
            *MODEL,
            "--images",
            "{world}/flat",
            "--reference",
            "{world}/flat",
            "--level",
            "1",
        ],
        "level in 0..1",
    ),
    "compare: an unknown method": (
        [
            "compare",
            *MODEL,
            "--exemplar",
            "{world}/exemplar",
            "--tests",
            "{world}/tests",
            "--site",
            "3",
            "--reference",
            "{world}/reference",
            "--method",
            "rewrit",
            "--out",
            "{out}/c",
        ],
        "nearest are rewrite",
    ),
    "compare: an unknown grid": (
        [
            "compare",
            *MODEL,
            "--exemplar",
            "{world}/exemplar",
            "--tests",
            "{world}/tests",
            "--site",
            "3",
            "--reference",
            "{world}/reference",
            "--method",
            "dense",
            "--grid",
            "dense=paper",
            "--out",
            "{out}/c",
        ],
        "a grid of dense",
    ),
    "sites: an unknown model": (["sites", "timm/resnet81"], "resnet18"),
    "sites: unknown weights of a model": (["sites", "timm/test_resnet.nothing"], "test_resnet"),
    "sites: a missing file": (["sites", "{bad}/missing.py:build"], r"missing\.py"),
    "sites: a function that raises": (["sites", "{bad}/raises.py:build"], "ValueError"),
    "sites: no model": (["sites"], "MODEL"),
    "demo: a folder that cannot be made": (["demo", "--out", "{world}/net.py/demo"], "expected"),
    "an unknown command": (["edti"], "edti"),
    "an argument too many": (["show", "{world}/edit.safetensors", "more"], "more"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_commands_refuse(name, refused):
    arguments, message = OTHERS[name]
    assert_matches(message, refused(*arguments))


def test_the_same_arguments_put_right_succeed(run, world, tmp_path):
    """The negative control: what the refusals above change is all that is wrong."""
    arguments = [each for option in EDIT.items() for each in option]
    found = run("edit", *(argument.format(world=world, out=tmp_path) for argument in arguments))
    assert found.code == 0, found.err
