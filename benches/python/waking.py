"""Rows about being told: from a publish to an asyncio callback, and what the bell costs when nobody listens."""

from __future__ import annotations

import asyncio
import functools
import random
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path

import peers
from children import CONTEXT, Signals, Times, crew, measured_cpu, other_cpus, pinned
from model import Absent, Bench, Cell, Cells, Figure, Job
from payload import step_at
from peers.floor import Floor
from peers.ring import Snapring
from timing import NS_PER_US, Stopwatch, percentile

RANK = 0
GAPS_S = (0.001, 0.003)
FIRST_GAP_S = 0.05
PATIENCE_S = 30.0


@functools.cache
def wake_to_callback(bench: Bench) -> Cells:
    """Return the median and p99 (us) from just before a publish to the asyncio callback that has read its value.

    Writer and reader are processes on processors of their own; publishes come 1 to 3 ms apart, so each one wakes a
    sleeping reader. A publish that was overtaken before the reader looked counts until a newer one is seen.
    """
    cells: dict[str, Cell] = {}
    for name in bench.peers:
        where = peers.new_room(bench.home)
        started = CONTEXT.RawArray("q", bench.effort.wakes)
        go = CONTEXT.Event()
        try:
            with (
                crew(1, ringing_writer, name, where, started, go, cpus=other_cpus()),
                pinned({measured_cpu()}),
                peers.open_store(name, where, 1) as store,
            ):
                delays, wakes = asyncio.run(_delays(store, started, go))
            cells[name] = Figure(
                statistics.median(delays) / NS_PER_US,
                p99=percentile(delays, 0.99) / NS_PER_US,
                note=f"{wakes} callbacks for {len(delays)} publishes",
            )
        except Absent as reason:
            cells[name] = reason
    return cells


def wake_p99(bench: Bench) -> Cells:
    """Return the p99 of the same wakes as the figure."""
    cells = wake_to_callback(bench)
    return {
        name: Figure(cell.p99, note=cell.note) if isinstance(cell, Figure) and cell.p99 is not None else cell
        for name, cell in cells.items()
    }


async def _delays(store: peers.Store, started: Times, go: Event) -> tuple[list[int], int]:
    """Return the delay of each publish as it is first seen, and how many callbacks that took."""
    delays: list[int] = []
    finished = asyncio.Event()
    last = wakes = 0

    def changed() -> None:
        nonlocal last, wakes
        stamp = store.timestamp(RANK)
        now = time.perf_counter_ns()
        step = step_at(stamp)
        wakes += step > last
        delays.extend(now - began for began in started[last:step])
        last = step
        if step == len(started):
            finished.set()

    listening = asyncio.create_task(store.listen(changed))
    ending = asyncio.create_task(finished.wait())
    await asyncio.sleep(FIRST_GAP_S)
    go.set()
    await asyncio.wait({listening, ending}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    for task in (listening, ending):
        task.cancel()
    with suppress(asyncio.CancelledError):
        await listening
    if not finished.is_set():
        raise Absent(f"saw {last} of {len(started)} publishes in {PATIENCE_S:.0f} s")
    return delays, wakes


def ringing_writer(signals: Signals, cpus: set[int], name: str, where: Path, started: Times, go: Event) -> None:
    """Child: publish numbered snapshots with pauses, noting when each one began; stay until stopped."""
    gaps = random.Random(2)
    with pinned(cpus), peers.open_store(name, where, 1, [RANK]) as store:
        publish = _publisher(store, len(started))
        signals.report_ready()
        while not go.wait(0.05) and not signals.stopped():
            pass
        for step in range(len(started)):
            time.sleep(gaps.uniform(*GAPS_S))
            if signals.stopped():
                break
            started[step] = time.perf_counter_ns()
            publish(step)
        while not signals.stopped():
            time.sleep(0.005)


def _publisher(store: peers.Store, count: int) -> Callable[[int], None]:
    steps = range(1, count + 1)
    if isinstance(store, Floor):
        return store.ringing_publisher(RANK, steps)
    return store.publisher(RANK, steps)


def cost_of_bell(bench: Bench) -> Cells:
    """Return what a publish with a bell costs more (us) than one without, while nobody waits.

    The two writers take turns in changing order; the figure is the median of the differences, so drift cancels out.
    """
    cells: dict[str, Cell] = {name: Absent("has no bell") for name in bench.peers}
    if peers.OURS not in bench.peers:
        return cells
    try:
        cells[peers.OURS] = _difference(bench)
    except Absent as reason:
        cells[peers.OURS] = reason
    return cells


def _difference(bench: Bench) -> Figure:
    differences = []
    # The floor's scale is a few nanoseconds, so turns are long.
    calls = max(100, int(bench.effort.batch_us * 20))
    with (
        pinned({measured_cpu()}),
        Snapring(peers.new_room(bench.home), 1, [RANK], wake=True) as loud,
        Snapring(peers.new_room(bench.home), 1, [RANK], wake=False) as quiet,
    ):
        ringing, silent = (Stopwatch(store.operation(Job.PUBLISH, RANK)) for store in (loud, quiet))
        for turn in range(2 * bench.effort.rounds):
            pair = (ringing, silent) if turn % 2 else (silent, ringing)
            took = {watch: watch.batch_us(calls) for watch in pair}
            differences.append(took[ringing] - took[silent])
    spread = percentile(differences, 0.9) - percentile(differences, 0.1)
    return Figure(statistics.median(differences), note=f"middle 80 % of the turns within {spread * 1000:.1f} ns")
