"""An ASGI application served by uvicorn in a thread, and plain requests to it: ``from served import get, served``."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import uvicorn

from support import eventually

__all__ = ["Events", "Reply", "Site", "served"]

DEADLINE_S = 60.0
"""Ends a hang."""


class Reply(NamedTuple):
    """What was answered; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401  any JSON
        """The body, read."""
        return json.loads(self.body)


class Site(NamedTuple):
    """Where an application is served, on this host."""

    port: int

    def get(self, path: str, method: str = "GET", **headers: str) -> Reply:
        """One request on a connection of its own; ``if_none_match`` is the header If-None-Match."""
        with closing(self.connection()) as connection:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, headers=given)
            answer = connection.getresponse()
            return Reply(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read())

    def connection(self) -> http.client.HTTPConnection:
        """A connection to it."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)


class Events:
    """A stream of server-sent events, read one by one."""

    def __init__(self, site: Site, path: str = "/v1/loads/stream") -> None:
        self._connection = site.connection()
        self._connection.request("GET", path)
        self._answer = self._connection.getresponse()
        self.type = self._answer.headers["content-type"]

    def next(self) -> dict[str, str]:
        """The fields of the next event; comments are passed over."""
        while True:
            fields: dict[str, str] = {}
            while line := self._answer.fp.readline().decode().rstrip("\r\n"):
                name, _, value = line.partition(":")
                if name in {"event", "id", "data"}:
                    fields[name] = value.removeprefix(" ")
            if fields:
                return fields

    def loads(self) -> Any:  # noqa: ANN401  any JSON
        """The document of the next event of loads."""
        event = self.next()
        assert event["event"] == "loads", event
        return json.loads(event["data"])

    def close(self) -> None:
        """Hang up."""
        self._answer.close()
        self._connection.close()


@contextmanager
def served(app: Callable[..., Any], http: str = "auto") -> Iterator[Site]:
    """The application on a free port, until the block ends; what streams then is cut."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, access_log=False, timeout_graceful_shutdown=1, http=http
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started)
        yield Site(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
