"""Rows about ranks on other nodes when something is amiss: bursts, idleness, a busy owner, a dead one."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path

import peers
from children import CONTEXT, crew, other_cpus
from model import Absent, Bench, Cells, Figure
from remote_ends import (
    LINES,
    PATIENCE_S,
    RANK,
    await_step,
    burst_end,
    bursting,
    collecting,
    drive,
    each_line,
    endpoint_in,
    moment,
    self_driven,
)
from timing import percentile

BURST_RANKS = 64
BURST_LENGTH = 3
LOST_AFTER_S = 0.55
MS_PER_S = 1000.0
BUSY_S = 0.02
LOOK_PAUSE_S = 0.0001
IDLE_SENDERS = 4
IDLE_SETTLE_S = 1.5
IDLE_AT_LEAST_S = 2.0


def lost(bench: Bench, *, at_once: bool) -> Cells:
    """Return how many ranks miss the last snapshot of a burst of three, 0.55 s after it."""

    def measure(name: str) -> Figure:
        if name == peers.FLOOR:
            raise Absent("queues every message, so nothing is ever replaced")
        where = peers.new_room(bench.home)
        endpoint, turn = endpoint_in(where, "ipc"), CONTEXT.RawValue("q", 0)
        missing = 0
        turns = -(-bench.effort.bursts // BURST_RANKS)
        with (
            crew(1, bursting, name, endpoint, BURST_RANKS, BURST_LENGTH, at_once, turn, cpus=other_cpus()),
            LINES[name].collector(endpoint, where, BURST_RANKS) as collector,
        ):
            waiting = set(range(BURST_RANKS))

            def come(step: int) -> bool:
                waiting.difference_update([r for r in waiting if collector.memory.timestamp(r) == moment(step)])
                return not waiting

            drive(collector, lambda: come(0))
            for number in range(1, turns + 1):
                waiting.update(range(BURST_RANKS))
                turn.value = number
                try:
                    drive(collector, lambda: come(burst_end(number, BURST_LENGTH)), LOST_AFTER_S)  # noqa: B023
                except Absent:
                    missing += len(waiting)
        note = f"{missing:,} of {turns * BURST_RANKS:,} last snapshots lost"
        return Figure(missing, note=note, failed=missing > 0)

    return each_line(bench, measure)


def idle_wakes(bench: Bench) -> Cells:
    """Return how often per second the threads of a collector wake while its four senders publish nothing.

    Signs of life on the connections and the senders' repeats once a second are part of it.
    """

    def measure(name: str) -> Figure:
        _must_drive_itself(name)
        where = peers.new_room(bench.home)
        endpoint, turn = endpoint_in(where, "ipc"), CONTEXT.RawValue("q", 0)
        seconds = max(IDLE_AT_LEAST_S, bench.effort.segment_s)
        with (
            crew(1, self_driven, name, endpoint, where, IDLE_SENDERS, 0.0, cpus=other_cpus()) as (collector,),
            crew(1, bursting, name, endpoint, IDLE_SENDERS, 1, False, turn, cpus=other_cpus()),
            LINES[name].memory(where, IDLE_SENDERS) as memory,
        ):
            end = time.monotonic() + PATIENCE_S
            while any(memory.timestamp(rank) != moment(0) for rank in range(IDLE_SENDERS)):
                if time.monotonic() > end:
                    raise Absent("the senders did not arrive")
                time.sleep(LOOK_PAUSE_S)
            time.sleep(IDLE_SETTLE_S)
            before = _switches(collector.pid or 0)
            time.sleep(seconds)
            after = _switches(collector.pid or 0)
        rates = {thread: (after[thread] - count) / seconds for thread, count in before.items()}
        note = ", ".join(f"{thread} {rate:.1f}" for thread, rate in sorted(rates.items()))
        return Figure(sum(rates.values()), note=note)

    return each_line(bench, measure)


def _must_drive_itself(name: str) -> None:
    if not LINES[name].drives_itself:
        raise Absent("collects only when its owner calls it")


def _switches(pid: int) -> dict[str, int]:
    """Return how often each thread but the main one has gone to sleep, by name; threads of one name are added up."""
    counts: dict[str, int] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        if task.name == str(pid):
            continue
        fields = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines() if ":" in line)
        name = fields["Name"].strip()
        counts[name] = counts.get(name, 0) + int(fields["voluntary_ctxt_switches"])
    return counts


def busy_owner(bench: Bench) -> Cells:
    """Return the p99 (ms) from publish to visible, while the owner's Python works for 20 ms between two looks."""

    def measure(name: str) -> Figure:
        where = peers.new_room(bench.home)
        endpoint = endpoint_in(where, "ipc")
        work = self_driven if LINES[name].drives_itself else collecting
        delays = []
        with (
            LINES[name].memory(where, 1) as memory,
            crew(1, work, name, endpoint, where, 1, BUSY_S, cpus=other_cpus()),
            LINES[name].sender(endpoint, RANK, 1, at_once=False) as sender,
        ):
            count = max(20, bench.effort.wakes // 4)
            publish = sender.publisher(range(count))
            publish(0)
            await_step(memory, 0, LOOK_PAUSE_S)
            for step in range(1, count):
                start = time.perf_counter()
                publish(step)
                await_step(memory, step, LOOK_PAUSE_S)
                delays.append((time.perf_counter() - start) * MS_PER_S)
        return Figure(percentile(delays, 0.99), note=f"median {statistics.median(delays):.2f} ms")

    return each_line(bench, measure)


def take_over(bench: Bench) -> Cells:
    """Return the p99 (ms) from the SIGKILL of the collector to the first snapshot published after it in the memory."""

    def measure(name: str) -> Figure:
        _must_drive_itself(name)
        where = peers.new_room(bench.home)
        endpoint = endpoint_in(where, "ipc")
        delays = []
        with ExitStack() as stack:
            memory = stack.enter_context(LINES[name].memory(where, 1))
            sender = stack.enter_context(LINES[name].sender(endpoint, RANK, 1, at_once=False))

            def start_one() -> BaseProcess:
                ends = crew(1, self_driven, name, endpoint, where, 1, 0.0, cpus=other_cpus())
                return stack.enter_context(ends)[0]

            publish = sender.publisher(range(bench.effort.takeovers + 1))
            publish(0)
            owner = start_one()
            for step in range(1, bench.effort.takeovers + 1):
                await_step(memory, step - 1, LOOK_PAUSE_S)
                standby = start_one()
                owner.kill()
                start = time.perf_counter()
                publish(step)
                await_step(memory, step, LOOK_PAUSE_S)
                delays.append((time.perf_counter() - start) * MS_PER_S)
                owner.join()
                owner = standby
        return Figure(percentile(delays, 0.99), note=f"median {statistics.median(delays):.1f} ms of {len(delays)}")

    return each_line(bench, measure)
