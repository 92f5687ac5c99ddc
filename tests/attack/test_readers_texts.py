"""JSON, TOML and YAML that others wrote: exemplars, classes, case sets, models, plans."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from rulepatch.concepts.cases import CELLS, CaseSet, read_classes, split
from rulepatch.concepts.stylizers.ghiasi_networks import _Source
from rulepatch.concepts.stylizers.tfjs import read_tfjs
from rulepatch.data.folders import read_exemplars
from rulepatch.errors import RulepatchError, SettingError
from rulepatch.models.classes import Classes
from rulepatch.models.model_file import load as load_toml
from rulepatch.models.registry import Request
from rulepatch.playground.pictures import picture_of, scene_of
from rulepatch.playground.scenes import render
from rulepatch.reading import read_json, read_toml, read_yaml
from rulepatch.sweeps.plan import Plan
from tests.attack.fuzz import MARKS, as_json, attack, of_bytes, of_structure

pytestmark = MARKS


def strictly(content: bytes):
    """What JSON says if nothing in it can be taken in two ways."""

    def once(pairs):
        assert len(dict(pairs)) == len(pairs), "a key twice"
        return dict(pairs)

    return json.loads(content.decode("utf-8-sig"), object_pairs_hook=once)


def either(sound, draw) -> bytes:
    """JSON with other bytes, or of another structure."""
    if draw.random() < 0.4:
        return of_bytes(json.dumps(sound, indent=1, ensure_ascii=False).encode(), draw)
    return as_json(of_structure(sound, draw), draw)


def test_classes(tmp_path):
    sound = {"wheel": ["car wheel", "paddlewheel"], "road": {"street, way": "the name"}, "größer": ["1"]}
    path = tmp_path / "classes.json"

    def read(content):
        path.write_bytes(content)
        found = read_classes(path)
        assert found == {name: [str(each) for each in labels] for name, labels in strictly(content).items()}
        assert all(isinstance(label, str | int) for labels in strictly(content).values() for label in labels)

    attack("classes-json", lambda draw: either(sound, draw), read).close()


def grey(level, mode="RGB"):
    return Image.new(mode, (12, 9), level)


def test_exemplars(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    Image.fromarray(255 - noise).save(tmp_path / "edited.png")
    mask = grey(0, "L")
    mask.paste(255, (2, 2, 8, 6))
    mask.save(tmp_path / "mask.png")
    sound = {"label": 1, "concept": "road", "replacement": "snow", "mask_value": 255}

    def read(content):
        (tmp_path / "exemplar.json").write_bytes(content)
        (found,) = read_exemplars(tmp_path)
        said = strictly(content)
        assert type(found.label) in {int, str, type(None)} and found.label == said.get("label")
        assert found.concept == said.get("concept") and found.replacement == said.get("replacement")
        assert type(said.get("mask_value")) in {int, str, type(None)}

    attack("exemplar-json", lambda draw: either(sound, draw), read).close()


@pytest.fixture
def cases(tmp_path):
    """A case set by hand."""
    rows = []
    for number in range(6):
        name = f"van/{number:02}"
        rows += [
            {
                "picture": name,
                "label": "van",
                "concept": "road",
                "style": "snow",
                "index": i,
                "score": 0.9,
                "share": 0.4,
            }
            for i in (0, 1)
        ]
        (tmp_path / "records" / "van").mkdir(parents=True, exist_ok=True)
        (tmp_path / "records" / f"{name}.json").write_text(json.dumps({"digest": f"{number:064}", "rows": []}))
    manifest = {"schema": 1, "settings": {"concepts": ["road"]}, "pictures": {"n": 6, "digest": "0" * 64}}
    (tmp_path / "cases.json").write_text(json.dumps(rows))
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path, manifest, rows


def use_cases(root):
    found = CaseSet.read(root)
    found.to_text(), found.sources(), found.to_json(), found.images(Classes(("van",)), styled=True)
    for concept, style in found.cases:
        parts = split(found.where(concept=concept, style=style).counterfactuals, "van", exemplars=2)
        assert set(parts.cells) == set(CELLS)
    for each in found:
        assert type(each.index) is int and each.index >= 0 and 0 <= each.score <= 1 and isinstance(each.picture, str)
        for path in (each.image, each.mask, each.styled):
            assert root in path.parents and ".." not in path.parts
    return found


@pytest.mark.parametrize("part", ["manifest", "rows", "records"])
def test_case_sets(cases, part):
    root, manifest, rows = cases
    sound, file = {
        "manifest": (manifest, "manifest.json"), "rows": (rows, "cases.json"),
        "records": ({"digest": "0" * 64, "rows": []}, "records/van/03.json"),
    }[part]  # fmt: skip

    def read(content):
        (root / file).write_bytes(content)
        found = use_cases(root)
        said = strictly(content)
        if part == "rows":
            assert [each.to_json() for each in found] == said
        elif part == "manifest":
            assert found.manifest == said and type(said["schema"]) is int
        else:
            assert found.sources()["van/03"] == said["digest"]

    attack(f"cases-{part}", lambda draw: either(sound, draw), read).close()


def test_tensorflow_js(tmp_path):
    content = np.arange(24, dtype="<f4").tobytes() + bytes(range(6))
    (tmp_path / "a.bin").write_bytes(content[:50])
    (tmp_path / "b.bin").write_bytes(content[50:])
    packed = {"dtype": "uint8", "scale": 0.5, "min": -1.0}
    sound = {
        "modelTopology": {"node": [{"name": "n", "op": "FusedBatchNormV3", "attr": {"epsilon": {"f": 0.001}}}]},
        "weightsManifest": [{
            "paths": ["a.bin", "b.bin"],
            "weights": [
                {"name": "kernel", "shape": [2, 2, 3, 2], "dtype": "float32"},
                {"name": "packed", "shape": [6], "dtype": "float32", "quantization": packed},
            ],
        }],
    }  # fmt: skip

    def read(content):
        (tmp_path / "model.json").write_bytes(content)
        found = read_tfjs(tmp_path)
        assert 0 < _Source(found, set()).epsilon() < 1
        told = {each["name"]: each for group in strictly(content)["weightsManifest"] for each in group["weights"]}
        assert told.keys() == found.tensors.keys()
        for name, array in found.tensors.items():
            assert list(array.shape) == told[name]["shape"] and np.isfinite(array).all()

    attack("tfjs", lambda draw: either(sound, draw), read).close()


def as_toml(value) -> str:
    """A value as TOML writes it, so far as it can."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(key)} = {as_toml(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, str):
        return json.dumps(value)
    return str(value).lower()


