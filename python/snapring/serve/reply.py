"""Answers: whole bodies with their headers, and errors as JSON."""

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct
from starlette.responses import Response

from snapring.errors import SnapringError
from snapring.serve.asgi import Send

__all__ = [
    "JSON",
    "METHODS",
    "Answer",
    "AnswerResponse",
    "error",
    "failure",
    "not_allowed",
    "send_answer",
    "unreadable",
    "whole",
]

JSON: Final = b"application/json"

METHODS: Final = frozenset({"GET", "HEAD"})
"""What every route here takes."""

Headers = list[tuple[bytes, bytes]]


class Answer(Struct, frozen=True):
    """Status, headers in lower case, and body, which is empty for 304."""

    status: int
    headers: Headers
    body: bytes


class AnswerResponse(Response):
    """An answer as a framework takes it: nothing of it is computed anew."""

    def __init__(self, answer: Answer) -> None:
        """Take the answer as it is."""
        self.status_code, self.raw_headers, self.body = answer.status, answer.headers, answer.body
        self.background = None


def whole(status: int, kind: bytes, body: bytes, more: Iterable[tuple[bytes, bytes]] = ()) -> Answer:
    """An answer that must not be kept by caches."""
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store"), *more]
    return Answer(status, headers, body)


def failure(code: int, message: str, valid: Iterable[str] = (), more: Iterable[tuple[bytes, bytes]] = ()) -> Answer:
    """An error: ``{"error": {"code", "message", "valid"}}``, where ``valid`` lists the choices there are, if any."""
    content = {"error": {"code": code, "message": message, "valid": list(valid)}}
    return whole(code, JSON, msgspec.json.encode(content), more)


def unreadable(error: SnapringError) -> Answer:
    """503: there is a ring and it cannot be read, or holds no records."""
    return failure(503, f"the ring cannot be read: {type(error).__name__}: {error}")


def error(code: int, message: str, valid: Iterable[str] = ()) -> Response:
    """The same as a framework takes it."""
    return AnswerResponse(failure(code, message, valid))


def not_allowed() -> Answer:
    """405 for any other method."""
    return failure(405, "only GET and HEAD", ["GET", "HEAD"], [(b"allow", b"GET, HEAD")])


async def send_answer(send: Send, answer: Answer) -> None:
    """Send it whole."""
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    await send({"type": "http.response.body", "body": answer.body})
