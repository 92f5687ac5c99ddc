"""What is said of names that belong to no source: near misses, generated, lead to the name that was meant."""

import itertools
import shlex

import pytest

from rulepatch.models.names import LIBRARIES, advice
from rulepatch.models.registry import sources

PREFIXES = sorted({*sources()} - {"python", "toml", "hf", "playground"})


def slips(word):
    """Words one slip away: a letter left out, doubled, or two exchanged; other case."""
    for at in range(len(word)):
        yield word[:at] + word[at + 1 :]
        yield word[:at] + word[at] + word[at:]
    for at in range(len(word) - 1):
        yield word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    yield from (word.upper(), word.title(), word.replace("_", "-"), word.replace("_", ""))


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_slip_in_the_prefix_leads_back_to_it(prefix):
    for slip in {*slips(prefix)} - {prefix}:
        assert f"did you mean {prefix}/resnet18?" in advice(f"{slip}/resnet18", sources()), slip


def test_a_slip_in_the_playground_leads_back_to_it():
    for slip in {*slips("playground")} - {"playground"}:
        assert advice(slip, sources()) == "did you mean playground?", slip


@pytest.mark.slow
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_way_to_write_a_name_leads_to_the_one_that_its_library_takes(library):
    names = LIBRARIES[library]()
    for name in names[:: max(1, len(names) // 8)]:
        for bare in (name, name.upper(), name.title(), name.replace("_", "-"), name.replace("_", "")):
            assert f"{library}/{name}" in advice(bare, sources()).rstrip("?").replace(",", "").split(), bare
        for given in (f"{library}.models.{name}", f"{library}:{name}", f"{library}.{name}", f"{library} {name}"):
            assert advice(given, sources()) == f"did you mean {library}/{name}?", given


def test_a_bare_name_is_looked_for_in_every_library():
    assert advice("resnet18", sources()) == "did you mean torchvision/resnet18 or timm/resnet18?"
    assert advice("ResNet-50.a1_in1k", sources()) == "did you mean torchvision/resnet50 or timm/resnet50.a1_in1k?"
    assert "did you mean torchvision/" in advice("resnet19", sources())


def test_owners_names_are_those_of_hugging_face():
    for name in ("microsoft/resnet-50", "google/vit-base-patch16-224", "someone/something"):
        assert advice(name, sources()).startswith(f"did you mean hf/{name}")
    assert advice("huggingface/microsoft/resnet-50", sources()) == "did you mean hf/microsoft/resnet-50?"


@pytest.mark.parametrize("ending", ["pth", "pt", "safetensors", "ckpt", "bin", "pth.tar", "h5", "PTH"])
@pytest.mark.parametrize("folder", ["", "runs/", "my runs/"])
def test_a_file_of_weights_is_to_be_given_as_such(folder, ending):
    name = f"{folder}best.{ending}"
    assert advice(name, sources()).endswith(f"--weights {shlex.quote(name)}")


def test_files_and_folders_lead_to_the_model_in_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(
        "def build(depth=3):\n    pass\ndef other(*, wide=True): pass\ndef needs(depth): pass\n"
        "def asks(*, depth): pass\ndef _own(): pass\n"
    )
    (tmp_path / "bare.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("def build(:\n")
    for folder, file in (("downloaded", "config.json"), ("described", "model.toml"), ("empty", None)):
        (tmp_path / folder).mkdir()
        if file:
            (tmp_path / folder / file).touch()
    assert advice("net.py", sources()) == "did you mean net.py:build or net.py:other?"
    assert advice("net:build", sources()) == "did you mean net.py:build?"
    assert advice("downloaded/", sources()).endswith("did you mean hf/downloaded?")
    assert advice("described", sources()).endswith("did you mean described/model.toml?")
    assert "folder without a model" in advice("empty", sources())
    assert all("write a function" in advice(name, sources()) for name in ("bare.py", "broken.py"))
    assert "no such file" in advice("missing.py", sources())


def test_what_is_no_model_at_all_is_named(tmp_path):
    (tmp_path / "van.jpg").touch()
    assert "that is an image" in advice(str(tmp_path / "van.jpg"), sources())
    assert "exported network" in advice("net.onnx", sources())
    assert "address" in advice("https://example.org/net.pth", sources())
    for nonsense in ("", "x", "?", "a b c", "//", *map("".join, itertools.product("/:.", repeat=2))):
        assert advice(nonsense, sources())
