"""Rows of event streams: many clients of one server, ten events a second each."""

from __future__ import annotations

import ctypes
import functools
import http.client
import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from children import CONTEXT, Signals, Times, crew, other_cpus, pinned
from http_apps import STREAMS, all_columns, present
from http_servers import (
    PATH,
    Served,
    check,
    check_rank,
    cpu_seconds,
    raise_descriptor_limit,
    served,
)
from model import Absent, Bench, Cell, Cells, Figure, WrongAnswer

RANKS = 8
HERTZ = 100.0
LEAST_EVENTS_A_SECOND = 9.0
AT_THE_EDGES = 1
"""Events of a client that may fall just outside the stretch."""
PATIENCE_S = 10.0
"""A client that has had no event by then is measured all the same, as starved."""
SETTLE_S = 0.5
LEAST_S = 2.0
TIMEOUT_S = 30.0
SPARE_DESCRIPTORS = 100
STREAM = f"{PATH}/stream"
EVENT, FULL = b"event: loads", b'"full":true'
LONGEST = max(len(EVENT), len(FULL)) - 1
NOT_THERE = "has no event stream"


@dataclass(frozen=True, slots=True)
class Watched:
    """What a server and its clients did in a stretch of time.

    Attributes:
        share: processor time of the server, as a part of one processor.
        rate: events a second and client.
        worst_rate: that of the client that got the fewest.
        starved: whether that is fewer than it should have got.
        encodes_per_change: 1 where an event is encoded once for all; None where the server does not tell.
        event_bytes: bytes that came, by events.

    """

    share: float
    rate: float
    worst_rate: float
    starved: bool
    encodes_per_change: float | None
    event_bytes: float

    def note(self, clients: int) -> str:
        """Return all of it in words."""
        events = f"{clients:,} clients, {self.rate:.1f} events/s each, {self.worst_rate:.1f} at least"
        return f"{events}, {self.event_bytes / 1000:.1f} kB an event"


@functools.cache
def watch_all(bench: Bench) -> Mapping[str, Watched | Absent]:
    """Return what each server did while its ranks published 100 times a second and its clients listened."""
    found: dict[str, Watched | Absent] = {}
    clients = bench.effort.streams
    for contender in present(STREAMS, bench):
        events, fulls = CONTEXT.RawArray("q", clients), CONTEXT.RawArray("q", clients)
        size = CONTEXT.RawValue("q", 0)
        try:
            with served(bench, contender, RANKS, hertz=HERTZ) as server:
                _check_stream(server)
                server.going.value = 1
                port = server.told.port.value
                with crew(1, listening, port, events, fulls, size, cpus=other_cpus()):
                    time.sleep(SETTLE_S)
                    found[contender.column] = _watch(bench, server, events, fulls, size)
        except Absent as reason:
            found[contender.column] = reason
    return found


def processor(bench: Bench) -> Cells:
    """Return the server's processor time in percent of one processor; failed when clients got fewer than 9 a second."""
    cells: dict[str, Cell] = {}
    for name, seen in watch_all(bench).items():
        if isinstance(seen, Absent):
            cells[name] = seen
        else:
            cells[name] = Figure(100 * seen.share, failed=seen.starved, note=seen.note(bench.effort.streams))
    return all_columns(cells, bench, NOT_THERE)


def encodes(bench: Bench) -> Cells:
    """Return how often a change was encoded; where every client has a loop of its own that is once per client."""
    cells: dict[str, Cell] = {}
    for name, seen in watch_all(bench).items():
        if isinstance(seen, Absent):
            cells[name] = seen
        elif seen.encodes_per_change is None:
            cells[name] = Absent("encodes for each client, or never")
        else:
            cells[name] = Figure(seen.encodes_per_change)
    return all_columns(cells, bench, NOT_THERE)


