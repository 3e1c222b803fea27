"""The registry among threads over files: who may register, when everybody is there, how a row ends."""

import logging
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from snapring.errors import InvalidValue, PayloadTooLarge, RendezvousFailed, RendezvousTimeout, StoreUnavailable
from snapring.rendezvous import LocalGroup, Row, register, registry, rows
from support import eventually

SECONDS = 20.0
TTL = 2.0  # longer than this machine stands still


class Failing(LocalGroup):
    """A store that fails ``failures`` times, then works; it counts how often it was asked."""

    failures = 0
    asked = 0

    def fail(self) -> None:
        self.asked += 1
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("out of order")

    def read_all(self, folder: str, timeout: float) -> dict[int, bytes]:
        self.fail()
        return super().read_all(folder, timeout)

    def swap(
        self, folder: str, rank: int, old: bytes | None, new: bytes | None, timeout: float, *, ttl: float | None = None
    ) -> bool:
        self.fail()
        return super().swap(folder, rank, old, new, timeout, ttl=ttl)


class Sleeps:
    """Stands in for ``time`` where tries wait: notes how long, waits for nothing."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


def test_ready_when_every_rank_is_there(tmp_path: Path) -> None:
    """Readiness counts distinct ranks with living rows, and tells which are missing."""
    groups = [LocalGroup(tmp_path, rank, 3) for rank in range(3)]

    with register({"port": 1}, groups[0]), register({"port": 2}, groups[1]):
        partly = rows(groups[2])
        with register({"port": 3}, groups[2]):
            full = rows(groups[0])

    assert (partly.ready, partly.missing, len(partly)) == (False, [2], 2)
    assert (full.ready, full.missing) == (True, [])
    assert {rank: row.values for rank, row in full.items()} == {0: {"port": 1}, 1: {"port": 2}, 2: {"port": 3}}
    assert full[1].member.pid == os.getpid()
    assert list(rows(groups[0])) == []


def test_repeated_registration_does_not_count_twice(tmp_path: Path) -> None:
    """A rank that registers, closes and registers again is one rank."""
    group = LocalGroup(tmp_path, 0, 2)
    register({"port": 1}, group).close()

    with register({"port": 2}, group):
        found = rows(group)

    assert (len(found), found.ready, found[0].values) == (1, False, {"port": 2})


def test_living_rank_is_not_replaced(tmp_path: Path) -> None:
    """A second process of a rank is refused while the first lives, and both are named; the first is untouched."""
    with register({"port": 1}, LocalGroup(tmp_path, 1, 2), ttl=TTL) as first:
        with pytest.raises(RendezvousFailed, match=r"rank 1 of 2 .* and rank 1 of 2 .* cannot both register"):
            register({"port": 2}, LocalGroup(tmp_path, 1, 2), ttl=TTL)

        assert rows(LocalGroup(tmp_path, 0, 2))[1].member == first.row.member
        assert first.lost == ""


@pytest.mark.parametrize(("size", "sizes"), [(3, {"tp": 2}), (2, {"tp": 4}), (2, {}), (2, {"tp": 2, "dp": 1})])
def test_sizes_must_agree(tmp_path: Path, size: int, sizes: dict[str, int]) -> None:
    """A rank that was started with other sizes than the living ones is refused, and both are named."""
    with register({}, LocalGroup(tmp_path, 0, 2), ttl=TTL, sizes={"tp": 2}):
        with pytest.raises(RendezvousFailed, match=r"rank 1 of .* rank 0 of 2 .*; start all ranks with the same"):
            register({}, LocalGroup(tmp_path, 1, size), ttl=TTL, sizes=sizes)
        with register({}, LocalGroup(tmp_path, 1, 2), ttl=TTL, sizes={"tp": 2}):
            assert rows(LocalGroup(tmp_path, 0, 2)).ready


def test_simultaneous_conflicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ranks with different sizes that register at the same moment, those that get in have the same sizes."""
    monkeypatch.setattr(registry, "FIRST_WAIT_S", 0.02)

    def attempt(rank: int) -> object:
        try:
            return register({}, LocalGroup(tmp_path, rank, 8), ttl=3 * TTL, sizes={"tp": rank % 2})
        except RendezvousFailed:
            return None

    with ThreadPoolExecutor(8) as pool:
        registered = [one for one in pool.map(attempt, range(8)) if one is not None]
    kept = {one.row.sizes["tp"] for one in registered}  # type: ignore[attr-defined]
    for one in registered:
        one.close()  # type: ignore[attr-defined]

    assert len(kept) <= 1


def test_row_of_a_dead_process_ends(tmp_path: Path) -> None:
    """A row that nobody refreshes disappears with its lease; its rank may register again without being told to wait."""
    group = LocalGroup(tmp_path, 0, 2)
    dead = register({"port": 1}, group, ttl=0.5)
    dead._stop.set()  # as a killed process: no refresh, no goodbye

    with register({"port": 2}, group):
        assert rows(group)[0].values == {"port": 2}
    eventually(lambda: not rows(group))


