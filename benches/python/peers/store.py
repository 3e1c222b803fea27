"""What every peer must offer to be compared.

Contract, the same for all:

1. `Store(where, ranks, writes)` opens the peer's memory under the directory `where` (on tmpfs). A store that writes
   creates what is missing and publishes `payload.load(rank)` for each rank it writes before the constructor returns;
   one that does not write attaches to what a living writer made.
2. `operation(job, rank)` returns the statement a user of that peer would type, or raises `Absent`.
3. `put(rank, step)` publishes another snapshot, untimed. `peek(rank)` reads one back and is never torn by `put` here.
4. `close()` gives back everything outside `where`; the bench removes `where` itself.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import ClassVar, Self

from model import Absent, Job, Load, Operation


class Store(abc.ABC):
    """One peer's shared memory for a number of ranks."""

    name: ClassVar[str]

    def __init__(self, where: Path, ranks: int, writes: Iterable[int] = ()) -> None:
        """Remember the arguments; subclasses open their memory."""
        self.where = where
        self.ranks = ranks
        self.writes = tuple(writes)

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @classmethod
    def obtain(cls) -> None:
        """Get hold of what the peer needs (a module, a compiler); raise `Absent` with the reason if that fails."""
        return

    @classmethod
    def version(cls) -> str:
        """Return the peer's version, as shown under the table."""
        return ""

    def operation(self, job: Job, rank: int = 0) -> Operation:
        """Return how a user of this peer does `job`; raise `Absent` when it has no such thing."""
        if job in {Job.PUBLISH, Job.BUILD_AND_PUBLISH}:
            return self.publishing(job, rank)
        if job in {Job.READ_FIELD, Job.READ_WHOLE}:
            return self.reading_one(job, rank)
        return self.reading_all(job)

    @abc.abstractmethod
    def publishing(self, job: Job, rank: int) -> Operation:
        """Return the statement for `PUBLISH` or `BUILD_AND_PUBLISH`."""

    @abc.abstractmethod
    def reading_one(self, job: Job, rank: int) -> Operation:
        """Return the statement for `READ_FIELD` or `READ_WHOLE`."""

    @abc.abstractmethod
    def reading_all(self, job: Job) -> Operation:
        """Return the statement for `VIEW`, `READ_ALL`, `READ_ALL_BUILT` or `VIEW_STATES`."""

    @abc.abstractmethod
    def put(self, rank: int, step: int) -> None:
        """Publish `payload.load(rank, step)` without being timed."""

    @abc.abstractmethod
    def publisher(self, rank: int, steps: Iterable[int]) -> Callable[[int], None]:
        """Return a function that publishes the nth of these prepared snapshots with nothing else around it."""

    @abc.abstractmethod
    def peek(self, rank: int) -> Load:
        """Read `rank` back, every field."""

    def timestamp(self, rank: int) -> float:
        """Read one rank's timestamp only, as cheaply as the peer can: it is part of what waking is timed by."""
        return float(self.peek(rank)["timestamp"])

    @abc.abstractmethod
    def close(self) -> None:
        """Give everything back; files inside `where` may stay."""

    async def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` from the running asyncio loop after each publish until cancelled; raise `Absent` if it can't.

        `changed` reads what it wants to know.
        """
        raise Absent("cannot wake a reader")

    def missing(self, job: Job) -> Absent:
        """Return the reason for a job that this peer has no counterpart for."""
        return Absent(f"has nothing to {job.value}")


async def listen_to(fd: int, changed: Callable[[], None]) -> None:
    """Call `changed` whenever `fd` is readable, until cancelled."""
    loop = asyncio.get_running_loop()
    loop.add_reader(fd, changed)
    try:
        await asyncio.Event().wait()
    finally:
        loop.remove_reader(fd)
