"""``GET /metrics``: the metrics of all ranks and of this server, in the format that the scraper asks for."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from snapring.errors import SnapringError
from snapring.formats.as_prometheus import content_type, ending
from snapring.loads import Loads
from snapring.serve.collector import LoadCollector
from snapring.serve.reply import AnswerResponse, unreadable, whole

__all__ = ["routes"]

OPENMETRICS: Final = "application/openmetrics-text"


def routes(loads: Loads, collector: LoadCollector, *, profile: str) -> list[Route]:
    """The route. A ring that cannot be read is 503 with the reason, so that the scrape shows as failed.

    The ranks are written natively, because prometheus_client would keep the event loop for milliseconds; what
    ``collector`` tells of this process is written by it. That :class:`LoadCollector` says the same of the ranks is
    tested.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_OfProcess(collector))

    async def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        openmetrics = kind.startswith(OPENMETRICS)
        try:
            ranks = loads.text(profile, openmetrics=openmetrics)
        except SnapringError as error:
            return AnswerResponse(unreadable(error))
        own = encode(registry)
        body = ranks.removesuffix(ending(openmetrics)) + own
        return AnswerResponse(whole(200, content_type(openmetrics).encode(), body))

    return [Route("/metrics", metrics, methods=["GET"])]


class _OfProcess(Collector):
    """The families of a collector that tell of this process."""

    def __init__(self, collector: LoadCollector) -> None:
        self._collector = collector

    def collect(self) -> Iterator[Metric]:
        """Give them as of now."""
        return self._collector.process()
