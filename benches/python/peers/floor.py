"""The floor: a C extension that copies the same fields and does nothing else (`floor.c`), compiled by the bench.

It shows what CPython and the memory allow. It is no library: no owner, no liveness, no schema, no checks of the file.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import payload
from model import Absent, Foreign, Job, Load, Operation

from peers.fetch import compiled_extension
from peers.store import Store, listen_to

SOURCE = Path(__file__).with_name("floor.c")
FIELDS = {name.replace(".", "_"): value for name, value in payload.words(payload.load(0)).items()}
NAMES = list(payload.load(0))
TIMESTAMP = NAMES.index("timestamp")
RUNNING = NAMES.index("num_running_reqs")
KINDS = "".join("d" if isinstance(value, float) else "q" for value in FIELDS.values())
FIRST_LOCK = 1 << 62

Flat: Any = msgspec.defstruct("Flat", [(name, type(value)) for name, value in FIELDS.items()], frozen=True)
"""A full load in one Struct without sections, the shape that is cheapest to read at its slot offsets."""


class Floor(Store):
    """One seqlocked slot of four cells per rank."""

    name = "C floor"

    def __init__(self, where: Path, ranks: int, writes: Iterable[int] = ()) -> None:
        """Map the file once per written rank, and once for reading."""
        super().__init__(where, ranks, writes)
        members = tuple(getattr(Flat, name) for name in FIELDS)
        path = str(where / "floor")
        self._maps = {rank: _module().Floor(path, ranks, rank, members, KINDS) for rank in self.writes}
        self._reader = _module().Floor(path, ranks, 0, members, KINDS)
        for rank in self.writes:
            self.put(rank, 0)
        # A FIFO stands for the cheapest bell: one write, one wake-up, straight to the waiter.
        bell = where / "bell"
        if self.writes:
            os.mkfifo(bell, 0o600)
        self._bell = os.open(bell, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._claims: list[int] = []

    @classmethod
    def obtain(cls) -> None:
        """Compile it once."""
        _module()

    @classmethod
    def version(cls) -> str:
        """Return what it is."""
        return "cc -O3"

    def publishing(self, job: Job, rank: int) -> Operation:
        """Return one call that reads the Struct at its slot offsets."""
        publish = self._maps[rank].publish
        if job is Job.PUBLISH:
            names = {"publish": publish, "value": self._value(rank, payload.TIMED_STEP)}
            return Operation("publish(value)", names, lambda _: [self.peek(rank)])
        values = payload.numbered(rank)
        names = {"publish": publish, "Flat": Flat, **values}
        return Operation(f"publish(Flat({', '.join(values)}))", names, lambda _: [self.peek(rank)])

    def reading_one(self, job: Job, rank: int) -> Operation:
        """Return a copy with one field looked at, or a tuple."""
        if job is Job.READ_FIELD:
            names = {"read": self._reader.read, "rank": rank}
            return Operation(f"read(rank)[{RUNNING}]", names, lambda running: [{"num_running_reqs": running}])
        names = {"read": self._reader.read_tuple, "rank": rank}
        return Operation("read(rank)", names, lambda values: [payload.from_words(NAMES, values)])

    def reading_all(self, job: Job) -> Operation:
        """Return one buffer, a list of undecoded objects, or a list of tuples."""
        match job:
            case Job.VIEW:
                return Operation("view()", {"view": self._reader.view}, self._records)
            case Job.READ_ALL:
                return Operation("read_all()", {"read_all": self._reader.read_all}, _all)
            case Job.READ_ALL_BUILT:
                return Operation("read_all()", {"read_all": self._reader.read_tuples}, _all)
            case _:
                return self._view_states()

    def _view_states(self) -> Operation:
        """One copy, and one lock query per rank; each rank's lock is held through a descriptor of its own."""
        path = self.where / "claims"
        for rank in range(self.ranks):
            self._claims.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            claim = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, FIRST_LOCK + rank, 1, 0)
            fcntl.fcntl(self._claims[-1], fcntl.F_OFD_SETLK, claim)
        self._claims.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        names = {"view": self._reader.view, "held": _module().held, "ranks": self.ranks, "first": FIRST_LOCK}
        names["fd"] = self._claims[-1]
        return Operation("(view(), held(fd, ranks, first))", names, self._living)

    def _living(self, seen: tuple[bytes, int]) -> list[Load]:
        copied, living = seen
        return self._records(copied)[:living]

    def _records(self, copied: bytes) -> list[Load]:
        record = struct.Struct("<" + KINDS)
        return [payload.from_words(NAMES, values) for values in record.iter_unpack(copied)]

    def put(self, rank: int, step: int) -> None:
        """Publish without being timed."""
        self._maps[rank].publish(self._value(rank, step))

    def publisher(self, rank: int, steps: Iterable[int]) -> Callable[[int], None]:
        """Return a publisher of prepared Structs; it does not ring the bell."""
        values, publish = [self._value(rank, step) for step in steps], self._maps[rank].publish
        return lambda index: publish(values[index])

    def ringing_publisher(self, rank: int, steps: Iterable[int]) -> Callable[[int], None]:
        """Return a publisher that rings the bell as well."""
        quiet, bell = self.publisher(rank, steps), self._bell

        def publish(index: int) -> None:
            quiet(index)
            os.write(bell, b"!")

        return publish

    def peek(self, rank: int) -> Load:
        """Read one rank back."""
        return payload.from_words(NAMES, self._reader.read_tuple(rank))

    def timestamp(self, rank: int) -> float:
        """Read one field."""
        return float(self._reader.read(rank)[TIMESTAMP])

    async def listen(self, changed: Callable[[], None]) -> None:
        """Wait on the FIFO."""

        def rung() -> None:
            os.read(self._bell, 64)
            changed()

        await listen_to(self._bell, rung)

    def close(self) -> None:
        """Close the descriptors; mappings go with their objects."""
        for descriptor in (self._bell, *self._claims):
            os.close(descriptor)
        self._claims.clear()

    @staticmethod
    def _value(rank: int, step: int) -> Foreign:
        return Flat(*payload.words(payload.load(rank, step)).values())


def _all(records: Iterable[Iterable[int | float]]) -> list[Load]:
    return [payload.from_words(NAMES, list(record)) for record in records]


@functools.cache
def _module() -> ModuleType:
    path = compiled_extension(SOURCE)
    spec = importlib.util.spec_from_file_location("floor", path)
    if spec is None or spec.loader is None:
        raise Absent(f"{path} is no extension module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
