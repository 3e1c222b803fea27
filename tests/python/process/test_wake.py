"""Waiting for change: nothing is missed, whoever waits and however."""

import _thread
import asyncio
import random
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import snapring
from contract.model import FLOOD, Numbered, Spawn, line, patient, tell
from snapring import Reader, State, Writer
from support import eventually

PUBLISHES = 200_000


def follow(reader: "Reader[Numbered]", wait: Callable[[], object], last: int) -> int:
    """Waits and reads until version ``last``; gives how often it woke. A lost wake-up at the end would hang."""
    seen = wakes = 0
    while seen < last:
        wait()
        wakes += 1
        if reader.poll():
            snap = reader.read(0)
            assert snap is not None
            assert snap.version >= seen
            assert snap.value.number == snap.version
            seen = snap.version
    return wakes


def waiting(reader: "Reader[Numbered]", how: str) -> Callable[[], object]:
    """A call that returns once there may be something to poll; none has a timeout."""
    if how == "wait":
        return reader.wait
    fd = reader.fileno()
    if how == "select":
        return lambda: select.select([fd], [], [])
    if how == "poll":
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return poller.poll
    epoll = select.epoll()
    epoll.register(fd, select.EPOLLIN | (select.EPOLLET if how == "epoll edge" else 0))
    return epoll.poll


@pytest.mark.parametrize("how", ["wait", "select", "poll", "epoll level", "epoll edge"])
def test_no_update_is_missed(ring_dir: Path, spawn: Spawn, how: str, rng: random.Random) -> None:
    """However a program waits, without any timeout of its own, it comes to the last of 200,000 publishes."""
    flood = spawn(FLOOD, str(PUBLISHES), str(rng.getrandbits(32)))
    assert line(flood) == "up"
    with patient() as reader:
        tell(flood)
        wakes = follow(reader, waiting(reader, how), PUBLISHES)

    assert wakes > 1
    assert line(flood) == "done"


def test_the_descriptor_is_level_triggered(ring_dir: Path) -> None:
    """Readable from the first change on, for every poller, until ``poll`` takes the changes; then not any more."""
    with Writer("main", rank=0, ranks=1, schema=Numbered) as writer, patient() as reader:
        fd = reader.fileno()
        assert reader.fileno() == fd
        for number in range(20):
            writer.publish(Numbered(number))
            for _ in range(3):
                assert select.select([fd], [], [], 30)[0] == [fd]
            assert reader.poll() == [0]
            assert reader.poll() == []
            eventually(lambda: select.select([fd], [], [], 0.02)[0] == [] or reader.poll())


def test_waiting_consumes_nothing(ring_dir: Path) -> None:
    """``wait`` says that there is something to poll, again and again until it is polled."""
    with Writer("main", rank=0, ranks=2, schema=Numbered) as writer, patient() as reader:
        assert not reader.wait(0.01)
        writer.publish(Numbered(1))
        assert [reader.wait(0), reader.wait(), reader.wait(0.01)] == [True] * 3
        assert reader.poll() == [0]
        assert not reader.wait(0)


@pytest.mark.parametrize("wake", [True, False])
def test_a_wait_ends_with_the_publish(ring_dir: Path, wake: bool) -> None:
    """With a bell and without one."""
    with Writer("main", rank=0, ranks=1, schema=Numbered, wake=wake) as writer, patient() as reader:
        assert (ring_dir / "main.bell").exists() == wake
        for number in range(20):
            timer = threading.Timer(0.005, writer.publish, [Numbered(number)])
            timer.start()
            assert reader.wait(60)
            assert reader.poll() == [0]
            timer.join()


def test_a_timeout_is_waited_out(ring_dir: Path) -> None:
    """Nothing to see: False, and not before its time."""
    with Reader("main") as reader:
        begin = time.monotonic()

        assert reader.wait(0.15) is False
        assert time.monotonic() - begin >= 0.15


