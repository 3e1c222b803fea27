"""Compares snapring with what one could use instead, side by side in one run."""

from __future__ import annotations

import argparse
import fnmatch
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import peers
from model import SMOKE, THOROUGH, Bench, Cells, Row, WrongAnswer
from report import TABLE_WIDTH, Result, as_document, circumstances, print_table
from rich.console import Console
from rows import all_rows

MEMORY = "/dev/shm"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what was asked for; 1 when a peer answered wrongly, 2 for a mistyped row."""
    options = _parser().parse_args(arguments)
    effort = SMOKE if options.quick else THOROUGH
    rows = [row for row in all_rows(effort) if _wanted(row, options.only)]
    if not rows:
        print(f"no row is called {' or '.join(options.only)}; see --help", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = list(peers.KINDS)
    facts = circumstances(effort, names)
    home = Path(tempfile.mkdtemp(prefix="snapring-bench-", dir=MEMORY))
    try:
        results = _measure(rows, Bench(effort, tuple(names), home))
    except WrongAnswer as error:
        print(f"wrong answer, so nothing it did was timed: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print_table(results, facts, names, Console(width=TABLE_WIDTH))
    if options.json:
        options.json.write_text(json.dumps(as_document(results, facts, names), indent=1) + "\n")
    if options.plot:
        from plot import draw

        draw(results, names, options.plot)
    return 0


def _measure(rows: Sequence[Row], bench: Bench) -> list[Result]:
    """Measure row by row; a peer that cannot be had stands in every row with its reason."""
    progress = Console(stderr=True)
    with progress.status("getting the peers") as status:
        found = peers.obtain(bench.peers)
        missing: Cells = {name: reason for name, reason in found.items() if reason is not None}
        here = Bench(bench.effort, tuple(name for name in bench.peers if name not in missing), bench.home)
        results = []
        for number, row in enumerate(rows, 1):
            status.update(f"{number}/{len(rows)} {row.title}")
            cells = row.measure(here)
            results.append(Result(row, {**missing, **cells}))
    return results


def _wanted(row: Row, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatch(row.key, pattern) for pattern in patterns)


def _parser() -> argparse.ArgumentParser:
    keys = ", ".join(row.key for row in all_rows(THOROUGH))
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"rows: {keys}")
    parser.add_argument("--quick", action="store_true", help="try everything for a moment; the figures mean little")
    parser.add_argument(
        "--only", action="append", default=[], metavar="ROW", help="measure this row; may be repeated, * allowed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure, with machine and versions")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figures (needs matplotlib)")
    return parser
