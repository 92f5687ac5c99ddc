"""Real signals at random moments of putting edits in and taking them out."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIGNALS = int(os.environ.get("RULEPATCH_ATTACKS", "100"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_no_interruption_leaves_a_network_edited():
    """Whatever instruction Ctrl-C comes at, the network is to the bit as it was, hooks and layers included."""
    draw = random.Random(0)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.fixtures.interrupted", str(SIGNALS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment) as child:
        answers = os.read(child.stdout.fileno(), 1)
        while len(answers) <= SIGNALS:
            time.sleep(draw.uniform(0.0005, 0.004))
            child.send_signal(signal.SIGINT)
            answer = os.read(child.stdout.fileno(), 1)
            assert answer, f"the program ended after {len(answers)} signals"
            answers += answer
        child.kill()
    assert answers == b"r" + b"1" * SIGNALS
