"""A router, as any pyzmq program would be one: a SUB socket that follows a feed."""

import struct
from typing import Any, NamedTuple

import msgspec
import zmq

from snapring import LoadSnapshot
from snapring.feed import LoadFeed
from support import eventually

HANG_MS = 60_000
"""How long a message may take before that counts as a hang."""


class Message(NamedTuple):
    """One message, taken apart."""

    topic: bytes
    sequence: int
    load: list[Any]


class Subscriber:
    """A SUB socket on one feed; ``options`` of pyzmq are set before it connects."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str, **options: Any) -> None:  # noqa: ANN401  whatever pyzmq takes
        self.socket = context.socket(zmq.SUB)
        self.socket.linger = 0
        for name, value in options.items():
            setattr(self.socket, name, value)
        self.socket.connect(endpoint)
        self.socket.subscribe(b"load")

    def has_message(self, wait_ms: int = 0) -> bool:
        """Whether a message is there, or comes within ``wait_ms``."""
        return bool(self.socket.poll(wait_ms))

    def receive_raw(self) -> list[bytes]:
        """The parts of the next message."""
        assert self.has_message(HANG_MS), "no message came"
        return self.socket.recv_multipart()

    def receive(self) -> Message:
        """The next message."""
        topic, sequence, payload = self.receive_raw()
        return Message(topic, struct.unpack(">Q", sequence)[0], msgspec.msgpack.decode(payload))

    def receive_until(self, sequence: int) -> Message:
        """The message of that sequence; those before it are dropped."""
        while (message := self.receive()).sequence < sequence:
            pass
        return message

    def join(self, feed: LoadFeed) -> int:
        """Publish until a message arrives, and take all of them; the last sequence."""
        sequence = 0

        def arrived() -> bool:
            nonlocal sequence
            sequence = feed.publish(LoadSnapshot(num_used_tokens=1000 + sequence))
            return self.has_message(10)

        eventually(arrived)
        return self.receive_until(sequence).sequence


class Router:
    """Subscribers that end together, since pyzmq counts sockets that are merely forgotten as mistakes."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._all: list[Subscriber] = []

    def follow(self, endpoint: str, **options: Any) -> Subscriber:  # noqa: ANN401  as for Subscriber
        """A new subscriber."""
        self._all.append(Subscriber(self._context, endpoint, **options))
        return self._all[-1]

    def close(self) -> None:
        """End all of them."""
        for subscriber in self._all:
            subscriber.socket.close()
        self._context.term()
