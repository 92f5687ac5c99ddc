"""A disk that takes no more, at whatever size: one sentence, nothing half written, and what took long is kept."""

import errno
import os
from pathlib import Path

import joblib.externals.loky  # noqa: F401 - it cannot be loaded where no file at all can be written
import pytest
import torch
from PIL import Image

from rulepatch import load_model
from rulepatch.cli import main
from rulepatch.core.edit import Edit
from rulepatch.data.cache import Cache
from rulepatch.errors import OutputError
from rulepatch.evaluation.activations import _Shelf
from rulepatch.images import write_image
from rulepatch.models.export import export
from rulepatch.models.peft_adapter import write_adapter
from rulepatch.models.registry import save_weights
from rulepatch.unfinished import is_ours
from tests.attack.dying import forked, full
from tests.attack.test_files_killed import lines

FULL = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS]


def more_lines(world, root):
    """Commands that write what libraries make."""
    edit, net = world / "edit.safetensors", f"{world / 'net.py'}:build"
    return {
        **lines(world, root),
        "apply": ("apply", edit, "--model", net, "-o", root / "out.safetensors"),
        "apply as .pt2": ("apply", edit, "--model", net, "-o", root / "out.pt2"),
        "compose": ("compose", edit, world / "gated.safetensors", "-o", root / "out.safetensors"),
        "evaluate": ("evaluate", edit, "--model", net, "--tests", world / "tests", "--report", root / "out.html"),
    }


SLOW = {"cases", "invert", "apply as .pt2", "evaluate"}
LONG = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in more_lines(Path(), Path())]


@pytest.mark.parametrize("name", LONG)
def test_commands_say_that_the_disk_is_full_and_leave_nothing(name, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for number, size in enumerate((0, 500, 4096, 5000)):
        root = tmp_path / str(number)
        (root / "cache").mkdir(parents=True)
        monkeypatch.setenv("RULEPATCH_CACHE", str(root / "cache"))
        (root / "out.csv").write_text("old")
        line = [str(each) for each in more_lines(world, root)[name]]
        reader, writer = os.pipe()
        code = forked(lambda line=line: main(line), before=full(size), log=Path(f"/proc/self/fd/{writer}"))
        os.close(writer)
        with os.fdopen(reader) as told:
            said = told.read()
        assert "Traceback" not in said, said
        assert code in {0, 2}, said
        if code == 2 and name != "statistics":  # which says that the cache could not take them
            assert "expected room for" in said and str(root) in said, said
        left = [path for path in root.rglob("*") if path.is_file()]
        assert not any(is_ours(path.name) for path in left)
        if code == 2 and name != "cases":  # which goes on with what it has
            assert left == [root / "out.csv"] and left[0].read_text() == "old", said


@pytest.fixture
def broken(monkeypatch):
    """Every file takes half of what is written to it, and then the system says why it takes no more."""
    write = Path.write_bytes

    def choose(number):
        def half(path, data):
            if len(data) == 4096 and not any(data):  # the trial before the work
                return write(path, data)
            write(path, data[: len(data) // 2])
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "write_bytes", half)

    return choose


@pytest.mark.parametrize("number", FULL, ids=errno.errorcode.get)
def test_every_writer_of_the_library_says_so_in_one_sentence(number, broken, world, tmp_path):
    edit, model = Edit.load(world / "edit.safetensors"), load_model(f"{world / 'net.py'}:build")
    shelf = _Shelf()
    shelf.put(torch.ones(3))
    writers = {
        "edit": edit.save,
        "weights": lambda path: save_weights(model.module, path),
        "adapter": lambda path: write_adapter({"3": [(torch.ones(1, 8, 1, 1), torch.ones(8, 1))]}, model.module, path),
        "image": lambda path: write_image(Image.new("RGB", (8, 8)), path),
        "activations": shelf.to_disk,
    }
    broken(number)
    for name, write in writers.items():
        with pytest.raises(OutputError, match=r"^expected (room for .* to write|to write) .*; (free|name)"):
            write(tmp_path / f"{name}.png")
    assert not Cache(tmp_path / "cache").put({"a": 1}, {"x": torch.ones(1)})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_programs_are_made_in_memory_so_that_nothing_is_ended_by_a_full_disk(broken, world, tmp_path):
    model = load_model(f"{world / 'net.py'}:build")
    broken(errno.ENOSPC)
    for suffix in (".pt2", ".onnx"):
        with pytest.raises(OutputError, match="expected room for"):
            export(model, tmp_path / f"net{suffix}")
    assert list(tmp_path.iterdir()) == []
