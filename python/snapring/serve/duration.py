"""How long requests for loads took: a histogram that costs a fraction of a microsecond to add to."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import HistogramMetricFamily

__all__ = ["BOUNDS_S", "Durations"]

BOUNDS_S: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
"""Upper bounds of the buckets in seconds: those of SGLang's ``get_loads_duration_seconds``."""


class Durations:
    """Durations of requests by outcome, counted since the start.

    Belongs to one event loop; reading it from another thread may miss the request of that moment.
    """

    OUTCOMES: Final = ("ok", "error")

    def __init__(self) -> None:
        """Nothing was counted yet."""
        self._counts = {outcome: [0] * (len(BOUNDS_S) + 1) for outcome in self.OUTCOMES}
        self._sums = dict.fromkeys(self.OUTCOMES, 0.0)

    def add(self, seconds: float, *, ok: bool) -> None:
        """Count one request."""
        outcome = "ok" if ok else "error"
        self._counts[outcome][bisect_left(BOUNDS_S, seconds)] += 1
        self._sums[outcome] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """The histogram as prometheus_client has it, with the label ``outcome``."""
        family = HistogramMetricFamily(
            "snapring_loads_request_duration_seconds",
            "Time to answer a request for /v1/loads, without what the server takes.",
            labels=["outcome"],
            unit="seconds",
        )
        for outcome in self.OUTCOMES:
            totals = zip((*map(str, BOUNDS_S), "+Inf"), accumulate(self._counts[outcome]), strict=True)
            buckets = [(bound, float(count)) for bound, count in totals]
            family.add_metric([outcome], buckets, self._sums[outcome])
        yield family
