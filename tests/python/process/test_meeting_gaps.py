"""Members that come when no relay is there, or something else in its place, and what a meeting's deadline bounds."""

import contextlib
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import snapring
from snapring import _core
from snapring.address import Address
from snapring.errors import InvalidValue, RendezvousFailed, RendezvousTimeout, StoreUnavailable
from snapring.meeting import Meeting, address_in, meet, resume
from snapring.rendezvous import LocalGroup, Row
from snapring.rendezvous.records import Member, encode
from support import eventually

ANY_PORT = "tcp://127.0.0.1:0"
SECONDS = 60.0


def local(tmp_path: Path, rank: int, size: int = 2) -> LocalGroup:
    """A group of files."""
    return LocalGroup(tmp_path / "store", rank, size)


@pytest.fixture
def key(tmp_path: Path) -> Callable[[str], str]:
    """``key(name)`` is the path of a new key file."""

    def path_of(name: str) -> str:
        _core.make_keys(tmp_path / name)
        return str(tmp_path / name)

    return path_of


def member(tmp_path: Path, key: str | None) -> Meeting:
    """Rank 1's meeting, already closed."""
    with meet(local(tmp_path, 1), SECONDS, key=key) as meeting:
        return meeting


def wait_for_member(tmp_path: Path) -> None:
    """Until rank 1 has found no relay and waits for one."""
    eventually(lambda: local(tmp_path, 0).read("sync.relay", 1, SECONDS))


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize("is_keyed", [False, True])
def test_a_rank_comes_before_the_relay_is_back(tmp_path: Path, key: Callable[[str], str], is_keyed: bool) -> None:
    """A rank that comes while the relay is down gets the address once one restarts there, and syncs with nobody."""
    options: dict[str, Any] = {"key": key("relay")} if is_keyed else {"insecure": True}
    with snapring.Relay("met", ANY_PORT, ranks=2, **options) as relay:
        before = meet(local(tmp_path, 0, 1), SECONDS, relay=relay)  # never closed, as after a kill

    with ThreadPoolExecutor() as pool:
        joined = pool.submit(member, tmp_path, key("rank") if is_keyed else None)
        wait_for_member(tmp_path)
        with (
            snapring.Relay("met", before.endpoint, ranks=2, **options) as relay,
            meet(local(tmp_path, 0), SECONDS, relay=relay),
        ):
            found = joined.result()

    assert (found.endpoint, found.server_key) == (before.endpoint, before.server_key)


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize("has_key", [False, True])
@pytest.mark.parametrize("is_relay", [False, True])
def test_another_program_has_the_port(tmp_path: Path, key: Callable[[str], str], has_key: bool, is_relay: bool) -> None:
    """A left address is not believed where something else accepts: neither any listener, nor a relay of another key."""
    own: dict[str, Any] = {"key": key("relay")} if has_key else {"insecure": True}
    with contextlib.ExitStack() as stack:
        if is_relay:
            taken = stack.enter_context(snapring.Relay("other", ANY_PORT, ranks=2, key=key("other"))).endpoint
        else:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            taken = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        relay = stack.enter_context(snapring.Relay("met", ANY_PORT, ranks=2, **own))
        left = Address(str(taken), relay.public_key, "0" * 32)
        local(tmp_path, 0).swap("relay", 0, None, encode(left), SECONDS)
        pool = stack.enter_context(ThreadPoolExecutor())
        joined = pool.submit(member, tmp_path, key("rank") if has_key else None)
        wait_for_member(tmp_path)

        stack.enter_context(meet(local(tmp_path, 0), SECONDS, relay=relay))

        assert joined.result().endpoint == relay.endpoint


@pytest.mark.usefixtures("ring_dir")
def test_a_late_member_without_a_key_is_told(tmp_path: Path, key: Callable[[str], str]) -> None:
    """Where a relay with keys stands, a member without one need not wait for its deadline to read what it lacks."""
    with (
        snapring.Relay("met", ANY_PORT, ranks=2, key=key("relay")) as relay,
        meet(local(tmp_path, 0, 1), SECONDS, relay=relay),
        pytest.raises(RendezvousFailed, match=r"does not let this process in: .*snapring keys") as caught,
    ):
        meet(local(tmp_path, 1), SECONDS)

    assert not isinstance(caught.value, RendezvousTimeout)


@pytest.mark.usefixtures("ring_dir")
def test_the_relay_knows_its_key(tmp_path: Path, key: Callable[[str], str]) -> None:
    """Members get the key of the relay whether or not its process names the file; another file is refused."""
    own, other = key("relay"), key("other")
    with snapring.Relay("met", ANY_PORT, ranks=2, key=own) as relay, snapring.Relay("open", ranks=2) as without:
        assert relay.public_key == _core.public_key(own)
        assert without.public_key is None
        with meet(local(tmp_path, 0, 1), SECONDS, relay=relay) as meeting:
            assert meeting.server_key == relay.public_key
        for opened in (relay, without):
            with pytest.raises(InvalidValue, match="opened with another key"):
                meet(local(tmp_path, 0, 1), SECONDS, relay=opened, key=other)


@pytest.mark.usefixtures("ring_dir")
def test_the_successors_address_stays(tmp_path: Path) -> None:
    """A relay takes back the address that it posted itself, not that of one that resumed at the same place."""
    group = local(tmp_path, 0, 1)
    with snapring.Relay("met", ANY_PORT, ranks=2, insecure=True) as relay:
        first = meet(group, SECONDS, relay=relay)
        with resume(relay, group):
            stands = address_in(group)
            first.close()

            assert address_in(group) == stands is not None
        assert address_in(group) is None


@pytest.mark.usefixtures("ring_dir")
def test_a_row_of_a_dead_process_is_not_waited_for_beyond_the_deadline(
    tmp_path: Path, key: Callable[[str], str]
) -> None:
    """A member whose place is taken by a row that stands still ends at its own deadline, and names both."""
    group = local(tmp_path, 1)
    dead = Row(Member.of(group), {}, {}, ttl=3600.0)
    group.swap("rows", 1, None, encode(dead), SECONDS, ttl=dead.ttl)

    with pytest.raises(RendezvousFailed, match="cannot both register") as caught:
        meet(group, 0.5, key=key("rank"))

    assert dead.member.nonce[:8] in str(caught.value)


class Silent(LocalGroup):
    """A store that answers nothing; it notes how long it was given."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 1, 2)
        self.given: list[float] = []
        self.closing = threading.Event()

    def read_all(self, folder: str, timeout: float) -> dict[int, bytes]:
        self.given.append(timeout)
        self.closing.wait(timeout)
        raise StoreUnavailable("silent")


def test_a_silent_store_is_not_asked_beyond_the_deadline(tmp_path: Path, key: Callable[[str], str]) -> None:
    """A member with a key gives no question to the store more time than is left of its own."""
    group = Silent(tmp_path / "store")

    with pytest.raises(RendezvousFailed, match="silent"):
        meet(group, 0.5, key=key("rank"))

    assert max(group.given) <= 0.5
