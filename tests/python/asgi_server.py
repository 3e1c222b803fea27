"""A uvicorn in a thread with any ASGI application, and a client: ``from asgi_server import hello, served``."""

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from snapring import LoadSnapshot, Reader
from snapring.serve.asgi import Receive, Scope, Send
from support import eventually

__all__ = ["Answer", "Client", "fastapi_app", "hello", "served", "unreadable"]

UNREADABLE = "of another job, so that every read raises"


class Answer:
    """A response: its status, headers in lower case, and body."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def report(self) -> str | None:
        """The load report of the TEXT or JSON format."""
        return self.headers.get("endpoint-load-metrics")


class Client:
    """Asks a server, a connection per request."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """``endpoint_load_metrics_format="TEXT"`` is that header, written with dashes."""
        with self.open(path, method, body, **headers) as response:
            return Answer(response)

    @contextmanager
    def open(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        """The response as it comes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            yield connection.getresponse()
        finally:
            connection.close()

    def report(self, form: str) -> Answer:
        return self.ask(endpoint_load_metrics_format=form)


@contextmanager
def served(app: object) -> Iterator[Client]:
    """A uvicorn with ``app`` in a thread of its own, on a port of its own."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, ws="none", lifespan="on")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive())
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


async def answer(send: Send, body: bytes = b"hello", status: int = 200, **headers: str) -> None:
    """A response of one piece."""
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """The smallest application, which has a lifespan."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
    elif scope["path"] == "/own":
        await answer(send, endpoint_load_metrics="TEXT named_metrics.mine=1")
    elif scope["path"] == "/broken":
        await answer(send, status=500)
    else:
        await answer(send)


def fastapi_app(middleware: Any, **options: Any) -> FastAPI:  # noqa: ANN401  as add_middleware takes them
    """An application of FastAPI with a middleware, as a user adds it."""
    app = FastAPI()
    app.add_middleware(middleware, **options)

    @app.get("/")
    @app.post("/")
    async def root() -> str:
        return "hello"

    return app


def unreadable() -> "Reader[LoadSnapshot]":
    """A reader that raises whenever it is asked: the ring belongs to another job."""
    return Reader("main", job=UNREADABLE)
