"""``GET /v1/loads/stream``: server-sent events, for pages and dashboards that want news without asking."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from starlette.routing import Route

from snapring.load import Section
from snapring.serve.asgi import Receive, Scope, Send, unless_gone
from snapring.serve.changes import Changes
from snapring.serve.query import BadQuery, LoadsQuery, parse_query
from snapring.serve.reply import METHODS, failure, not_allowed, send_answer

__all__ = ["StreamRoute", "events", "routes"]

HEARTBEAT: Final = b": heartbeat\n\n"
RETRY: Final = b"retry: 1000\n\n"
"""Milliseconds after which a browser connects again."""

HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nothing in between may hold events back
]


def routes(changes: Changes) -> list[Route]:
    """The stream.

    First comes an event ``loads`` with ``"full": true`` and every rank, then one for each change with the ranks that
    changed and, in ``gone``, those that went away with their ring. Who reads too slowly to get all of them gets the
    full state again, and so does who comes back: the event's id, a tag of all ranks, need not be known here. A ring
    that cannot be read is an event ``unreadable`` with the reason, each second until it can. ``include`` is as for
    ``/v1/loads``; its other parameters are 400, since a stream has all ranks as JSON.
    """
    return [Route("/v1/loads/stream", StreamRoute(changes))]


class StreamRoute:
    """The endpoint, an ASGI application: a framework's streaming response leaves generators open when clients go."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client hangs up."""
        if scope["method"] not in METHODS:
            await send_answer(send, not_allowed())
            return
        try:
            query = parse_query(scope["query_string"])
            _check(query)
        except BadQuery as wrong:
            await send_answer(send, failure(wrong.code, str(wrong), wrong.valid))
            return
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        await unless_gone(receive, self._send_events(send, query.include))

    async def _send_events(self, send: Send, include: frozenset[Section]) -> None:
        async with aclosing(events(self._changes, include)) as stream:
            async for event in stream:
                try:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                except (OSError, RuntimeError):  # what servers raise who write to a client that has hung up
                    return


def _check(query: LoadsQuery) -> None:
    if query.rank is not None or query.max_age is not None or query.wait or query.format != "json":
        raise BadQuery(400, "a stream takes no parameter but include: it tells of all ranks, as JSON", ("include",))


async def events(changes: Changes, include: frozenset[Section]) -> AsyncGenerator[bytes, None]:
    """The events for one listener, without end. What a tick tells is encoded once for all of them."""
    async with changes.followed():
        seen = changes.tick
        yield RETRY + changes.full(include)
        while True:
            news = changes.news
            if changes.tick == seen:
                await news.wait()
                if changes.tick == seen:
                    yield HEARTBEAT
                    continue
            missed = changes.tick - seen > 1
            seen = changes.tick
            yield changes.full(include) if missed else changes.event(include)
