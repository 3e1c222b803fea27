"""``GET /metrics``: the metrics of all ranks and of this server, in the format that the scraper asks for."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest as as_text
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from snapring.errors import SnapringError
from snapring.formats.as_prometheus import content_type, ending
from snapring.loads import Loads
from snapring.serve.collector import LoadCollector
from snapring.serve.reply import AnswerResponse, unreadable, whole

__all__ = ["routes", "wants_openmetrics"]

OPENMETRICS: Final = "application/openmetrics-text"
VERSIONS: Final = frozenset({"", "0.0.1", "1.0.0"})
"""Versions of OpenMetrics that what is written here is good for; "" for who does not say."""


def routes(loads: Loads, collector: LoadCollector, *, profile: str) -> list[Route]:
    """The route. A ring that cannot be read is 503 with the reason, so that the scrape shows as failed.

    The ranks are written natively, because prometheus_client would keep the event loop for milliseconds; what
    ``collector`` tells of this process is written by it. That :class:`LoadCollector` says the same of the ranks is
    tested.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_OfProcess(collector))

    async def metrics(request: Request) -> Response:
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        try:
            ranks = loads.text(profile, openmetrics=openmetrics)
        except SnapringError as error:
            return AnswerResponse(unreadable(error))
        own: bytes = as_openmetrics(registry) if openmetrics else as_text(registry)  # type: ignore[no-untyped-call]
        body = ranks.removesuffix(ending(openmetrics)) + own
        return AnswerResponse(whole(200, content_type(openmetrics).encode(), body))

    return [Route("/metrics", metrics, methods=["GET"])]


def wants_openmetrics(accept: str) -> bool:
    """Whether an ``Accept`` header ranks a version of OpenMetrics that we have above the older text format.

    What cannot be understood is passed over; the older format is for everybody else. prometheus_client's own choice
    looks at no ``q``, and fails for versions that are no numbers.
    """
    ranked = {True: 0.0, False: 0.0}
    for entry in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        given = {name.strip(): value.strip(' "') for name, _, value in (part.partition("=") for part in parameters)}
        try:
            quality = float(given.get("q", "1"))
        except ValueError:
            continue
        if kind == OPENMETRICS and given.get("version", "") in VERSIONS:
            ranked[True] = max(ranked[True], quality)
        elif kind in {"text/plain", "text/*"}:
            ranked[False] = max(ranked[False], quality)
    return ranked[True] > 0 and ranked[True] >= ranked[False]


class _OfProcess(Collector):
    """The families of a collector that tell of this process."""

    def __init__(self, collector: LoadCollector) -> None:
        self._collector = collector

    def collect(self) -> Iterator[Metric]:
        """Give them as of now."""
        return self._collector.process()
