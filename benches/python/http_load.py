"""Rows in which wrk asks: requests a second, latency of one connection, and how late the server's loop gets."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace

from http_apps import OWN, Contender, all_columns, present
from http_servers import Served, check_served, served
from http_wrk import Found, attack, program
from model import Absent, Bench, Cell, Cells, Figure
from timing import percentile

RANKS = 8
LAG_RANKS = 64
"""So many that a handler which waited for ranks, or took long to write them down, would make the loop late."""
HERTZ = 100.0
CONNECTIONS = 16
QUIET_S = 1.2
"""A rank that is not published counts as idle after a second."""
NOT_THERE = "has no part in this row"


def requests(bench: Bench, *, contenders: tuple[Contender, ...] = OWN, changing: bool) -> Cells:
    """Return microseconds per request at 16 connections, while ranks publish 100 times a second or stand still."""
    found = _attacked(bench, contenders, RANKS, CONNECTIONS, changing)
    cells: dict[str, Cell] = {}
    for name, runs in found.items():
        if isinstance(runs, Absent):
            cells[name] = runs
            continue
        cell = _latency(runs)
        each_us = statistics.median(run.request_us for run in runs)
        note = f"{1e6 / each_us:,.0f} requests/s, p50 {cell.value:,.0f} us"
        cells[name] = replace(cell, value=each_us, note=f"{note}; {cell.note}" if cell.note else note)
    return all_columns(cells, bench, NOT_THERE)


@functools.cache
def latencies(bench: Bench, ranks: int) -> Mapping[str, Cell]:
    """Return the p50 (us) of one connection, with its tails, while all ranks publish 100 times a second."""
    found = _attacked(bench, OWN, ranks, 1, changing=True)
    return {name: runs if isinstance(runs, Absent) else _latency(runs) for name, runs in found.items()}


def latency_p50(bench: Bench, *, ranks: int) -> Cells:
    """Return the median half."""
    return all_columns(latencies(bench, ranks), bench, NOT_THERE)


def latency_p99(bench: Bench, *, ranks: int) -> Cells:
    """Return the p99 half."""
    cells = {
        name: replace(cell, value=cell.p99 or 0.0) if isinstance(cell, Figure) else cell
        for name, cell in latencies(bench, ranks).items()
    }
    return all_columns(cells, bench, NOT_THERE)


def _latency(runs: list[Found]) -> Figure:
    """Return the median of the runs' percentiles; a request that failed spoils them."""
    errors = sum(run.errors for run in runs)
    return Figure(
        statistics.median(run.p50_us for run in runs),
        p99=statistics.median(run.p99_us for run in runs),
        p999=statistics.median(run.p999_us for run in runs),
        failed=errors > 0,
        note=f"{errors} requests failed" if errors else "",
    )


def _attacked(
    bench: Bench, contenders: tuple[Contender, ...], ranks: int, connections: int, changing: bool
) -> dict[str, list[Found] | Absent]:
    """Let wrk attack each contender in its turn, segment after segment; the others stand still meanwhile."""

    def attacked(server: Served) -> Found:
        server.going.value = int(changing)
        try:
            return attack(server.url, connections, bench.effort.segment_s, bench.home)
        finally:
            server.going.value = 0

    found: dict[str, list[Found] | Absent] = {}
    with ExitStack() as stack:
        servers = _started(stack, bench, contenders, ranks, found)
        time.sleep(0 if changing else QUIET_S)
        for _ in range(bench.effort.segments):
            for server in servers:
                _note(found, server, attacked)
        for server in servers:
            check_served(server, ranks, moved=changing and "constant" not in server.contender.app)
    return found


def _started(
    stack: ExitStack,
    bench: Bench,
    contenders: tuple[Contender, ...],
    ranks: int,
    found: dict[str, list[Found] | Absent],
) -> list[Served]:
    """Start what can be started, and compare each answer once."""
    servers = []
    for contender in present(contenders, bench):
        try:
            program()
            server = stack.enter_context(served(bench, contender, ranks, hertz=HERTZ))
        except Absent as reason:
            found[contender.column] = reason
            continue
        check_served(server, ranks, moved=False)
        found[contender.column] = []
        servers.append(server)
    return servers


def _note(found: dict[str, list[Found] | Absent], server: Served, attacked: Callable[[Served], Found]) -> None:
    runs = found[server.contender.column]
    if isinstance(runs, Absent):
        return
    try:
        runs.append(attacked(server))
    except Absent as reason:
        found[server.contender.column] = reason


@functools.cache
def lags(bench: Bench) -> Mapping[str, tuple[Cell, Cell]]:
    """Return the p99 (us) by which a 1 ms timer in the server is late, without requests and at 16 connections."""
    found: dict[str, tuple[Cell, Cell]] = {}
    for contender in present(OWN, bench):
        try:
            with served(bench, contender, LAG_RANKS, hertz=HERTZ, beat=True) as server:
                program()
                check_served(server, LAG_RANKS, moved=False)
                found[contender.column] = _lag_of(bench, server)
        except Absent as reason:
            found[contender.column] = reason, reason
    return found


def _lag_of(bench: Bench, server: Served) -> tuple[Figure, Figure]:
    server.going.value = 1
    begin = server.told.beats.value
    time.sleep(bench.effort.segment_s)
    middle = server.told.beats.value
    run = attack(server.url, CONNECTIONS, bench.effort.segment_s * bench.effort.segments, bench.home)
    end = server.told.beats.value
    check_served(server, LAG_RANKS, moved="constant" not in server.contender.app)
    late = list(server.told.late or [])
    busy = replace(_lateness(late[middle:end]), failed=run.errors > 0)
    rate = f"at {1e6 / run.request_us:,.0f} requests/s"
    return _lateness(late[begin:middle]), replace(busy, note=f"{busy.note}, {rate}")


def _lateness(late_ns: list[int]) -> Figure:
    if not late_ns:
        raise Absent("its loop never came to the timer")
    late = [value / 1000 for value in late_ns]
    note = f"p50 {percentile(late, 0.5):,.0f}, worst {max(late):,.0f} us of {len(late)} beats"
    return Figure(percentile(late, 0.99), note=note)


def lag_idle(bench: Bench) -> Cells:
    """Return the half without requests."""
    return all_columns({name: idle for name, (idle, _) in lags(bench).items()}, bench, NOT_THERE)


def lag_loaded(bench: Bench) -> Cells:
    """Return the half under load."""
    return all_columns({name: loaded for name, (_, loaded) in lags(bench).items()}, bench, NOT_THERE)
