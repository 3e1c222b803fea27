"""The floor of the way to other nodes: bytes through a PUSH and a PULL socket of pyzmq, and nothing else.

It encodes and decodes nothing, keeps the last message in a variable and shares it with nobody, so it is no peer.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import payload
from model import Absent, Load

from peers.lines import Collector, Line, Memory, Sender

HEAD = struct.Struct("<Id")
"""Rank and timestamp, before the snapshot as msgpack."""


def _zmq() -> Any:  # noqa: ANN401  may be missing
    try:
        import zmq
    except ImportError as error:
        raise Absent(f"pyzmq is not installed ({error})") from error
    return zmq


class LastMessages(Memory):
    """The last message of each rank, below 256, in a variable."""

    def __init__(self) -> None:
        """Begin with none."""
        self.newest: dict[int, bytes] = {}

    def peek(self, rank: int) -> Load | None:
        """Decode it."""
        message = self.newest.get(rank)
        return None if message is None else payload.flatten(msgspec.msgpack.decode(message[HEAD.size :]))

    def timestamp(self, rank: int) -> float:
        """Decode its head."""
        message = self.newest.get(rank)
        return 0.0 if message is None else float(HEAD.unpack_from(message)[1])

    def close(self) -> None:
        """Keep it; there is nothing to give back."""


class RawCollector(Collector):
    """A PULL socket."""

    def __init__(self, endpoint: str) -> None:
        """Bind."""
        self._zmq = _zmq()
        self._socket = self._zmq.Context.instance().socket(self._zmq.PULL)
        self._socket.bind(endpoint)
        self.memory = self._last = LastMessages()
        self._count = 0

    def fileno(self) -> int:
        """Return libzmq's edge-triggered descriptor."""
        return int(self._socket.getsockopt(self._zmq.FD))

    def poll(self) -> None:
        """Receive until nothing is left."""
        receive, newest = self._socket.recv, self._last.newest
        with suppress(self._zmq.Again):
            while True:
                message = receive(self._zmq.NOBLOCK)
                newest[message[0]] = message
                self._count += 1

    def seen(self) -> int:
        """Return the number of messages: it queues and drops nothing, up to its limit of 1,000."""
        return self._count

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(linger=0)


class RawSender(Sender):
    """A PUSH socket."""

    def __init__(self, endpoint: str, rank: int) -> None:
        """Connect."""
        self._zmq = _zmq()
        self._rank = rank
        self._socket = self._zmq.Context.instance().socket(self._zmq.PUSH)
        self._socket.connect(endpoint)

    def publisher(self, steps: Iterable[int]) -> Callable[[int], None]:
        """Return a publisher of encoded snapshots; one that finds no room is dropped."""
        encode, rank = msgspec.msgpack.encode, self._rank
        loads = [payload.nested_load(rank, step) for step in steps]
        messages = [HEAD.pack(rank, load["timestamp"]) + encode(load) for load in loads]
        send, no_wait, full = self._socket.send, self._zmq.NOBLOCK, self._zmq.Again

        def publish(index: int) -> None:
            try:  # cheaper than `suppress`, and part of what is timed
                send(messages[index], no_wait)
            except full:
                return

        return publish

    def close(self) -> None:
        """Close the socket."""
        self._socket.close(linger=0)


class RawLine(Line):
    """PUSH and PULL."""

    def collector(self, endpoint: str, where: Path, ranks: int) -> Collector:
        """Return a PULL socket."""
        return RawCollector(endpoint)

    def sender(self, endpoint: str, rank: int, ranks: int, *, at_once: bool) -> Sender:
        """Return a PUSH socket."""
        return RawSender(endpoint, rank)
