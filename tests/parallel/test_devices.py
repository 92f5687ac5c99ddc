"""Workers of one machine take one GPU each: each claims one, for as long as it lives."""

import subprocess
import sys

import pytest

from rulepatch.parallel import devices
from rulepatch.parallel.devices import claim, own_device

PROGRAM = """
import sys
from pathlib import Path
from rulepatch.parallel.devices import claim
print(claim(["a", "b"], Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def claimant(folder):
    program = [sys.executable, "-c", PROGRAM, str(folder)]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


@pytest.mark.slow
def test_each_process_claims_one_that_is_free(tmp_path):
    (first, one), (second, two) = claimant(tmp_path), claimant(tmp_path)
    try:
        assert (one, two) == (0, 1)
        third, three = claimant(tmp_path)  # all are taken: it shares one
        third.communicate()
        assert three in {0, 1}
        first.kill()
        first.communicate()
        fourth, four = claimant(tmp_path)  # the first is free again
        fourth.communicate()
        assert four == 0
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert claim(["a", "b"], tmp_path) == 0
    devices._held.pop().close()


def test_other_devices_stay_as_they_are():
    assert own_device("cpu") == "cpu" and own_device("cuda:1") == "cuda:1"


def test_locks_lie_in_a_folder_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = devices._own_folder()
    assert folder is not None and folder.stat().st_mode & 0o777 == 0o700 and devices._own_folder() == folder
    folder.rmdir()
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    assert devices._own_folder() is None, "somebody else's link"
    folder.unlink()
    folder.mkdir()
    folder.chmod(0o777)
    assert devices._own_folder() is None, "others can write there"
    assert claim(["a", "b"], None) in {0, 1}


def test_links_and_folders_in_place_of_a_lock_are_left_alone(tmp_path):
    (tmp_path / "a.lock").symlink_to(tmp_path / "made")
    (tmp_path / "b.lock").mkdir()
    assert claim(["a", "b", "c"], tmp_path) == 2
    devices._held.pop().close()
    assert not (tmp_path / "made").exists() and claim(["a", "b"], tmp_path) in {0, 1}
