"""Processes of the HTTP rows: servers on one processor, ranks that publish on the others, and what a client checks."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import resource
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import payload
import peers
from children import CONTEXT, Signals, Times, crew, measured_cpu, other_cpus, pinned
from http_apps import APPS, Contender
from model import Absent, Bench, Foreign, WrongAnswer

PATH = "/v1/loads"
NEEDED = ("uvicorn", "uvloop", "httptools", "starlette", "fastapi")
STEPS = 32
SLICES = 8
BEAT_NS = 1_000_000
BEATS = 60_000
TIMEOUT_S = 10.0
DESCRIPTORS = 4096
OF_OURS = ("age", "state", "version")
"""What snapring says of each rank beside what was published."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a server's process tells: its port, ticks and encodes of its streams, and how late its beats were (ns)."""

    port: ctypes.c_int = field(default_factory=lambda: CONTEXT.RawValue("i", 0))
    ticks: ctypes.c_longlong = field(default_factory=lambda: CONTEXT.RawValue("q", 0))
    encodes: ctypes.c_longlong = field(default_factory=lambda: CONTEXT.RawValue("q", 0))
    beats: ctypes.c_longlong = field(default_factory=lambda: CONTEXT.RawValue("q", 0))
    late: Times | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """A server at work, and the switch of the ranks that it serves."""

    contender: Contender
    pid: int
    told: Told
    going: ctypes.c_int

    @property
    def url(self) -> str:
        """Return where the loads are."""
        return f"http://127.0.0.1:{self.told.port.value}{PATH}"


@contextmanager
def served(
    bench: Bench, contender: Contender, ranks: int, *, hertz: float, beat: bool = False, where: Path | None = None
) -> Iterator[Served]:
    """Serve one contender's application while a process publishes its ranks, `hertz` times a second each when going.

    `beat` starts the timer that `Told.late` tells of; `where` is the store's directory, by default a new one. Raises
    `Absent` when it cannot be had.
    """
    require(NEEDED)
    where = where or peers.new_room(bench.home)
    told = Told(late=CONTEXT.RawArray("q", BEATS) if beat else None)
    going = CONTEXT.RawValue("i", 0)
    with ExitStack() as stack:
        if contender.store:
            ranks_at_work = crew(1, publishing, contender.store, where, ranks, hertz, going, cpus=other_cpus())
            stack.enter_context(ranks_at_work)
        server = crew(1, serving, contender.app, where, ranks, told, cpus={measured_cpu()})
        try:
            (process,) = stack.enter_context(server)
        except Absent as reason:
            if contender.column == peers.OURS:  # all that it needs is there, so this is no absence
                raise WrongAnswer("snapring's own server does not start") from reason
            raise
        yield Served(contender, int(process.pid or 0), told, going)