DOOMED = """
import sys, snapring
writer = snapring.Writer("main", rank=1, ranks=2)
writer.publish(snapring.LoadSnapshot())
print("up", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["wait", "select", "changes"])
def test_a_death_wakes(ring_dir: Path, spawn: Spawn, how: str) -> None:
    """A change of state is a change: who waits learns that a writer died, with nobody left to ring for it."""
    with Writer("main", rank=0, ranks=2) as writer, Reader("main", max_age=1e6) as reader:
        doomed = spawn(DOOMED)
        assert line(doomed) == "up"
        writer.publish(snapring.LoadSnapshot())
        fd = reader.fileno() if how == "select" else None
        changes = reader.changes()

        async def next_change() -> list[int]:
            return await anext(changes)

        with asyncio.Runner() as runner:
            if how == "changes":
                assert runner.run(next_change()) == [0, 1]
            assert reader.poll() == [0, 1]
            doomed.send_signal(signal.SIGKILL)
            if how == "changes":
                while runner.run(next_change()) != [1]:
                    pass
                runner.run(changes.aclose())
            while reader.check(1) is not State.DEAD or reader.poll() != [1]:
                assert select.select([fd], [], [], 30)[0] if fd is not None else reader.wait(30)


def test_falling_silent_wakes(ring_dir: Path) -> None:
    """So is going from LIVE to STALE, and back."""
    with Writer("main", rank=0, ranks=1, schema=Numbered) as writer:
        reader = Reader("main", schema=Numbered, max_age=0.1)
        writer.publish(Numbered(1))
        assert reader.poll() == [0]

        assert reader.wait(30)
        assert reader.poll() == [0]
        assert reader.check(0) is State.STALE
        assert not reader.wait(0.15)


def test_a_ring_that_appears_wakes(ring_dir: Path) -> None:
    """Who waits before there is a ring is woken by its first snapshot."""
    reader = patient()
    waiter = threading.Thread(target=reader.wait)
    waiter.start()
    with Writer("main", rank=0, ranks=1, schema=Numbered) as writer:
        writer.publish(Numbered(1))
        waiter.join(60)

        assert not waiter.is_alive()


@pytest.mark.parametrize("timeout", [None, 3600.0])
def test_ctrl_c_ends_a_wait(ring_dir: Path, timeout: float | None) -> None:
    """A wait of the main thread is interrupted like any other, and the reader works afterwards."""
    with Writer("main", rank=0, ranks=1, schema=Numbered) as writer, patient() as reader:
        timer = threading.Timer(0.05, _thread.interrupt_main)
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  the timer may be over before the wait begins
            timer.start()
            reader.wait(timeout)
        timer.join()
        writer.publish(Numbered(1))

        assert reader.wait(30)


def test_a_signal_storm_ends_no_wait(ring_dir: Path) -> None:
    """Signals with a handler neither end a wait nor make it miss anything."""
    hits: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: hits.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        with Writer("main", rank=0, ranks=1, schema=Numbered) as writer, patient() as reader:
            assert reader.wait(0.2) is False
            writer.publish(Numbered(1))
            assert reader.wait(30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert hits


def test_waiting_lets_other_threads_run(ring_dir: Path) -> None:
    """A wait holds no lock of Python's."""
    with Reader("main") as reader:
        waiter = threading.Thread(target=reader.wait, args=[0.2])
        waiter.start()
        turns = 0
        while waiter.is_alive():
            turns += 1

        assert turns > 100


def test_closing_wakes_whoever_watches(ring_dir: Path) -> None:
    """A reader that is closed under a waiting thread ends the wait with HandleClosed."""
    reader, caught = Reader("main"), []

    def waiter() -> None:
        try:
            reader.wait()
        except snapring.HandleClosed as error:
            caught.append(error)

    thread = threading.Thread(target=waiter)
    thread.start()
    time.sleep(0.05)
    reader.close()
    thread.join(60)

    assert len(caught) == 1


def test_a_process_may_end_while_its_threads_wait(ring_dir: Path, spawn: Spawn) -> None:
    """Daemon threads in ``wait``, a heartbeat and a watch do not disturb the end of the interpreter."""
    child = spawn("""
import threading, time
import snapring
class Late:
    def __del__(self):
        time.sleep(0.3)
late = Late()
reader, watched = snapring.Reader("main"), snapring.Reader("main")
writer = snapring.Writer("main", rank=0, ranks=1)
writer.start_heartbeat(0.01)
watched.fileno()
for _ in range(3): threading.Thread(target=reader.wait, daemon=True).start()
time.sleep(0.05)
print("end", flush=True)
""")

    assert line(child) == "end"
    assert child.wait(60) == 0
