"""Entries of a cache that anybody may have written: each is a miss, or says what was put."""

import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from rulepatch.core.moments import KeyStatistics
from rulepatch.data.cache import Cache
from rulepatch.data.statistics import StatisticsConfig, _is_sound
from rulepatch.digests import digest_of_json, digest_of_tensors
from tests.attack.fuzz import MARKS, attack, of_bytes

pytestmark = MARKS
KEY = {"what": "key statistics", "site": "a", "images": "0" * 64}
CONFIG = StatisticsConfig(architecture=1, batch_size=2, seed=0, capacity=5, products=torch.float64)


def statistics(keys=9):
    found = KeyStatistics(3, capacity=CONFIG.capacity)
    found.add(torch.randn(keys, 3, generator=torch.Generator().manual_seed(keys)))
    return found


STATE = statistics().state()


@pytest.fixture
def entry(tmp_path):
    cache = Cache(tmp_path)
    assert cache.put(KEY, STATE)
    (file,) = tmp_path.iterdir()
    return cache, file


def test_bytes(entry):
    cache, file = entry
    sound = file.read_bytes()

    def read(content):
        file.write_bytes(content)
        found = cache.get(KEY)
        assert found is None or digest_of_tensors(found) == digest_of_tensors(STATE)

    attack("cache-bytes", lambda draw: of_bytes(sound, draw), read).close()


def test_sound_statistics_are_taken():
    for keys in (0, 1, 5, 9):
        assert _is_sound(statistics(keys).state(), 3, CONFIG)


def test_structure(entry):
    """Entries whose digest is right."""
    cache, file = entry

    def mutated(draw):
        state = {name: tensor.clone() for name, tensor in STATE.items()}
        for _ in range(draw.choice((1, 1, 2))):
            name = draw.choice(list(state))
            own = state[name]
            match draw.randrange(9):
                case 0:
                    del state[name]
                    state.setdefault("count", torch.tensor(9))
                case 1:
                    state["more"] = own.clone()
                case 2 if own.numel():
                    own.view(-1)[-1] = draw.choice((-1, 2**62, 10**6) if own.dtype == torch.int64 else (
                        float("nan"), float("inf"), -float("inf"), 1e300 if own.dtype == torch.float64 else 1e38, -1.0,
                    ))  # fmt: skip
                case 3:
                    state[name] = own[:-1].clone() if own.ndim else own[None].clone()
                case 4:
                    state[name] = own.to(draw.choice((torch.float16, torch.float64, torch.float32, torch.int32)))
                case 5:
                    state[name] = torch.cat([own, own]) if own.ndim else own.repeat(2)
                case 6:
                    state[name] = own.mT.clone() if own.ndim > 1 else own.flip(0) if own.ndim else own + 1
                case 7:
                    state[name] = state[draw.choice(list(state))].clone()
                case _:
                    state[name] = own[:0].clone() if own.ndim else own * 0
        return state

    def read(state):
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        digest = digest_of_json([KEY, digest_of_tensors(tensors)])
        save_file(tensors, file, metadata={"digest": digest})
        found = cache.get(KEY)
        assert found is not None and digest_of_tensors(found) == digest_of_tensors(tensors)
        if not _is_sound(found, 3, CONFIG):
            return
        restored = KeyStatistics.from_state(found)
        assert restored.moment.total.isfinite().all() and restored.sample.keys.isfinite().all()
        assert restored.moment.count >= len(restored.sample.keys) and restored.sample.capacity == CONFIG.capacity
        restored.quantile(torch.ones(1, 3), 0.5), restored.whitening(floor=1e-5)

    attack("cache-structure", mutated, read).close()


WAYS = {
    "copied from another key": lambda cache, file: (
        cache.put({"site": "b"}, statistics(4).state()),
        shutil.copy(next(each for each in file.parent.iterdir() if each != file), file),
    ),
    "of an older version": lambda cache, file: save_file(STATE, file, metadata={"digest": digest_of_tensors(STATE)}),
    "fifo": lambda cache, file: (file.unlink(), os.mkfifo(file)),
    "endless": lambda cache, file: (file.unlink(), file.symlink_to("/dev/zero")),
    "a loop": lambda cache, file: (file.unlink(), file.symlink_to(file)),
    "folder": lambda cache, file: (file.unlink(), file.mkdir()),
    "empty": lambda cache, file: file.write_bytes(b""),
    "no metadata": lambda cache, file: save_file(STATE, file),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_answers_no_key_is_a_miss(entry, way):
    cache, file = entry
    assert cache.get(KEY) is not None
    WAYS[way](cache, file)
    assert cache.get(KEY) is None


def test_what_was_taken_out_is_no_window_onto_the_file(entry):
    cache, file = entry
    found = cache.get(KEY)
    content = file.read_bytes()
    with file.open("r+b") as open_file:
        open_file.write(bytes(len(content)))
        open_file.truncate(0)
    assert digest_of_tensors(found) == digest_of_tensors(STATE)
