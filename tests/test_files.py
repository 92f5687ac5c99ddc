import os
import stat

import pytest

from rulepatch.errors import OutputError
from rulepatch.files import atomic_path, write_texts


def test_a_file_appears_whole(tmp_path):
    target = tmp_path / "result.safetensors"
    with atomic_path(target) as path:
        assert path.parent == target.parent
        assert path.suffix == target.suffix
        path.write_text("half")
        assert not target.exists()
        path.write_text("whole")
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


def test_an_old_file_is_replaced_whole(tmp_path):
    target = tmp_path / "result"
    target.write_text("old")
    with atomic_path(target) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_after_an_error_everything_is_as_it_was(error, old, tmp_path):
    target = tmp_path / "result"
    if old:
        target.write_text(old)
    with pytest.raises(error), atomic_path(target) as path:
        path.write_text("half")
        raise error
    assert [file.read_text() for file in tmp_path.iterdir()] == ([old] if old else [])


def test_a_writer_that_fails_to_make_the_file_leaves_nothing(tmp_path):
    with pytest.raises(OutputError), atomic_path(tmp_path / "result") as path:
        path.unlink()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "result") as one, atomic_path(tmp_path / "result") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "result").read_text() == "one"  # the last to finish
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_result_is_as_public_as_any_other_file(umask, tmp_path):
    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "result") as path:
            path.write_text("x")
        (tmp_path / "plain").write_text("x")
    finally:
        assert os.umask(before) == umask
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("result", "plain")]
    assert modes[0] == modes[1] == 0o666 & ~umask


def test_texts_are_written_into_a_folder_that_is_made_or_there(tmp_path):
    folder = tmp_path / "new" / "folder"
    write_texts(folder, {"a.md": "é", "b.csv": "1"})
    write_texts(folder, {"a.md": "e"})
    assert {path.name: path.read_text("utf-8") for path in folder.iterdir()} == {"a.md": "e", "b.csv": "1"}
    with pytest.raises(OutputError, match=r"b\.csv is a file"):
        write_texts(folder / "b.csv" / "deeper", {"a.md": ""})
