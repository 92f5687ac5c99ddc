"""Every output of every command against what may lie where it is to be written. What the commands do is not begun."""

import os
import socket
import stat

import pytest

from rulepatch.errors import OutputError
from rulepatch.files import (
    atomic_path,
    check_folder,
    check_writable,
    make_folder,
    write_file,
    write_somewhere,
    write_texts,
    writing_in,
    writing_to,
)
from tests.attack.declared import outputs

FILES = [each for each in outputs() if each.metavar != "DIR"]
FOLDERS = [each for each in outputs() if each.metavar == "DIR"]

HOSTILE = {
    "a pipe": lambda path: os.mkfifo(path) or path,
    "a socket": lambda path: _socket(path),
    "a device": lambda path: _device(path),
    "a link to a pipe": lambda path: _link(path, os.mkfifo(path.with_name("pipe")) or path.with_name("pipe")),
    "a link to itself": lambda path: _link(path, path),
    "a link into no folder": lambda path: _link(path, path.parent / "nowhere" / "file"),
    "a link to a link to a device": lambda path: _link(
        path, _link(path.with_name("link"), _device(path.with_name("d")))
    ),
    "below a file": lambda path: path.touch() or path / "below",
    "deep below a file": lambda path: path.touch() or path / "deep" / "below",
    "a name too long": lambda path: path.with_name("long" * 80 + ".csv"),
    "a path too long": lambda path: path.joinpath(*["longer" * 10] * 80),
    "a folder that is no place for files": lambda path: _link(path.with_name("proc"), "/proc/self") / "x.csv",
}
PIPE = os.pipe()

OF_FILES = {
    "a folder": lambda path: path.mkdir() or path,
    "a link to a folder": lambda path: _link(path, path.parent),
    "no folder": lambda path: path / "file",
    "the folder itself": lambda path: path.parent,
    "the standard output of a pipe": lambda path: _open_pipe(path),
}
MADE = {"a link into no folder"}
"""Not hostile to folders, which are made with those that they are in."""

OF_FOLDERS = {
    "a file": lambda path: path.touch() or path,
    "a link to a file": lambda path: path.with_name("file").touch() or _link(path, path.with_name("file")),
}


def _socket(path):
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(path))
    return path


def _device(path):
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")
    return path


def _link(path, to):
    path.symlink_to(to)
    return path


def _open_pipe(path):
    return _link(path, f"/proc/self/fd/{PIPE[1]}")


def tree(root):
    """Everything in a folder: kinds, permissions, contents, and where links lead to."""
    found = {}
    for path in sorted(root.rglob("*")):
        about = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(about.st_mode) else path.readlink() if path.is_symlink() else None
        found[str(path.relative_to(root))] = about.st_mode, about.st_ino, content
    return found


def refused(found, target):
    assert (found.code, found.out) == (2, ""), found
    assert found.err.startswith("rulepatch: expected") and found.err.count("\n") == 1, found.err
    assert "files and folders that can be read and written" not in found.err
    assert str(target)[:20] in found.err


