"""snapring itself, through its public names only."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import payload
from model import Absent, Foreign, Job, Load, Operation

from peers.store import Store, listen_to
from peers.structs import build, constructor

NAME = "bench"


class Snapring(Store):
    """One ring in a directory of its own."""

    name = "snapring"

    def __init__(self, where: Path, ranks: int, writes: Iterable[int] = (), *, wake: bool = True) -> None:
        """Open one writer per rank and one reader; `wake=False` makes writers without a bell."""
        super().__init__(where, ranks, writes)
        ring = _module()
        os.environ["SNAPRING_DIR"] = str(where)
        self._kind = ring.LoadSnapshot
        self._writers = {rank: ring.Writer(NAME, rank=rank, ranks=ranks, wake=wake) for rank in self.writes}
        for rank in self.writes:
            self.put(rank, 0)
        self.reader = ring.Reader(NAME)

    @classmethod
    def obtain(cls) -> None:
        """Import it."""
        _module()

    @classmethod
    def version(cls) -> str:
        """Return its version."""
        return str(_module().__version__)

    def publishing(self, job: Job, rank: int) -> Operation:
        """Return one call of the writer."""
        publish = self._writers[rank].publish
        if job is Job.PUBLISH:
            names = {"publish": publish, "value": self._value(rank, payload.TIMED_STEP)}
            return Operation("publish(value)", names, lambda _: [self.peek(rank)])
        expression, names = constructor(self._kind, payload.nested_load(rank, payload.TIMED_STEP))
        return Operation(f"publish({expression})", {"publish": publish, **names}, lambda _: [self.peek(rank)])

    def reading_one(self, job: Job, rank: int) -> Operation:
        """Return one read; the struct is built only when the whole of it is wanted."""
        names = {"read": self.reader.read, "rank": rank}
        if job is Job.READ_FIELD:
            return Operation('read(rank)["num_running_reqs"]', names, lambda running: [{"num_running_reqs": running}])
        return Operation("read(rank).value", names, lambda value: [_whole(value)])

    def reading_all(self, job: Job) -> Operation:
        """Return a structured array, a list of snapshots, or of their structs."""
        names = {"view": self.reader.view, "read_all": self.reader.read_all}
        match job:
            case Job.VIEW:
                return Operation("view().records", names, _records)
            case Job.READ_ALL:
                return Operation("read_all()", names, lambda snapshots: [_whole(one.value) for one in snapshots])
            case Job.READ_ALL_BUILT:
                statement = "[snapshot.value for snapshot in read_all()]"
                return Operation(statement, names, lambda values: [_whole(value) for value in values])
            case _:
                return Operation("(seen := view(), seen.states)", names, _living)

    def put(self, rank: int, step: int) -> None:
        """Publish without being timed."""
        self._writers[rank].publish(self._value(rank, step))

    def publisher(self, rank: int, steps: Iterable[int]) -> Callable[[int], None]:
        """Return a publisher of prepared snapshots."""
        values, publish = [self._value(rank, step) for step in steps], self._writers[rank].publish

        def put(index: int) -> None:
            publish(values[index])

        return put

    def peek(self, rank: int) -> Load:
        """Read one rank back; a snapshot that had to be an older one counts as a failed read."""
        snapshot = self.reader.read(rank)
        if snapshot is None or snapshot.contended:
            raise BlockingIOError(f"rank {rank}: no fresh snapshot")
        return _whole(snapshot.value)

    def timestamp(self, rank: int) -> float:
        """Read one field."""
        return float(self.reader.read(rank)["timestamp"])

    def drop_writer(self, rank: int) -> None:
        """Close one rank's writer, so that its claim is free."""
        self._writers.pop(rank).close()

    def state(self, rank: int) -> str:
        """Return the name of a rank's state, as the view's column has it."""
        return _name(self.reader.view().states[rank])

    async def listen(self, changed: Callable[[], None]) -> None:
        """Wait on the reader's descriptor."""

        def rung() -> None:
            self.reader.poll()
            changed()

        await listen_to(self.reader.fileno(), rung)

    def close(self) -> None:
        """Close the reader and the writers; the last of them removes the ring."""
        self.reader.close()
        for writer in self._writers.values():
            writer.close()

    def _value(self, rank: int, step: int) -> Foreign:
        return build(self._kind, payload.nested_load(rank, step))


def _whole(value: Foreign) -> Load:
    """Return the leaves of a full snapshot; a field that got lost on the way must not pass as compared."""
    seen = payload.flatten(value)
    return {name: seen.get(name, "lost") for name in payload.load(0)}


def _records(records: Foreign) -> list[Load]:
    """Return what every record says in the fields that are plain numbers: all but the mode and the list."""
    names = [name for name, value in payload.load(0).items() if not isinstance(value, str) and "moments" not in name]
    return [{name: record[name].item() for name in names} for record in records]


def _living(seen: tuple[Any, Sequence[Any]]) -> list[Load]:
    """Return the records of those ranks whose writer was found to live."""
    view, states = seen
    living = {"LIVE", "STALE"}
    return [row for row, state in zip(_records(view.records), states, strict=True) if _name(state) in living]


def _name(state: Foreign) -> str:
    return str(_module().State(int(state)).name)


def _module() -> Foreign:
    try:
        ring = importlib.import_module("snapring")
    except ImportError as error:
        raise Absent(f"snapring is not installed ({error})") from error
    for name in ("Writer", "Reader", "LoadSnapshot"):
        if not hasattr(ring, name):
            raise Absent(f"this snapring has no {name} yet")
    return ring
