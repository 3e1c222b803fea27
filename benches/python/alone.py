"""Rows measured in one process with nobody else on the ring: hot, cold, and asking for liveness."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

import peers
from children import measured_cpu, pinned
from model import Absent, Bench, Cell, Cells, Effort, Figure, Job, Load, Operation
from payload import TIMED_STEP, load
from peers.ring import Snapring
from timing import Stopwatch, cold, hot

RANK = 5
"""The rank that single reads and writes use: neither the first nor the last."""
ANSWER_LIFE_S = 0.06
"""A little more than the time for which snapring remembers that a rank's writer lives."""

Measure = Callable[[Mapping[str, Operation], Effort], Mapping[str, Figure]]


def hot_row(bench: Bench, job: Job, ranks: int) -> Cells:
    """Time `job` in a hot loop, all peers interleaved."""
    return _row(bench, job, ranks, hot)


def cold_row(bench: Bench, job: Job, ranks: int) -> Cells:
    """Time single calls of `job` after other work, all peers in random order."""
    return _row(bench, job, ranks, cold)


def _row(bench: Bench, job: Job, ranks: int, measure: Measure) -> Cells:
    cells: dict[str, Cell] = {}
    with ExitStack() as stack, pinned({measured_cpu()}):
        operations: dict[str, Operation] = {}
        for name in bench.peers:
            try:
                store = stack.enter_context(peers.open_store(name, peers.new_room(bench.home), ranks, range(ranks)))
                operations[name] = store.operation(job, RANK)
            except Absent as reason:
                cells[name] = reason
        for operation in operations.values():
            operation.verify(expected(job, ranks))
        cells.update(measure(operations, bench.effort))
    return cells


def expected(job: Job, ranks: int) -> list[Load]:
    """Return what a right answer to `job` shows."""
    one = load(RANK)
    match job:
        case Job.PUBLISH | Job.BUILD_AND_PUBLISH:
            return [load(RANK, TIMED_STEP)]
        case Job.READ_WHOLE:
            return [one]
        case Job.READ_FIELD:
            return [{"num_running_reqs": one["num_running_reqs"]}]
        case Job.VIEW | Job.READ_ALL | Job.READ_ALL_BUILT | Job.VIEW_STATES:
            return [load(rank) for rank in range(ranks)]


def idle_states_row(bench: Bench, ranks: int, *, helper: bool) -> Cells:
    """Time one view with a look at `.states` when nobody has published for `idle_s`, so that the kernel must be asked.

    Without the helper thread each sample waits until the previous answer has been forgotten; the view's own path is
    warmed first. With it the answers are kept fresh in the background and the call is timed in a loop.
    """
    cells: dict[str, Cell] = {}
    for name in bench.peers:
        room = peers.new_room(bench.home)
        try:
            with peers.open_store(name, room, ranks, range(ranks)) as store, pinned({measured_cpu()}):
                operation = store.operation(Job.VIEW_STATES)
                operation.verify(expected(Job.VIEW_STATES, ranks))
                if helper and not isinstance(store, Snapring):
                    raise Absent("has no helper thread")  # noqa: TRY301  one place says what a missing cell is
                if isinstance(store, Snapring) and helper:
                    store.reader.fileno()
                time.sleep(bench.effort.idle_s)
                operation.verify(expected(Job.VIEW_STATES, ranks))
                cells[name] = _looped(operation, bench) if helper else _forgotten(store, operation, bench)
                _refuse_stale_answer(store)
        except Absent as reason:
            cells[name] = reason
    return cells


def _refuse_stale_answer(store: peers.Store) -> None:
    """Close one writer and ask again: a liveness answer that never changes would be cheap and worthless."""
    if not isinstance(store, Snapring):
        return
    store.drop_writer(RANK)
    time.sleep(2 * ANSWER_LIFE_S)
    state = store.state(RANK)
    if state != "DEAD":
        raise AssertionError(f"the writer of rank {RANK} is gone, yet its state is {state}")


def _looped(operation: Operation, bench: Bench) -> Figure:
    return hot({"it": operation}, bench.effort)["it"]


def _forgotten(store: peers.Store, operation: Operation, bench: Bench) -> Figure:
    asking, warming = Stopwatch(operation), Stopwatch(store.operation(Job.VIEW))
    taken = []
    for _ in range(max(5, bench.effort.rounds // 5)):
        time.sleep(ANSWER_LIFE_S)
        warming.batch_us(1000)
        taken.append(asking.batch_us(1))
    return Figure(statistics.median(taken), p99=max(taken))
