"""``sync_from_leader`` among threads over files: what each rank gets, and what each is told when it gets nothing."""

import logging
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from snapring.errors import InvalidValue, PayloadTooLarge, RendezvousFailed, RendezvousTimeout, RingUntrusted
from snapring.rendezvous import MAX_VALUE_BYTES, LocalGroup, listener_answers, sync_from_leader
from snapring.rendezvous.entry import OwnEntry
from snapring.rendezvous.patience import Patience
from snapring.rendezvous.records import Answer, Member, Offer, Verdict, decode, pack, unpack
from support import eventually

SECONDS = 60.0
SHORT = 1.0
ENOUGH = 4.0  # for another rank to act meanwhile

Outcomes = list["Future[object]"]


def together(*works: Callable[[], object]) -> Outcomes:
    """Runs all at once, each on a thread, and waits for all."""
    with ThreadPoolExecutor(len(works)) as pool:
        return [pool.submit(work) for work in works]


def sync(path: Path, rank: int, size: int, value: object, timeout: float = SECONDS, **options: object) -> object:
    """One rank's call, over a directory."""
    return sync_from_leader(value, LocalGroup(path, rank, size), timeout, **options)


@pytest.mark.parametrize("value", [30_001, "tcp://h:1", b"\x00\xff", {"port": 1, "keys": ["a", None, 1.5]}, [], None])
def test_all_get_the_leaders_value(tmp_path: Path, value: object) -> None:
    """Every rank returns rank 0's value, unchanged, whatever its own is."""
    outcomes = together(*(lambda rank=rank: sync(tmp_path, rank, 5, value if rank == 0 else rank) for rank in range(5)))

    assert [outcome.result() for outcome in outcomes] == [value] * 5
    assert [type(outcome.result()) for outcome in outcomes] == [type(value)] * 5


def test_one_rank_does_not_communicate(tmp_path: Path) -> None:
    """With one rank the very value comes back, though it could not travel, and no store is touched."""
    value = object()

    assert sync_from_leader(value, LocalGroup(tmp_path / "none", 0, 1), SECONDS) is value
    assert not (tmp_path / "none").exists()


def test_a_value_from_elsewhere(tmp_path: Path) -> None:
    """A follower takes what it finds elsewhere, at first or later, though no leader ever comes."""
    finds = iter([None, None, "found"])

    assert sync(tmp_path, 1, 2, "", elsewhere=lambda left: "at once") == "at once"
    assert LocalGroup(tmp_path, 0, 2).read_all("sync.value", SECONDS) == {}
    assert sync(tmp_path, 1, 2, "", elsewhere=lambda left: next(finds)) == "found"


def test_syncs_in_a_row(tmp_path: Path) -> None:
    """Syncs of one job may follow each other at once; no rank gets the value of another round."""

    def rounds(rank: int) -> list[object]:
        return [sync(tmp_path, rank, 4, number if rank == 0 else None) for number in range(8)]

    outcomes = together(*(lambda rank=rank: rounds(rank) for rank in range(4)))

    assert [outcome.result() for outcome in outcomes] == [list(range(8))] * 4


def test_names_are_apart(tmp_path: Path) -> None:
    """Two syncs with different names run side by side."""
    outcomes = together(
        *(lambda rank=rank, name=name: sync(tmp_path, rank, 2, name, name=name) for rank in range(2) for name in "ab")
    )

    assert [outcome.result() for outcome in outcomes] == ["a", "b", "a", "b"]


def test_leader_missing(tmp_path: Path) -> None:
    """A follower without a leader names the store, the time it waited, who is missing and the last error."""
    reason = (
        rf"waited \d\.\d s at directory {tmp_path}.*rank 0, made no offer; ranks 0, 2 never came; last error: no off"
    )
    with pytest.raises(RendezvousTimeout, match=reason):
        sync(tmp_path, 1, 3, None, SHORT)


def test_followers_missing(tmp_path: Path) -> None:
    """The leader names who did not answer; those who did are told at once, long before their own deadline."""
    leader, follower = together(
        lambda: sync(tmp_path, 0, 4, 7, ENOUGH),
        lambda: sync(tmp_path, 2, 4, None),
    )

    assert isinstance(leader.exception(), RendezvousTimeout)
    assert "ranks 1, 3 did not answer" in str(leader.exception())
    assert isinstance(follower.exception(), RendezvousFailed)
    assert "gave up: ranks 1, 3 did not answer" in str(follower.exception())


@pytest.mark.parametrize(("rank", "size"), [(1, 3), (1, 2), (3, 4)])
def test_sizes_differ(tmp_path: Path, rank: int, size: int) -> None:
    """A follower started with another number of ranks fails the sync for both sides at once, naming both."""
    leader, follower = together(
        lambda: sync(tmp_path, 0, 2 if (rank, size) != (1, 2) else 3, 7), lambda: sync(tmp_path, rank, size, None)
    )

    for outcome in (leader, follower):
        error = outcome.exception()
        assert isinstance(error, RendezvousFailed)
        assert not isinstance(error, RendezvousTimeout)
        assert f"rank {rank} of {size}" in str(error)
        assert f"rank 0 of {2 if (rank, size) != (1, 2) else 3}" in str(error)


def test_stale_job_is_not_believed(tmp_path: Path) -> None:
    """What an earlier launch of the same job left, agreed or not, is never taken; the new leader's value is."""
    together(lambda: sync(tmp_path, 0, 2, "old"), lambda: sync(tmp_path, 1, 2, None))

    with pytest.raises(RendezvousTimeout, match="has ended: it agreed without this process"):
        sync(tmp_path, 1, 2, None, SHORT)
    leader, follower = together(lambda: sync(tmp_path, 0, 2, "new"), lambda: sync(tmp_path, 1, 2, None))
    assert (leader.result(), follower.result()) == ("new", "new")


