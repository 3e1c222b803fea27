"""A request to a store ends at its deadline, however the other end behaves."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from snapring.errors import StoreUnavailable
from snapring.rendezvous import EtcdGroup, listener, listener_answers

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
SECONDS = 60.0


def drip(server: socket.socket, pause_s: float) -> None:
    """Answers one connection byte by byte, whatever it asks, until the other end leaves."""
    connection, _ = server.accept()
    with connection, suppress(OSError):
        for byte in ANSWER:
            connection.sendall(bytes([byte]))
            time.sleep(pause_s)
        while connection.recv(65536):  # closing with a request unread would reset the connection
            pass


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A listener on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(SECONDS)  # only ends a hang
        yield listening


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_dripping_server(server: socket.socket, is_slow: bool) -> None:
    """An answer counts when it is whole before the deadline: bytes that trickle in do not move it."""
    group = EtcdGroup(f"http://127.0.0.1:{server.getsockname()[1]}", "/p", 0, 2)
    with ThreadPoolExecutor() as pool:
        pool.submit(drip, server, 0.1 if is_slow else 0.0)

        if is_slow:
            with pytest.raises(StoreUnavailable, match="timed out"):
                group.read("f", 0, 0.5)
        else:
            assert group.read("f", 0, SECONDS) is None


def test_addresses_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host of several addresses, none of which answers, is given up after the timeout, not after it for each."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"10.0.0.{number}", 80)) for number in range(4)]
    given: list[float] = []

    def refuse(place: tuple[str, int], timeout: float) -> socket.socket:
        given.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(listener.socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(listener.socket, "create_connection", refuse)

    assert not listener_answers("host", 80, 8.0)
    assert len(given) == 4
    assert given[0] <= 2.0
