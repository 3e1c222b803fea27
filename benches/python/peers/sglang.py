"""SGLang's own load snapshots: the module out of its wheel, unmodified, with the rest of SGLang stubbed.

The module is loaded from the cache by path. It asks its surroundings only for switches that the shared-memory side
never looks at, so empty stand-ins suffice.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import payload
from model import Absent, Foreign, Job, Leaf, Load, Operation

from peers.fetch import module_from_wheel
from peers.store import Store
from peers.structs import build, constructor

MEMBER = "sglang/srt/managers/load_snapshot.py"
POLL_S = 0.02
"""SGLang's dispatcher looks at the snapshots at most this often."""

STUBS: Mapping[str, tuple[str, ...]] = {
    "sglang": (),
    "sglang.srt": (),
    "sglang.srt.environ": ("envs",),
    "sglang.srt.runtime_context": ("get_parallel", "get_serving"),
    "sglang.srt.utils": (),
    "sglang.srt.utils.network": ("is_zmq_endpoint_ipv6", "restrict_zmq_peers", "zmq_connect"),
}


@functools.cache
def load_module(version: str) -> ModuleType:
    """Return the load-snapshot module of one SGLang release; raises `Absent` when it cannot be had."""
    path = module_from_wheel("sglang", version, MEMBER)
    name = f"sglang_load_snapshot_{version.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Absent(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    stubs = {stub: mock.MagicMock(spec_set=names) for stub, names in STUBS.items()}
    sys.modules[name] = module  # msgspec looks its annotations up there
    with mock.patch.dict(sys.modules, stubs):
        spec.loader.exec_module(module)
    return module


class SGLang(Store):
    """A server's snapshot file in SGLang's format, written and read by SGLang's own classes."""

    release: ClassVar[str]

    def __init__(self, where: Path, ranks: int, writes: Iterable[int] = ()) -> None:
        """Open one writer per rank and one reader."""
        super().__init__(where, ranks, writes)
        self._module = load_module(self.release)
        path = str(where / "sglang.shm")
        self._writers = {rank: self._module.ShmLoadSnapshotWriter(path, ranks, rank) for rank in self.writes}
        for rank in self.writes:
            self.put(rank, 0)
        self._reader = self._module.ShmLoadSnapshotReader(path, ranks)

    @classmethod
    def obtain(cls) -> None:
        """Download the wheel once."""
        load_module(cls.release)

    @classmethod
    def version(cls) -> str:
        """Return the release."""
        return cls.release

    def publishing(self, job: Job, rank: int) -> Operation:
        """Return one write, which takes the file's lock."""
        write = self._writers[rank].write
        if job is Job.PUBLISH:
            names = {"write": write, "value": self.value(rank, payload.TIMED_STEP)}
            return Operation("write(value)", names, lambda _: [self.peek(rank)])
        expression, names = constructor(self._module.LoadSnapshot, self.spread(rank, payload.TIMED_STEP))
        return Operation(f"write({expression})", {"write": write, **names}, lambda _: [self.peek(rank)])

    def reading_one(self, job: Job, rank: int) -> Operation:
        """Return one read, which always decodes everything."""
        names = {"read": self._reader.read, "rank": rank}
        if job is Job.READ_FIELD:
            return Operation("read(rank).num_running_reqs", names, lambda running: [{"num_running_reqs": running}])
        return Operation("read(rank)", names, lambda value: [self.leaves(value)])

    def reading_all(self, job: Job) -> Operation:
        """Return its one way to see all ranks: a list of decoded Structs."""
        if job is Job.VIEW_STATES:
            raise self.missing(job)
        names = {"read_all": self._reader.read_all}
        return Operation("read_all()", names, lambda values: [self.leaves(value) for value in values])

    def value(self, rank: int, step: int) -> Foreign:
        """Return SGLang's Struct for this rank and step."""
        return build(self._module.LoadSnapshot, self.spread(rank, step))

    def spread(self, rank: int, step: int) -> dict[str, Any]:
        """Return the load under this release's own field names."""
        return payload.nested_load(rank, step)

    def leaves(self, value: Foreign) -> Load:
        """Return a decoded Struct under the bench's dotted names."""
        return payload.flatten(value)

    def put(self, rank: int, step: int) -> None:
        """Publish without being timed."""
        self._writers[rank].write(self.value(rank, step))

    def publisher(self, rank: int, steps: Iterable[int]) -> Callable[[int], None]:
        """Return a publisher of prepared Structs."""
        values, write = [self.value(rank, step) for step in steps], self._writers[rank].write
        return lambda index: write(values[index])

    def peek(self, rank: int) -> Load:
        """Read one rank back."""
        return self.leaves(self._reader.read(rank))

    def timestamp(self, rank: int) -> float:
        """Read one field."""
        return float(self._reader.read(rank).timestamp)

    async def listen(self, changed: Callable[[], None]) -> None:
        """Look every 20 ms, as its dispatcher does: there is nothing to wait on."""
        while True:
            changed()
            await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """Close the mappings."""
        self._reader.close()
        for writer in self._writers.values():
            writer.close()


class SGLang0523(SGLang):
    """The newest release looked at: nested sections."""

    name = "SGLang 0.5.23"
    release = "0.5.23"


class SGLang0514(SGLang):
    """The release that brought the feature: 39 flat fields."""

    name = "SGLang 0.5.14"
    release = "0.5.14"

    def spread(self, rank: int, step: int) -> dict[str, Any]:
        """Return flat names; every section is there; the mode is a number."""
        flat: dict[str, Any] = {f"has_{section}": 1 for section in payload.SECTIONS}
        for name, value in payload.words(payload.load(rank, step)).items():
            flat[_FLAT_NAMES.get(name, name)] = value
        return flat

    def leaves(self, value: Foreign) -> Load:
        """Return the dotted names of what this release has."""
        flat = payload.flatten(value)
        seen: dict[str, Leaf] = {name: flat[_FLAT_NAMES.get(name, name)] for name in _ALL_NAMES if _has(flat, name)}
        modes = ("null", "prefill", "decode")
        return {**seen, "disaggregation.mode": modes[int(seen["disaggregation.mode"])]}


_ALL_NAMES = tuple(payload.load(0))
_FLAT_PREFIX = {"disaggregation": "", "queues": "queue_", "memory": "memory_", "lora": "lora_"}
_FLAT_NAMES = {
    name: _FLAT_PREFIX.get(section, f"{section}_") + field
    for name in _ALL_NAMES
    for section, _, field in (name.partition("."),)
    if field
} | {"disaggregation.mode": "disagg_mode"}


def _has(flat: Mapping[str, Leaf], name: str) -> bool:
    return _FLAT_NAMES.get(name, name) in flat
