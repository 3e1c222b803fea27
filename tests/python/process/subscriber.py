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
    """A SUB socket on one feed; ``options`` are pyzmq's."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", **options: Any) -> None:  # noqa: ANN401  whatever pyzmq takes
        self.socket = context.socket(zmq.SUB)
        self.socket.linger = 0
        for name, value in options.items():
            setattr(self.socket, name, value)

    def connect(self, endpoint: str) -> None:
        """Follow the feed there."""
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
        self.watched: list[Subscriber] = []
        """Those whose handshakes are watched."""

    def follow(self, endpoint: str, **options: Any) -> Subscriber:  # noqa: ANN401  as for Subscriber
        """A new subscriber."""
        subscriber = Subscriber(self._context, **options)
        self._all.append(subscriber)
        subscriber.connect(endpoint)
        return subscriber

    def watch(self, endpoint: str, **options: Any) -> "zmq.Socket[bytes]":  # noqa: ANN401  as for Subscriber
        """A new subscriber; gives what tells of its connections."""
        subscriber = Subscriber(self._context, **options)
        self._all.append(subscriber)
        self.watched.append(subscriber)
        monitor: zmq.Socket[bytes] = subscriber.socket.get_monitor_socket()
        subscriber.connect(endpoint)
        return monitor

    def close(self) -> None:
        """End all of them."""
        for subscriber in self._all:
            subscriber.socket.close()
        self._context.destroy(linger=0)  # the monitors too