def test_model_files(tmp_path):
    (tmp_path / "classes.json").write_text(json.dumps([f"class {i}" for i in range(10)]))
    sound = {
        "name": "mine", "architecture": "net.py:build", "kwargs": {"depth": 1, "wide": [0.5, {"a": True}]},
        "input_size": [64, 60], "resize": 72, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.1], "keep_exact_size": True, "classes": ["a", "b", "c"],
    }  # fmt: skip
    (tmp_path / "net.py").write_text(
        "import torch\n\n\ndef build(depth=1, wide=(), **_):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 3))\n"
    )
    path = tmp_path / "model.toml"

    def mutated(draw):
        told = "\n".join(f"{key} = {as_toml(value)}" for key, value in sound.items())
        if draw.random() < 0.5:
            return of_bytes(told.encode(), draw)
        found = of_structure(sound, draw)
        if not isinstance(found, dict):
            return as_toml(found).encode()
        return "\n".join(f"{json.dumps(key)} = {as_toml(value)}" for key, value in found.items()).encode()

    def read(content):
        path.write_bytes(content)
        made = load_toml(Request(str(path)))
        said = read_toml(path, SettingError)
        assert made.name == said.get("name", "model")
        if made.preprocess is not None:
            numbers = (*made.preprocess.mean, *made.preprocess.std, *made.preprocess.input_size)
            assert all(type(each) in {int, float} and abs(each) <= 1e6 for each in numbers)

    attack("toml", mutated, read).close()


def as_yaml(value) -> str:
    import yaml

    return yaml.dump(value, default_flow_style=None, sort_keys=False, allow_unicode=True)


PLAN = {
    "models": ["playground", {"name": "net.toml", "weights": "w.safetensors", "sites": ["a.b", "c"]}],
    "cases": ["one", "/two"], "reference": "photos", "sites": 2, "max_drop": 0.01, "validation": 0.5, "seeds": [0, 1],
    "exemplars": [3, 10], "concepts": ["road", "wheel"], "styles": "snow", "targets": ["dogs"],
    "groups": {"dogs": ["beagle", "162"]}, "exclude": {"wheel": ["cart"]},
    "methods": {"rewrite": {"rank": [1, 2], "gate": "none"}, "dense": [{"balance": 1}, {"balance": 3}]},
}  # fmt: skip


def test_plans(tmp_path):
    path = tmp_path / "plan.yaml"

    def mutated(draw):
        if draw.random() < 0.5:
            return of_bytes(as_yaml(PLAN).encode(), draw)
        return as_yaml(of_structure(PLAN, draw)).encode("utf-8", "surrogatepass")

    def read(content):
        path.write_bytes(content)
        plan, said = Plan.read(path), read_yaml(path, SettingError)
        for names in (plan.concepts, plan.styles, plan.targets if isinstance(plan.targets, tuple) else ()):
            assert all(isinstance(name, str) for name in names)
        for key in ("concepts", "styles"):
            given = said.get(key, [])
            assert getattr(plan, key) == tuple(map(str, given if isinstance(given, list) else [given]))
        assert all(type(each) is int for each in (*plan.seeds, *plan.exemplars))
        assert 0 <= plan.max_drop <= 1 and 0 < plan.validation < 1
        assert all(method in said.get("methods", plan.methods) for method in plan.methods)

    attack("yaml", mutated, read).close()


LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(9))

BOMBS = {
    "laughs": LAUGHS + "concepts: *a8\n",
    "an anchor": "models: &m playground\ncases: *m\nreference: *m\n",
    "itself": "models: &m [*m]\n",
    "merged": "a: &a {b: 1}\nc: {<<: *a}\n",
    "deep lists": "models: " + "[" * 200_000,
    "deep blocks": "- " * 100_000,
    "deep questions": "? " * 100_000,
    "deep objects": "{a: " * 60_000,
    "indented": "".join(" " * i + "a:\n" for i in range(700)),
    "python": "models: !!python/object/apply:os.system ['true']\n",
    "binary": "models: !!binary aGVsbG8=\n",
    "documents": "---\na: 1\n" * 3,
    "twice": "models: a\nmodels: b\n",
    "twice within": "models: playground\ncases: c\nreference: r\ngroups: {a: [b], a: [c]}\n",
    "no text": "models: playground\ncases: c\nreference: r\nconcepts: [true]\n",
    "nothing": "models: playground\ncases: c\nreference: r\nconcepts: [~]\n",
    "a fraction": "models: playground\ncases: c\nreference: r\nconcepts: [1.50]\n",
    "nobody": "models: playground\ncases: ~nosuchuser/c\nreference: r\n",
    "combinations": "models: playground\ncases: c\nreference: r\nmethods:\n  rewrite:\n"
    + "".join(f"    {key}: [{', '.join(map(str, range(1, 300)))}]\n" for key in ("rank", "ridge", "floor", "seed")),
    "large": "models: playground # " + "x" * (1 << 20),
    "long number": f"models: playground\ncases: c\nreference: r\nseeds: {'9' * 5000}\n",
    "large number": f"models: playground\ncases: c\nreference: r\nseeds: {'9' * 300}\n",
    "infinite": "models: playground\ncases: c\nreference: r\nmax_drop: .inf\n",
    "octal": "models: playground\ncases: c\nreference: r\nseeds: 010\n",
    "sixties": "models: playground\ncases: c\nreference: r\nseeds: 1:30\n",
    "utf-16": "models: playground\n".encode("utf-16"),
    "half a character": 'models: "\\ud800"\n',
    "the character 0": 'models: "\\0"\n',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs(tmp_path, bomb):
    text = BOMBS[bomb]
    (tmp_path / "plan.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingError, match="expected"):
        Plan.read(tmp_path / "plan.yaml")


def test_names_are_what_they_look_like(tmp_path):
    (tmp_path / "plan.yaml").write_text(
        "models: playground\ncases: c\nreference: r\n"
        "concepts: [no, 010, 1:30, 2001-02-03, 7, on, 0x1F, 1e3, +1, 1_000]\n"
        "groups: {no: [yes, 5], 3: [y]}\n"
    )
    plan = Plan.read(tmp_path / "plan.yaml")
    assert plan.concepts == ("no", "010", "1:30", "2001-02-03", "7", "on", "0x1F", "1e3", "+1", "1_000")
    assert plan.groups == {"no": ["yes", "5"], "3": ["y"]}


def test_scenes():
    image = picture_of(render("van", seed=3, ground="snow", ground_seed=7))
    (key,) = image.info
    sound = json.loads(image.info[key])

    def read(content):
        shown = image.copy()
        shown.info = {key: content.decode("utf-8", "surrogatepass")}
        assert scene_of(shown).label == strictly(content)["label"]

    def mutated(draw):
        while True:
            try:
                content = either(sound, draw)
                content.decode("utf-8", "surrogatepass")
            except UnicodeDecodeError:
                continue
            return content

    attack("scene", mutated, read).close()


READERS = {
    "json": lambda path: read_json(path, SettingError),
    "toml": lambda path: read_toml(path, SettingError),
    "yaml": lambda path: read_yaml(path, SettingError),
    "classes": read_classes,
    "plan": Plan.read,
    "model": lambda path: load_toml(Request(str(path))),
}
WAYS = {
    "fifo": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "nothing in it": lambda path: path.symlink_to("/dev/null"),
    "a loop": lambda path: path.symlink_to(path),
    "folder": lambda path: path.mkdir(),
    "missing": lambda path: None,
    "sparse": lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_WRONLY), 1 << 40),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_of_text_is_refused(tmp_path, reader, way):
    WAYS[way](tmp_path / "file")
    with pytest.raises(RulepatchError, match="expected"):
        READERS[reader](tmp_path / "file")