def test_dead_leaders_offer_is_not_believed(tmp_path: Path) -> None:
    """An offer whose leader died before it agreed is answered, but its value is not taken."""
    group = LocalGroup(tmp_path, 0, 2)
    offer = Offer(Member.of(group), *pack("dead"))
    OwnEntry(group, "sync.value", Patience(SECONDS), SECONDS).claim(lambda _: offer)

    with pytest.raises(
        RendezvousTimeout, match=r"its leader is rank 0 of 2 .* has offered a value, but not heard from"
    ):
        sync(tmp_path, 1, 2, None, SHORT)


def test_second_leader(tmp_path: Path) -> None:
    """A leader that finds another one in its place fails at once and names both."""
    first: Outcomes = []
    with ThreadPoolExecutor(2) as pool:
        first.append(pool.submit(sync, tmp_path, 0, 2, "a"))
        eventually(lambda: LocalGroup(tmp_path, 0, 2).read("sync.value", 0, SECONDS))
        with pytest.raises(RendezvousTimeout, match="rank 1 did not answer"):
            sync(tmp_path, 0, 2, "b", SHORT)

    assert "another process joined as rank 0" in str(first[0].exception())


def test_second_process_of_a_rank(tmp_path: Path) -> None:
    """A follower whose place was taken by another process of its rank fails and names the rank."""
    group = LocalGroup(tmp_path, 1, 2)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(sync, tmp_path, 1, 2, None)
        eventually(lambda: group.read("sync.value", 1, SECONDS))
        OwnEntry(group, "sync.value", Patience(SECONDS), SECONDS).claim(lambda _: Answer(Member.of(group)))
        leader = pool.submit(sync, tmp_path, 0, 2, "value", ENOUGH)

    assert "another process joined as rank 1" in str(first.exception())
    assert isinstance(leader.exception(), RendezvousTimeout)


def test_change_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A follower whose own value differs logs both at INFO; one that had it already says nothing."""
    with caplog.at_level(logging.INFO, "snapring.rendezvous"):
        together(
            lambda: sync(tmp_path, 0, 3, 8998), lambda: sync(tmp_path, 1, 3, 30_001), lambda: sync(tmp_path, 2, 3, 8998)
        )

    assert [record.getMessage() for record in caplog.records] == ["rank 1 takes the leader's value: 30001 -> 8998"]


def test_verified_listener(tmp_path: Path) -> None:
    """Followers may connect to what the leader named; where nothing listens, both sides are told the address."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        leader, follower = together(lambda: sync(tmp_path, 0, 2, port), lambda: sync(tmp_path, 1, 2, 0, verify=listens))
        assert (leader.result(), follower.result()) == (port, port)
    leader, follower = together(lambda: sync(tmp_path, 0, 2, port), lambda: sync(tmp_path, 1, 2, 0, verify=listens))

    assert f"nothing answers at {port}" in str(follower.exception())
    assert f"rank 1 cannot use it: nothing answers at {port}" in str(leader.exception())


def listens(port: int, left: float) -> bool:
    """Whether loopback answers at the port."""
    return listener_answers("127.0.0.1", port, left)


@pytest.mark.parametrize("value", [(1, 2), float("nan"), {1: 2}, object(), {"a": b"b"}, {1, 2}])
def test_values_that_cannot_travel(tmp_path: Path, value: object) -> None:
    """A value that would come back changed is refused before anybody sees it."""
    with pytest.raises(InvalidValue):
        sync(tmp_path, 0, 2, value)
    assert list(tmp_path.iterdir()) == []


def test_largest_value(tmp_path: Path) -> None:
    """64 KiB travel, one byte more does not."""
    value = bytes(MAX_VALUE_BYTES)
    outcomes = together(lambda: sync(tmp_path, 0, 2, value), lambda: sync(tmp_path, 1, 2, b""))

    assert [outcome.result() for outcome in outcomes] == [value, value]
    with pytest.raises(PayloadTooLarge, match="65537 bytes, at most 65536"):
        sync(tmp_path, 0, 2, value + b"x")


def test_foreign_bytes(tmp_path: Path) -> None:
    """Entries that snapring did not write are an error that says so, not a value."""
    LocalGroup(tmp_path, 0, 2).swap("sync.value", 0, None, b'{"value": 1}', SECONDS)

    with pytest.raises(RendezvousFailed, match="holds something else"):
        sync(tmp_path, 1, 2, None)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@hypothesis.given(JSON | st.binary())
def test_values_travel_unchanged(value: object) -> None:
    """Whatever is accepted comes back equal and of the same type."""
    back = unpack(*pack(value))

    assert back == value
    assert type(back) is type(value)


@hypothesis.given(st.binary(max_size=200))
def test_any_bytes_are_survived(entry: bytes) -> None:
    """No entry makes a follower fail otherwise than with an error of ours."""
    for kind in (Offer, Answer, Verdict):
        with pytest.raises(RendezvousFailed):
            decode(entry, kind, "here")


def test_loose_directory(tmp_path: Path) -> None:
    """A directory that others may enter, and a link to a good one, are refused."""
    (tmp_path / "loose").mkdir(mode=0o755)
    (tmp_path / "good").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "good")

    for name in ("loose", "link"):
        with pytest.raises(RingUntrusted):
            sync(tmp_path / name, 0, 2, 1)


def test_planted_entry(tmp_path: Path) -> None:
    """An entry that is a link or a directory is refused, not followed."""
    group = LocalGroup(tmp_path, 0, 2)
    group.swap("f", 0, None, b"1", SECONDS)
    (entry,) = tmp_path.glob("*.entry")
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RingUntrusted):
        group.read("f", 0, SECONDS)
