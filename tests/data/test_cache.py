from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rulepatch.data.cache import Cache, default_cache

TENSORS = {
    "moment": torch.arange(6, dtype=torch.float64).reshape(2, 3),
    "count": torch.tensor(7),
    "keys": torch.randn(4, 2, generator=torch.Generator().manual_seed(0)),
    "none": torch.empty(0, 2),
}
KEY = {"site": "a", "seed": 1, "weights": "0123"}


def equal(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one
    )


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "deep" / "cache")


def test_what_is_put_comes_back_bit_by_bit(cache):
    assert cache.get(KEY) is None
    cache.put(KEY, TENSORS)
    assert equal(cache.get(KEY), TENSORS)
    assert equal(Cache(cache.folder).get(dict(reversed(KEY.items()))), TENSORS)


def test_views_and_strides_are_kept_as_contents(cache):
    whole = torch.arange(12.0).reshape(3, 4)
    cache.put(KEY, {"transposed": whole.T, "part": whole[1:, :2], "whole": whole})
    assert equal(cache.get(KEY), {"transposed": whole.T, "part": whole[1:, :2], "whole": whole})


@pytest.mark.parametrize(
    "key", [{**KEY, "site": "b"}, {**KEY, "seed": 2}, {**KEY, "seed": "1"}, {**KEY, "more": None}, {"site": "a"}, {}]
)
def test_another_key_misses(cache, key):
    cache.put(KEY, TENSORS)
    assert cache.get(key) is None
    cache.put(key, {"x": torch.ones(1)})
    assert equal(cache.get(KEY), TENSORS)


def test_putting_again_replaces(cache):
    cache.put(KEY, {"x": torch.zeros(1)})
    cache.put(KEY, TENSORS)
    assert equal(cache.get(KEY), TENSORS)
    assert len(list(cache.folder.iterdir())) == 1


def test_getting_makes_no_folder(cache):
    assert cache.get(KEY) is None
    assert not cache.folder.exists()


def damages():
    yield "empty", lambda content: b""
    yield "half", lambda content: content[: len(content) // 2]
    yield "without its last byte", lambda content: content[:-1]
    yield "text", lambda content: b"no tensors here"
    yield "another header", lambda content: b"\xff" * 8 + content[8:]
    yield "one bit of a tensor", lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    yield "zeros where tensors were", lambda content: content[:-40] + bytes(40)


@pytest.mark.parametrize("damage", [pytest.param(damage, id=name) for name, damage in damages()])
def test_a_damaged_file_is_a_miss_and_is_replaced(cache, damage):
    cache.put(KEY, TENSORS)
    (file,) = cache.folder.iterdir()
    sound = file.read_bytes()
    assert damage(sound) != sound
    file.write_bytes(damage(sound))
    assert cache.get(KEY) is None
    cache.put(KEY, TENSORS)
    assert equal(cache.get(KEY), TENSORS)


def test_tensors_of_another_key_or_another_program_are_a_miss(cache):
    cache.put(KEY, TENSORS)
    (file,) = cache.folder.iterdir()
    save_file({"moment": torch.ones(1)}, file)
    assert cache.get(KEY) is None
    file.unlink()
    file.mkdir()
    assert cache.get(KEY) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache"):
        cache = Cache(folder)
        cache.put(KEY, TENSORS)
        assert cache.get(KEY) is None
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("error", [OSError("no space left"), SafetensorError("no space left"), PermissionError()])
def test_a_full_disk_is_no_error_and_leaves_no_part(cache, error, monkeypatch):
    write = Path.write_bytes

    def full(path, data):
        write(path, data[: len(data) // 2])
        raise error

    monkeypatch.setattr(Path, "write_bytes", full)
    assert not cache.put(KEY, TENSORS)
    assert list(cache.folder.iterdir()) == []
    assert cache.get(KEY) is None


def test_files_can_be_read_by_others(cache):
    cache.put(KEY, TENSORS)
    (file,) = cache.folder.iterdir()
    assert equal(load_file(file), TENSORS)


def test_the_default_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("RULEPATCH_CACHE", str(tmp_path / "named"))
    assert default_cache().folder == tmp_path / "named"
    monkeypatch.setenv("RULEPATCH_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache().folder == tmp_path / "xdg" / "rulepatch"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache().folder == tmp_path / "home" / ".cache" / "rulepatch"
    assert list(tmp_path.iterdir()) == []