def require(modules: tuple[str, ...]) -> None:
    """Raise `Absent` unless all of these can be imported."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise Absent(f"no {', '.join(missing)}: pip install '.[bench,serve]'")


def publishing(
    signals: Signals, cpus: set[int], name: str, where: Path, ranks: int, hertz: float, going: ctypes.c_int
) -> None:
    """Child: while `going`, publish every rank `hertz` times a second, in `SLICES` slices over each period.

    The first step does not come again, so that who shows it has seen no publish.
    """
    with pinned(cpus), peers.open_store(name, where, ranks, range(ranks)) as store:
        publishers = [store.publisher(rank, range(STEPS)) for rank in range(ranks)]
        signals.report_ready()
        turn, due = 0, time.monotonic()
        while not signals.stopped():
            if not going.value:
                time.sleep(0.005)
                due = time.monotonic()
                continue
            for publish in publishers[turn % SLICES :: SLICES]:
                publish(1 + turn // SLICES % (STEPS - 1))
            turn, due = turn + 1, max(due + 1 / (hertz * SLICES), time.monotonic() - 1 / hertz)
            time.sleep(max(0.0, due - time.monotonic()))


def serving(signals: Signals, cpus: set[int], app: str, where: Path, ranks: int, told: Told) -> None:
    """Child: serve one application with uvicorn, uvloop and httptools until stopped."""
    import uvicorn

    class Server(uvicorn.Server):
        """Says when it is ready, and ends when told."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            told.port.value = self.servers[0].sockets[0].getsockname()[1]
            self.beat = _Beat(told) if told.late is not None else None
            signals.report_ready()

        async def on_tick(self, counter: int) -> bool:
            changes = getattr(application, "changes", None)
            if changes is not None:
                told.ticks.value, told.encodes.value = changes.tick, changes.encodes
            return await super().on_tick(counter) or signals.stopped()

    raise_descriptor_limit()
    with pinned(cpus):
        application = APPS[app](where, ranks)
        config = uvicorn.Config(
            application,
            host="127.0.0.1",
            port=0,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        Server(config).run()


def raise_descriptor_limit() -> int:
    """Let this process have as many descriptors as it may, up to what the rows need; return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return DESCRIPTORS


class _Beat:
    """A timer of 1 ms in the running loop that notes how late each beat is seen; a beat that is missed counts too.

    A timer descriptor, because the timers of uvloop go by whole milliseconds.
    """

    def __init__(self, told: Told) -> None:
        """Begin at once."""
        import asyncio

        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        self._told, self._due_ns = told, time.monotonic_ns() + BEAT_NS
        first = divmod(self._due_ns, 1_000_000_000)
        spec = (ctypes.c_long * 4)(0, BEAT_NS, *first)
        absolute = 1
        if self._fd < 0 or libc.timerfd_settime(self._fd, absolute, spec, None):
            raise OSError(ctypes.get_errno(), "no timer descriptor")
        asyncio.get_running_loop().add_reader(self._fd, self._seen)

    def _seen(self) -> None:
        now_ns, late, count = time.monotonic_ns(), self._told.late, self._told.beats
        for _ in range(int.from_bytes(os.read(self._fd, 8), "little")):
            if late is not None and count.value < BEATS:
                late[count.value] = now_ns - self._due_ns
                count.value += 1
            self._due_ns += BEAT_NS


class Connection:
    """A client that keeps its connection; a raw socket, so that little of what it measures is its own."""

    def __init__(self, port: int, path: str = PATH) -> None:
        """Connect."""
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()

    def __enter__(self) -> Self:
        """Return the connection itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self) -> tuple[float, bytes]:
        """Return how long an answer took in microseconds, and its body. Raises `WrongAnswer` unless it is a 200."""
        begin = time.perf_counter_ns()
        self._socket.sendall(self._request)
        answer = self._socket.recv(1 << 18)
        head, found, body = answer.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or -1)
        while answer and found and len(body) < length:
            answer = self._socket.recv(1 << 18)
            body += answer
        took = time.perf_counter_ns() - begin
        if not head.startswith(b"HTTP/1.1 200 ") or len(body) != length:
            raise WrongAnswer(f"the server said {head[:40]!r} and {len(body)} bytes")
        return took / 1000, body


def check(name: str, body: bytes | str, ranks: int) -> set[int]:
    """Compare every value of every rank with what was published; return the steps seen. Raises `WrongAnswer`."""
    loads: list[dict[str, Any]] = msgspec.json.decode(body)["loads"]
    if [load.get("dp_rank") for load in loads] != list(range(ranks)):
        raise WrongAnswer(f"{name}: {len(loads)} ranks in the answer, {ranks} published")
    return {check_rank(name, load) for load in loads}


def check_rank(name: str, load: Mapping[str, Any]) -> int:
    """Compare every value of one rank with what was published; return its step. Raises `WrongAnswer`."""
    seen = payload.flatten({key: value for key, value in load.items() if key not in OF_OURS})
    step = payload.step_of(seen)
    want = payload.load(int(seen["dp_rank"]), step)
    wrong = [key for key in {**want, **seen} if key not in seen or seen[key] != want.get(key)]
    if wrong:
        raise WrongAnswer(f"{name}: {wrong[0]} is {seen.get(wrong[0])!r}, {want.get(wrong[0])!r} was published")
    if load.get("state", "LIVE") not in {"LIVE", "STALE"}:
        raise WrongAnswer(f"{name}: a rank whose writer lives is shown as {load['state']}")
    return step


def check_served(server: Served, ranks: int, *, moved: bool) -> None:
    """Ask once and compare; `moved`: more than the first step must have been seen. Raises `WrongAnswer`."""
    name = server.contender.column
    with Connection(server.told.port.value) as connection:
        steps = check(name, connection.ask()[1], ranks)
    if moved and steps == {0}:
        raise WrongAnswer(f"{name}: its ranks publish all the time and it shows the first snapshots")


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far, its threads included."""
    fields: list[Foreign] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
