"""Torch's store as a group, over a fake that answers as the real one does: what it says when it fails."""

import importlib
import threading

import pytest

from fake_torch import FakeStore, fake_group
from snapring.errors import RendezvousFailed, StoreUnavailable
from snapring.rendezvous import TorchGroup
from support import eventually

SECONDS = 20.0


class Broken(FakeStore):
    """A store whose server has gone."""

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        raise RuntimeError("Connection reset by peer")


def test_process_group_is_needed() -> None:
    """Before init_process_group there is no group, and the error says what to call."""
    with pytest.raises(RendezvousFailed, match=r"not initialised; call init_process_group"):
        fake_group(FakeStore(), 0, 2, "job", initialised=False)


def test_torch_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch is missing the error says so, and only there: importing snapring does not need it."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)

    with pytest.raises(RendezvousFailed, match="torch is not installed"):
        TorchGroup()


def test_store_that_hangs() -> None:
    """A call that never returns is given up after its timeout; when the store goes on, so does the group."""
    others = set(threading.enumerate())  # of groups that other tests left behind
    store = FakeStore()
    group = fake_group(store, 0, 2, "job")
    group.swap("f", 0, None, b"1", SECONDS)
    store.free.clear()

    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=r"10\.0\.0\.1:29500 did not answer within 0\.1 s"):
            group.read("f", 0, 0.1)
    threads = [thread for thread in set(threading.enumerate()) - others if thread.name == "snapring-store"]
    store.free.set()

    assert len(threads) == 1, "one thread waits, however often it was asked"
    assert group.read("f", 0, SECONDS) == b"1"


def test_store_that_breaks() -> None:
    """An error of torch becomes ours, with the store's address."""
    with pytest.raises(StoreUnavailable, match=r"10\.0\.0\.1:29500: Connection reset by peer"):
        fake_group(Broken(), 0, 2, "job").read("f", 0, SECONDS)


def test_foreign_bytes() -> None:
    """A key of ours that holds something else is an error, not an entry."""
    store = FakeStore()
    group = fake_group(store, 0, 2, "job")
    group.swap("f", 0, None, b"1", SECONDS)
    store.values = dict.fromkeys(store.values, "[]")

    with pytest.raises(RendezvousFailed, match="holds something else"):
        group.read("f", 0, SECONDS)


def test_refreshed_entry_lives_for_others() -> None:
    """Another process sees an entry live for as long as it changes, though its content stays the same."""
    store = FakeStore()
    writer, reader = fake_group(store, 0, 2, "job"), fake_group(store, 1, 2, "job")
    writer.swap("f", 0, None, b"1", SECONDS, ttl=0.2)
    reader.read("f", 0, SECONDS)
    eventually(lambda: reader.read("f", 0, SECONDS) is None)

    writer.swap("f", 0, None, b"1", SECONDS, ttl=SECONDS)

    assert reader.read("f", 0, SECONDS) == b"1"
