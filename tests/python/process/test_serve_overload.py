"""A server that refuses requests while every rank is full: FastAPI and bare ASGI, before real rings."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette

from asgi_server import fastapi_app, hello, served
from snapring import LoadSnapshot, Reader, Writer
from snapring.serve import OverloadMiddleware
from support import eventually

FULL = LoadSnapshot(token_usage=0.99, num_waiting_uncached_tokens=7_500, gen_throughput=1000.0)
ROOM = LoadSnapshot(token_usage=0.5)


@pytest.mark.parametrize("kind", ["bare", "fastapi"])
def test_a_full_server_refuses_posts(ring_dir: Path, kind: str) -> None:
    """While every rank is full a POST gets 503, when to come back, and why; until one has room."""
    with (
        Writer("main", rank=0, ranks=2) as zero,
        Writer("main", rank=1, ranks=2) as one,
        Reader("main", max_age=1e6) as reader,
    ):
        zero.publish(FULL)
        one.publish(FULL)
        app = OverloadMiddleware(hello, reader) if kind == "bare" else fastapi_app(OverloadMiddleware, reader=reader)
        with served(app) as client:
            refused = client.ask("/", "POST", b"x" * 1_000_000)
            one.publish(ROOM)
            eventually(lambda: client.ask("/", "POST", b"x").status == 200)

    assert refused.status == 503
    assert (refused.headers["retry-after"], refused.headers["content-type"]) == ("8", "application/json")
    error = json.loads(refused.body)["error"]
    assert (error["code"], error["valid"]) == (503, [])
    assert "every live rank is full" in error["message"]


@pytest.mark.parametrize(
    ("options", "method", "path", "status"),
    [
        ({}, "POST", "/v1/completions", 503),
        ({}, "GET", "/v1/completions", 200),
        ({}, "POST", "/health", 200),
        ({}, "POST", "/v1/healthz/", 200),
        ({}, "POST", "/health/of/others", 503),
        ({"limit": 1.0}, "POST", "/", 200),
        ({"paths": ["/a"]}, "POST", "/a", 503),
        ({"paths": ["/a"]}, "GET", "/a", 200),
        ({"paths": ["/a"]}, "POST", "/a/b", 200),
        ({"paths": ["/healthz"]}, "POST", "/healthz", 200),
        ({"predicate": lambda scope: scope["path"] == "/a"}, "GET", "/a", 503),
        ({"predicate": lambda scope: scope["path"] == "/a"}, "POST", "/b", 200),
        ({"predicate": lambda scope: True}, "GET", "/readyz", 200),
        ({"predicate": lambda scope: scope["nothing of that name"]}, "POST", "/a", 200),
    ],
)
def test_which_requests_are_refused(
    ring_dir: Path, options: dict[str, Any], method: str, path: str, status: int
) -> None:
    """By default every POST; others by choice; health routes never; and a predicate that fails refuses nothing."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(FULL)
        with served(OverloadMiddleware(hello, reader, **options)) as client:
            assert client.ask(path, method).status == status


def test_paths_are_those_of_the_mounted_application(ring_dir: Path) -> None:
    """Where the application is mounted does not change which of its paths are refused."""
    outer = Starlette()
    with Writer("main", rank=0, ranks=1) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(FULL)
        outer.mount("/inner", OverloadMiddleware(hello, reader, paths=["/a"]))
        with served(outer) as client:
            assert [client.ask(path, "POST").status for path in ("/inner/a", "/inner/b")] == [503, 200]


def test_hysteresis_holds_between_requests(ring_dir: Path) -> None:
    """An overloaded server stays so until a rank is below ``release``."""
    statuses = []
    with (
        Writer("main", rank=0, ranks=1) as writer,
        Reader("main", max_age=1e6) as reader,
        served(OverloadMiddleware(hello, reader, limit=0.9, release=0.6, keep=0)) as client,
    ):
        for usage in (0.8, 0.9, 0.8, 0.6, 0.59, 0.8):
            writer.publish(LoadSnapshot(token_usage=usage))
            statuses.append(client.ask(method="POST").status)

    assert statuses == [200, 503, 503, 503, 200, 200]
