"""The import row."""

from __future__ import annotations

import statistics
import subprocess
import sys

import peers
from model import Absent, Bench, Cell, Cells, Figure

IMPORT_TIMEOUT_S = 60
MODULES = {peers.OURS: "snapring", "iceoryx2": "iceoryx2"}
PROBE = "import numpy, msgspec, time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"


def import_time(bench: Bench) -> Cells:
    """Time (ms) `import` in fresh interpreters that have numpy and msgspec loaded already."""
    cells: dict[str, Cell] = {name: Absent("is no package of its own") for name in bench.peers}
    taken: dict[str, list[float]] = {name: [] for name in MODULES if name in bench.peers}
    for _ in range(bench.effort.imports):
        for name, seconds in taken.items():
            command = [sys.executable, "-c", PROBE.format(module=MODULES[name])]
            done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False)
            if done.returncode == 0:
                seconds.append(float(done.stdout))
            else:
                cells[name] = Absent(done.stderr.strip().splitlines()[-1])
    return {**cells, **{name: Figure(statistics.median(s) * 1000, p99=max(s) * 1000) for name, s in taken.items() if s}}
