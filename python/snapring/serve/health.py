"""``/healthz`` and ``/readyz``: whether this server answers, and whether ranks can serve."""

import logging
from typing import Final, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from snapring.errors import InvalidValue, SnapringError
from snapring.loads import Loads
from snapring.serve.reply import JSON, AnswerResponse, failure, whole

__all__ = ["Ready", "check_ready", "is_ready", "routes"]

_LOG: Final = logging.getLogger("snapring.serve")

Ready = Literal["any", "all"] | int
"""How many ranks must be LIVE: one, all, or this many."""


def check_ready(rule: Ready) -> None:
    """Raise InvalidValue unless it is a rule: 0 is none, since a server without ranks is not ready."""
    is_number = isinstance(rule, int) and not isinstance(rule, bool)
    if not (isinstance(rule, str) and rule in {"any", "all"}) and not (is_number and int(rule) > 0):
        raise InvalidValue(f'ready is "any", "all" or a number of ranks from 1, not {rule!r}')


def is_ready(rule: Ready, live: int, ranks: int) -> bool:
    """Whether ``live`` of ``ranks`` LIVE ranks are enough; never without any."""
    needed = {"any": 1, "all": ranks}.get(rule, rule) if isinstance(rule, str) else rule
    return live >= max(1, int(needed))


def routes(loads: Loads, ready: Ready) -> list[Route]:
    """Both routes.

    ``/healthz`` is 200 while this server answers at all: to restart it helps no rank. ``/readyz`` is 200 while as
    many ranks are LIVE as the rule wants, else 503, and tells the numbers.
    """
    check_ready(ready)

    async def healthz(_: Request) -> Response:
        return AnswerResponse(whole(200, JSON, b'{"status":"ok"}'))

    async def readyz(_: Request) -> Response:
        try:
            view = loads.view()
            live, ranks = int(view.ok.sum()), len(view)
        except SnapringError as error:  # who asks here has no token, and learns no path
            _LOG.warning("not ready: %s", error)
            return AnswerResponse(failure(503, "the ring cannot be read; the server's log has the reason"))
        good = is_ready(ready, live, ranks)
        content = {"status": "ready" if good else "not ready", "live": live, "ranks": ranks, "rule": ready}
        return AnswerResponse(whole(200 if good else 503, JSON, msgspec.json.encode(content)))

    return [Route("/healthz", healthz), Route("/readyz", readyz)]
