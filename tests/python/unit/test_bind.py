import errno
import socket

import pytest

from snapring.errors import InvalidValue, SystemRefused
from snapring.serve.bind import Bind, is_local, is_loopback, listening, parse_bind


@pytest.mark.parametrize(
    ("text", "host", "port", "authority"),
    [
        ("127.0.0.1:9400", "127.0.0.1", 9400, "127.0.0.1:9400"),
        ("localhost:0", "localhost", 0, "localhost:0"),
        ("0.0.0.0:65535", "0.0.0.0", 65_535, "0.0.0.0:65535"),  # noqa: S104  a name
        ("[::]:9400", "::", 9400, "[::]:9400"),
        ("[::1]:80", "::1", 80, "[::1]:80"),
    ],
)
def test_addresses(text: str, host: str, port: int, authority: str) -> None:
    """A host and a port are taken apart, IPv6 out of its brackets, and put together again for a URL."""
    bind = parse_bind(text)

    assert bind == Bind(host, port)
    assert bind.authority == authority


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9400",
        ":9400",
        "localhost",
        "localhost:",
        "localhost:http",
        "localhost:65536",
        "::1:9400",
        "[::1]",
        "[x]:1",
        "http://localhost:9400",
        "localhost:9400/",
        "local host:1",
        "localhost:-1",
        "localhost:٣",
        "[::1]x:1",
    ],
)
def test_what_is_no_address(text: str) -> None:
    """Anything else is refused with an example; all interfaces must be asked for by name."""
    with pytest.raises(InvalidValue, match=r"write|IPv6"):
        parse_bind(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),  # noqa: S104  a name
        ("::", False),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    """An address counts as of this host alone only where nobody else can reach it; all interfaces do not."""
    assert is_loopback(host) == loopback


def test_names_are_judged_by_their_addresses() -> None:
    """What a name leads to decides whether others can connect."""
    assert is_local(parse_bind("localhost:0"))
    assert not is_local(parse_bind("0.0.0.0:0"))
    with pytest.raises(InvalidValue, match="no address belongs to 'nowhere"):
        is_local(parse_bind("nowhere.invalid:0"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_connections_wait(host: str) -> None:
    """The socket has its port, and takes connections, before anybody serves."""
    with listening(Bind(host, 0)) as server, socket.create_connection(server.getsockname()[:2]) as client:
        accepted, _ = server.accept()
        with accepted:
            assert accepted.getpeername() == client.getsockname()


def test_what_cannot_be_listened_at() -> None:
    """A taken port, and an address of another host, are refused with what to do and the system's number."""
    with listening(Bind("127.0.0.1", 0)) as server:
        bind = Bind("127.0.0.1", server.getsockname()[1])
        with pytest.raises(SystemRefused, match=r"another process listens there; .* 127\.0\.0\.1:0") as taken:
            listening(bind)
    with pytest.raises(SystemRefused, match="no such address") as foreign:
        listening(Bind("192.0.2.1", 0))

    assert (taken.value.errno, foreign.value.errno) == (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
