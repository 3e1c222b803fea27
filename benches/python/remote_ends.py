"""The two ends of a way to other nodes: processes that send or collect, and what a row needs to talk to them."""

from __future__ import annotations

import functools
import random
import select
import socket
import time
from collections.abc import Callable
from ctypes import c_longlong
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import payload
import peers
from children import Signals, Times, pinned
from model import Absent, Bench, Cell, Cells, Figure, WrongAnswer
from peers.lines import Collector, Line, Memory
from peers.remote_floor import RawLine
from peers.remote_ring import RemoteRing
from peers.remote_sglang import RemoteSGLang

RANK = 0
LINES: dict[str, Line] = {peers.OURS: RemoteRing(), peers.BASELINE: RemoteSGLang(), peers.FLOOR: RawLine()}
FLOOR_NOTE = "here a PUSH and a PULL of pyzmq alone: nothing decoded, nothing shared"
PATIENCE_S = 30.0
LOOK_S = 0.02
CYCLE = 8
"""Bursts that differ; then they come again."""


def each_line(bench: Bench, measure: Callable[[str], Figure]) -> Cells:
    """Return what `measure` says of each peer that has a way to other nodes; each answers right before it is timed."""
    cells: dict[str, Cell] = {name: Absent("has no way to other nodes") for name in bench.peers}
    for name in [name for name in bench.peers if name in LINES]:
        try:
            _check(name, bench.home)
            figure = measure(name)
        except Absent as reason:
            cells[name] = reason
            continue
        notes = [FLOOR_NOTE] if name == peers.FLOOR else []
        cells[name] = replace(figure, note="; ".join([*notes, figure.note] if figure.note else notes))
    return cells


@functools.cache
def _check(name: str, home: Path) -> None:
    """Send every field of two ranks and compare; raise `WrongAnswer` when one is missing or different."""
    line, where = LINES[name], peers.new_room(home)
    endpoint = endpoint_in(where, "ipc")
    with line.collector(endpoint, where, 2) as collector:
        for rank in range(2):
            with line.sender(endpoint, rank, 2, at_once=False) as sender:
                sender.publisher([payload.TIMED_STEP])(0)
                want = payload.load(rank, payload.TIMED_STEP)
                drive(collector, functools.partial(_has, collector.memory, rank, payload.TIMED_STEP))
                seen = collector.memory.peek(rank) or {}
                wrong = [key for key in want if seen.get(key) != want[key]]
                if wrong:
                    raise WrongAnswer(f"{name}, rank {rank}: {wrong[0]} is {seen.get(wrong[0])!r} on the other side")


def endpoint_in(where: Path, transport: str) -> str:
    """Return a free endpoint: a socket in `where` for "ipc", a port of the loopback for "tcp"."""
    if transport == "ipc":
        return f"ipc://{where}/line"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def moment(step: int) -> float:
    """Return the timestamp that a snapshot of `step` carries."""
    return payload.STEP_ZERO_S + step


def _has(memory: Memory, rank: int, step: int) -> bool:
    return memory.timestamp(rank) == moment(step)


def drive(collector: Collector, done: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Poll the collector whenever its descriptor says so until `done`; raise `Absent` when that takes too long."""
    end = time.monotonic() + patience_s
    with select.epoll() as waiting:
        waiting.register(collector.fileno(), select.EPOLLIN)
        collector.poll()
        while not done():
            if time.monotonic() > end:
                raise Absent(f"not everything arrived in {patience_s:g} s")
            waiting.poll(LOOK_S)
            collector.poll()


def await_step(memory: Memory, step: int, pause_s: float, patience_s: float = PATIENCE_S) -> None:
    """Look until rank 0 shows `step`, with pauses; raise `Absent` when that takes too long."""
    end = time.monotonic() + patience_s
    while not _has(memory, RANK, step):
        if time.monotonic() > end:
            raise Absent(f"step {step} did not arrive in {patience_s:g} s")
        time.sleep(pause_s)


def collecting(
    signals: Signals, cpus: set[int], name: str, endpoint: str, where: Path, ranks: int, work_s: float
) -> None:
    """Child: collect until stopped; after each look at the descriptor, work in Python for `work_s`."""
    with pinned(cpus), LINES[name].collector(endpoint, where, ranks) as collector, select.epoll() as waiting:
        waiting.register(collector.fileno(), select.EPOLLIN)
        signals.report_ready()
        while not signals.stopped():
            waiting.poll(0 if work_s else LOOK_S)
            collector.poll()
            work(work_s)


def self_driven(
    signals: Signals, cpus: set[int], name: str, endpoint: str, where: Path, ranks: int, work_s: float
) -> None:
    """Child: leave collecting to the peer itself until stopped, and work in Python for `work_s` at a time."""
    with pinned(cpus), LINES[name].self_driven(endpoint, where, ranks):
        signals.report_ready()
        while not signals.stopped():
            work(work_s)
            if not work_s:
                time.sleep(LOOK_S)


def work(seconds: float) -> None:
    """Keep the interpreter busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(200))


def sending(
    signals: Signals, cpus: set[int], name: str, endpoint: str, at_once: bool, started: Times, go: Event
) -> None:
    """Child: publish step 0, and after `go` numbered snapshots 1 to 3 ms apart, noting when each one began."""
    gaps = random.Random(3)
    with pinned(cpus), LINES[name].sender(endpoint, RANK, 1, at_once=at_once) as sender:
        publish = sender.publisher(range(len(started) + 1))
        signals.report_ready()
        publish(0)
        while not go.wait(0.05) and not signals.stopped():
            pass
        for index in range(len(started)):
            time.sleep(gaps.uniform(0.001, 0.003))
            if signals.stopped():
                break
            started[index] = time.perf_counter_ns()
            publish(index + 1)
        signals.wait()


def flooding(signals: Signals, cpus: set[int], name: str, endpoint: str) -> None:
    """Child: publish without a pause until stopped."""
    with pinned(cpus), LINES[name].sender(endpoint, RANK, 1, at_once=True) as sender:
        publish = sender.publisher(range(1000))
        signals.report_ready()
        while not signals.stopped():
            for index in range(1000):
                publish(index)


def bursting(
    signals: Signals, cpus: set[int], name: str, endpoint: str, ranks: int, length: int, at_once: bool, turn: c_longlong
) -> None:
    """Child: whenever `turn` grows, publish `length` snapshots of every rank, the last one being `burst_end(turn)`."""
    line = LINES[name]
    senders = [line.sender(endpoint, rank, ranks, at_once=at_once) for rank in range(ranks)]
    publishers = [sender.publisher(range(CYCLE * length + 1)) for sender in senders]
    with pinned(cpus):
        signals.report_ready()
        for publish in publishers:
            publish(0)
        done = 0
        while not signals.stopped():
            if turn.value == done:
                time.sleep(0.0002)
                continue
            done += 1
            last = burst_end(done, length)
            for publish in publishers:
                for step in range(last - length + 1, last + 1):
                    publish(step)
    for sender in senders:
        sender.close()


def burst_end(turn: int, length: int) -> int:
    """Return the last step of a burst; that of the turn before is another one."""
    return (turn % CYCLE + 1) * length
