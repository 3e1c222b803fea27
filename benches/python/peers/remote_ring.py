"""snapring's relay and remote writers, through their public names only."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import payload
from model import Absent, Foreign, Load

from peers.lines import Collector, Line, Memory, Sender
from peers.structs import build

NAME = "bench"


def _module() -> Foreign:
    try:
        ring = importlib.import_module("snapring")
    except ImportError as error:
        raise Absent(f"snapring is not installed ({error})") from error
    if not hasattr(ring, "Relay"):
        raise Absent("this snapring has no Relay yet")
    return ring


class Ring(Memory):
    """A reader of the ring."""

    def __init__(self, where: Path) -> None:
        """Attach, now or later."""
        os.environ["SNAPRING_DIR"] = str(where)
        self._reader = _module().Reader(NAME)

    def peek(self, rank: int) -> Load | None:
        """Read all of it."""
        snapshot = self._reader.read(rank)
        return None if snapshot is None else payload.flatten(snapshot.value)

    def timestamp(self, rank: int) -> float:
        """Read one field."""
        snapshot = self._reader.read(rank)
        return 0.0 if snapshot is None else float(snapshot["timestamp"])

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


class RingCollector(Collector):
    """A relay, and a reader of the ring that it fills."""

    def __init__(self, endpoint: str, where: Path, ranks: int, drain: str) -> None:
        """Own the relay of a ring in `where`, or stand by."""
        self.memory = Ring(where)
        self._relay = _module().Relay(NAME, endpoint, ranks=ranks, drain=drain, insecure=True)

    def fileno(self) -> int:
        """Return the relay's descriptor."""
        return int(self._relay.fileno())

    def poll(self) -> None:
        """Let the relay work."""
        self._relay.poll()

    def seen(self) -> int:
        """Return the relay's counter: a snapshot that came twice counts once."""
        return int(self._relay.stats()["published"])

    def close(self) -> None:
        """Close reader and relay."""
        self.memory.close()
        self._relay.close()


class RingSender(Sender):
    """A remote writer."""

    def __init__(self, endpoint: str, rank: int, ranks: int, latency: str) -> None:
        """Begin to connect."""
        ring = _module()
        self._kind = ring.LoadSnapshot
        self._rank = rank
        self.writer = ring.RemoteWriter(endpoint, rank=rank, ranks=ranks, latency=latency, insecure=True)

    def publisher(self, steps: Iterable[int]) -> Callable[[int], None]:
        """Return a publisher of prepared snapshots."""
        values = [build(self._kind, payload.nested_load(self._rank, step)) for step in steps]
        publish = self.writer.publish
        return lambda index: publish(values[index])

    def close(self) -> None:
        """Close the writer."""
        self.writer.close()


class RemoteRing(Line):
    """RemoteWriter and Relay."""

    drives_itself = True

    def collector(self, endpoint: str, where: Path, ranks: int) -> Collector:
        """Return a relay that is driven by its descriptor."""
        return RingCollector(endpoint, where, ranks, "poll")

    def sender(self, endpoint: str, rank: int, ranks: int, *, at_once: bool) -> Sender:
        """Return a remote writer."""
        return RingSender(endpoint, rank, ranks, "wake" if at_once else "tick")

    def memory(self, where: Path, ranks: int) -> Memory:
        """Return a reader."""
        return Ring(where)

    def self_driven(self, endpoint: str, where: Path, ranks: int) -> Collector:
        """Return a relay with a thread of its own."""
        return RingCollector(endpoint, where, ranks, "thread")
