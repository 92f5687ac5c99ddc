"""Every benchmark, one after the other: `python -m benchmarks`."""

import runpy

NAMES = (
    "statistics", "solve", "repair", "scoring", "methods", "cells", "wheels", "signals", "search", "watermark",
    "gates", "rules", "signs", "families", "shortcuts", "photographs", "casework", "many_machines", "sweep_engine",
    "inverse", "new_class", "web",
)  # fmt: skip

for name in NAMES:
    runpy.run_module(f"benchmarks.{name}", run_name="__main__")
