"""Clients that go away in the middle: nothing of theirs stays behind."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from served import Site, served
from snapring import LoadSnapshot, Reader, Writer, serve
from snapring.serve import changes as following
from support import eventually

FOREVER_S = 3600.0


@pytest.fixture
def application(ring_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[serve.LoadsApp]:
    """The application over ring ``live``; its streams have a heartbeat ten times a second."""
    monkeypatch.setattr(following, "HEARTBEAT_S", 0.1)
    with Reader("live", max_age=FOREVER_S) as reader:
        yield serve.app(reader)


@pytest.fixture
def site(application: serve.LoadsApp) -> Iterator[Site]:
    """Its server."""
    with Writer("live", rank=0, ranks=1) as writer, served(application) as site:
        writer.publish(LoadSnapshot())
        yield site


def request(method: str, path: str, *more: str) -> bytes:
    """A request as it goes over the wire."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *more, "", ""]).encode()


def test_head_of_a_stream_ends(site: Site, application: serve.LoadsApp) -> None:
    """HEAD gives the headers and no events; the connection is free for the next request at once."""
    with closing(site.connection()) as connection:
        connection.request("HEAD", "/v1/loads/stream")
        answer = connection.getresponse()
        answer.read()
        connection.request("GET", "/healthz")
        after = connection.getresponse().status

    assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert after == 200
    assert application.changes._followers == 0


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("pipelined", [b"", request("GET", "/v1/loads")])
def test_streams_that_hang_up(site: Site, application: serve.LoadsApp, method: str, pipelined: bytes) -> None:
    """Listeners that leave, also with another request under way, are followed no more, and the server goes on."""
    with ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=60))
            client.sendall(request(method, "/v1/loads/stream") + pipelined)
            assert client.recv(100).startswith(b"HTTP/1.1 200")

    eventually(lambda: application.changes._followers == 0)
    assert site.get("/v1/loads").status == 200


def test_long_polls_that_hang_up(site: Site, application: serve.LoadsApp) -> None:
    """So it is with those that wait for news; where a further request hides that they left, they wait to the end."""
    tag = site.get("/v1/loads").headers["etag"]
    with ExitStack() as stack:
        for wait_s, pipelined in ((60, b""), (0.5, request("GET", "/v1/loads"))):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=60))
            client.sendall(request("GET", f"/v1/loads?wait={wait_s}", f"If-None-Match: {tag}") + pipelined)
        eventually(lambda: application.changes._followers == 2)

    eventually(lambda: application.changes._followers == 0)


def test_a_query_without_end(site: Site) -> None:
    """A query longer than any that makes sense is 414, and not kept."""
    reply = site.get(f"/v1/loads?{'&'.join(f'a{number}=1' for number in range(5000))}")

    assert (reply.status, reply.json["error"]["code"]) == (414, 414)
