"""Refusing requests while every rank is full: :class:`OverloadMiddleware`."""

import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final

from snapring.errors import InvalidValue
from snapring.formats.overload import (
    LIMIT,
    UNKNOWN_S,
    Unknown,
    Verdict,
    check_limits,
    overloaded,
    passing,
    refusing,
)
from snapring.loads import check_reader
from snapring.ring import Reader
from snapring.serve.asgi import App, Receive, Scope, Send, path_of
from snapring.serve.recent import KEEP_S, Recent
from snapring.serve.reply import failure, send_answer

__all__ = ["OverloadMiddleware"]

_LOG: Final = logging.getLogger("snapring.serve")

NEVER_REFUSED: Final = frozenset(
    {"health", "health_generate", "healthz", "livez", "live", "liveness", "ping", "ready", "readiness", "readyz"}
)
"""Last parts of paths that are never refused: who restarts servers must not mistake a full one for a broken one."""

_UNREADABLE: Final = "the load of the ranks cannot be read"
_WITHOUT: Final = {
    Unknown.PASS: passing(_UNREADABLE),
    Unknown.REFUSE: refusing(_UNREADABLE, UNKNOWN_S),
}


class OverloadMiddleware:
    """Answers 503 with ``Retry-After`` while every LIVE rank of a ring is full; see :func:`snapring.formats.overload`.

    Only requests that make work are refused: by default every POST, else those that ``paths`` or ``predicate`` choose;
    never health routes, websockets or lifespan. Whatever goes wrong here, such as a ring that cannot be read, is logged
    once under ``snapring`` and decided by ``when_unknown``; nothing is raised into the host.

    Args:
        app: any ASGI application.
        reader: of the ring that holds the ranks of this server.
        limit: pressure from which on a rank is full, above 0 and at most 1.
        release: pressure below which a rank has room again once all were full; None is ``limit``.
        when_unknown: "pass" or "refuse" requests while no LIVE rank reports how full it is.
        paths: refuse only POSTs to these paths, as the application's routes see them.
        predicate: refuse only requests of which this says true, whatever their method; given the ASGI scope.
        keep: seconds for which a verdict is used again, >= 0.

    Raises:
        InvalidValue: an option is outside of its range, or both ``paths`` and ``predicate`` are given.

    Belongs to one event loop.
    """

    def __init__(
        self,
        app: App,
        reader: Reader[Any],
        *,
        limit: float = LIMIT,
        release: float | None = None,
        when_unknown: Unknown | str = Unknown.PASS,
        paths: Collection[str] | None = None,
        predicate: Callable[[Scope], bool] | None = None,
        keep: float = KEEP_S,
    ) -> None:
        if paths is not None and predicate is not None:
            raise InvalidValue("paths and predicate both say which requests to refuse; give one of them")
        if isinstance(paths, str):
            raise InvalidValue(f"paths={paths!r} is one text; give a list of paths")
        self._app = app
        self._reader = check_reader(reader)
        self._limit = limit
        self._release = check_limits(limit, release)
        self._unknown = Unknown(when_unknown)
        self._paths = None if paths is None else frozenset(paths)
        self._predicate = predicate
        self._was = False
        self._complained = False
        self._verdict = Recent(self._judge, what=f"overload is not known, requests: {self._unknown}", keep=keep)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection; raises only what ``app`` and ``send`` raise."""
        if scope["type"] == "http" and self._refusable(scope):
            verdict = self._verdict.get() or _WITHOUT[self._unknown]
            if verdict.overloaded:
                await _refuse(send, verdict)
                return
        await self._app(scope, receive, send)

    def _refusable(self, scope: Scope) -> bool:
        path = path_of(scope)
        if path.rstrip("/").rpartition("/")[2] in NEVER_REFUSED:
            return False
        if self._predicate is None:
            return scope["method"] == "POST" and (self._paths is None or path in self._paths)
        try:
            return bool(self._predicate(scope))
        except Exception as error:  # noqa: BLE001  the promise of the class: nothing is raised into the host
            self._complain(error)
            return False

    def _judge(self) -> Verdict:
        verdict = overloaded(
            self._reader.read_all(),
            limit=self._limit,
            release=self._release,
            was=self._was,
            when_unknown=self._unknown,
        )
        self._was = verdict.overloaded
        return verdict

    def _complain(self, error: Exception) -> None:
        if not self._complained:
            self._complained = True
            with suppress(Exception):  # an error's text, or a log handler, is the host's code
                _LOG.warning("predicate failed (%s: %s); its requests pass", type(error).__name__, error)


async def _refuse(send: Send, verdict: Verdict) -> None:
    wait_s = str(verdict.retry_after_s)
    message = f"{verdict.reason}; try again in {wait_s} s"
    await send_answer(send, failure(503, message, more=[(b"retry-after", wait_s.encode())]))
