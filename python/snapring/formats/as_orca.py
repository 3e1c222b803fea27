"""The load of a server as an ORCA report: what proxies and gRPC clients read from response headers to weigh servers.

The fields are those of the message ``xds.data.orca.v3.OrcaLoadReport`` (cncf/xds, ``orca_load_report.proto``). The
headers are those that Envoy parses (``source/common/orca/orca_parser.cc``): ``endpoint-load-metrics``, whose value
begins with ``TEXT`` or ``JSON``, and ``endpoint-load-metrics-bin``, the base64 of the message, which gRPC reads too
(gRFC A51) and which older Envoys know where they do not know a ``BIN`` prefix. TEXT writes ``name=value``, as vLLM
does (``orca_metrics.py``).

Envoy throws away a whole report for one NaN, infinity, negative utilisation, unknown field or doubled name, so none of
these is ever written: what is not reported or not finite is left out.

Pure, safe in any thread and after a fork.
"""

import base64
import math
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from msgspec import Struct

from snapring.choice import CaselessChoice
from snapring.errors import InvalidValue
from snapring.formats.metrics import METRICS
from snapring.formats.profiles import PROFILES
from snapring.formats.ratios import RankState, kv_ratio, live_values, mean, number, slot_ratio

__all__ = [
    "HEADER",
    "HEADER_BIN",
    "OrcaFormat",
    "OrcaReport",
    "orca_report",
    "rank_utilization",
]

HEADER: Final = b"endpoint-load-metrics"
HEADER_BIN: Final = b"endpoint-load-metrics-bin"


class OrcaFormat(CaselessChoice):
    """How a report is written. Names are compared without case.

    Raises:
        InvalidValue: a name that is none of these.
    """

    TEXT = "TEXT"
    JSON = "JSON"
    BIN = "BIN"

    @classmethod
    def _what(cls) -> str:
        return "ORCA format"


NAME: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
"""What a named metric may be called: nothing that ends a TEXT entry or a header."""

_MEANS: Final = frozenset(metric.source for metric in METRICS if metric.unit == "ratio")
"""Fields of which a server has the mean of its ranks; of all others it has the sum."""


class OrcaReport(Struct, frozen=True):
    """One load report.

    Attributes:
        application_utilization: how busy the server is, ratio >= 0; above 1 it has a backlog. Proxies weigh by it.
        rps_fractional: requests per second, >= 0. Envoy and gRPC weigh a server by this over its utilisation (gRFC
            A58), so weighted round robin falls back to equal weights without it.
        eps: errors per second, >= 0.
        named_metrics: further numbers by name.

    ``None`` is not reported.

    Raises:
        InvalidValue: a named metric has another name than 1 to 128 of ``[A-Za-z0-9_.:-]``.
    """

    application_utilization: float | None = None
    rps_fractional: float | None = None
    eps: float | None = None
    named_metrics: dict[str, float] = {}

    def __post_init__(self) -> None:
        for name in self.named_metrics:
            if NAME.fullmatch(name) is None:
                raise InvalidValue(f"{name!r} names no metric; use 1 to 128 of A-Z a-z 0-9 _ . : -")

    def text(self) -> str:
        """``application_utilization=0.5,...,named_metrics.kv_cache_usage_perc=0.3``; names in a fixed order."""
        named = ((f"named_metrics.{name}", found) for name, found in self._named())
        return ",".join(f"{name}={float(found)!r}" for name, found in (*self._scalars(), *named))

    def json(self) -> str:
        """``{"application_utilization":0.5,...,"named_metrics":{...}}``; keys in a fixed order."""
        document: dict[str, object] = {name: float(found) for name, found in self._scalars()}
        if named := {name: float(found) for name, found in self._named()}:
            document["named_metrics"] = named
        return msgspec.json.encode(document).decode()

    def message(self) -> bytes:
        """The protobuf message, with fields by number and named metrics by name: equal reports give equal bytes."""
        scalars = dict(self._scalars())
        parts = [_double(6, scalars.get("rps_fractional", 0.0)), _double(7, scalars.get("eps", 0.0))]
        for name, found in self._named():
            key = name.encode()
            entry = b"\x0a" + _varint(len(key)) + key + b"\x11" + struct.pack("<d", found)
            parts.append(b"\x42" + _varint(len(entry)) + entry)
        parts.append(_double(9, scalars.get("application_utilization", 0.0)))
        return b"".join(parts)

    def header(self, form: OrcaFormat) -> tuple[bytes, bytes] | None:
        """Name and value of the response header, as ASGI has them; None for a report of nothing: readers refuse it."""
        if not (text := self.text()):
            return None
        match form:
            case OrcaFormat.TEXT:
                return HEADER, b"TEXT " + text.encode()
            case OrcaFormat.JSON:
                return HEADER, b"JSON " + self.json().encode()
            case OrcaFormat.BIN:  # padded, since older Envoys need that
                return HEADER_BIN, base64.b64encode(self.message())

    def _scalars(self) -> Iterator[tuple[str, float]]:
        for name in ("application_utilization", "rps_fractional", "eps"):
            found = number(self, name)
            if found is not None:
                yield name, found

    def _named(self) -> list[tuple[str, float]]:
        return sorted((name, found) for name, found in self.named_metrics.items() if math.isfinite(found))


def rank_utilization(value: object) -> float | None:
    """How busy one rank is: the largest of its reported terms, None where it reports none.

    - KV: the used part of the cache (:func:`~snapring.formats.ratios.kv_ratio`), 0..1.
    - queue: ``(num_running_reqs + num_waiting_reqs) / max_running_requests``, the demand for request slots. It contains
      the running term ``num_running_reqs / max_running_requests``, which it never falls below.

    The queue is measured in slots rather than as ``waiting / (waiting + running)``: that says 1 of an idle rank with
    one request that has just come, and cannot tell a full rank from one with a backlog of hours.
    """
    return max((term for term in (kv_ratio(value), slot_ratio(value, waiting=True)) if term is not None), default=None)


def orca_report(
    ranks: Iterable[RankState], *, rps_fractional: float | None = None, eps: float | None = None
) -> OrcaReport | None:
    """The report of a server of these ranks; None without a LIVE one, since nothing true can be said then.

    ``application_utilization`` is the mean over LIVE ranks of :func:`rank_utilization`, each weighing the same: the
    part of the whole server that is taken. The maximum would turn requests away from a server with free ranks for the
    sake of one that its own dispatcher avoids anyway.

    ``named_metrics`` are those of the profile ``orca``: means of ratios, sums of everything else, and left out unless
    every LIVE rank reports them, since the sum of some is too small. Rates of requests and errors are in no snapshot;
    who counts them gives ``rps_fractional`` and ``eps``.
    """
    values = live_values(ranks)
    if not values:
        return None
    named = {}
    for metric in PROFILES["orca"]:
        numbers = [
            kv_ratio(value) if metric.source == "token_usage" else number(value, metric.source) for value in values
        ]
        reported = [found for found in numbers if found is not None]
        if len(reported) == len(values):
            total = math.fsum(reported)
            named[metric.name] = metric.scale * (total / len(values) if metric.source in _MEANS else total)
    return OrcaReport(mean(map(rank_utilization, values)), rps_fractional, eps, named)


def _double(field: int, value: float) -> bytes:
    """A field of type double; proto3 writes no zeros."""
    return bytes([field << 3 | 1]) + struct.pack("<d", value) if value else b""


def _varint(value: int) -> bytes:
    parts = []
    while rest := value >> 7:  # seven bits to a byte; the eighth says that more follow
        parts.append(value & 0x7F | 0x80)
        value = rest
    return bytes([*parts, value])
