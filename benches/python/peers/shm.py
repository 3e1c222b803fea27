"""`multiprocessing.shared_memory` with `struct`: what one writes by hand.

Nothing stops a reader from seeing half a write.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections.abc import Callable, Iterable
from multiprocessing import shared_memory
from pathlib import Path

import payload
from model import Job, Load, Operation

from peers.store import Store

FIELDS = {name: "d" if isinstance(value, float) else "q" for name, value in payload.words(payload.load(0)).items()}
RECORD = struct.Struct("<" + "".join(FIELDS.values()))
NAMES = list(FIELDS)
RUNNING = NAMES.index("num_running_reqs")


class SharedMemoryStruct(Store):
    """One packed record per rank, side by side; the mode word as a number."""

    name = "shm + struct"

    def __init__(self, where: Path, ranks: int, writes: Iterable[int] = ()) -> None:
        """Create the block when writing, else attach."""
        super().__init__(where, ranks, writes)
        block = "snapring-bench-" + hashlib.blake2b(str(where).encode(), digest_size=8).hexdigest()
        self._shm = shared_memory.SharedMemory(block, create=bool(self.writes), size=ranks * RECORD.size)
        self._buffer = memoryview(self._shm.buf)  # type: ignore[arg-type]  # None only once closed
        for rank in self.writes:
            self.put(rank, 0)

    @classmethod
    def version(cls) -> str:
        """Return how it stands to torn reads, which is what a reader of the table must know."""
        return "can tear"

    def publishing(self, job: Job, rank: int) -> Operation:
        """Return one pack; there is no struct to build, so both jobs are the same."""
        names = {"pack": RECORD.pack_into, "values": self._values(rank, payload.TIMED_STEP), **self._place(rank)}
        return Operation("pack(buffer, offset, *values)", names, lambda _: [self.peek(rank)])

    def reading_one(self, job: Job, rank: int) -> Operation:
        """Return one unpack, which always decodes everything."""
        names = {"unpack": RECORD.unpack_from, **self._place(rank)}
        if job is Job.READ_FIELD:
            statement = f"unpack(buffer, offset)[{RUNNING}]"
            return Operation(statement, names, lambda running: [{"num_running_reqs": running}])
        return Operation("unpack(buffer, offset)", names, lambda record: [self._leaves(record)])

    def reading_all(self, job: Job) -> Operation:
        """Return one unpack per rank."""
        if job is Job.VIEW_STATES:
            raise self.missing(job)
        offsets = range(0, self.ranks * RECORD.size, RECORD.size)
        names = {"unpack": RECORD.unpack_from, "buffer": self._buffer, "offsets": offsets}
        statement = "[unpack(buffer, offset) for offset in offsets]"
        return Operation(statement, names, lambda records: [self._leaves(record) for record in records])

    def _place(self, rank: int) -> dict[str, object]:
        return {"buffer": self._buffer, "offset": rank * RECORD.size}

    def put(self, rank: int, step: int) -> None:
        """Publish without being timed."""
        RECORD.pack_into(self._buffer, rank * RECORD.size, *self._values(rank, step))

    def publisher(self, rank: int, steps: Iterable[int]) -> Callable[[int], None]:
        """Return a publisher of prepared tuples."""
        values, buffer, offset = [self._values(rank, step) for step in steps], self._buffer, rank * RECORD.size
        return lambda index: RECORD.pack_into(buffer, offset, *values[index])

    def peek(self, rank: int) -> Load:
        """Read one rank back."""
        return self._leaves(RECORD.unpack_from(self._buffer, rank * RECORD.size))

    def close(self) -> None:
        """Unmap; the writer removes the block."""
        self._buffer.release()
        self._shm.close()
        if self.writes:
            with contextlib.suppress(FileNotFoundError):
                self._shm.unlink()

    @staticmethod
    def _values(rank: int, step: int) -> tuple[int | float, ...]:
        return tuple(payload.words(payload.load(rank, step)).values())

    @staticmethod
    def _leaves(record: tuple[int | float, ...]) -> Load:
        return payload.from_words(NAMES, record)
