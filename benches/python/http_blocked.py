"""Rows of the old problem: somebody asks for loads while every scheduler is busy with a step of 50 ms."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import peers
from children import CONTEXT, crew, measured_cpu, other_cpus, pinned
from http_apps import BLOCKED, REQUEST_REPLY, Contender, all_columns, present
from http_reply import STEP_S, answering_scheduler
from http_servers import Connection, Served, check, require, served
from model import Absent, Bench, Cell, Cells, Figure, WrongAnswer
from timing import percentile

RANKS = 8
NOT_THERE = "is no design of its own here"
NOTE = "each scheduler answers between two steps; the front end asks all 8 over ZeroMQ"


@functools.cache
def asked(bench: Bench) -> Mapping[str, Cell]:
    """Return the p50 (us) of requests that come at random moments, with their tails, one at a time.

    A step is a sleep, as a scheduler waits for its GPU; ranks with shared memory publish after each step.
    """
    found: dict[str, Cell] = {}
    for contender in present(BLOCKED, bench):
        try:
            found[contender.column] = _ask(bench, contender)
        except Absent as reason:
            found[contender.column] = reason
    ours, before = found.get(peers.OURS), found.get(REQUEST_REPLY)
    if isinstance(ours, Figure) and isinstance(before, Figure):
        times = f"p50 {_ratio(before.value, ours.value)}, p99 {_ratio(before.p99, ours.p99)} that of snapring"
        found[REQUEST_REPLY] = replace(before, note=f"{times}; {before.note}")
    return found


def _ratio(theirs: float | None, ours: float | None) -> str:
    return f"{theirs / ours:,.0f} x" if theirs and ours else "-"


def blocked_p50(bench: Bench) -> Cells:
    """Return the median half."""
    return all_columns(asked(bench), bench, NOT_THERE)


def blocked_p99(bench: Bench) -> Cells:
    """Return the p99 half."""
    cells = {
        name: replace(cell, value=cell.p99 or 0.0) if isinstance(cell, Figure) else cell
        for name, cell in asked(bench).items()
    }
    return all_columns(cells, bench, NOT_THERE)


def _ask(bench: Bench, contender: Contender) -> Figure:
    with ExitStack() as stack:
        if contender.column == REQUEST_REPLY:
            require(("zmq",))
            server = _with_schedulers(stack, bench, contender)
        else:
            server = stack.enter_context(served(bench, contender, RANKS, hertz=1 / STEP_S))
        server.going.value = 1
        return _requests(bench, server)


def _with_schedulers(stack: ExitStack, bench: Bench, contender: Contender) -> Served:
    where: Path = peers.new_room(bench.home)
    schedulers = crew(RANKS, answering_scheduler, where, CONTEXT.Value("i", 0), cpus=other_cpus())
    stack.enter_context(schedulers)
    return stack.enter_context(served(bench, contender, RANKS, hertz=1 / STEP_S, where=where))


def _requests(bench: Bench, server: Served) -> Figure:
    name, moments = server.contender.column, random.Random(5)
    taken: list[float] = []
    steps: set[int] = set()
    with pinned(other_cpus() or {measured_cpu()}), Connection(server.told.port.value) as connection:
        check(name, connection.ask()[1], RANKS)
        for _ in range(bench.effort.requests):
            time.sleep(moments.uniform(0, STEP_S))
            took_us, body = connection.ask()
            taken.append(took_us)
            steps |= check(name, body, RANKS)
    if len(steps) == 1:
        raise WrongAnswer(f"{name}: its ranks publish all the time and it shows one snapshot")
    note = NOTE if name == REQUEST_REPLY else ""
    return Figure(percentile(taken, 0.5), p99=percentile(taken, 0.99), p999=percentile(taken, 0.999), note=note)
