"""wrk, the load generator: runs it on the processors that the server does not have, and reads what it found."""

from __future__ import annotations

import functools
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from children import other_cpus, pinned
from model import Absent

SCRIPT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("FOUND %d %d %d %d %d %d\\n", summary.duration, summary.requests,
    e.connect + e.read + e.write + e.timeout + e.status,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"""
SPARE_S = 30


@dataclass(frozen=True, slots=True)
class Found:
    """What one run found: microseconds per request, errors, and percentiles of latency (us)."""

    request_us: float
    errors: int
    p50_us: float
    p99_us: float
    p999_us: float


@functools.cache
def program() -> str:
    """Return wrk's path; raises `Absent` when it is not installed."""
    path = shutil.which("wrk")
    if path is None:
        raise Absent("no wrk on this machine: apt-get install wrk")
    return path


def attack(url: str, connections: int, seconds: float, home: Path) -> Found:
    """Send requests over `connections` at once, each as soon as the one before is answered.

    `seconds` are rounded to whole ones, at least one. Raises `Absent` when wrk fails.
    """
    script = home / "wrk.lua"
    script.write_text(SCRIPT)
    whole = max(1, round(seconds))
    command = [program(), "-t1", f"-c{connections}", f"-d{whole}s", "-s", str(script), url]
    try:
        with pinned(other_cpus()):
            done = subprocess.run(command, capture_output=True, text=True, timeout=whole + SPARE_S, check=False)
    except subprocess.TimeoutExpired:
        raise Absent(f"wrk did not end within {whole + SPARE_S} s") from None
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if not lines:
        raise Absent(f"wrk: {(done.stderr or done.stdout).strip()[-200:]}")
    duration, requests, errors, p50, p99, p999 = map(int, lines[0])
    return Found(duration / max(requests, 1), errors, p50, p99, p999)
