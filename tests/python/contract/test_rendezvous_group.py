"""What every group promises, asked of each: files, a real etcd, torch's store."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from etcd_server import etcd
from fake_torch import FakeStore, fake_group
from snapring.errors import InvalidValue, PayloadTooLarge, RankOutOfRange
from snapring.rendezvous import MAX_ENTRY_BYTES, EtcdGroup, Group, LocalGroup
from support import eventually

SECONDS = 20.0

Make = Callable[..., Group]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of an etcd for all tests here."""
    with etcd() as url:
        yield url


@pytest.fixture(params=["local", "etcd", "torch"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """``make(rank, size=4, job="job")``: a group over one store per test."""
    if request.param == "local":
        return lambda rank, size=4, job="job": LocalGroup(tmp_path / "store", rank, size, job=job)
    if request.param == "etcd":
        url = request.getfixturevalue("server")
        prefix = f"/{tmp_path.name}"
        return lambda rank, size=4, job="job": EtcdGroup(url, prefix, rank, size, job=job)
    store = FakeStore()
    return lambda rank, size=4, job="job": fake_group(store, rank, size, job)


def test_one_sees_what_another_wrote(make: Make) -> None:
    """An entry is read by every rank as it was swapped in; before that there is none."""
    one, other = make(1), make(2)

    before = other.read("f", 1, SECONDS)
    wrote = one.swap("f", 1, None, b"{\x00\xff}", SECONDS)

    assert before is None
    assert wrote
    assert other.read("f", 1, SECONDS) == b"{\x00\xff}"
    assert other.read("f", 2, SECONDS) is None
    assert other.read("g", 1, SECONDS) is None


def test_read_all_has_every_rank(make: Make) -> None:
    """A folder is listed by rank, and one folder does not show another's entries."""
    for rank in (0, 2, 3):
        make(rank).swap("f", rank, None, b"%d" % rank, SECONDS)
    make(1).swap("ff", 1, None, b"other", SECONDS)

    assert make(1).read_all("f", SECONDS) == {0: b"0", 2: b"2", 3: b"3"}


def test_swap_needs_what_was_expected(make: Make) -> None:
    """A swap from something else than what stands there changes nothing and says so."""
    group = make(0)
    group.swap("f", 0, None, b"1", SECONDS)

    assert not group.swap("f", 0, None, b"2", SECONDS)
    assert not group.swap("f", 0, b"0", b"2", SECONDS)
    assert not group.swap("f", 0, b"0", None, SECONDS)
    assert group.read("f", 0, SECONDS) == b"1"
    assert group.swap("f", 0, b"1", b"2", SECONDS)
    assert group.read("f", 0, SECONDS) == b"2"


def test_swap_may_be_repeated(make: Make) -> None:
    """A swap whose answer was lost succeeds again, also one that removes."""
    group = make(0)
    group.swap("f", 0, None, b"1", SECONDS)
    group.swap("f", 0, b"1", b"2", SECONDS)

    assert group.swap("f", 0, b"1", b"2", SECONDS)
    assert group.swap("f", 0, b"2", None, SECONDS)
    assert group.swap("f", 0, b"2", None, SECONDS)
    assert group.read("f", 0, SECONDS) is None
    assert group.read_all("f", SECONDS) == {}
    assert group.swap("f", 0, None, b"3", SECONDS)


def test_one_of_many_swaps_wins(make: Make) -> None:
    """Of many swaps from the same entry exactly one succeeds, and its value stands."""
    groups = [make(0) for _ in range(8)]
    barrier = threading.Barrier(len(groups))

    def race(number: int) -> bool:
        barrier.wait()
        return groups[number].swap("f", 0, None, b"%d" % number, SECONDS)

    with ThreadPoolExecutor(len(groups)) as pool:
        won = list(pool.map(race, range(len(groups))))

    assert sum(won) == 1
    assert groups[0].read("f", 0, SECONDS) == b"%d" % won.index(True)


def test_no_swap_is_lost(make: Make) -> None:
    """Concurrent counting by read and swap loses no step."""
    groups = [make(0) for _ in range(4)]

    def count(group: Group) -> None:
        for _ in range(5):
            while True:
                now = group.read("f", 0, SECONDS)
                if group.swap("f", 0, now, f"{int((now or b'0').split()[0]) + 1} {id(group)}".encode(), SECONDS):
                    break

    with ThreadPoolExecutor(len(groups)) as pool:
        list(pool.map(count, groups))

    assert (groups[0].read("f", 0, SECONDS) or b"").split()[0] == b"20"


def test_jobs_are_apart(make: Make) -> None:
    """A job sees no entry of another, not even of one whose name begins like its own."""
    make(0, job="a").swap("f", 0, None, b"1", SECONDS)

    for job in ("b", "a.", "a-f"):
        assert make(0, job=job).read("f", 0, SECONDS) is None
        assert make(0, job=job).read_all("f", SECONDS) == {}


def test_lease_ends(make: Make) -> None:
    """An entry with a ttl disappears by itself, and its place can be taken; one without stays."""
    group = make(0)
    group.swap("f", 0, None, b"leased", SECONDS, ttl=0.3)
    group.swap("f", 1, None, b"kept", SECONDS)

    eventually(lambda: group.read("f", 0, SECONDS) is None)

    assert group.read_all("f", SECONDS) == {1: b"kept"}
    newcomer = make(0)
    eventually(lambda: newcomer.swap("f", 0, None, b"next", SECONDS))


def test_lease_is_renewed(make: Make) -> None:
    """A swap for the same content starts the lease again: renewed often enough, the entry outlives its ttl."""
    group, observer, ttl = make(0), make(1), 2.5
    group.swap("f", 0, None, b"leased", SECONDS, ttl=ttl)
    began = last = time.monotonic()

    while time.monotonic() - began < 1.5 * ttl:
        time.sleep(0.1)
        found = observer.read("f", 0, SECONDS)
        if time.monotonic() - last > 0.5 * ttl:
            began = time.monotonic()  # this machine stood still, so the lease may have ended: start again
        else:
            assert found == b"leased"
        last = time.monotonic()
        assert group.swap("f", 0, found, b"leased", SECONDS, ttl=ttl)


def test_large_entries(make: Make) -> None:
    """An entry of the greatest size travels unchanged; one byte more is refused, and nothing is written."""
    group, entry = make(0), bytes(range(256)) * (MAX_ENTRY_BYTES // 256)

    assert group.swap("f", 0, None, entry, SECONDS)
    assert group.read("f", 0, SECONDS) == entry
    with pytest.raises(PayloadTooLarge, match="262145 bytes exceeds 262144"):
        group.swap("f", 0, entry, entry + b"x", SECONDS)
    assert group.read("f", 0, SECONDS) == entry


def test_says_where(make: Make) -> None:
    """A group describes its store's kind and address, and tells its rank, size and job."""
    group = make(3, job="launch")

    assert any(word in group.describe() for word in ("directory /", "etcd http://127.0.0.1:", "10.0.0.1:29500"))
    assert (group.rank, group.size, group.job) == (3, 4, "launch")
    assert "rank=3" in repr(group)


@pytest.mark.parametrize("name", ["", "a/b", "a~b", "x" * 65, "\u00e9", "a\n"])
def test_bad_names(make: Make, name: str) -> None:
    """Jobs and folders have plain names; anything else is refused before the store is asked."""
    with pytest.raises(InvalidValue, match="1 to 64 characters"):
        make(0, job=name)
    with pytest.raises(InvalidValue, match="1 to 64 characters"):
        make(0).read(name, 0, SECONDS)


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_timeouts(make: Make, timeout: float) -> None:
    """No call waits for ever: a timeout is finite and above 0."""
    group = make(0)

    with pytest.raises(InvalidValue, match="timeout"):
        group.read("f", 0, timeout)
    with pytest.raises(InvalidValue, match="timeout"):
        group.read_all("f", timeout)
    with pytest.raises(InvalidValue, match="timeout"):
        group.swap("f", 0, None, b"1", timeout)


@pytest.mark.parametrize(
    ("rank", "size", "error"), [(4, 4, RankOutOfRange), (-1, 4, RankOutOfRange), (0, 0, InvalidValue)]
)
def test_bad_places(tmp_path: Path, rank: int, size: int, error: type[Exception]) -> None:
    """A rank is one of the group's, and a group has a rank at least."""
    with pytest.raises(error):
        LocalGroup(tmp_path, rank, size)
    with pytest.raises(error):
        EtcdGroup("http://127.0.0.1:1", "/p", rank, size)
