"""Ordinary calls of what serves loads; never run, only type-checked. As in ``api.py``."""

from typing import Any, assert_type

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from snapring import Reader, Relay
from snapring.formats.aggregate import aggregate
from snapring.formats.dashboard import dashboard
from snapring.load import parse_include
from snapring.loads import Body, Loads
from snapring.serve import LoadCollector, LoadsApp, OrcaMiddleware, OverloadMiddleware, app, routes


def documents(reader: Reader[Any]) -> None:
    """Documents without a server."""
    loads = Loads(reader, labels={"model": "llama"}, extra={"accelerator": "H100"})
    assert_type(loads.json(include=parse_include("core,memory"), ranks=[0, 3], max_age=0.5), Body)
    assert_type(loads.json().content, bytes)
    assert_type(loads.text("snapring", openmetrics=True), bytes)
    assert_type(dashboard("snapring"), dict[str, Any])
    aggregate(loads.snapshots())


def mount(reader: Reader[Any], relay: Relay) -> None:
    """Into an application that is there already."""
    loads = app(reader, profile="vllm", relay=relay, ready=3, strict_ranks=True, event_rate=5.0)
    assert_type(loads, LoadsApp)

    async def own(request: Request) -> Response:
        return await loads.endpoint.respond(request)

    Starlette(routes=routes(reader, "/v1/loads", "/metrics", ready="all"))
    host = Starlette(routes=[loads.routes["/metrics"], Route("/v1/loads", own), Mount("/state", app=loads)])
    host.add_middleware(OrcaMiddleware, reader=reader, always="TEXT")
    host.add_middleware(OverloadMiddleware, reader=reader, limit=0.9)


def metrics(reader: Reader[Any]) -> None:
    """In a registry of one's own."""
    CollectorRegistry().register(LoadCollector(reader, profile="snapring", labels={"model": "llama"}))
