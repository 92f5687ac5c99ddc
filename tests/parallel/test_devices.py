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
