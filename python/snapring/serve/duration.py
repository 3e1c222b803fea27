"""How long requests for loads took: a histogram that costs a fraction of a microsecond to add to."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import HistogramMetricFamily

__all__ = ["BOUNDS_MS", "Durations"]

BOUNDS_MS: Final = (0.1, 0.5, 1, 5, 10, 50, 100, 500, 1000)
"""Upper bounds of the buckets: those of SGLang's ``get_loads_duration_seconds``."""

_BOUNDS_NS: Final = tuple(round(bound * 1e6) for bound in BOUNDS_MS)
_OUTCOMES: Final = ("error", "ok")


class Durations:
    """Durations of requests by outcome, counted since the start.

    Belongs to one event loop; reading it from another thread may miss the request of that moment.
    """

    def __init__(self) -> None:
        """Nothing was counted yet."""
        self._counts = tuple([0] * (len(_BOUNDS_NS) + 1) for _ in _OUTCOMES)
        self._sums_ns = [0 for _ in _OUTCOMES]

    def add(self, duration_ns: int, ok: bool) -> None:  # noqa: FBT001  a keyword would cost as much as the rest
        """Count one request."""
        self._counts[ok][bisect_left(_BOUNDS_NS, duration_ns)] += 1
        self._sums_ns[ok] += duration_ns

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The histogram as prometheus_client has it, with the label ``outcome``."""
        family = HistogramMetricFamily(
            "snapring_loads_request_duration_seconds",
            "Time to answer a request for /v1/loads, without what the server takes.",
            labels=["outcome"],
            unit="seconds",
        )
        bounds = [*(str(bound / 1000) for bound in BOUNDS_MS), "+Inf"]
        for outcome, counts, sum_ns in zip(_OUTCOMES, self._counts, self._sums_ns, strict=True):
            totals = zip(bounds, accumulate(map(float, counts)), strict=True)
            family.add_metric([outcome], list(totals), sum_ns / 1e9)
        yield family
