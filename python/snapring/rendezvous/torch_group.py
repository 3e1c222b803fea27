"""A group over the store that every process group of ``torch.distributed`` has: no collective, no further service."""

import importlib
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol, cast

import msgspec

from snapring.errors import RendezvousFailed, StoreUnavailable
from snapring.rendezvous.group import check_entry, check_name, check_seconds

__all__ = ["TorchGroup"]

ABSENT: Final = "?"
"""Expected and wanted value of a comparison that only reads: an entry never is this, as entries are JSON."""

FORGOTTEN: Final = ""
"""What a removed entry leaves behind: the store takes it for no entry at all."""


class _Store(Protocol):
    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes: ...


class TorchGroup:
    """All ranks of the default process group of ``torch.distributed``, 1.13 or newer, and the store behind it.

    Rank and size are those of the world. Only the store is used, one key at a time, never a collective: a rank that is
    missing delays nobody beyond the deadline, and no accelerator is touched. The store lives in rank 0's process or its
    launcher, so it ends with the job.

    Torch's store has no leases. An entry with a ``ttl`` is gone for a process that has seen it unchanged for that long;
    one that is dead already is therefore believed for ``ttl`` seconds after the group's first look, so keep one group
    per process. Entries of ranks beyond the world cannot be listed, and removed ones leave an empty key behind.

    The store's own calls know no deadline, so a daemon thread makes them, one after another; while one hangs, all
    others are StoreUnavailable. Threads may share a group; after a fork the child makes a process group of its own.

    Raises RendezvousFailed at once when torch is missing or the process group is not initialised.
    """

    def __init__(self, *, job: str = "default") -> None:
        self._job = check_name(job, "the job")
        try:
            distributed = importlib.import_module("torch.distributed")
        except ImportError as error:
            raise RendezvousFailed("torch is not installed here; install it, or use another group") from error
        if not (distributed.is_available() and distributed.is_initialized()):
            raise RendezvousFailed("torch.distributed is not initialised; call init_process_group(...) first")
        internals = importlib.import_module("torch.distributed.distributed_c10d")
        self._store: _Store = internals._get_default_store()  # noqa: SLF001  it has no public name
        self._rank, self._size = int(distributed.get_rank()), int(distributed.get_world_size())
        self._line = _Line()
        self._seen: dict[str, tuple[str, float]] = {}

    def __repr__(self) -> str:
        return f"TorchGroup({self.describe()}, rank={self._rank}, size={self._size}, job={self._job!r})"

    @property
    def rank(self) -> int:
        """This process's rank in the world."""
        return self._rank

    @property
    def size(self) -> int:
        """Size of the world."""
        return self._size

    @property
    def job(self) -> str:
        """Name of the job."""
        return self._job

    def describe(self) -> str:
        """Kind and address of the store, as far as it tells."""
        store: object = self._store
        while (inner := getattr(store, "underlying_store", None)) is not None:
            store = inner
        host = getattr(store, "host", None) or os.environ.get("MASTER_ADDR", "an unknown host")
        port = getattr(store, "port", None) or os.environ.get("MASTER_PORT", "?")
        return f"torch {type(store).__name__} {host}:{port}"

    def read(self, folder: str, rank: int, timeout: float) -> bytes | None:
        """The entry of one rank."""
        key = self._key(folder, rank)
        return self._alive(key, self._ask(key, ABSENT, ABSENT, timeout))

    def read_all(self, folder: str, timeout: float) -> dict[int, bytes]:
        """Every entry of a folder by rank, asked for one by one within one ``timeout``."""
        end = time.monotonic() + check_seconds(timeout, "a timeout")
        found = {rank: self.read(folder, rank, max(end - time.monotonic(), 0.001)) for rank in range(self._size)}
        return {rank: entry for rank, entry in found.items() if entry is not None}

    def swap(
        self, folder: str, rank: int, old: bytes | None, new: bytes | None, timeout: float, *, ttl: float | None = None
    ) -> bool:
        """Replace the entry ``old`` by ``new``; whether ``new`` stands there now."""
        check_entry(new)
        key = self._key(folder, rank)
        raw = self._ask(key, ABSENT, ABSENT, timeout)
        if self._alive(key, raw) not in {old, new}:
            return False
        if raw == ABSENT:
            raw = FORGOTTEN  # the store sets a key that is not there only when nothing is expected of it
        fresh = FORGOTTEN
        if new is not None:
            # The count makes each swap a change, so that others see an entry live whose content stays the same.
            count = _unwrap(raw).count + 1 if raw else 0
            fresh = msgspec.json.encode(_Wrapped(count, ttl, new)).decode()
        return self._ask(key, raw, fresh, timeout) == fresh

    def _alive(self, key: str, raw: str) -> bytes | None:
        """The entry in what was found; None when there is none, or it has stood unchanged for its time."""
        if raw in {ABSENT, FORGOTTEN}:
            return None
        now = time.monotonic()
        before, since = self._seen.get(key, ("", now))
        if before != raw:
            since = now
        self._seen[key] = (raw, since)
        wrapped = _unwrap(raw)
        return None if wrapped.ttl is not None and now - since > wrapped.ttl else wrapped.entry

    def _ask(self, key: str, expected: str, desired: str, timeout: float) -> str:
        """The store's answer to a comparison: what stands there now; ABSENT where there is nothing to compare with."""
        return self._line.call(lambda: self._store.compare_set(key, expected, desired).decode(), timeout, self.describe)

    def _key(self, folder: str, rank: int) -> str:
        return f"snapring/{self._job}/{check_name(folder, 'a folder')}/{rank}"


class _Line:
    """Calls that may hang, made by one daemon thread, so that whoever waits for an answer can stop waiting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[_Call] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def call(self, work: Callable[[], str], timeout: float, where: Callable[[], str]) -> str:
        """What ``work`` returned; StoreUnavailable when it raised, or did not return within ``timeout`` seconds."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="snapring-store", daemon=True)
                self._thread.start()
        call = _Call(work)
        self._calls.put(call)
        if not call.done.wait(check_seconds(timeout, "a timeout")):
            call.wanted = False
            raise StoreUnavailable(f"{where()} did not answer within {timeout:g} s; is its process, rank 0's, alive?")
        if call.error is not None:
            raise StoreUnavailable(f"{where()}: {call.error}; is its process, rank 0's, alive?") from call.error
        return call.answer

    def _serve(self) -> None:
        while True:
            call = self._calls.get()
            if call.wanted:
                call.make()


class _Call:
    """One call, its answer or its error, and whether anybody still waits for it."""

    def __init__(self, work: Callable[[], str]) -> None:
        self._work = work
        self.wanted, self.done = True, threading.Event()
        self.answer, self.error = "", cast("Exception | None", None)

    def make(self) -> None:
        try:
            self.answer = self._work()
        except Exception as error:  # noqa: BLE001  torch has raised many classes here over the years
            self.error = error
        self.done.set()


class _Wrapped(msgspec.Struct, frozen=True):
    """An entry as it stands in the store."""

    count: int
    ttl: float | None
    entry: bytes


def _unwrap(raw: str) -> _Wrapped:
    try:
        return msgspec.json.decode(raw, type=_Wrapped)
    except msgspec.DecodeError as error:
        raise RendezvousFailed(f"the store holds something else than snapring wrote: {error}") from error
