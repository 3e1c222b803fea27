"""The page for people, at ``/``: one file without outside parts, under a policy that lets nothing else in."""

import hashlib
import re
from base64 import b64encode
from functools import cache
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from snapring.serve.reply import Answer, AnswerResponse

__all__ = ["policy", "routes"]

INLINE: Final = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)
"""What the page runs and looks like; both stand in it once, without attributes."""

RULES: Final = (
    "default-src 'none'",
    "connect-src 'self'",
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)
"""Scripts reach this server alone, and none may make markup of text: what a ring holds is shown, never interpreted."""


def routes() -> list[Route]:
    """The page; where the application is mounted below a path, that path without a slash leads to it.

    GET and HEAD; 304 where ``If-None-Match`` has its tag. Browsers keep it and ask each time whether it changed.
    """
    return [Route("/", _page, methods=["GET"])]


def policy(page: bytes) -> str:
    """The Content-Security-Policy of a page: the hashes of its own script and style, and `RULES`."""
    hashes = [f"{kind.decode()}-src '{_hash(text)}'" for kind, text in INLINE.findall(page)]
    return "; ".join([*RULES, *hashes])


async def _page(request: Request) -> Response:
    body, headers = _prepared()
    tag = dict(headers)[b"etag"]
    known = request.headers.get("if-none-match", "").encode("latin-1")
    if tag in known or known.strip() == b"*":
        return AnswerResponse(Answer(304, headers, b""))
    return AnswerResponse(Answer(200, [*headers, (b"content-length", b"%d" % len(body))], body))


@cache
def _prepared() -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """The page and its headers, made when it is first asked for."""
    body = files("snapring.serve").joinpath("page.html").read_bytes()
    return body, [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy(body).encode()),
        (b"etag", b'"%b"' % hashlib.sha256(body).hexdigest()[:16].encode()),
        (b"cache-control", b"no-cache"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
    ]


def _hash(text: bytes) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text).digest()).decode()}"
