"""Rows about ranks on other nodes, while all goes well: the cost of a publish, its way, the cost of collecting."""

from __future__ import annotations

import functools
import os
import statistics
import time

import peers
from children import CONTEXT, crew, measured_cpu, other_cpus, pinned
from model import Bench, Cells, Figure
from remote_ends import (
    LINES,
    RANK,
    burst_end,
    bursting,
    collecting,
    drive,
    each_line,
    endpoint_in,
    flooding,
    moment,
    sending,
)
from timing import NS_PER_US, percentile

PACE_S = 0.002
CONNECT_S = 0.3
SETTLE_S = 0.01
"""From the burst until all of it waits inside the collector."""
US_PER_S = 1e6


def publish_call(bench: Bench, *, at_once: bool) -> Cells:
    """Return the median (us) of the publishing call, 2 ms after the one before: libzmq's thread is asleep by then."""
    return _publish(bench, at_once=at_once, calls=1)


def publish_hot(bench: Bench) -> Cells:
    """Return the median (us) of a call among 8 in a row, after one that is not counted: what the call itself costs."""
    return _publish(bench, at_once=False, calls=8)


def _publish(bench: Bench, *, at_once: bool, calls: int) -> Cells:
    """Return the mean of `calls` calls after each pause, as a median. Both ends have their own processors."""

    def measure(name: str) -> Figure:
        where = peers.new_room(bench.home)
        endpoint = endpoint_in(where, "ipc")
        samples = []
        with (
            crew(1, collecting, name, endpoint, where, 1, 0.0, cpus=other_cpus()),
            pinned({measured_cpu()}),
            LINES[name].sender(endpoint, RANK, 1, at_once=at_once) as sender,
        ):
            publish = sender.publisher(range(bench.effort.wakes + calls))
            time.sleep(CONNECT_S)
            for step in range(bench.effort.wakes):
                time.sleep(PACE_S)
                if calls > 1:
                    publish(step)
                start = time.perf_counter_ns()
                for number in range(step, step + calls):
                    publish(number)
                samples.append((time.perf_counter_ns() - start) / calls / NS_PER_US)
        return _median(samples)

    return each_line(bench, measure)


def visible(bench: Bench, *, transport: str, at_once: bool) -> Cells:
    """Return the median (us) from just before a publish until the collector has put it where all can see it.

    Publishes come 1 to 3 ms apart, so everybody sleeps. The collector waits on its descriptor, then polls, then the
    clock is read: what a collector in an event loop does. Sender and collector have processors of their own.
    """

    def measure(name: str) -> Figure:
        where = peers.new_room(bench.home)
        endpoint = endpoint_in(where, transport)
        started, go = CONTEXT.RawArray("q", bench.effort.wakes), CONTEXT.Event()
        delays: list[int] = []
        with (
            crew(1, sending, name, endpoint, at_once, started, go, cpus=other_cpus()),
            pinned({measured_cpu()}),
            LINES[name].collector(endpoint, where, 1) as collector,
        ):
            drive(collector, lambda: collector.memory.timestamp(RANK) == moment(0))
            go.set()

            def look() -> bool:
                now = time.perf_counter_ns()
                step = int(collector.memory.timestamp(RANK) - moment(0))
                delays.extend(now - began for began in started[len(delays) : step])
                return step == len(started)

            drive(collector, look)
        delays_us = [delay / NS_PER_US for delay in delays]
        return _median(delays_us)

    return each_line(bench, measure)


def drain(bench: Bench, *, pending: int) -> Cells:
    """Return what one poll takes per snapshot (us, median), when one of each of `pending` ranks waits."""

    def measure(name: str) -> Figure:
        where = peers.new_room(bench.home)
        endpoint, turn = endpoint_in(where, "ipc"), CONTEXT.RawValue("q", 0)
        samples: list[float] = []
        with (
            crew(1, bursting, name, endpoint, pending, 1, True, turn, cpus=other_cpus()),
            pinned({measured_cpu()}),
            LINES[name].collector(endpoint, where, pending) as collector,
        ):

            def everywhere(step: int) -> bool:
                return all(collector.memory.timestamp(rank) == moment(step) for rank in range(pending))

            drive(collector, functools.partial(everywhere, 0))
            short = 0
            for round_ in range(1, bench.effort.rounds + 1):
                turn.value = round_
                time.sleep(SETTLE_S)
                start = time.perf_counter_ns()
                collector.poll()
                took_us = (time.perf_counter_ns() - start) / NS_PER_US
                want = burst_end(round_, 1)
                if everywhere(want):
                    samples.append(took_us / pending)
                else:
                    short += 1
                    drive(collector, functools.partial(everywhere, want))
            if not samples:
                return Figure(0.0, note="never had all of them waiting", failed=True)
        return Figure(statistics.median(samples), note=f"{short} rounds left out: not all had come" if short else "")

    return each_line(bench, measure)


def distinct(bench: Bench) -> Cells:
    """Return the time (us) per distinct snapshot that a collector has had, its sender publishing without a pause."""

    def measure(name: str) -> Figure:
        where = peers.new_room(bench.home)
        endpoint = endpoint_in(where, "ipc")
        rates = []
        with (
            crew(1, flooding, name, endpoint, cpus=os.sched_getaffinity(0)),
            LINES[name].collector(endpoint, where, 1) as collector,
        ):
            drive(collector, lambda: collector.seen() > 0)
            for _ in range(bench.effort.segments):
                before, start = collector.seen(), time.perf_counter()
                end = start + bench.effort.segment_s
                drive(collector, lambda: bool(collector.seen()) and time.perf_counter() > end)  # noqa: B023
                rates.append((collector.seen() - before) / (time.perf_counter() - start))
        rate = statistics.median(rates)
        return Figure(US_PER_S / rate, note=f"{rate / 1000:,.0f} thousand distinct snapshots/s")

    return each_line(bench, measure)


def _median(samples_us: list[float]) -> Figure:
    p99, p999 = percentile(samples_us, 0.99), percentile(samples_us, 0.999)
    return Figure(statistics.median(samples_us), p99=p99, p999=p999)
