"""The ASGI application: every route over one ring, to be mounted or served by itself."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final, TypedDict, Unpack

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from snapring.errors import InvalidValue
from snapring.formats.as_prometheus import check_labels
from snapring.formats.profiles import profile_named
from snapring.loads import Loads
from snapring.relay import Relay
from snapring.ring import Reader
from snapring.serve import aliases, health, history, metrics_route, page, scale_route, stream
from snapring.serve.asgi import Receive, Scope, Send, path_of
from snapring.serve.changes import Changes
from snapring.serve.collector import LoadCollector
from snapring.serve.health import Ready
from snapring.serve.loads_route import LoadsRoute
from snapring.serve.reply import AnswerResponse, failure

__all__ = ["LoadsApp", "app", "routes"]

LOADS: Final = "/v1/loads"
NOT_FOUND: Final = 404
FASTEST_EVENTS: Final = 1000.0
"""Ticks a second that a stream may have at most."""


class LoadsApp:
    """What :func:`app` makes: an ASGI application, and its parts for who wants only some of them.

    Attributes:
        loads: what it reads.
        endpoint: the endpoint of ``/v1/loads``; its ``respond`` is for a handler of one's own.
        changes: what its streams and long-polls follow.
        collector: its metrics, for a registry of prometheus_client of one's own.
        routes: every route, by path, for a Starlette application or router.
    """

    def __init__(
        self, loads: Loads, endpoint: LoadsRoute, changes: Changes, collector: LoadCollector, routes: Iterable[Route]
    ) -> None:
        """Put the parts together."""
        self.loads, self.endpoint, self.changes, self.collector = loads, endpoint, changes, collector
        self.routes: Final[Mapping[str, Route]] = {route.path: route for route in routes}
        paths = tuple(self.routes)
        handlers: Any = {HTTPException: partial(_as_json, paths=paths), 500: _broken}
        self._rest = Starlette(routes=list(self.routes.values()), exception_handlers=handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the one for loads passes the framework by."""
        path = path_of(scope) if scope.get("root_path") else scope.get("path")
        if path == LOADS and scope["type"] == "http":
            await self.endpoint(scope, receive, send)
        else:
            await self._rest(scope, receive, send)


class _Options(TypedDict, total=False):
    profile: str | None
    labels: Mapping[str, str] | None
    extra: Mapping[str, object] | None
    relay: Relay | None
    ready: Ready
    strict_ranks: bool
    event_rate: float


def app(
    reader: Reader[Any],
    *,
    profile: str | None = None,
    labels: Mapping[str, str] | None = None,
    extra: Mapping[str, object] | None = None,
    relay: Relay | None = None,
    ready: Ready = "any",
    strict_ranks: bool = False,
    event_rate: float = 10.0,
) -> LoadsApp:
    """An application that serves the loads of a ring; it needs the extra ``serve``.

    ``/v1/loads``, ``/v1/loads/stream``, ``/v1/loads/history``, ``/v1/scale``, ``/metrics``, ``/healthz``, ``/readyz``,
    a page at ``/``, and ``/get_load``, ``/get_loads`` and ``/load`` as older callers expect them. No handler waits for
    a scheduler, another process or a disk. It mounts at any path of a FastAPI or Starlette application and has no
    middleware of its own: who may ask is the host's decision (``snapring serve`` has a token).

    Parameters
    ----------
    reader
        Of the ring, which need not exist yet; its ``max_age`` is where LIVE ends.
    profile
        Names of metrics, of :data:`snapring.formats.profiles.PROFILES`. By default ``/metrics`` has the canonical ones
        (``snapring``) and ``/v1/loads?format=prometheus`` those of SGLang.
    labels
        Labels of every metric, such as ``{"model": "llama"}``.
    extra
        Further members of the envelope of ``/v1/loads``, such as ``{"accelerator": "H100", "num_accelerators": 2}``.
    relay
        The relay that this process runs: its drops and take-overs become metrics.
    ready
        How many LIVE ranks ``/readyz`` wants: ``"any"``, ``"all"`` or a number from 1.
    strict_ranks
        Answer 404 for a rank that the ring does not have, instead of an empty list.
    event_rate
        Events of a stream per second at most, above 0 and up to 1000; faster changes are merged.

    Raises
    ------
    InvalidValue
        An option, and which values it takes.

    Notes
    -----
    Belongs to one event loop, as every ASGI application.
    """
    if not 0 < event_rate <= FASTEST_EVENTS:
        raise InvalidValue(f"event_rate is a number of events a second, above 0 and up to 1000, not {event_rate!r}")
    exposed = profile or "snapring"
    check_labels(labels or {}, profile_named(exposed))
    loads = Loads(reader, labels=labels, extra=extra)
    changes = Changes(loads, rate=event_rate)
    endpoint = LoadsRoute(loads, changes, profile=profile or "sglang", strict_ranks=strict_ranks)
    collector = LoadCollector(
        reader,
        profile=exposed,
        labels=labels,
        relay=relay,
        durations=endpoint.durations,
        loads=loads,
    )
    made = (
        Route(LOADS, endpoint),
        *stream.routes(changes),
        *history.routes(loads),
        *aliases.routes(loads),
        *metrics_route.routes(loads, collector, profile=exposed),
        *health.routes(loads, ready),
        *scale_route.routes(loads),
        *page.routes(),
    )
    return LoadsApp(loads, endpoint, changes, collector, made)


def routes(reader: Reader[Any], *paths: str, **options: Unpack[_Options]) -> list[Route]:
    """Some routes of :func:`app`, for a Starlette application or router of one's own; all of them without ``paths``.

    ``options`` and what is raised are those of :func:`app`; InvalidValue too for a path that is none of its routes.
    """
    found = app(reader, **options).routes
    if unknown := [path for path in paths if path not in found]:
        raise InvalidValue(f"no route {unknown[0]!r}; there are {', '.join(found)}")
    return [found[path] for path in paths or found]


async def _as_json(_: Request, error: Exception, *, paths: tuple[str, ...]) -> Response:
    """What the framework refuses, in the form of every other error."""
    if not isinstance(error, HTTPException):
        return await _broken(_, error)
    valid = paths if error.status_code == NOT_FOUND else ()
    more = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    return AnswerResponse(failure(error.status_code, error.detail, valid, more))


async def _broken(_: Request, __: Exception) -> Response:
    """An error of ours: the reason is in the log of the server, not in the answer."""
    return AnswerResponse(failure(500, "internal error; the server's log has the reason"))
