"""Files of weights that others wrote."""

import json
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save

from rulepatch.digests import digest_of_tensors
from rulepatch.errors import RulepatchError, WeightsError
from rulepatch.models.checkpoints import read_checkpoint, read_state
from tests.attack.fuzz import MARKS, as_json, attack, of_bytes, of_structure

pytestmark = MARKS
STATE = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.ones(2).half(), "steps": torch.tensor(7)}


def parts_of(content):
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def test_safetensors(tmp_path):
    """Tensors that are read lie in the file as its header says; there is no digest that could notice more."""
    sound, path = save(STATE), tmp_path / "w.safetensors"

    def mutated(draw):
        if draw.random() < 0.5:
            return of_bytes(sound, draw)
        header, rest = parts_of(sound)
        text = as_json(of_structure(header, draw), draw)
        return struct.pack("<Q", len(text)) + text + rest

    def read(content):
        path.write_bytes(content)
        found = read_state(path)
        header, rest = parts_of(content)
        header.pop("__metadata__", None)
        assert header.keys() == found.keys()
        for name, tensor in found.items():
            start, end = header[name]["data_offsets"]
            assert list(tensor.shape) == header[name]["shape"]
            assert bytes(tensor.reshape(-1).view(torch.uint8).numpy()) == rest[start:end], name
        read_checkpoint(path)

    attack("weights-safetensors", mutated, read).close()


def test_what_torch_saved(tmp_path):
    path, written = tmp_path / "w.pth", tmp_path / "sound.pth"
    contents = []
    for new in (True, False):
        torch.save({"state_dict": STATE, "epoch": 3}, written, _use_new_zipfile_serialization=new)
        contents.append(written.read_bytes())

    def read(content):
        path.write_bytes(content)
        assert all(isinstance(tensor, torch.Tensor) for tensor in read_state(path).values())

    attack("weights-torch", lambda draw: of_bytes(draw.choice(contents), draw), read).close()


def test_indices(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save({"fc.weight": STATE["fc.weight"]}))
    (tmp_path / "b.safetensors").write_bytes(save({"fc.bias": STATE["fc.bias"]}))
    sound = {"metadata": {"size": 9}, "weight_map": {"fc.weight": "a.safetensors", "fc.bias": "b.safetensors"}}
    path = tmp_path / "w.safetensors.index.json"

    def mutated(draw):
        if draw.random() < 0.4:
            return of_bytes(json.dumps(sound).encode(), draw)
        return as_json(of_structure(sound, draw), draw)

    def read(content):
        path.write_bytes(content)
        found = read_state(path)
        assert found.keys() <= {"fc.weight", "fc.bias"}
        assert all(digest_of_tensors({"": found[name]}) == digest_of_tensors({"": STATE[name]}) for name in found)

    attack("weights-index", mutated, read).close()


def test_what_was_read_is_no_window_onto_the_file(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(save(STATE))
    found = read_state(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.truncate(0)
    assert digest_of_tensors(found) == digest_of_tensors(STATE)


class Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


WAYS = {
    "fifo": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "a loop": lambda path: path.symlink_to(path),
    "folder": lambda path: path.mkdir(),
    "empty": lambda path: path.write_bytes(b""),
    "a program": lambda path: path.write_bytes(pickle.dumps(Runs())),
    "a saved program": lambda path: torch.save(Runs(), path),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.index.json"])
def test_what_holds_no_weights_is_refused(tmp_path, monkeypatch, way, name):
    monkeypatch.chdir(tmp_path)
    WAYS[way](tmp_path / name)
    with pytest.raises(RulepatchError, match="expected"):
        read_state(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_shard_that_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    (tmp_path / "w.index.json").write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    with pytest.raises(WeightsError, match="not beside it"):
        read_state(tmp_path / "w.index.json")
