"""The words every bench module speaks: jobs, operations, figures and rows.

Nothing here measures, opens or prints anything.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Leaf = int | float | str
"""One value of a load snapshot."""

Load = Mapping[str, Leaf]
"""A load snapshot as dotted names and values, for instance ``{"queues.waiting": 3}``."""


Foreign = Any
"""An object of a peer's own making, whose type is that peer's business."""


class Job(enum.Enum):
    """What a peer is asked to do; each peer says how it would be written by its users."""

    PUBLISH = "publish a snapshot that is already built"
    BUILD_AND_PUBLISH = "build the snapshot from its values, then publish it"
    READ_FIELD = "read one rank and look at one field"
    READ_WHOLE = "read one rank with every field decoded"
    VIEW = "see all ranks in the cheapest form that can be looked into"
    READ_ALL = "a list with one object per rank"
    READ_ALL_BUILT = "a list with one fully decoded object per rank"
    VIEW_STATES = "see all ranks and whether each writer lives"


class WrongAnswer(Exception):
    """A peer returned something else than what was published; its speed then means nothing."""


class Absent(Exception):
    """A peer, or one of its operations, cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One statement to be timed, as its user would type it.

    Attributes:
        statement: Python source; for a read it is an expression.
        names: what the statement's names stand for.
        answer: turns the statement's result into the snapshots that were seen. It runs outside the timed part.

    """

    statement: str
    names: Mapping[str, Any]
    answer: Callable[[Any], Sequence[Load]]

    def verify(self, expected: Sequence[Load]) -> None:
        """Run the statement once and compare; raise `WrongAnswer` unless the peer saw exactly `expected`.

        A peer whose schema lacks some fields is compared on those it has; at least one there must be.
        """
        seen = self.answer(eval(self.statement, dict(self.names)))  # noqa: S307  the statement is our own source
        if len(seen) != len(expected):
            raise WrongAnswer(f"{self.statement}: {len(seen)} snapshots seen, {len(expected)} published")
        for got, want in zip(seen, expected, strict=True):
            different = [name for name, value in got.items() if want.get(name) != value]
            if different or not got:
                name = different[0] if different else "no field at all"
                raise WrongAnswer(f"{self.statement}: {name}: {got.get(name)!r} seen, {want.get(name)!r} published")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured cell of the table, in the unit of its row.

    Attributes:
        value: the median, mean or percentile that the row's title names.
        p99: 99th percentile of calls timed one by one, where taken.
        p999: 99.9th percentile of the same.
        at_least: the true value is beyond `value`: the measurement was ended before the operation was.
        note: what else was seen, for instance failures.
        failed: the figure alone does not tell: something that must not happen did (see `note`).

    """

    value: float
    p99: float | None = None
    p999: float | None = None
    at_least: bool = False
    note: str = ""
    failed: bool = False


Cell = Figure | Absent
"""What stands in the table for one row and one peer."""

Cells = Mapping[str, Cell]
"""One row: cells by peer name."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: how often each hot operation gets its turn.
        batch_us: least length of one turn in microseconds (and never under `batch_calls` calls).
        batch_calls: least number of calls in one turn.
        single_calls: calls timed one by one in each turn, for the percentiles.
        cold_samples: calls per operation, each after other work.
        segments: how often "without" and "with readers" alternate.
        segment_s: seconds of one such segment.
        readers: looping reader processes.
        wakes: publishes whose way to an asyncio callback is timed.
        idle_s: seconds without a publish before liveness is asked.
        bursts: bursts of a rank after which its last snapshot must be there.
        takeovers: collectors killed.
        imports: fresh interpreters started to time an import.
        streams: clients of an event stream.
        requests: requests to a server while its schedulers are busy.

    """

    rounds: int = 150
    batch_us: float = 150.0
    batch_calls: int = 8
    single_calls: int = 100
    cold_samples: int = 150
    segments: int = 3
    segment_s: float = 3.0
    readers: int = 16
    wakes: int = 1000
    idle_s: float = 1.0
    bursts: int = 1_000_000
    takeovers: int = 30
    imports: int = 11
    streams: int = 1000
    requests: int = 200


THOROUGH = Effort()
SMOKE = Effort(
    rounds=5,
    batch_us=50.0,
    single_calls=20,
    cold_samples=5,
    segments=1,
    segment_s=0.3,
    readers=4,
    wakes=30,
    bursts=256,
    takeovers=2,
    imports=2,
    streams=50,
    requests=10,
)
"""Enough to see that everything runs and answers right; its figures mean little."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a row's measurement needs: how hard to try, which peers, and an empty directory on tmpfs."""

    effort: Effort
    peers: Sequence[str]
    home: Path


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        key: short name, for ``--only`` and the JSON file.
        title: what is measured, in words.
        unit: ``us``, ``ms``, or what the title counts.
        measure: takes the figures of all peers, interleaved.
        goal: what snapring must reach, in `unit`; None where nothing was promised.
        columns: who is compared, where that is not the stores; such rows have a table of their own.

    """

    key: str
    title: str
    unit: str
    measure: Callable[[Bench], Cells]
    goal: float | None = None
    columns: Sequence[str] = ()
