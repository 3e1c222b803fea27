"""A load report in the headers of responses, for proxies that weigh servers by it: :class:`OrcaMiddleware`."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from snapring.formats.as_orca import HEADER, HEADER_BIN, OrcaFormat, orca_report
from snapring.loads import check_reader
from snapring.ring import Reader
from snapring.serve.asgi import App, Message, Receive, Scope, Send
from snapring.serve.recent import KEEP_S, Recent

__all__ = ["OrcaMiddleware"]

ASKED: Final = b"endpoint-load-metrics-format"
"""The request header by which vLLM is asked for a report."""

REPORTS: Final = frozenset({HEADER, HEADER_BIN})
"""The response headers of a report, whoever wrote it. A second one would contradict it."""

SERVER_ERROR: Final = 500

RATE_WINDOW_S: Final = 1.0
"""Rates are those of the last window of at least this length."""

Header = tuple[bytes, bytes]


class OrcaMiddleware:
    """Adds the load of a ring to the responses of ``app``, as ORCA headers (:mod:`snapring.formats.as_orca`).

    A report is added where the request asks by ``endpoint-load-metrics-format: TEXT``, ``JSON`` or ``BIN`` (in any
    case), and to every response with ``always``; the request's own format comes first, and one that is unknown or not
    in ``formats`` counts as not asked. It stands for the moment at which the response starts. Bodies and trailers pass
    as they come, and a response that has a report keeps its own. Without a LIVE rank, or when the ring cannot be read,
    the response goes out without a report; the latter is logged once under ``snapring``.

    ``rps_fractional`` are the HTTP requests that came through this object, ``eps`` the responses of status 500 and
    above, which it sees all of only with ``always``; both over the last second or more, and left out before. Worker
    processes count for themselves. Clients can read the report as well: let the proxy remove it.

    Args:
        app: any ASGI application.
        reader: of the ring that holds the ranks of this server.
        formats: those to answer with.
        always: the format for requests that do not ask; None adds nothing to them.
        rates: report ``rps_fractional`` and ``eps``. Switch it off where requests do not all pass here.
        keep: seconds for which an encoded report is used again, >= 0.

    Raises:
        InvalidValue: an unknown format, or a negative ``keep``.

    Belongs to one event loop.

    Examples:
        ``app.add_middleware(OrcaMiddleware, reader=snapring.Reader("docs"), always="TEXT")`` for FastAPI or Starlette,
        ``OrcaMiddleware(app, snapring.Reader("docs"))`` for any other.
    """

    def __init__(
        self,
        app: App,
        reader: Reader[Any],
        *,
        formats: Iterable[OrcaFormat | str] = tuple(OrcaFormat),
        always: OrcaFormat | str | None = None,
        rates: bool = True,
        keep: float = KEEP_S,
    ) -> None:
        self._app = app
        self._reader = check_reader(reader)
        self._always = None if always is None else OrcaFormat(always)
        self._rates = _Rates(errors=always is not None) if rates else None
        served = {OrcaFormat(form) for form in formats} | ({self._always} if self._always else set())
        what = "responses go out without a load report"
        self._headers = {form: Recent(partial(self._header, form), what=what, keep=keep) for form in served}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection; raises only what ``app`` and ``send`` raise."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._rates is not None:
            self._rates.requests += 1
        form = self._wanted(scope)
        if form is None:
            await self._app(scope, receive, send)
            return

        async def send_reporting(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = self._reporting(message, form)
            await send(message)

        await self._app(scope, receive, send_reporting)

    def _wanted(self, scope: Scope) -> OrcaFormat | None:
        """The format of the report for this request, if any."""
        for name, value in scope["headers"]:
            if name == ASKED:
                word = value.strip().upper().decode("latin-1")
                if word in self._headers:  # a format equals its name
                    return OrcaFormat(word)
        return self._always

    def _reporting(self, start: Message, form: OrcaFormat) -> Message:
        """``start`` with the report, if there is one to add."""
        if self._rates is not None and start["status"] >= SERVER_ERROR:
            self._rates.failures += 1
        headers = list(start.get("headers", ()))
        if not REPORTS.isdisjoint(bytes(name).lower() for name, _ in headers):
            return start
        load = self._headers[form].get()
        return start if load is None else {**start, "headers": [*headers, load]}

    def _header(self, form: OrcaFormat) -> Header | None:
        """The header as of now; None without a LIVE rank. Raises whatever the reader raises."""
        rps, eps = (None, None) if self._rates is None else self._rates.read(time.monotonic())
        report = orca_report(self._reader.read_all(), rps_fractional=rps, eps=eps)
        return None if report is None else report.header(form)


class _Rates:
    """Counts requests and failures, and gives them per second."""

    def __init__(self, *, errors: bool) -> None:
        self.requests = 0
        self.failures = 0
        self._errors = errors
        self._start = time.monotonic()
        self._at_start = (0, 0)
        self._last: tuple[float | None, float | None] = (None, None)

    def read(self, now: float) -> tuple[float | None, float | None]:
        """Requests and failures per second over the last window that was long enough; None before the first ended."""
        passed = now - self._start
        if passed >= RATE_WINDOW_S:
            requests, failures = self.requests - self._at_start[0], self.failures - self._at_start[1]
            self._last = requests / passed, failures / passed if self._errors else None
            self._start, self._at_start = now, (self.requests, self.failures)
        return self._last
