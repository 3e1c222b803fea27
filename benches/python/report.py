"""Turns measured rows into a table for people and a document for programs."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import itertools
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import peers
from http_apps import CONSTANT
from model import Absent, Cell, Cells, Effort, Figure, Row
from rich.console import Console
from rich.table import Table

TABLE_WIDTH = 204
QUIET_LOAD = 0.5
RATIO_UNIT = "x"
PACKAGES = ("numpy", "msgspec")
HTTP_PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "fastapi", "prometheus-client")
FLOOR_WHEN_GOALS_WERE_SET_US = {
    "publish": 0.112,
    "read-field": 0.042,
    "read-whole": 0.40,
    "view-8": 0.07,
    "view-64": 0.40,
    "list-64": 0.88,
    "list-built": 29.0,
}
"""Medians of a similar extension with 40 fields instead of 45 (AMD Zen 5 virtual machine, November 2026)."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Result:
    """One measured row."""

    row: Row
    cells: Cells

    def columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return who is compared: those of the row, else `names`."""
        return tuple(self.row.columns or names)

    def ours(self) -> Figure | None:
        """Return snapring's figure, if there is one."""
        cell = self.cells.get(peers.OURS)
        return cell if isinstance(cell, Figure) else None

    def ratio(self, names: Sequence[str]) -> float | None:
        """Return how many times faster snapring is than the fastest of `names` that did the job.

        One that was still at it when the measurement ended counts with the time it had; one that failed does not count.
        """
        ours = self.ours()
        cells = [cell for name in names if isinstance(cell := self.cells.get(name), Figure)]
        values = [cell.value for cell in cells if cell.at_least or not cell.failed]
        if ours is None or not values or ours.value <= 0 or self.row.unit == RATIO_UNIT:
            return None
        return min(values) / ours.value

    def verdict(self) -> str:
        """Return whether the goal is met; a miss always says how many times the goal it took."""
        goal, cell = self.row.goal, self.cells.get(peers.OURS)
        if goal is None:
            return ""
        if not isinstance(cell, Figure):
            return "to reach: no figure"
        if cell.failed:
            return f"to reach: {cell.note}"
        return "met" if cell.value <= goal else f"to reach: {cell.value / goal:.1f} x"


def rivals(names: Sequence[str]) -> list[str]:
    """Return the peers that count for "best peer": neither snapring nor a floor, which is no library."""
    return [name for name in names if name not in {peers.OURS, peers.FLOOR, CONSTANT}]


def circumstances(effort: Effort, names: Sequence[str]) -> dict[str, Any]:
    """Return what a figure means little without: machine, versions, commit, date, load and effort."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": f"{os.cpu_count()} x {_processor()}, {platform.system()} {platform.release()}",
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": sys.version.split()[0],
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "http_packages": {name: _installed(name) for name in HTTP_PACKAGES},
        "peers": {name: _version(name) for name in names},
        "effort": asdict(effort),
    }


def as_document(results: Sequence[Result], facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return everything measured, ready for JSON: one entry per row, every peer named in each."""
    return {
        **facts,
        "rows": [
            {
                "key": result.row.key,
                "title": result.row.title,
                "unit": result.row.unit,
                "goal": result.row.goal,
                "verdict": result.verdict(),
                "ratio_to_sglang": result.ratio([peers.BASELINE]),
                "ratio_to_best_peer": result.ratio(rivals(result.columns(names))),
                "peers": {name: _cell_document(result.cells[name]) for name in result.columns(names)},
            }
            for result in results
        ],
    }


