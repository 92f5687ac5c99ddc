"""What sharing the reference set among processes costs and saves: `python -m benchmarks.many_machines`."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed

from benchmarks.measure import arguments, record
from rulepatch.core.moments import KeyStatistics
from rulepatch.models.registry import load_model
from rulepatch.playground.pictures import image_set
from rulepatch.playground.scenes import CLASSES, render

CHANNELS, KEPT, PICTURES = 4608, 14_563, 6_000  # unfolded patches of 512 channels, and the keys kept of them
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def meet(rounds: int = 5) -> None:
    """What each of two processes does: all-reduce statistics, and print the median seconds."""
    distributed.init_process_group("gloo")
    statistics = KeyStatistics(CHANNELS, capacity=KEPT)
    for piece in range(4):
        keys = torch.randn(KEPT // 4 + 1, CHANNELS)
        statistics.sample.add(keys, piece=4 * distributed.get_rank() + piece)
    taken: dict[str, list[float]] = {"moment": [], "sample": []}
    for _ in range(rounds + 1):
        for name, part in {"moment": statistics.moment, "sample": statistics.sample}.items():
            distributed.barrier()
            start = time.perf_counter()
            part.all_reduce()
            taken[name].append(time.perf_counter() - start)
    if distributed.get_rank() == 0:
        print(json.dumps({name: median(seconds[1:]) for name, seconds in taken.items()}))
    distributed.destroy_process_group()


def told(command: list[str], cache: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of a command, and the JSON that it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RULEPATCH_CACHE": str(cache)}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return time.perf_counter() - start, json.loads(done.stdout)


def main() -> None:
    """Measure and record."""
    device = arguments(__doc__ or "").parse_args().device
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _, met = told([*TORCHRUN, "-m", "benchmarks.many_machines", "meet"], root)
        rows: list[dict[str, Any]] = [
            {"what": f"all-reduce of a {CHANNELS}² moment in float64, two gloo processes", "seconds": met["moment"]},
            {"what": f"all-reduce of a sample of {KEPT} such keys, the same", "seconds": met["sample"]},
        ]
        labels = list(CLASSES)
        scenes = (render(labels[i % len(labels)], seed=i) for i in range(PICTURES))
        image_set(scenes, "reference").write(root / "reference", load_model("playground").classes)
        command = ["-m", "rulepatch", "statistics", "playground", "--reference", str(root / "reference"), "--json"]
        command += ["--site", "blocks.2.conv", "--site", "blocks.3.conv", "--device", device]
        for title, run in {
            "one process": [sys.executable, *command],
            "torchrun, 2 processes": [*TORCHRUN, *command],
            "--workers 2": [sys.executable, *command, "--workers", "2"],
        }.items():
            seconds, found = told(run, root / title)
            what = f"rulepatch statistics, {PICTURES} pictures of the playground, {title}"
            rows.append({"what": what, "seconds": found["seconds"], "with starting Python": seconds})
    record("many-machines", device, rows)


if __name__ == "__main__":
    meet() if sys.argv[1:] == ["meet"] else main()
