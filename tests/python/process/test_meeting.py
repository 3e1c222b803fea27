"""Three nodes on loopback that know a store and nothing else: no port, no address, no key of one another."""

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import snapring
from conftest import Spawn
from etcd_server import etcd
from snapring import LoadSnapshot, _core
from snapring.errors import InvalidValue, RendezvousFailed, RendezvousTimeout
from snapring.meeting import address_in, meet, resume
from snapring.rendezvous import EtcdGroup, Group, LocalGroup, register
from support import eventually

ANY_PORT = "tcp://127.0.0.1:0"
SECONDS = 60.0

RANK = """
import sys, snapring
from snapring.meeting import meet
from snapring.rendezvous import *
kind, where, job, rank, key = sys.argv[1:]
place = (int(rank), 3)
group = LocalGroup(where, *place, job=job) if kind == "local" else EtcdGroup(where, "/meet", *place, job=job)
with meet(group, 60.0, key=key or None) as meeting:
    options = {"key": key, "server_key": meeting.server_key} if key else {"insecure": True}
    with snapring.RemoteWriter(meeting.endpoint, rank=int(rank), ranks=3, **options) as writer:
        writer.publish(snapring.LoadSnapshot(num_running_reqs=int(rank) * 10))
        print(meeting.endpoint, flush=True)
        for line in sys.stdin:
            writer.publish(snapring.LoadSnapshot(num_running_reqs=int(line)))
"""

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
def group(store: tuple[str, str, str]) -> Group:
    """Node 0's."""
    kind, where, job = store
    return LocalGroup(where, 0, 3, job=job) if kind == "local" else EtcdGroup(where, "/meet", 0, 3, job=job)


@pytest.fixture
def key(tmp_path: Path) -> Callable[[str], str]:
    """``key(name)`` is the path of a key file, made at its first use."""

    def path_of(name: str) -> str:
        path = tmp_path / f"{name}.key"
        if not path.exists():
            _core.make_keys(path)
        return str(path)

    return path_of


@pytest.fixture
def join(store: tuple[str, str, str], spawn: Spawn) -> Join:
    """``join(rank, key)`` starts a rank on another node; it publishes ten times its number, then what it is told."""

    def start(rank: int, key: str = "") -> "subprocess.Popen[str]":
        return spawn(RANK, *store, str(rank), key)

    return start


def running(reader: snapring.Reader[LoadSnapshot]) -> dict[int, int]:
    """What the ring says of each rank."""
    return {snap.rank: snap.value.num_running_reqs for snap in reader.read_all()}


def tell(rank: "subprocess.Popen[str]", value: int) -> None:
    """Let the rank publish."""
    assert rank.stdin is not None
    rank.stdin.write(f"{value}\n")
    rank.stdin.flush()


@pytest.mark.usefixtures("ring_dir")
def test_ranks_of_other_nodes_find_the_relay(group: Group, key: Callable[[str], str], join: Join) -> None:
    """With keys on and no port configured every rank's load stands in the ring, and a stranger gets nothing in."""
    ranks = [join(rank, key(f"rank{rank}")) for rank in (1, 2)]
    with (
        snapring.Relay("met", ANY_PORT, ranks=3, key=key("relay")) as relay,
        meet(group, SECONDS, relay=relay, key=key("relay")) as meeting,
        snapring.Reader("met") as reader,
    ):
        eventually(lambda: running(reader) == {1: 10, 2: 20})

        endpoints = [rank.stdout.readline().strip() for rank in ranks if rank.stdout is not None]
        assert endpoints == [relay.endpoint, relay.endpoint]
        assert relay.stats()["refused_key"] == 0, "all were admitted before they came"
        stranger: dict[str, Any] = {"key": key("stranger"), "server_key": meeting.server_key}
        with snapring.RemoteWriter(meeting.endpoint, rank=0, ranks=3, **stranger) as writer:
            writer.publish(LoadSnapshot())
            eventually(lambda: relay.stats()["refused_key"] > 0)
        assert sorted(running(reader)) == [1, 2]


@pytest.mark.usefixtures("ring_dir")
def test_a_rank_restarts_with_another_key(group: Group, key: Callable[[str], str], join: Join) -> None:
    """A rank that comes back alone is told the address at once, and let in once the relay's process looks."""
    ranks = [join(rank, key(f"rank{rank}")) for rank in (1, 2)]
    with (
        snapring.Relay("met", ANY_PORT, ranks=3, key=key("relay")) as relay,
        meet(group, SECONDS, relay=relay, key=key("relay")) as meeting,
        snapring.Reader("met") as reader,
    ):
        eventually(lambda: running(reader) == {1: 10, 2: 20})
        ranks[0].send_signal(signal.SIGTERM)
        ranks[0].wait()

        again = join(1, key("another"))
        eventually(lambda: meeting.admit() == 1, 60.0)
        tell(again, 77)

        eventually(lambda: running(reader) == {1: 77, 2: 20})


@pytest.mark.usefixtures("ring_dir")
def test_a_relay_that_succeeds_another(group: Group, key: Callable[[str], str], join: Join) -> None:
    """A relay opened at the address in the store has all ranks again, by their posted keys, without a new meeting."""
    ranks = [join(rank, key(f"rank{rank}")) for rank in (1, 2)]
    options: dict[str, Any] = {"ranks": 3, "key": key("relay"), "keep": True}
    with snapring.Relay("met", ANY_PORT, **options) as relay:
        meet(group, SECONDS, relay=relay, key=key("relay"))  # never closed, as after a kill
    found = address_in(group)
    assert found is not None

    with (
        snapring.Relay("met", found.endpoint, **options) as successor,
        meet(group, SECONDS, relay=successor, key=key("relay")) as meeting,
        snapring.Reader("met") as reader,
    ):
        for number, rank in enumerate(ranks):
            tell(rank, 50 + number)

        eventually(lambda: running(reader) == {1: 50, 2: 51})
        assert meeting.endpoint == found.endpoint
    assert address_in(group) is None, "an owner that closes takes its address back"


