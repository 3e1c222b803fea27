"""Stands in for torch where only its store matters: a dict behind ``compare_set``, with the real one's odd answers."""

import sys
import threading
from types import ModuleType

import pytest

from snapring.rendezvous import TorchGroup


class FakeStore:
    """One key-value store for any number of ranks; ``hang`` makes calls wait until it is cleared."""

    host, port = "10.0.0.1", 29500

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.lock = threading.Lock()
        self.free = threading.Event()
        self.free.set()

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        """As torch documents: a key that is not there is set only if nothing was expected of it."""
        self.free.wait()
        with self.lock:
            now = self.values.get(key)
            if now == expected or (now is None and not expected):
                self.values[key] = now = desired
            return (expected if now is None else now).encode()


def fake_group(store: FakeStore, rank: int, size: int, job: str, *, initialised: bool = True) -> TorchGroup:
    """A TorchGroup whose process group is ``store``."""
    distributed = ModuleType("torch.distributed")
    internals = ModuleType("torch.distributed.distributed_c10d")
    vars(distributed).update(
        is_available=lambda: True,
        is_initialized=lambda: initialised,
        get_rank=lambda: rank,
        get_world_size=lambda: size,
        distributed_c10d=internals,
    )
    vars(internals)["_get_default_store"] = lambda: store
    torch = ModuleType("torch")
    vars(torch)["distributed"] = distributed
    with pytest.MonkeyPatch.context() as patch:
        for module in (torch, distributed, internals):
            patch.setitem(sys.modules, module.__name__, module)
        return TorchGroup(job=job)
