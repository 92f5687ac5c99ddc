"""Killed at any file operation, ended by a signal, run twice at once: the next run ends as if nothing had been."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rulepatch.cli import main
from rulepatch.errors import OutputError
from rulepatch.files import check_writable, make_folder, write_file, writing_in, writing_to
from rulepatch.models import registry
from rulepatch.unfinished import HOST, MARK, OLD, ScratchFolder, is_ours, sweep_leftovers
from tests.attack.dying import KILLED, dying, forked

SHORT = int(os.environ.get("RULEPATCH_ATTACKS", "0")) == 0


def lines(world, root):
    """Commands that write in all ways there are: a file, a cache, a folder, a folder that is gone on with."""
    net = ("--model", f"{world / 'net.py'}:build")
    given = ("--exemplar", world / "exemplar", "--reference", world / "reference")
    return {
        "edit": ("edit", *net, *given, "--site", "3", "--rank", "2", "--gate", "none", "-o", root / "out.safetensors"),
        "statistics": ("statistics", *net, "--reference", world / "reference", "--site", "3"),
        "predict": ("predict", net[1], world / "flat", "--csv", root / "out.csv"),
        "exemplar": (
            *("exemplar", world / "exemplar" / "image.png", "--mask", world / "exemplar" / "mask.png"),
            *("--edited", world / "exemplar" / "edited.png", "-o", root / "out"),
        ),
        "cases": (
            *("cases", "--images", world / "tests", "--concept", "road", "--style", "snow", "--instances", "1"),
            *("--segmenter", f"files/{world / 'masks'}", "-o", root / "out"),
        ),
        "invert": (
            *("invert", *net, "--exemplar", world / "exemplar", "--site", "3", "--steps", "1", "--level", "key"),
            *("-o", root / "out"),
        ),
    }


def contents(root):
    """What is in a folder, and that nothing of ours is left there."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    assert [path for path in root.rglob(".*") if is_ours(path.name) or path.name.startswith(".tmp")] == []
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


LONG = ("cases", "invert")
NAMES = ["edit", "statistics", "predict", "exemplar", *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)]


@pytest.mark.parametrize("name", NAMES)
def test_killed_before_any_file_operation_the_next_run_ends_the_same(name, world, tmp_path, monkeypatch):
    def command(root):
        (root / "cache").mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("RULEPATCH_CACHE", str(root / "cache"))
        line = [str(each) for each in lines(world, root)[name]]
        return lambda: main(line)

    log, number, killed = tmp_path / "log", 0, 0
    assert forked(command(tmp_path / "whole"), log=log) == 0, log.read_text()
    whole = contents(tmp_path / "whole")
    while True:
        root = tmp_path / "root"
        code = forked(command(root), before=dying(root, number), log=log)
        if code == 0:
            break
        assert code == KILLED, log.read_text()
        (root / ".env.local").write_text("not ours")
        (root / "cache" / ".notes.txt").write_text("not ours")
        assert forked(command(root), log=log) == 0, f"{number}: {log.read_text()}"
        (root / ".env.local").unlink()
        (root / "cache" / ".notes.txt").unlink()
        assert contents(root).keys() == whole.keys() and (name == "invert" or contents(root) == whole), number
        shutil.rmtree(root)
        killed += 1
        number += 1 if not SHORT else 1 + number // 2 if name not in LONG else 1 + number
    assert killed >= 4


PROGRAM = """
import sys, time
from pathlib import Path
from rulepatch.files import atomic_path, writing_in, writing_to
with {}:
    print("here", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("what", ["writing_in(Path.cwd())", "writing_to(Path('a'))", "atomic_path(Path('a'))"])
def test_a_second_writer_is_refused_until_the_first_has_ended(what, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(what)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    keep = writing_in if "writing_in" in what else writing_to
    target = tmp_path if keep is writing_in else tmp_path / "a"
    try:
        assert child.stdout.readline() == "here\n"
        there = {path.name for path in tmp_path.iterdir()}
        assert len(there) == 1 and all(map(is_ours, there))
        sweep_leftovers(tmp_path)
        check_writable(tmp_path / "b")
        make_folder(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == there  # what another one is writing stays
        if "atomic" not in what:
            with pytest.raises(OutputError, match="another one is writing to it; wait"), keep(target):
                pass
            with writing_to(tmp_path / "b"):
                pass
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with keep(target):
        write_file(tmp_path / "a", "mine")
        with keep(target):  # within a command as often as it likes
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_what_is_ours_and_dead_is_removed(tmp_path):
    own = f"{MARK}{HOST}{'0' * 16}.csv"
    other = f"{MARK}{'0' * 8 if HOST != '0' * 8 else '1' * 8}{'0' * 16}.csv"
    kept = [".env.local", ".a.0123456789abcdef.png", f"{MARK}notes.txt", other, f"{MARK}{HOST}.csv"]
    for name in (own, *kept, other.replace("csv", "old")):
        (tmp_path / name).write_text("x")
    (tmp_path / own.replace("csv", "d")).mkdir()
    (tmp_path / own.replace("csv", "l")).symlink_to(tmp_path / ".env.local")
    os.mkfifo(tmp_path / own.replace("csv", "p"))
    long_ago = time.time() - OLD - 1
    os.utime(tmp_path / other.replace("csv", "old"), (long_ago, long_ago))
    check_writable(tmp_path / "new.csv")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*kept, *(own.replace("csv", kind) for kind in "dlp")}


def ended(line, kind):
    """Run a command to whose process a signal comes in the middle of its work."""

    def build(name, **further):
        os.kill(os.getpid(), kind)
        return real(name, **further)

    real, registry.build = registry.build, build
    main([str(each) for each in line])


@pytest.mark.parametrize("name", ["predict", "invert"])
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda each: each.name)
def test_signals_that_ask_to_end_do_what_ctrl_c_does(kind, name, world, tmp_path):
    code = forked(lambda: ended(lines(world, tmp_path)[name], kind), log=tmp_path / "log")
    told = (tmp_path / "log").read_text()
    assert code == 128 + kind and told.strip().endswith("rulepatch: interrupted"), (code, told)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_handlers_of_signals_are_put_back_and_those_of_others_left(run):
    before = signal.getsignal(signal.SIGTERM), signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("--version").code == 0
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == (before[0], signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGHUP, before[1])


def test_temporary_folders_of_killed_processes_go_with_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def killed():
        folder = ScratchFolder()
        (Path(folder.name) / "large").write_text("x")
        os._exit(KILLED)

    assert forked(killed) == KILLED
    (left,) = tmp_path.iterdir()
    os.utime(left, (0, 0))
    with ScratchFolder() as own, ScratchFolder() as other:
        assert {str(path) for path in tmp_path.iterdir()} == {own, other} and str(left) not in {own, other}
    assert list(tmp_path.iterdir()) == []