@pytest.mark.usefixtures("ring_dir")
def test_without_keys(group: Group, join: Join) -> None:
    """An insecure relay travels the same way, and nobody posts a key."""
    for rank in (1, 2):
        join(rank)
    with (
        snapring.Relay("met", ANY_PORT, ranks=3, insecure=True) as relay,
        meet(group, SECONDS, relay=relay) as meeting,
        snapring.Reader("met") as reader,
    ):
        assert meeting.server_key is None
        assert meeting.admit() == 0
        eventually(lambda: running(reader) == {1: 10, 2: 20})


def local(tmp_path: Path, rank: int, size: int = 2) -> LocalGroup:
    """A group of files."""
    return LocalGroup(tmp_path / "store", rank, size)


@pytest.mark.usefixtures("ring_dir")
def test_a_member_without_a_key_is_told(tmp_path: Path, key: Callable[[str], str]) -> None:
    """Where the relay has keys a member without one ends with the fix, and so does the relay's process, naming it."""
    faults: list[str] = []

    def member() -> None:
        with pytest.raises(RendezvousFailed) as caught:
            meet(local(tmp_path, 1), SECONDS)
        faults.append(str(caught.value))

    thread = threading.Thread(target=member)
    thread.start()
    with (
        snapring.Relay("met", ANY_PORT, ranks=2, key=key("relay")) as relay,
        pytest.raises(RendezvousFailed, match=r"rank 1 cannot use it: .*snapring keys"),
    ):
        meet(local(tmp_path, 0), SECONDS, relay=relay, key=key("relay"))
    thread.join()

    assert "snapring keys" in faults[0]


@pytest.mark.usefixtures("ring_dir")
def test_rows_that_hold_no_key(tmp_path: Path, key: Callable[[str], str]) -> None:
    """What is posted is taken as a key or not at all: a path lets nobody in, and keeps no good key out."""
    good = _core.public_key(key("rank"))
    posted = [str(tmp_path), key("rank"), "x" * 39, "~" * 40, good, 7]
    group = local(tmp_path, 0, 7)
    with (
        ExitStack() as stack,
        snapring.Relay("met", ANY_PORT, ranks=7, key=key("relay")) as relay,
    ):
        for rank, text in enumerate(posted, 1):
            stack.enter_context(register({"public_key": text}, local(tmp_path, rank, 7)))
        meeting = stack.enter_context(resume(relay, group, key=key("relay")))

        with (
            snapring.RemoteWriter(
                meeting.endpoint, rank=5, ranks=7, key=key("rank"), server_key=meeting.server_key
            ) as writer,
            snapring.Reader("met") as reader,
        ):
            writer.publish(LoadSnapshot(num_running_reqs=5))
            eventually(lambda: running(reader) == {5: 5})
        assert meeting.admit() == 0


@pytest.mark.usefixtures("ring_dir")
def test_missing_members_are_named(tmp_path: Path) -> None:
    """The relay's process ends at its deadline and names who never came; a member alone says: the leader did not."""
    with (
        snapring.Relay("met", ANY_PORT, ranks=3, insecure=True) as relay,
        pytest.raises(RendezvousTimeout, match="ranks 1, 2"),
    ):
        meet(local(tmp_path, 0, 3), 3.0, relay=relay)

    with pytest.raises(RendezvousTimeout, match="leader"):
        meet(local(tmp_path, 1, 3), 3.0)


@pytest.mark.usefixtures("ring_dir")
def test_an_address_where_nobody_listens_is_not_taken(tmp_path: Path) -> None:
    """What a killed relay left in the store is not believed by a member that comes while nobody answers there."""
    group = local(tmp_path, 0, 1)
    with snapring.Relay("met", ANY_PORT, ranks=2, insecure=True) as relay:
        meet(group, SECONDS, relay=relay)  # never closed
    assert address_in(group) is not None

    with pytest.raises(RendezvousTimeout):
        meet(local(tmp_path, 1), 0.3)


@pytest.mark.usefixtures("ring_dir")
def test_what_cannot_be_met_is_refused(tmp_path: Path) -> None:
    """Who has the relay, who owns it, and an address that nobody can connect to are looked at before anything else."""
    with snapring.Relay("met", "tcp://0.0.0.0:0", ranks=1, insecure=True) as relay:
        with pytest.raises(InvalidValue, match="gives no relay="):
            meet(local(tmp_path, 1), SECONDS, relay=relay)
        with pytest.raises(InvalidValue, match="gives relay="):
            meet(local(tmp_path, 0), SECONDS)
        with pytest.raises(InvalidValue, match="give host="):
            meet(local(tmp_path, 0), SECONDS, relay=relay)
        with (
            snapring.Relay("met", ANY_PORT, ranks=1, insecure=True) as standby,
            pytest.raises(InvalidValue, match="does not own"),
        ):
            resume(standby, local(tmp_path, 0))

        with meet(local(tmp_path, 0, 1), SECONDS, relay=relay, host="localhost") as meeting:
            assert meeting.endpoint.startswith("tcp://localhost:")
