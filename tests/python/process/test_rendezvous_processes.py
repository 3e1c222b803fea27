"""Syncs and registrations among real processes: over files, over a real etcd, over a real process group of torch."""

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import Spawn
from etcd_server import etcd
from snapring.errors import RendezvousFailed
from snapring.rendezvous import EtcdGroup, Group, LocalGroup, register, rows
from support import eventually

MEMBER = """
import sys
from snapring import RendezvousFailed
from snapring.rendezvous import *
kind, where, job, rank, size, timeout, value = sys.argv[1:]
place = (int(rank), int(size))
group = LocalGroup(where, *place, job=job) if kind == "local" else EtcdGroup(where, "/processes", *place, job=job)
print("ready", flush=True)
try:
    print("value", sync_from_leader(value, group, float(timeout)), flush=True)
except RendezvousFailed as error:
    print(type(error).__name__, error, flush=True)
"""

KEEPER = """
import sys
from snapring.rendezvous import *
registration = register({"pid": 1}, LocalGroup(sys.argv[1], 0, 2), ttl=float(sys.argv[2]))
print("registered", flush=True)
sys.stdin.read()
"""

SECONDS = 60.0

Join = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """URL of an etcd for all tests here."""
    with etcd() as url:
        yield url


@pytest.fixture(params=["local", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, str]:
    """Kind and address of a store, and a job that nobody else has."""
    address = str(tmp_path / "store") if request.param == "local" else request.getfixturevalue("server")
    return request.param, address, tmp_path.name


@pytest.fixture
def join(store: tuple[str, str, str], spawn: Spawn) -> Join:
    """``join(rank, size, value, timeout)`` starts a process that syncs; it is past its imports on return."""

    def start(rank: int, size: int, value: str = "own", timeout: float = SECONDS) -> "subprocess.Popen[str]":
        child = spawn(MEMBER, *store, str(rank), str(size), str(timeout), value)
        assert line(child) == "ready"
        return child

    return start


def line(child: "subprocess.Popen[str]") -> str:
    """The next line that a child prints."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


def group_of(store: tuple[str, str, str]) -> Group:
    """A look at the store of a test."""
    kind, where, job = store
    return LocalGroup(where, 0, 2, job=job) if kind == "local" else EtcdGroup(where, "/processes", 0, 2, job=job)


def kill(child: "subprocess.Popen[str]") -> None:
    """Ends a child as a crash would."""
    child.kill()
    child.wait()


def test_leader_comes_last(join: Join) -> None:
    """Processes that wait for a late leader all get its value."""
    followers = [join(rank, 4) for rank in (1, 2, 3)]
    leader = join(0, 4, "tcp://leader:1")

    assert [line(child) for child in (leader, *followers)] == ["value tcp://leader:1"] * 4


def test_leader_killed_before_it_agrees(join: Join, store: tuple[str, str, str]) -> None:
    """A leader that dies after its offer leaves no value behind; followers name it and the missing rank."""
    leader = join(0, 3, "dead")
    eventually(lambda: group_of(store).read("sync.value", 0, SECONDS))
    kill(leader)
    follower = join(1, 3, timeout=2.0)

    said = line(follower)

    assert said.startswith("RendezvousTimeout rank 1 of job")
    assert f"pid {leader.pid}" in said
    assert "rank 2 never came" in said
    assert group_of(store).describe() in said


def test_restarted_leader(join: Join, store: tuple[str, str, str]) -> None:
    """A leader that dies and restarts with another port: all get the new one, whoever saw the old offer too."""
    first = join(1, 3)
    dead = join(0, 3, "old port")
    eventually(lambda: b'"leader":""' not in (group_of(store).read("sync.value", 1, SECONDS) or b'"leader":""'))
    kill(dead)

    leader, second = join(0, 3, "new port"), join(2, 3)

    assert [line(child) for child in (leader, first, second)] == ["value new port"] * 3


def test_restarted_follower(join: Join, store: tuple[str, str, str]) -> None:
    """A follower that dies while it waits, and restarts, is one of those who agree."""
    leader, dead = join(0, 3, "port"), join(1, 3)
    eventually(lambda: group_of(store).read("sync.value", 1, SECONDS))
    kill(dead)

    followers = [join(1, 3), join(2, 3)]

    assert [line(child) for child in (leader, *followers)] == ["value port"] * 3


def test_stale_job_at_the_same_address(join: Join) -> None:
    """After a whole launch, a second one under the same name agrees on its own leader's value."""
    first = [join(rank, 2, "first") for rank in range(2)]
    assert [line(child) for child in first] == ["value first"] * 2

    follower = join(1, 2)
    leader = join(0, 2, "second")

    assert [line(child) for child in (leader, follower)] == ["value second"] * 2


def test_random_kills(join: Join, rng: random.Random) -> None:
    """Processes killed at random moments: whoever ends, ends with one and the same value, or with a reason."""
    for _ in range(4):
        size = rng.randrange(2, 5)
        children = [join(rank, size, f"value {rank}", 1.0) for rank in rng.sample(range(size), size)]
        victim = rng.choice(children)
        if rng.random() < 0.5:
            kill(victim)

        said = {line(child) for child in children if child is not victim}

        assert len({words for words in said if words.startswith("value")}) <= 1, said
        assert all(words.startswith(("value value 0", "Rendezvous")) for words in said), said


def test_killed_process_leaves_the_registry(tmp_path: Path, spawn: Spawn) -> None:
    """The row of a killed process disappears, and its rank may register again at once."""
    group = LocalGroup(tmp_path, 0, 2)
    keeper = spawn(KEEPER, str(tmp_path), "3.0")
    assert line(keeper) == "registered"
    assert rows(group)[0].member.pid == keeper.pid

    kill(keeper)
    with register({"pid": 2}, group, ttl=3.0):
        assert rows(group)[0].member.pid == os.getpid()


def test_stopped_etcd(server: str, tmp_path: Path) -> None:
    """Where nothing answers, a group says so within its timeout, with the address; a second endpoint takes over."""
    dead = "http://127.0.0.1:1"

    with pytest.raises(RendezvousFailed, match=r"etcd does not answer.*127\.0\.0\.1:1: .*refused"):
        EtcdGroup(dead, "/p", 0, 2).read("f", 0, SECONDS)
    group = EtcdGroup([dead, server], "/p", 0, 2, job=tmp_path.name)
    assert group.swap("f", 0, None, b"1", SECONDS)
    assert group.read("f", 0, SECONDS) == b"1"


def test_registry_over_etcd(server: str, tmp_path: Path) -> None:
    """A row is a leased key: kept alive past its ttl, removed when closed."""
    group = EtcdGroup(server, "/registry", 0, 1, job=tmp_path.name)

    with register({"port": 1}, group, ttl=4.0) as registration:
        eventually(lambda: registration.row.beat >= 4)
        assert rows(group).ready
        assert registration.lost == ""
    assert not rows(group)
