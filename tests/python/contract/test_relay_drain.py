"""A relay that the host drives: whatever waits for its descriptor, a bounded turn leaves nothing behind."""

import asyncio
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

import pytest
import uvloop
import zmq

import snapring
from pyzmq_sender import Sender, opened
from snapring import LoadSnapshot
from snapring.schema import compile_schema

COUNT = 20_000
A_TURN = 256
"""Messages that one poll takes at most."""
HANG_SECONDS = 120.0

Drive = Callable[[snapring.Relay], int]


@contextmanager
def burst(endpoint: str) -> Iterator[None]:
    """A pyzmq program that sends as fast as it may, and stays connected while the block runs.

    libzmq drops what the kernel still holds of a connection that ends while the receiver holds its input back.
    """
    over = Event()

    def send() -> None:
        with opened(zmq.PUSH) as push:
            push.connect(endpoint)
            sender = Sender(push, compile_schema(LoadSnapshot).text, rank=0)
            for number in range(1, COUNT + 1):
                sender.publish(num_running_reqs=number)
            over.wait()

    thread = Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def is_done(relay: snapring.Relay) -> bool:
    """Whether all of the burst came in."""
    return relay.stats()["received"] >= COUNT


def by_loop(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Drive:
    """An event loop that calls ``poll`` whenever the descriptor is readable."""

    async def drive(relay: snapring.Relay) -> int:
        loop, done, turns = asyncio.get_running_loop(), asyncio.Event(), 0

        def turn() -> None:
            nonlocal turns
            turns += 1
            relay.poll()
            if is_done(relay):
                done.set()

        loop.add_reader(relay.fileno(), turn)
        await asyncio.wait_for(done.wait(), HANG_SECONDS)
        loop.remove_reader(relay.fileno())
        return turns

    def run(relay: snapring.Relay) -> int:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(drive(relay))

    return run


def by_waiting(is_readable: Callable[[snapring.Relay], bool]) -> Drive:
    """A plain loop around a wait."""

    def drive(relay: snapring.Relay) -> int:
        turns = 0
        while not is_done(relay):
            assert is_readable(relay), f"stuck at {relay.stats()['received']}"
            relay.poll()
            turns += 1
        return turns

    return drive


def by_select(relay: snapring.Relay) -> bool:
    """One wait by select."""
    return bool(select.select([relay], [], [], HANG_SECONDS)[0])


def by_epoll(relay: snapring.Relay) -> bool:
    """One wait by epoll."""
    with select.epoll() as poller:
        poller.register(relay, select.EPOLLIN)
        return bool(poller.poll(HANG_SECONDS))


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize(
    "drive",
    [by_loop(asyncio.new_event_loop), by_loop(uvloop.new_event_loop), by_waiting(by_select), by_waiting(by_epoll)],
    ids=["asyncio", "uvloop", "select", "epoll"],
)
def test_partial_drains_find_every_message(drive: Drive) -> None:
    """20,000 messages of 20,000 arrive, 256 a turn at most, although libzmq's own descriptor is edge-triggered."""
    reader = snapring.Reader("far")
    with snapring.Relay("far", ranks=1, drain="poll") as relay, burst(relay.endpoint or ""):
        turns = drive(relay)
        stats = relay.stats()

        assert (stats["received"], stats["published"], stats["failed"]) == (COUNT, COUNT, 0)
        assert turns >= COUNT // A_TURN
        snap = reader.read(0)
        assert snap is not None
        assert (snap.version, snap.value.num_running_reqs) == (COUNT, COUNT)