def print_table(results: Sequence[Result], facts: Mapping[str, Any], names: Sequence[str], console: Console) -> None:
    """Print the figures, the tails, and the reasons for what is not there."""
    console.print(_circumstances_text(facts), soft_wrap=True, highlight=False)
    for columns, group in itertools.groupby(results, lambda result: result.columns(names)):
        part = list(group)
        console.print(_figures(part, columns))
        console.print(_tails(part, columns))
    for line in (*_this_machine(results), *_remarks(results, names)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _figures(results: Sequence[Result], names: Sequence[str]) -> Table:
    table = Table(title="smaller is better; ! did not do the job, see below", title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("unit")
    for heading in (*names, "v SGLang", "v best peer", "goal"):
        table.add_column(heading, justify="right")
    table.add_column("goal reached?")
    for result in results:
        table.add_row(*_line(result, names))
    return table


def _line(result: Result, names: Sequence[str]) -> list[str]:
    row = result.row
    goal = "" if row.goal is None else f"<= {row.goal:g}"
    ratios = (_times(result.ratio([peers.BASELINE])), _times(result.ratio(rivals(names))))
    cells = [_cell_text(result.cells[name]) for name in names]
    return [row.title, row.unit, *cells, *ratios, goal, result.verdict()]


def _tails(results: Sequence[Result], names: Sequence[str]) -> Table:
    table = Table(title="p99 / p99.9 of calls timed one by one, clock included, us", title_justify="left")
    for heading in ("", *names):
        table.add_column(heading, justify="right" if heading else "left")
    for result in results:
        cells = [result.cells[name] for name in names]
        if any(isinstance(cell, Figure) and cell.p999 is not None for cell in cells):
            table.add_row(result.row.title, *map(_tail_text, cells))
    return table


def _tail_text(cell: Cell) -> str:
    if isinstance(cell, Absent) or cell.p99 is None or cell.p999 is None:
        return "-"
    return f"{_number(cell.p99)} / {_number(cell.p999)}"


def _this_machine(results: Sequence[Result]) -> list[str]:
    """Return how this machine compares with the one the goals were set on, by the same C function on both."""
    here = {
        result.row.key: cell.value / FLOOR_WHEN_GOALS_WERE_SET_US[result.row.key]
        for result in results
        if result.row.key in FLOOR_WHEN_GOALS_WERE_SET_US and isinstance(cell := result.cells.get(peers.FLOOR), Figure)
    }
    if not here:
        return []
    ratios = ", ".join(f"{key} {ratio:.1f}x" for key, ratio in here.items())
    return [f"C floor here : C floor on the machine the goals were set on: {ratios}"]


def _remarks(results: Sequence[Result], names: Sequence[str]) -> list[str]:
    """Return one line per reason or note: what is absent is never left out silently."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for name in result.columns(names):
            cell = result.cells[name]
            text = cell.note if isinstance(cell, Figure) else f"absent: {cell}"
            if text:
                reasons.setdefault((name, text), []).append(result.row.key)
    return [f"{name}, {', '.join(keys)}: {text}" for (name, text), keys in reasons.items()]


def _cell_text(cell: Cell) -> str:
    if isinstance(cell, Absent):
        return "-"
    return f"{'>= ' if cell.at_least else ''}{_number(cell.value)}{' !' if cell.failed else ''}"


def _cell_document(cell: Cell) -> dict[str, Any]:
    return {"absent": str(cell)} if isinstance(cell, Absent) else asdict(cell)


def _number(value: float) -> str:
    """Return three significant digits, or whole numbers where there are more."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # adding zero turns -0.0 into 0.0


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:,.1f}x" if ratio < 10 else f"{ratio:,.0f}x"


def _circumstances_text(facts: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{n} {version}" for n, version in (facts["packages"] | facts["http_packages"]).items())
    versions = ", ".join(f"{name} ({version})" for name, version in facts["peers"].items())
    load = facts["load_at_start"]
    busy = "" if load <= QUIET_LOAD else " (other work was running: trust no figure)"
    return (
        f"{facts['date']}, commit {facts['commit']}\n{facts['machine']}, load at start {load}{busy}\n"
        f"CPython {facts['python']}, {packages}\n{versions}"
    )


def _version(name: str) -> str:
    try:
        return peers.KINDS[name].version()
    except (Absent, ImportError, AttributeError) as reason:
        return f"absent: {reason}"


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
