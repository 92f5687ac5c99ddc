import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from rulepatch.memory import keep_freed_memory
import numpy as np
if {keep}:
    assert keep_freed_memory()
for _ in range(3):
    np.ones(1 << 22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    np.ones(1 << 22)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the C library of Linux")
def test_freed_memory_is_not_asked_of_the_kernel_again():
    faults = {}
    for keep in (False, True):
        command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        faults[keep] = int(done.stdout)
    assert faults[True] * 10 < faults[False]  # each page of a fresh block is a fault


def test_elsewhere_it_does_nothing(monkeypatch):
    from rulepatch.memory import keep_freed_memory

    monkeypatch.setattr("sys.platform", "darwin")
    assert not keep_freed_memory()
