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


ARENAS = """
import threading
from rulepatch.memory import give_back_freed_memory, keep_freed_memory, share_freed_memory
import numpy as np
keep_freed_memory()
if {share}:
    assert share_freed_memory()
ready = threading.Barrier(9)
def work():
    blocks = [np.ones(1 << 17) for _ in range(64)]
    del blocks
    ready.wait()
    ready.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
    {wait}
ready.wait()
kept = int(open("/proc/self/statm").read().split()[1])
give_back_freed_memory()
print(kept, int(open("/proc/self/statm").read().split()[1]))
ready.wait()
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the C library of Linux")
def test_threads_share_what_they_freed_and_it_can_be_given_back():
    held = {}
    for share in (False, True):
        program = ARENAS.format(share=share, wait="__import__('time').sleep(0.3)")
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        held[share] = [int(pages) for pages in done.stdout.split()]
    block = 64 * (1 << 20) // 4096  # pages that one thread frees
    assert held[False][0] - held[True][0] > 4 * block  # eight threads kept theirs, one after the other
    assert held[False][0] - held[False][1] > 4 * block
