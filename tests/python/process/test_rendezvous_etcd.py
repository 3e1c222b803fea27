"""What only a real etcd shows: log-in, a server that hangs, keys that end with their leases."""

import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from etcd_server import Etcd, etcd
from snapring.errors import InvalidValue, RendezvousFailed, RingUntrusted, StoreUnavailable
from snapring.rendezvous import EtcdGroup
from snapring.rendezvous.etcd_gateway import PASSWORD_VARIABLE, Gateway
from support import stop

SECONDS = 20.0


@pytest.fixture
def server() -> Iterator[Etcd]:
    """An etcd of this test's own."""
    with etcd() as url:
        yield url


def text(name: str) -> str:
    """As the gateway wants keys."""
    return base64.b64encode(name.encode()).decode()


def with_users(url: str) -> None:
    """Turns log-in on, with a user who may use the keys below /mine/."""
    gateway = Gateway([url], tls=None, user=None, password_file=None)
    for path, request in [
        ("user/add", {"name": "root", "password": "r"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("role/add", {"name": "ranks"}),
        (
            "role/grant",
            {"name": "ranks", "perm": {"permType": "READWRITE", "key": text("/mine/"), "range_end": text("/mine0")}},
        ),
        ("user/add", {"name": "rank", "password": "secret"}),
        ("user/grant", {"user": "rank", "role": "ranks"}),
        ("enable", {}),
    ]:
        gateway.ask(f"/v3/auth/{path}", request, SECONDS)


def test_log_in(server: Etcd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a password from a file or the environment a user reads and writes; without, or outside his keys, nobody."""
    with_users(server)
    password = tmp_path / "password"
    password.write_text("secret\n")
    password.chmod(0o600)

    group = EtcdGroup(server, "/mine", 0, 2, user="rank", password_file=str(password))
    assert group.swap("f", 0, None, b"1", SECONDS, ttl=60)
    assert group.read("f", 0, SECONDS) == b"1"
    assert "secret" not in repr(group) + repr(vars(group))
    monkeypatch.setenv(PASSWORD_VARIABLE, "secret")
    assert EtcdGroup(server, "/mine", 0, 2, user="rank").read("f", 0, SECONDS) == b"1"

    with pytest.raises(RendezvousFailed, match=r"refuses: .*permission denied"):
        EtcdGroup(server, "/other", 0, 2, user="rank").read("f", 0, SECONDS)
    with pytest.raises(RendezvousFailed, match="give user= and a password file"):
        EtcdGroup(server, "/mine", 0, 2).read("f", 0, SECONDS)
    monkeypatch.setenv(PASSWORD_VARIABLE, "wrong")
    with pytest.raises(RendezvousFailed, match="authentication failed") as caught:
        EtcdGroup(server, "/mine", 0, 2, user="rank").read("f", 0, SECONDS)
    assert "wrong" not in str(caught.value)
    password.chmod(0o640)
    with pytest.raises(RingUntrusted, match=r"mode 640.*chmod 600"):
        EtcdGroup(server, "/mine", 0, 2, user="rank", password_file=str(password)).read("f", 0, SECONDS)
    with pytest.raises(RendezvousFailed, match="cannot read the password file"):
        EtcdGroup(server, "/mine", 0, 2, user="rank", password_file="/none").read("f", 0, SECONDS)


def test_server_that_hangs(server: Etcd) -> None:
    """A server that accepts and says nothing is given up after the timeout; once it goes on, so does the group."""
    group = EtcdGroup(server, "/p", 0, 2)
    group.swap("f", 0, None, b"1", SECONDS)

    stop(server.pid)
    with pytest.raises(StoreUnavailable, match="timed out"):
        group.read("f", 0, 0.3)
    os.kill(server.pid, signal.SIGCONT)

    assert group.read("f", 0, SECONDS) == b"1"


@pytest.mark.parametrize(
    "endpoint",
    [
        *("127.0.0.1:2379", "ftp://h:1", "http://h", "http://h:x", "http://[::1", "http://h:1/path", ""),
        *("http://user:word@h:1", "http://:word@h:1", "http://word@h:1", "http://h:1?word", "http://h:1/#word"),
    ],
)
def test_bad_endpoints(endpoint: str) -> None:
    """An endpoint is a URL with scheme, host and port, and never holds a password."""
    with pytest.raises(InvalidValue, match="http://HOST:PORT") as caught:
        EtcdGroup(endpoint, "/p", 0, 2)
    assert "word" not in str(caught.value)
    with pytest.raises(InvalidValue, match="at least one endpoint"):
        EtcdGroup([], "/p", 0, 2)
    with pytest.raises(InvalidValue, match="ends with a slash"):
        EtcdGroup("http://h:1", "/p/", 0, 2)
