"""``GET /v1/loads/stream``: server-sent events, for pages and dashboards that want news without asking."""

from collections.abc import AsyncIterator
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from snapring.load import Section
from snapring.serve.changes import Changes
from snapring.serve.query import BadQuery, parse_query
from snapring.serve.reply import error

__all__ = ["events", "routes"]

HEARTBEAT: Final = b": heartbeat\n\n"
RETRY: Final = b"retry: 1000\n\n"
"""Milliseconds after which a browser connects again."""

HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}
"""Nothing in between may hold events back."""


def routes(changes: Changes) -> list[Route]:
    """The stream.

    First comes an event ``loads`` with ``"full": true`` and every rank, then one for each change with the ranks that
    changed and, in ``gone``, those that went away with their ring. Who reads too slowly to get all of them gets the
    full state again, and so does who comes back: the event's id, a tag of all ranks, need not be known here. A ring
    that cannot be read is an event ``unreadable`` with the reason. ``include`` is as for ``/v1/loads``.
    """

    async def stream(request: Request) -> Response:
        try:
            query = parse_query(request.scope["query_string"])
        except BadQuery as wrong:
            return error(wrong.code, str(wrong), wrong.valid)
        return StreamingResponse(events(changes, query.include), media_type="text/event-stream", headers=HEADERS)

    return [Route("/v1/loads/stream", stream)]


async def events(changes: Changes, include: frozenset[Section]) -> AsyncIterator[bytes]:
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
