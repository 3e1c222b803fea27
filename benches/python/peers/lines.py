"""Ways from ranks on other nodes into the memory of this one: what a collector and a sender of each peer can do.

A collector never reads a clock and a sender never waits; the rows do. What a sender publishes are the snapshots of
`payload`, so a collector's answer can be compared with all of them.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, Self

from model import Absent, Load


class Memory(abc.ABC):
    """What any reader of this node sees, without collecting anything."""

    def __enter__(self) -> Self:
        """Return the memory itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @abc.abstractmethod
    def peek(self, rank: int) -> Load | None:
        """Return every field of the newest snapshot, None before the first."""

    @abc.abstractmethod
    def timestamp(self, rank: int) -> float:
        """Return the timestamp of the newest snapshot, 0 before the first."""

    @abc.abstractmethod
    def close(self) -> None:
        """Detach."""


class Collector(abc.ABC):
    """The one process of a node that takes what senders push.

    1. The constructor binds `endpoint`; `where` is a private directory on tmpfs for its files, `ranks` their number.
    2. `fileno()` becomes readable when `poll()` has something to do, and `poll()` does all of it.
    3. `memory` is what it fills, as a reader sees it.
    4. `seen()` counts the distinct snapshots of rank 0 that came into the memory so far.
    """

    memory: Memory

    def __enter__(self) -> Self:
        """Return the collector itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @abc.abstractmethod
    def fileno(self) -> int:
        """Return a descriptor to wait on."""

    @abc.abstractmethod
    def poll(self) -> None:
        """Take all that has come in."""

    @abc.abstractmethod
    def seen(self) -> int:
        """Return how many distinct snapshots of rank 0 have come into the memory."""

    @abc.abstractmethod
    def close(self) -> None:
        """Unbind, and give everything back."""


class Sender(abc.ABC):
    """One rank elsewhere."""

    def __enter__(self) -> Self:
        """Return the sender itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @abc.abstractmethod
    def publisher(self, steps: Iterable[int]) -> Callable[[int], None]:
        """Return a function that publishes the nth of these prepared snapshots with nothing else around it."""

    @abc.abstractmethod
    def close(self) -> None:
        """Disconnect."""


class Line(abc.ABC):
    """One peer: how to make its two ends. Every method raises `Absent` for what the peer does not have."""

    drives_itself: ClassVar[bool] = False
    """Whether there is a collector that needs no calls."""

    @abc.abstractmethod
    def collector(self, endpoint: str, where: Path, ranks: int) -> Collector:
        """Return a collector that its caller drives."""

    @abc.abstractmethod
    def sender(self, endpoint: str, rank: int, ranks: int, *, at_once: bool) -> Sender:
        """Return the sender of one rank; `at_once`: it sends while it publishes, where the peer leaves the choice."""

    def memory(self, where: Path, ranks: int) -> Memory:
        """Return a reader of the memory that a collector of another process fills."""
        raise Absent("shares what it collects with no other process")

    def self_driven(self, endpoint: str, where: Path, ranks: int) -> Collector:
        """Return a collector that needs no calls; a second one of the same place stands by."""
        raise Absent("collects only when its owner calls it")
