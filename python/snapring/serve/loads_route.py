"""``GET /v1/loads``, without a framework: what a request costs beyond the server is reading memory."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from snapring.errors import SnapringError
from snapring.formats.as_orca import OrcaReport, orca_report
from snapring.formats.as_prometheus import content_type
from snapring.formats.profiles import profile_named
from snapring.loads import Body, Loads
from snapring.serve.asgi import Receive, Scope, Send, unless_gone
from snapring.serve.changes import Changes
from snapring.serve.duration import Durations
from snapring.serve.query import BadQuery, LoadsQuery, parse_query
from snapring.serve.reply import (
    JSON,
    METHODS,
    Answer,
    AnswerResponse,
    failure,
    not_allowed,
    send_answer,
    unreadable,
    whole,
)

__all__ = ["LoadsRoute"]

RECHECK_S: Final = 0.25
"""How often a long-poll looks by itself: with a ``max_age`` of its own states turn when no rank says anything, and the
reader here may notice later than the one that is followed that a ring is gone."""


class LoadsRoute:
    """The endpoint: an ASGI application for any path, and :meth:`respond` for a handler of one's own.

    Args:
        loads: what is asked.
        changes: what long-polls wait for.
        profile: the metrics of ``format=prometheus``.
        strict_ranks: answer 404 for a rank that the ring does not have, instead of an empty list.

    Belongs to one event loop.
    """

    def __init__(self, loads: Loads, changes: Changes, *, profile: str = "sglang", strict_ranks: bool = False) -> None:
        profile_named(profile)
        self._loads, self._changes = loads, changes
        self._profile, self._strict = profile, strict_ranks
        self.durations: Final = Durations()
        self._tag, self._etag = "", (b"", b"")  # of the last answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] not in METHODS:
            await send_answer(send, not_allowed())
            return
        query_string: bytes = scope["query_string"]
        known = _header(scope["headers"], MATCH)
        answer = self.answer(query_string, known)
        if answer.status == NOT_MODIFIED and (query := parse_query(query_string)).wait:
            news = await unless_gone(receive, self._await_news(query_string, known, query))
            if news is None:
                return
            answer = news
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def respond(self, request: Request) -> Response:
        """The response for a handler of FastAPI or Starlette; long-polls are left to the route itself."""
        return AnswerResponse(self.answer(request.scope["query_string"], _header(request.scope["headers"], MATCH)))

    def answer(self, query_string: bytes, known: bytes | None) -> Answer:
        """The answer to a query, at once; ``known`` is what ``If-None-Match`` says. Never raises for what was asked."""
        started_ns = time.perf_counter_ns()
        try:
            answer = self._read(parse_query(query_string) if query_string else EVERYTHING, known)
        except BadQuery as wrong:
            answer = failure(wrong.code, str(wrong), wrong.valid)
        except SnapringError as error:
            answer = unreadable(error)
        self.durations.add(time.perf_counter_ns() - started_ns, answer.status < BAD)
        return answer

    def _read(self, query: LoadsQuery, known: bytes | None) -> Answer:
        if self._strict and query.rank is not None and (missing := self._missing(query.rank)):
            return failure(404, missing)
        if query.format == "json":
            body = self._loads.json(include=query.include, ranks=query.ranks, max_age=query.max_age)
            return self._tagged(body, known)
        if query.format == "orca":
            return self._orca(query.rank)
        openmetrics = query.format == "openmetrics"
        kind = content_type(openmetrics).encode()
        text = self._loads.text(
            self._profile,
            openmetrics=openmetrics,
            include=query.include,
            ranks=query.ranks,
            max_age=query.max_age,
        )
        return whole(200, kind, text or b"\n")

    def _tagged(self, body: Body, known: bytes | None) -> Answer:
        """The JSON with its tag, or 304 where the client has it; weak, since ages differ from answer to answer."""
        if body.tag != self._tag:
            self._tag, self._etag = body.tag, (b"etag", b'W/"%b"' % body.tag.encode())
        if known is not None and (known == b"*" or b'"%b"' % body.tag.encode() in known):
            return Answer(NOT_MODIFIED, [self._etag, NO_CACHE], b"")
        length = (b"content-length", b"%d" % len(body.content))
        return Answer(200, [JSON_TYPE, length, self._etag, NO_CACHE], body.content)

    def _orca(self, rank: int | None) -> Answer:
        report = orca_report(snapshot for snapshot in self._loads.snapshots() if rank in {None, snapshot.rank})
        if report is None or report == OrcaReport():
            return failure(503, "no rank is LIVE and reports its load, so nothing is known of it; look at /readyz")
        return whole(200, JSON, report.json().encode())

    def _missing(self, rank: int) -> str:
        count = self._loads.reader.ranks
        if count is None:
            return f"there is no rank {rank}: no ring {self._loads.reader.name!r} yet"
        return "" if 0 <= rank < count else f"there is no rank {rank}: the ring has ranks 0 to {count - 1}"

    async def _await_news(self, query_string: bytes, known: bytes | None, query: LoadsQuery) -> Answer:
        """The answer as soon as it is another, else 304 when the time is up; each look counts among the durations."""
        until_s = time.monotonic() + query.wait
        async with self._changes.followed():
            while True:
                news = self._changes.news
                answer = self.answer(query_string, known)  # again: something may have changed before it was followed
                left_s = until_s - time.monotonic()
                if answer.status != NOT_MODIFIED or left_s <= 0:
                    return answer
                # Not wait_for, which before Python 3.12 may swallow that the client is gone.
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(left_s, RECHECK_S)):
                        await news.wait()


EVERYTHING: Final = parse_query(b"")
NOT_MODIFIED: Final = 304
BAD: Final = 400
JSON_TYPE: Final = (b"content-type", JSON)
NO_CACHE: Final = (b"cache-control", b"no-cache")
MATCH: Final = b"if-none-match"


def _header(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    for name, value in headers:
        if name == wanted:
            return value
    return None
