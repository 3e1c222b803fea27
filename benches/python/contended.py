"""Rows with other processes at work: a writer among looping readers, a reader facing a writer that never pauses."""

from __future__ import annotations

import ctypes
import functools
import itertools
import statistics
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import peers
from children import CONTEXT, Signals, Times, crew, measured_cpu, other_cpus, pinned
from model import Absent, Bench, Cell, Cells, Figure, Job, Load, WrongAnswer
from payload import load, step_of, verify_whole
from timing import NS_PER_US, Stopwatch, percentile

RANKS = 8
RANK = 0
STEPS = 64
PACE_NS = 200_000
MAX_WRITES = 400_000
WHOLE_READS = 2000
LOOP_CHUNK = 200

Window = tuple[int, int]
"""Start and end of a stretch of time, `time.perf_counter_ns`."""


@functools.cache
def publish_among_readers(bench: Bench) -> dict[str, tuple[Cell, Cell]]:
    """Return per peer the publish p99.9 (us) with nobody reading and with `readers` processes in a read loop.

    One process publishes every 200 us on its own processor and notes each call's time; the readers come and go in
    turns on the other processors, each listing all ranks over and over.
    """
    return {name: _one_peer(bench, name) for name in bench.peers}


def tail_without_readers(bench: Bench) -> Cells:
    """Return the quiet half."""
    return {name: quiet for name, (quiet, _) in publish_among_readers(bench).items()}


def tail_with_readers(bench: Bench) -> Cells:
    """Return the loud half."""
    return {name: loud for name, (_, loud) in publish_among_readers(bench).items()}


def tail_ratio(bench: Bench) -> Cells:
    """Return how many times longer the tail is with readers than without."""
    return {name: _ratio(*pair) for name, pair in publish_among_readers(bench).items()}


def _ratio(quiet: Cell, loud: Cell) -> Cell:
    if isinstance(quiet, Absent) or isinstance(loud, Absent):
        return loud
    return Figure(loud.value / quiet.value, at_least=loud.at_least, failed=loud.failed, note=loud.note)


def _one_peer(bench: Bench, name: str) -> tuple[Cell, Cell]:
    where, effort = peers.new_room(bench.home), bench.effort
    started, took = CONTEXT.RawArray("q", MAX_WRITES), CONTEXT.RawArray("q", MAX_WRITES)
    count = CONTEXT.RawValue("q", 0)
    quiet: list[Window] = []
    loud: list[Window] = []
    try:
        with crew(1, paced_writer, name, where, started, took, count, cpus={measured_cpu()}):
            for _ in range(effort.segments):
                quiet.append(_window(effort.segment_s))
                with crew(effort.readers, looping_reader, name, where, cpus=other_cpus()):
                    loud.append(_window(effort.segment_s))
    except Absent as reason:
        return reason, reason
    calls = list(zip(started[: count.value], took[: count.value], strict=True))
    return _tail(calls, quiet), _tail(calls, loud)


def _window(seconds: float) -> Window:
    begin = time.perf_counter_ns()
    time.sleep(seconds)
    return begin, time.perf_counter_ns()


def _tail(calls: list[tuple[int, int]], windows: list[Window]) -> Figure:
    """Return the tail of the calls completed inside the windows; with none of them, how long none completed."""
    taken = [took for start, took in calls if any(begin <= start + took <= end for begin, end in windows)]
    longest_s = max((end - begin) / 1e9 for begin, end in windows)
    if not taken:
        return Figure(longest_s * 1e6, at_least=True, failed=True, note=f"no publish in {longest_s:.1f} s")
    value = percentile(taken, 0.999) / NS_PER_US
    note = f"p50 {percentile(taken, 0.5) / NS_PER_US:.2f}, {len(taken)} publishes, worst {max(taken) / NS_PER_US:.0f}"
    return Figure(value, p99=percentile(taken, 0.99) / NS_PER_US, p999=value, note=note)


