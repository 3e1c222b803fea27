"""The applications that are compared over HTTP, by name, and the columns of their table.

Each is made inside its server's process from the directory of a store and the number of ranks. Annotations here are
evaluated: FastAPI looks at them.
"""

import asyncio
import datetime as dt
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import peers
from http_reply import reply_app
from model import Absent, Bench, Cell, Cells, Foreign
from peers.http_sglang import ACCELERATOR, open_reader, sglang_app
from peers.ring import NAME
from peers.sglang import SGLang0523

PROMETHEUS_CLIENT = "prometheus_client"
REQUEST_REPLY = "request/reply"
BARE = "msgspec"
CONSTANT = "constant body"
COLUMNS = (peers.OURS, peers.BASELINE, PROMETHEUS_CLIENT, REQUEST_REPLY, BARE, CONSTANT)
EVENT_PAUSE_S = 0.1

App = Foreign
"""An ASGI application."""

Document = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Contender:
    """One server: the column it stands in, the store that its ranks publish into, and its application."""

    column: str
    store: str
    app: str


OWN = (
    Contender(peers.OURS, peers.OURS, "own"),
    Contender(peers.BASELINE, peers.BASELINE, "sglang"),
    Contender(BARE, peers.BASELINE, "bare"),
    Contender(CONSTANT, peers.OURS, "constant"),
)
IN_FASTAPI = (
    Contender(peers.OURS, peers.OURS, "own-fastapi"),
    Contender(peers.BASELINE, peers.BASELINE, "sglang"),
    Contender(BARE, peers.BASELINE, "bare-fastapi"),
    Contender(CONSTANT, peers.OURS, "constant-fastapi"),
)
STREAMS = (
    Contender(peers.OURS, peers.OURS, "own"),
    Contender(BARE, peers.BASELINE, "bare-streams"),
    Contender(CONSTANT, peers.OURS, "constant-streams"),
)
BLOCKED = (
    Contender(peers.OURS, peers.OURS, "own"),
    Contender(peers.BASELINE, peers.BASELINE, "sglang"),
    Contender(REQUEST_REPLY, "", "reply"),
)


def present(contenders: tuple[Contender, ...], bench: Bench) -> list[Contender]:
    """Return those whose store can be had."""
    return [one for one in contenders if not one.store or one.store in bench.peers]


def all_columns(found: Mapping[str, Cell], bench: Bench, reason: str) -> Cells:
    """Return one cell for each column: those `found`, and why the others are not there."""
    wanted = [name for name in COLUMNS if name in bench.peers or name not in peers.KINDS]
    return {name: found.get(name, Absent(reason)) for name in wanted}


def own_app(where: Path, _: int) -> App:
    """Return snapring's application."""
    import snapring.serve

    return snapring.serve.app(own_reader(where))


def own_reader(where: Path) -> Foreign:
    """Return a reader of the ring in `where`."""
    import snapring

    os.environ["SNAPRING_DIR"] = str(where)
    return snapring.Reader(NAME)


def own_in_fastapi(where: Path, ranks: int) -> App:
    """Return a user's application, one of whose handlers returns what snapring's endpoint responds."""
    from fastapi import FastAPI, Request, Response

    api, loads = FastAPI(), own_app(where, ranks).endpoint

    @api.get("/v1/loads")
    async def get_loads(request: Request) -> Response:
        response: Response = await loads.respond(request)
        return response

    return api


def same_document(where: Path, ranks: int) -> Document:
    """Return a function that reads SGLang's snapshots and encodes SGLang's document with msgspec."""
    reader, encode = open_reader(where, ranks), msgspec.json.encode

    def document() -> bytes:
        return encode(
            {
                "timestamp": dt.datetime.now(dt.UTC).isoformat(),
                "version": SGLang0523.release,
                "accelerator": ACCELERATOR,
                "num_accelerators": 8,
                "loads": [snapshot.to_dict() for snapshot in reader.read_all()],
            }
        )

    return document


def constant_document(where: Path, ranks: int) -> Document:
    """Return a function that returns what snapring's application would have said at the start, over and over."""
    from snapring.loads import Loads

    content = Loads(own_reader(where)).json().content
    return lambda: content


def on_bare_asgi(make: Callable[[Path, int], Document]) -> Callable[[Path, int], App]:
    """Return a maker of an application without a framework that answers everything with the document."""

    def application(where: Path, ranks: int) -> App:
        document = make(where, ranks)

        async def answer(_: Foreign, __: Foreign, send: Callable[[Mapping[str, Any]], Awaitable[None]]) -> None:
            body = document()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        return answer

    return application


def in_fastapi(make: Callable[[Path, int], Document]) -> Callable[[Path, int], App]:
    """Return a maker of a FastAPI application, one of whose handlers returns the document as bytes."""

    def application(where: Path, ranks: int) -> App:
        from fastapi import FastAPI, Request, Response

        api, document = FastAPI(), make(where, ranks)

        @api.get("/v1/loads")
        async def get_loads(request: Request) -> Response:
            return Response(document(), media_type="application/json")

        return api

    return application


def as_streams(make: Callable[[Path, int], Document]) -> Callable[[Path, int], App]:
    """Return a maker of an application whose every client gets the document ten times a second by a loop of its own."""

    def application(where: Path, ranks: int) -> App:
        from starlette.responses import StreamingResponse

        document = make(where, ranks)

        async def events() -> AsyncIterator[bytes]:
            while True:
                yield b"event: loads\ndata: %b\n\n" % document()
                await asyncio.sleep(EVENT_PAUSE_S)

        async def answer(scope: Foreign, receive: Foreign, send: Foreign) -> None:
            await StreamingResponse(events(), media_type="text/event-stream")(scope, receive, send)

        return answer

    return application


APPS: Mapping[str, Callable[[Path, int], App]] = {
    "own": own_app,
    "own-fastapi": own_in_fastapi,
    "sglang": sglang_app,
    "reply": reply_app,
    "bare": on_bare_asgi(same_document),
    "bare-fastapi": in_fastapi(same_document),
    "bare-streams": as_streams(same_document),
    "constant": on_bare_asgi(constant_document),
    "constant-fastapi": in_fastapi(constant_document),
    "constant-streams": as_streams(constant_document),
}
"""Makers of applications."""
