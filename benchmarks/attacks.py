"""Mutated files of every format, read: `python -m benchmarks.attacks`, or `make attack`.

Runs the suites of `tests/attack/` with many mutations (`--mutations`), and records what came of each format. With a
hundred thousand of each some hours on two cores.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import arguments, record


def main() -> None:
    """Attack and record."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--mutations", type=int, default=100_000, help="of each format")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.jsonl"
        told = {"RULEPATCH_ATTACKS": str(args.mutations), "RULEPATCH_ATTACK_COUNTS": str(counts)}
        command = [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "worksteal", "tests/attack"]
        done = subprocess.run(command, env=os.environ | told, check=False)
        rows = [json.loads(line) for line in counts.read_text("utf-8").splitlines()]
    record("attacks", args.device, sorted(rows, key=lambda row: str(row["form"])))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