def paced_writer(
    signals: Signals, cpus: set[int], name: str, where: Path, started: Times, took: Times, count: ctypes.c_longlong
) -> None:
    """Child: publish one rank every 200 us until stopped, noting when each call began and how long it took."""
    with pinned(cpus), peers.open_store(name, where, RANKS, range(RANKS)) as store:
        publish, clock = store.publisher(RANK, range(STEPS)), time.perf_counter_ns
        publish(1)
        if store.peek(RANK) != {name: load(RANK, 1)[name] for name in store.peek(RANK)}:
            raise WrongAnswer(f"{store.name}: a publish is not what its reader sees")
        signals.report_ready()
        due = clock()
        while count.value < MAX_WRITES and not signals.stopped():
            while clock() < due:
                pass
            begin = clock()
            publish(count.value % STEPS)
            end = clock()
            started[count.value], took[count.value] = begin, end - begin
            count.value += 1
            due = max(due + PACE_NS, end)


def looping_reader(signals: Signals, cpus: set[int], name: str, where: Path) -> None:
    """Child: list all ranks over and over until stopped."""
    with pinned(cpus), peers.open_store(name, where, RANKS) as store:
        operation = store.operation(Job.READ_ALL)
        if len(operation.answer(eval(operation.statement, dict(operation.names)))) != RANKS:  # noqa: S307  our source
            raise WrongAnswer(f"{name}: a reader process does not see all ranks")
        loop = Stopwatch(operation)
        signals.report_ready()
        while not signals.stopped():
            loop.batch_us(LOOP_CHUNK)


def read_beside_writer(bench: Bench) -> Cells:
    """Time reads of one rank, with one field looked at, while another process publishes that rank without a pause.

    The mean is the figure: a starved reader shows in it. Failures are reads that raised, gave nothing or an older
    snapshot; torn ones, looked for in reads of their own, mixed two publishes.
    """
    cells: dict[str, Cell] = {}
    for name in bench.peers:
        where = peers.new_room(bench.home)
        try:
            with crew(1, restless_writer, name, where, cpus=other_cpus()) as (writer,), pinned({measured_cpu()}):
                cells[name] = _beside(bench, name, where, writer)
        except Absent as reason:
            cells[name] = reason
    return cells


def restless_writer(signals: Signals, cpus: set[int], name: str, where: Path) -> None:
    """Child: publish one rank in a loop until stopped."""
    with pinned(cpus), peers.open_store(name, where, RANKS, range(RANKS)) as store:
        publish = store.publisher(RANK, range(STEPS))
        signals.report_ready()
        while not signals.stopped():
            for step in itertools.chain.from_iterable([range(STEPS)] * 16):
                publish(step)


def _beside(bench: Bench, name: str, where: Path, writer: BaseProcess) -> Figure:
    limit = threading.Timer(bench.effort.segment_s * 4 + 5, writer.kill)
    limit.start()
    try:
        with peers.open_store(name, where, RANKS) as store:
            failures, torn = _doubtful_reads(lambda: store.peek(RANK), name)
            watch = Stopwatch(store.operation(Job.READ_FIELD, RANK))
            batches = [watch.batch_us(LOOP_CHUNK) for _ in range(bench.effort.rounds)]
            watch.singles(WHOLE_READS)
    finally:
        limit.cancel()
    if writer.exitcode is not None:
        return Figure(bench.effort.segment_s * 1e6, at_least=True, failed=True, note="reads starved")
    singles = watch.singles_ns
    return Figure(
        statistics.fmean(batches),
        p99=percentile(singles, 0.99) / NS_PER_US,
        p999=percentile(singles, 0.999) / NS_PER_US,
        failed=bool(failures or torn),
        note=f"{failures} failed, {torn} torn of {WHOLE_READS}",
    )


def _doubtful_reads(peek: Callable[[], Load], name: str) -> tuple[int, int]:
    """Return how many whole reads failed and how many were torn; raise `WrongAnswer` if the value never moved."""
    failures = torn = 0
    steps = set()
    for _ in range(WHOLE_READS):
        try:
            seen = peek()
            steps.add(step_of(seen))
            verify_whole(seen)
        except WrongAnswer:
            torn += 1
        except (RuntimeError, BlockingIOError):
            failures += 1
    if len(steps) == 1:
        raise WrongAnswer(f"{name}: the writer publishes all the time and the reader sees one value")
    return failures, torn