@pytest.fixture(autouse=True)
def at_home(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("hostile", [*HOSTILE, *OF_FILES])
def test_files_are_tried_before_the_work_begins(hostile, run, tmp_path):
    target = {**HOSTILE, **OF_FILES}[hostile](tmp_path / "out.csv")
    before = tree(tmp_path)
    for option in FILES:
        refused(run(*option.line(target)), target)
        assert tree(tmp_path) == before, option


@pytest.mark.parametrize("hostile", [*(each for each in (*HOSTILE, *OF_FOLDERS) if each not in MADE)])
def test_folders_are_tried_before_the_work_begins(hostile, run, tmp_path):
    target = {**HOSTILE, **OF_FOLDERS}[hostile](tmp_path / "out")
    before = tree(tmp_path)
    for option in FOLDERS:
        refused(run(*option.line(target)), target)
        assert tree(tmp_path) == before, option


@pytest.fixture
def anybody():
    """Not root, who may write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("option", outputs(), ids=lambda each: " ".join(each.command))
def test_a_folder_that_cannot_be_written_to_is_noticed_before_the_work_begins(option, run, tmp_path, request):
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(0o755)
    (tmp_path / "out.csv").touch(mode=0o644)
    tmp_path.chmod(0o555)
    request.getfixturevalue("anybody")
    before = tree(tmp_path)
    targets = [tmp_path / "new", tmp_path] if option.metavar == "DIR" else [tmp_path / "new.csv", tmp_path / "out.csv"]
    for target in targets:
        refused(run(*option.line(target)), target)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("option", outputs(), ids=lambda each: " ".join(each.command))
def test_what_is_refused_for_another_reason_leaves_nothing(option, run, tmp_path):
    if option.command == ("demo",):
        pytest.skip("there is nothing else that could be refused")
    (tmp_path / "old.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to(tmp_path / "old.csv")
    (tmp_path / "new-link.csv").symlink_to(tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".env.local").write_text("secret")
    before = tree(tmp_path)
    names = ["full", "new", "new/and/deep"] if option.metavar == "DIR" else ["old.csv", "link.csv", "new-link.csv"]
    for name in names:
        found = run(*option.line(tmp_path / name))
        assert found.code == 2 and found.err.count("\n") == 1, found
        assert tree(tmp_path) == before
    if option.metavar != "DIR":
        return
    found = run(*option.line(tmp_path / "new"), "--no-such-option")  # the other options are wrong, too
    assert found.code == 2 and tree(tmp_path) == before


FUNCTIONS = {
    "check_writable": check_writable,
    "write_file": lambda path: write_file(path, b"new"),
    "atomic_path": lambda path: atomic_path(path).__enter__(),
    "writing_to": lambda path: writing_to(path).__enter__(),
    "write_somewhere": lambda path: write_file(path, "new"),
}
FOLDER_FUNCTIONS = {
    "check_folder": check_folder,
    "make_folder": make_folder,
    "write_texts": lambda path: write_texts(path, {"a": "new"}),
    "writing_in": lambda path: writing_in(path).__enter__(),
}


@pytest.mark.parametrize("name", [*FUNCTIONS, *FOLDER_FUNCTIONS])
def test_functions_refuse_the_same(name, tmp_path):
    is_file = name in FUNCTIONS
    for number, (what, hostile) in enumerate({**HOSTILE, **(OF_FILES if is_file else OF_FOLDERS)}.items()):
        root = tmp_path / str(number)
        root.mkdir()
        target = hostile(root / "out.csv")
        if not is_file and what in MADE:
            continue
        before = tree(root)
        with pytest.raises(OutputError):
            {**FUNCTIONS, **FOLDER_FUNCTIONS}[name](target)
        assert tree(root) == before, what


@pytest.mark.parametrize("name", ["nul\0l", "surrogate\ud800"])
def test_names_that_no_system_takes_are_refused(name, tmp_path):
    for function in (*FUNCTIONS.values(), *FOLDER_FUNCTIONS.values()):
        with pytest.raises(OutputError, match="can be none"):
            function(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["out.csv", b"caf\xe9".decode("utf-8", "surrogateescape"), "$(x)\n", "x" * 251 + ".csv", "-", "a"]
)
@pytest.mark.parametrize("old", [None, 0o600, 0o664, 0o4755])
def test_files_are_written_where_links_lead_to_with_the_permissions_of_old_ones(name, old, tmp_path):
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / name
    if old is not None:
        real.write_text("old")
        real.chmod(old)
    (tmp_path / "first").symlink_to("second")
    (tmp_path / "second").symlink_to(real)
    before = os.umask(0o027)
    try:
        check_writable(tmp_path / "first")
        write_file(tmp_path / "first", "new")
    finally:
        os.umask(before)
    assert real.read_text() == "new" and (tmp_path / "first").is_symlink() and not real.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == (0o640 if old is None else old & 0o777)
    assert len(list(real.parent.iterdir())) == 1


def test_what_took_long_is_saved_somewhere_if_its_place_is_gone(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    with pytest.raises(OutputError, match=r"it was saved as .*/edit-.*\.txt instead"):
        write_somewhere(lambda path: write_file(path, "work"), tmp_path / "gone" / "edit.txt")
    (saved,) = home.iterdir()
    assert saved.read_text() == "work"