def test_row_outlives_its_ttl_while_refreshed(tmp_path: Path) -> None:
    """A living rank's row is refreshed: it is there long after its ttl, with a growing beat."""
    group = LocalGroup(tmp_path, 0, 2)

    with register({}, group, ttl=TTL) as registration:
        eventually(lambda: registration.row.beat >= 4)

        assert registration.lost == ""
        assert rows(group)[0].beat >= 4


def test_lost_place_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A process that was stopped for longer than its lease, and replaced, learns that; it does not fight."""
    group = LocalGroup(tmp_path, 0, 1)
    with register({"port": 1}, group, ttl=0.3) as first:
        now = group.read("rows", 0, SECONDS)
        while not group.swap("rows", 0, now, b"another", SECONDS):
            now = group.read("rows", 0, SECONDS)

        eventually(lambda: first.lost)

    assert "another process has taken its place" in caplog.text
    assert group.read("rows", 0, SECONDS) == b"another"
    assert rows(group).faults.keys() == {0}


def test_ended_lease_is_taken_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A row that is gone while its process lives is put back, and a warning says so."""
    group = LocalGroup(tmp_path, 0, 1)
    with register({"port": 1}, group, ttl=0.3) as registration:
        now = group.read("rows", 0, SECONDS)
        while not group.swap("rows", 0, now, None, SECONDS):
            now = group.read("rows", 0, SECONDS)

        eventually(lambda: "registered again" in caplog.text)

        assert rows(group)[0].values == {"port": 1}
        assert registration.lost == ""


def test_store_that_fails_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registration is tried 5 times with doubling waits, each shortened at random, then it is an error."""
    sleeps = Sleeps()
    monkeypatch.setattr(registry, "TRY_S", 0.01)
    monkeypatch.setattr(registry, "time", sleeps)
    group = Failing(tmp_path, 0, 1)
    group.failures = 10**9

    with pytest.raises(StoreUnavailable, match=r"not registered at directory .* after 5 tries"):
        register({}, group)

    assert len(sleeps.waits) == 4
    assert all(full / 2 <= wait <= full for wait, full in zip(sleeps.waits, (1, 2, 4, 8), strict=True))
    assert len({wait / full for wait, full in zip(sleeps.waits, (1, 2, 4, 8), strict=True)}) == 4


def test_store_that_recovers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A store that fails while a row is refreshed costs one warning, and another when it works again."""
    group = Failing(tmp_path, 0, 1)
    with register({}, group, ttl=0.6) as registration:
        group.failures = 2
        eventually(lambda: "renews its row again" in caplog.text or "registered again" in caplog.text)
        beat = registration.row.beat
        eventually(lambda: registration.row.beat > beat)

    assert caplog.text.count("cannot renew") == 1
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_rows_has_a_deadline(tmp_path: Path) -> None:
    """A question to a store that does not answer ends with an error, not with an empty registry."""
    group = Failing(tmp_path, 0, 1)
    group.failures = 10**9

    with pytest.raises(RendezvousTimeout, match="out of order"):
        rows(group, timeout=0.1)


def test_bad_entries_blind_nobody(tmp_path: Path) -> None:
    """An entry that is no row, or another rank's, is a fault beside the good rows."""
    group = LocalGroup(tmp_path, 0, 3)
    with register({}, group):
        group.swap("rows", 1, None, b"{}", SECONDS)
        group.swap("rows", 2, None, group.read("rows", 0, SECONDS), SECONDS)

        found = rows(group)

    assert list(found) == [0]
    assert "holds something else" in found.faults[1]
    assert "says that it is rank 0" in found.faults[2]
    assert found.missing == [1, 2]


@pytest.mark.parametrize(
    ("row", "options", "error"),
    [
        ({"a": object()}, {}, InvalidValue),
        ({"a": float("nan")}, {}, InvalidValue),
        ({"a": "x" * 65_536}, {}, PayloadTooLarge),
        ({}, {"ttl": 0.0}, InvalidValue),
        ({}, {"ttl": float("inf")}, InvalidValue),
        ({}, {"tries": 0}, InvalidValue),
    ],
)
def test_bad_arguments(
    tmp_path: Path, row: dict[str, object], options: dict[str, float], error: type[Exception]
) -> None:
    """What cannot be registered is refused before the store is touched."""
    with pytest.raises(error):
        register(row, LocalGroup(tmp_path / "none", 0, 2), **options)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_close_twice(tmp_path: Path) -> None:
    """Closing again is harmless, and does not remove a successor's row."""
    group = LocalGroup(tmp_path, 0, 1)
    first = register({}, group)
    first.close()

    with register({}, group) as second:
        first.close()
        assert rows(group)[0].member == second.row.member


def test_child_leaves_the_row_alone(tmp_path: Path) -> None:
    """In a forked child a registration neither refreshes nor unregisters."""
    group = LocalGroup(tmp_path, 0, 1)
    with register({}, group) as registration:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that a process with threads forks is the point
            child = os.fork()
        if child == 0:
            try:
                registration.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)

        assert isinstance(rows(group)[0], Row)