def _check_stream(server: Served) -> None:
    """Compare a first event with what was published, and, with ranks at work, some more. Raises `WrongAnswer`."""
    name = server.contender.column
    connection = http.client.HTTPConnection("127.0.0.1", server.told.port.value, timeout=TIMEOUT_S)
    try:
        connection.request("GET", STREAM)
        stream = connection.getresponse()
        check(name, _next_event(stream), RANKS)
        server.going.value = 1
        steps: set[int] = set()
        for _ in range(5):
            steps |= {check_rank(name, load) for load in msgspec.json.decode(_next_event(stream))["loads"]}
        if len(steps) < 3 and "constant" not in server.contender.app:
            raise WrongAnswer(f"{name}: its ranks publish all the time and the stream shows steps {steps}")
    finally:
        server.going.value = 0
        connection.close()


def _next_event(stream: http.client.HTTPResponse) -> bytes:
    while line := stream.readline():
        if line.startswith(b"data: "):
            return line.removeprefix(b"data: ")
    raise WrongAnswer("an event stream ended")


def listening(
    signals: Signals, cpus: set[int], port: int, events: Times, fulls: Times, size: ctypes.c_longlong
) -> None:
    """Child: as many clients as `events` has places, each counting its events and those with the state of all ranks."""
    if raise_descriptor_limit() < len(events) + SPARE_DESCRIPTORS:
        raise Absent(f"may not have {len(events)} sockets open: ulimit -n")
    request = f"GET {STREAM} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    sockets: dict[int, tuple[int, socket.socket]] = {}
    tails = [b""] * len(events)
    with pinned(cpus), select.epoll() as waiting:
        for index in range(len(events)):
            client = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
            client.sendall(request)
            sockets[client.fileno()] = index, client
            waiting.register(client, select.EPOLLIN)
        end = time.monotonic() + PATIENCE_S
        while not all(events) and time.monotonic() < end:
            _hear(waiting, sockets, tails, events, fulls, size)
        signals.report_ready()
        while not signals.stopped():
            _hear(waiting, sockets, tails, events, fulls, size)


def _hear(
    waiting: select.epoll,
    sockets: Mapping[int, tuple[int, socket.socket]],
    tails: list[bytes],
    events: Times,
    fulls: Times,
    size: ctypes.c_longlong,
) -> None:
    for descriptor, _ in waiting.poll(0.1):
        index, client = sockets[descriptor]
        text = client.recv(1 << 18)
        if not text:
            waiting.unregister(client)
            continue
        size.value += len(text)
        text = tails[index] + text
        events[index] += text.count(EVENT)
        fulls[index] += text.count(FULL)
        cut = max(text.rfind(EVENT) + 1, text.rfind(FULL) + 1, len(text) - LONGEST)  # nothing is counted twice
        tails[index] = text[cut:]


def _watch(bench: Bench, server: Served, events: Times, fulls: Times, size: ctypes.c_longlong) -> Watched:
    told = server.told

    def now() -> tuple[float, float, list[int], int, int, int, int]:
        counts = told.ticks.value, told.encodes.value, sum(fulls), size.value
        return time.monotonic(), cpu_seconds(server.pid), list(events), *counts

    before = now()
    time.sleep(max(LEAST_S, bench.effort.segment_s * bench.effort.segments))
    after = now()
    took_s, busy_s = after[0] - before[0], after[1] - before[1]
    came = [late - early for early, late in zip(before[2], after[2], strict=True)]
    ticks, encoded, full, octets = (late - early for early, late in zip(before[3:], after[3:], strict=True))
    if abs(encoded - ticks) <= AT_THE_EDGES:  # a change is encoded a moment after it is counted
        encoded = ticks
    if not sum(came):
        raise Absent("no event came")
    return Watched(
        share=busy_s / took_s,
        rate=sum(came) / len(came) / took_s,
        worst_rate=min(came) / took_s,
        starved=min(came) + AT_THE_EDGES < LEAST_EVENTS_A_SECOND * took_s,
        encodes_per_change=(encoded + full) / ticks if ticks else None,
        event_bytes=octets / sum(came),
    )
