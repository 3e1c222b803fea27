"""iceoryx2's blackboard: one lock-free entry per rank, ctypes structures as values."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import payload
from model import Absent, Foreign, Job, Load, Operation

from peers.store import Store

MAX_PROCESSES = 64
FIELDS = {name.replace(".", "_"): value for name, value in payload.words(payload.load(0)).items()}
NAMES = list(payload.load(0))


class Record(ctypes.Structure):
    """A full load as eight-byte numbers; the mode word as a number."""

    _fields_ = [
        (name, ctypes.c_double if isinstance(value, float) else ctypes.c_int64) for name, value in FIELDS.items()
    ]


class Iceoryx(Store):
    """A blackboard service of its own, with its files under the bench's directory."""

    name = "iceoryx2"

    def __init__(self, where: Path, ranks: int, writes: Iterable[int] = ()) -> None:
        """Create the service when writing, else open it."""
        super().__init__(where, ranks, writes)
        iox2 = _module()
        iox2.set_log_level(iox2.LogLevel.Fatal)
        config = iox2.config.default()
        tag = hashlib.blake2b(str(where).encode(), digest_size=4).hexdigest()
        self._prefix = f"snapring-bench-{tag}_"
        config.global_cfg.prefix = iox2.FileName.new(self._prefix)
        config.global_cfg.root_path = iox2.Path.new(f"{where}/")
        quiet = iox2.SignalHandlingMode.Disabled
        node = iox2.NodeBuilder.new().config(config).signal_handling_mode(quiet).create(iox2.ServiceType.Ipc)
        service = self._service(node.service_builder(iox2.ServiceName.new("loads")))
        self._reader, self._parts = service.reader_builder().create(), [node, service]
        self._writers: dict[int, Any] = {}
        if self.writes:
            writer = service.writer_builder().create()
            self._parts.append(writer)
            self._writers = {rank: writer.entry(ctypes.c_uint64(rank), Record) for rank in self.writes}
        self._entries = [self._reader.entry(ctypes.c_uint64(rank), Record) for rank in range(ranks)]
        for rank in self.writes:
            self.put(rank, 0)

    def _service(self, builder: Foreign) -> Foreign:
        if not self.writes:
            return builder.blackboard_opener(ctypes.c_uint64).open()
        creator = builder.blackboard_creator(ctypes.c_uint64).max_readers(MAX_PROCESSES).max_nodes(MAX_PROCESSES)
        for rank in range(self.ranks):
            creator = creator.add(ctypes.c_uint64(rank), Record())
        return creator.create()

    @classmethod
    def obtain(cls) -> None:
        """Import it."""
        _module()

    @classmethod
    def version(cls) -> str:
        """Return the installed version."""
        return importlib.metadata.version("iceoryx2")

    def publishing(self, job: Job, rank: int) -> Operation:
        """Return one update, with the structure at hand or built in the call."""
        update = self._writers[rank].update_with_copy
        if job is Job.PUBLISH:
            names = {"update": update, "value": self._value(rank, payload.TIMED_STEP)}
            return Operation("update(value)", names, lambda _: [self.peek(rank)])
        values = payload.numbered(rank)
        names = {"update": update, "Record": Record, **values}
        return Operation(f"update(Record({', '.join(values)}))", names, lambda _: [self.peek(rank)])

    def reading_one(self, job: Job, rank: int) -> Operation:
        """Return one get; where all fields are wanted, each is fetched out of the structure."""
        names = {"get": self._entries[rank].get, "Record": Record}
        if job is Job.READ_FIELD:
            statement = "get().decode_as(Record).num_running_reqs"
            return Operation(statement, names, lambda running: [{"num_running_reqs": running}])
        every = ", ".join(f"value.{name}" for name in FIELDS)
        statement = f"(value := get().decode_as(Record)) and ({every})"
        return Operation(statement, names, lambda record: [payload.from_words(NAMES, record)])

    def reading_all(self, job: Job) -> Operation:
        """Return one get per rank; the structures' fields stay untouched."""
        if job is Job.VIEW_STATES:
            raise self.missing(job)
        names = {"entries": self._entries, "Record": Record}
        statement = "[entry.get().decode_as(Record) for entry in entries]"
        return Operation(statement, names, lambda records: [_leaves(record) for record in records])

    def put(self, rank: int, step: int) -> None:
        """Publish without being timed."""
        self._writers[rank].update_with_copy(self._value(rank, step))

    def publisher(self, rank: int, steps: Iterable[int]) -> Callable[[int], None]:
        """Return a publisher of prepared structures."""
        values, update = [self._value(rank, step) for step in steps], self._writers[rank].update_with_copy
        return lambda index: update(values[index])

    def peek(self, rank: int) -> Load:
        """Read one rank back."""
        return _leaves(self._entries[rank].get().decode_as(Record))

    def close(self) -> None:
        """Drop every part, newest first; then what its shared memory left behind."""
        self._entries.clear()
        self._writers.clear()
        del self._reader
        while self._parts:
            self._parts.pop()
        gc.collect()
        if self.writes:
            for left in Path("/dev/shm").glob(f"{self._prefix}*"):
                with contextlib.suppress(FileNotFoundError):
                    left.unlink()

    @staticmethod
    def _value(rank: int, step: int) -> Record:
        return Record(*payload.words(payload.load(rank, step)).values())


def _leaves(record: Record) -> Load:
    return payload.from_words(NAMES, [getattr(record, name) for name in FIELDS])


def _module() -> Foreign:
    try:
        import iceoryx2  # type: ignore[import-untyped]
    except ImportError as error:
        raise Absent(f"the iceoryx2 wheel is not installed ({error})") from error
    return iceoryx2
