"""Edit files and cache entries that somebody else wrote, or wrote over."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from rulepatch.core.changes import Dense, Gate, LowRank, Minimum, NewClass
from rulepatch.core.edit import Edit, base_digest
from rulepatch.digests import digest_of_json, digest_of_tensors
from rulepatch.errors import EditFileError, RulepatchError
from tests.attack.fuzz import MARKS, attack, of_bytes, of_structure

pytestmark = MARKS


def network():
    torch.manual_seed(0)
    body = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4, 3)).eval()


NET = network()
STATE = {name: tensor.clone() for name, tensor in NET.state_dict().items()}


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def edits():
    hard = Gate("hard", 0.9, torch.tensor([0.1]), drawn(4))
    said = {"index": 0, "class": "van", "confidence": 0.9, "of_target": 0.1}
    provenance = {
        "method": "rewrite", "settings": {"rank": 1, "site": ["2"]}, "model": "small",
        "sites": [{
            "site": "2", "loss": {"before": 1.0, "after": 0.5}, "predicted_damage": 0.01, "rounding": 0.0,
            "certificate": {"parameters": ["2.weight"], "norm": 1.0, "relative_norm": 0.1, "epsilon": 0.01},
        }],
        "exemplars": [{
            "name": "van 1", "digest": "0" * 64, "label": 0, "concept": "road", "replacement": "snow",
            "said": {
                "target": {"index": 0, "class": "van"}, "original": said, "edited": said, "after": said, "change": 0.1,
                "verdict": "right",
            },
        }],
    }  # fmt: skip
    base = base_digest(NET)
    plain = Edit((LowRank("2", "3", drawn(2, 4), drawn(4, 2, 1, 1), 1.5),), base, provenance)
    patches = Edit((LowRank("0", "0", drawn(1, 3, 3, 3), drawn(4, 1)),), base, {"method": "rewrite"})
    gated = Edit((LowRank("2", "2", drawn(2, 4), drawn(4, 2, 1, 1), 1.0, hard),), base, provenance)
    soft = Edit((Minimum("2", "2", drawn(2, 4), drawn(4, 2, 1, 1), 1.0, Gate("soft", 0.9, drawn(2))),), base)
    dense = Edit((Dense("5.bias", drawn(3)),), base, {"method": "dense", "sites": []})
    added = Edit((NewClass("tram", "5", "5", drawn(1, 4, 1, 1), torch.zeros(1)),), base, {"class": "tram"})
    return {
        "plain": plain, "patches": patches, "gated": gated, "minimum": soft, "dense": dense, "new class": added,
        "composed": Edit.compose(plain, gated, dense),
    }  # fmt: skip


EDITS = edits()


def content_of(edit, folder: Path) -> bytes:
    edit.save(folder / "sound.safetensors")
    return (folder / "sound.safetensors").read_bytes()


def parts_of(content: bytes):
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def written(header, rest: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def forged(described, tensors) -> bytes:
    """A file whose digest is right, whatever it says."""
    if isinstance(described, dict):
        described = {key: value for key, value in described.items() if key != "content"}
        described["content"] = digest_of_json([described, digest_of_tensors(tensors)])
    told = json.dumps(described)
    return save(tensors, metadata={"rulepatch": told})


def text_of(edit: Edit) -> str:
    return json.dumps(edit.describe(), sort_keys=True)


def used(path: Path) -> Edit:
    """Everything that can be done with an edit; the network is as it was afterwards."""
    edit = Edit.load(path)
    for change in edit.changes:
        for name, tensor in change.tensors().items():
            assert tensor.dtype == torch.float32 and bool(tensor.isfinite().all()), name
        assert type(change.strength) in {int, float} and abs(change.strength) <= 1e6 and isinstance(change.site, str)
        if isinstance(change, LowRank):
            rank, keys = len(change.directions), change.directions.shape[1:]
            assert change.coefficients.shape[1] == rank and change.coefficients.ndim == 6 - change.directions.ndim
            if change.gate is not None:
                assert change.gate.kind in {"hard", "soft"} and 0 <= change.gate.level <= 1
                assert change.gate.thresholds.shape == ((1,) if change.gate.kind == "hard" else (rank,))
                assert (change.gate.direction is None) == (change.gate.kind == "soft")
                assert change.gate.direction is None or change.gate.direction.shape == keys
    edit.to_text(), repr(edit), edit._repr_html_(), edit.note, edit.reports, edit.on_exemplars.to_text(), edit.to_json()
    again = path.with_name("again.safetensors")
    edit.save(again)
    assert text_of(Edit.load(again)) == text_of(edit)
    try:
        _ = edit.how
        with edit.applied(NET):
            NET(torch.ones(1, 3, 4, 4))
        edit.apply(NET)
    finally:
        now = NET.state_dict()
        assert now.keys() == STATE.keys() and all(torch.equal(now[name], STATE[name]) for name in STATE)
    return edit


def test_the_sound_ones_are_read(tmp_path):
    for edit in EDITS.values():
        path = tmp_path / "edit.safetensors"
        path.write_bytes(forged(edit.describe(), parts_as_tensors(content_of(edit, tmp_path))))
        assert used(path).describe() == edit.describe()


def parts_as_tensors(content: bytes):
    from safetensors.torch import load

    return load(content)


def same(path: Path, edit: Edit):
    loaded = used(path)
    assert loaded.describe() == edit.describe()
    for mine, sound in zip(loaded.changes, edit.changes, strict=True):
        assert digest_of_tensors(mine.tensors()) == digest_of_tensors(sound.tensors())


@pytest.mark.parametrize("kind", ["bytes", "header"])
def test_bytes_and_headers(tmp_path, kind):
    contents = {name: content_of(edit, tmp_path) for name, edit in EDITS.items()}

    def mutated(draw):
        name = draw.choice(list(contents))
        header, rest = parts_of(contents[name])
        if kind == "bytes":
            return name, of_bytes(contents[name], draw)
        if draw.random() < 0.5:
            return name, written(of_bytes(json.dumps(header).encode(), draw), rest)
        return name, written(json.dumps(of_structure(header, draw)).encode("utf-8", "surrogatepass"), rest)

    def read(given):
        name, content = given
        (tmp_path / "edit.safetensors").write_bytes(content)
        same(tmp_path / "edit.safetensors", EDITS[name])

    def guarded(draw):
        try:
            return mutated(draw)
        except RecursionError:
            return "plain", b""

    attack(f"edit-{kind}", guarded, read).close()


def test_what_a_file_says_with_a_right_digest(tmp_path):
    sound = [(edit.describe(), parts_as_tensors(content_of(edit, tmp_path))) for edit in EDITS.values()]

    def mutated(draw):
        described, tensors = draw.choice(sound)
        tensors = dict(tensors)
        if draw.random() < 0.6:
            described = of_structure(described, draw)
        if draw.random() < 0.5 or described == sound[0][0]:
            name = draw.choice(list(tensors))
            own = tensors[name]
            match draw.randrange(9):
                case 0:
                    own = own.to(draw.choice((torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool)))
                case 1:
                    own = own.flatten()
                case 2:
                    own = own[None]
                case 3:
                    own = torch.cat([own, own])
                case 4:
                    own = own.clone()
                    own.view(-1)[0] = draw.choice((torch.nan, torch.inf, -torch.inf, 3e38, 1e-45))
                case 5:
                    own = own[:0]
                case 6:
                    own = own * draw.choice((1e38, 1e-38, 0.0))
                case 7:
                    tensors[draw.choice(("0.extra", "extra", "9.values", "-1.values", "00.values"))] = own.clone()
                case _:
                    own = (
                        own.mT.contiguous() if own.ndim > 1 else own.reshape(())[None] if own.numel() == 1 else own[1:]
                    )
            tensors[name] = own.contiguous()
            if draw.random() < 0.15:
                del tensors[name]
        return described, tensors

    def read(given):
        try:
            content = forged(*given)
        except UnicodeEncodeError:
            content = b""
        (tmp_path / "edit.safetensors").write_bytes(content)
        used(tmp_path / "edit.safetensors")

    attack("edit-semantic", mutated, read).close()


@pytest.mark.parametrize("how", ["written over", "cut"])
@pytest.mark.parametrize("kind", ["plain", "gated", "dense", "new class"])
def test_a_loaded_edit_is_no_window_onto_its_file(tmp_path, kind, how):
    path = tmp_path / "edit.safetensors"
    content = content_of(EDITS[kind], tmp_path)
    path.write_bytes(content)
    edit = Edit.load(path)
    with path.open("r+b") as file:
        if how == "cut":
            file.truncate(8)
        else:
            file.seek(len(content) // 2)
            file.write(b"\x00" * (len(content) - len(content) // 2))
    for mine, sound in zip(edit.changes, EDITS[kind].changes, strict=True):
        assert digest_of_tensors(mine.tensors()) == digest_of_tensors(sound.tensors())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_converted(tmp_path, dtype):
    sound = parts_as_tensors(content_of(EDITS["plain"], tmp_path))
    tensors = {name: tensor.to(dtype) for name, tensor in sound.items()}
    (tmp_path / "edit.safetensors").write_bytes(forged(EDITS["plain"].describe(), tensors))
    (change,) = used(tmp_path / "edit.safetensors").changes
    assert change.directions.dtype == torch.float32
    assert torch.equal(change.directions, EDITS["plain"].changes[0].directions.to(dtype).float())


WAYS = {
    "fifo": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "itself": lambda path: path.symlink_to(path),
    "folder": lambda path: path.mkdir(),
    "nothing": lambda path: None,
    "endless": lambda path: path.symlink_to("/proc/self/mem"),
    "terminal": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_no_file_is_refused(tmp_path, way):
    WAYS[way](tmp_path / "edit.safetensors")
    with pytest.raises(EditFileError, match="expected"):
        Edit.load(tmp_path / "edit.safetensors")


@pytest.mark.parametrize("name", ["a\x00b", "x" * 300, "\udcff", "\ud800"])
def test_names_of_no_file_are_refused(tmp_path, name):
    with pytest.raises(RulepatchError, match="expected"):
        Edit.load(tmp_path / name)


def test_a_key_twice_in_the_header_is_refused(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "edit.safetensors")
    header, rest = parts_of((tmp_path / "edit.safetensors").read_bytes())
    text = json.dumps(header).replace('"a"', '"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a"')
    (tmp_path / "edit.safetensors").write_bytes(written(text.encode(), rest))
    with pytest.raises(EditFileError, match="twice"):
        Edit.load(tmp_path / "edit.safetensors")
