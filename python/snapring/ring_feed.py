"""All ranks of a local ring for routers that know only an address: :class:`RingFeed`, one process beside the server.

The schedulers know nothing of it: it reads what they publish into the ring anyway.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, TypedDict, Unpack

from snapring.errors import InvalidValue, SystemRefused
from snapring.feed import RESEND_S, LoadFeed, Path
from snapring.load import LoadSnapshot
from snapring.ring import Reader
from snapring.state import State

__all__ = ["RingFeed"]

LOOK_S: Final = RESEND_S / 4
"""Ranks that did not change are looked at this often, so that their sign of life is late by no more."""


class _FeedOptions(TypedDict, total=False):
    key: Path | None
    clients: list[Path]
    insecure: bool
    unknown_as_zero: bool


class RingFeed:
    """Publishes each rank of a ring on a port of its own: that of ``endpoint`` plus the rank.

    A rank is fed while it is LIVE: each change at once, and every second a sign of life. A rank that is STALE, DEAD or
    has never published is silent, so silence of a few seconds tells a router the same as the ring would. While the ring
    is not there, all are. Should the ring come back with more ranks, their ports are added.

    One rank that cannot be sent takes no other along: ``failures`` counts, ``last_error`` tells.

    Not thread-safe. In a child of a fork it cannot be used: :class:`~snapring.errors.ForkedHandle`.

    Args:
        reader: the ring, with the schema of :class:`~snapring.LoadSnapshot`; its ``max_age`` sets what is STALE. It
            stays the caller's to close, and nobody else may poll it.
        endpoint: the base address, ``tcp://HOST:PORT``.
        clock: seconds that never go back.
        options: ``key``, ``clients``, ``insecure`` and ``unknown_as_zero`` as for :class:`~snapring.feed.LoadFeed`.

    Raises:
        InvalidValue, RingUntrusted, SystemRefused: as :class:`~snapring.feed.LoadFeed`.
    """

    def __init__(
        self,
        reader: Reader[LoadSnapshot],
        endpoint: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        **options: Unpack[_FeedOptions],
    ) -> None:
        self._reader = reader
        self._base = endpoint
        self._clock = clock
        self._options = options
        self._feeds: list[LoadFeed] = []
        self._next_look = clock()
        self.failures = 0
        self.last_error: str | None = None
        self._open()

    @property
    def endpoints(self) -> list[str]:
        """Where each rank is published, with real ports; empty until there was a ring."""
        return [feed.endpoint for feed in self._feeds]

    def fileno(self) -> int:
        """A descriptor that is readable when :meth:`step` has something to do: level-triggered, the reader's."""
        return self._reader.fileno()

    def step(self) -> float:
        """Send what changed and what is due, without waiting.

        Returns:
            Seconds after which to call again, if the descriptor is not readable before; above 0, at most 0.25.

        Raises:
            LayoutMismatch, RingUntrusted: the ring is no longer one of loads.
            InvalidValue, SystemRefused: the ring has more ranks than before, and their ports cannot be had.
            HandleClosed, ForkedHandle: the feed or its reader was closed, or belongs to the parent process.
        """
        changed = set(self._reader.poll())
        self._open()
        now = self._clock()
        everybody = now >= self._next_look
        if everybody:
            self._next_look = now + LOOK_S
        if everybody or changed:
            for snapshot in self._reader.read_all():
                if (everybody or snapshot.rank in changed) and snapshot.state is State.LIVE:
                    self._send(snapshot.rank, snapshot.value)
        return self._next_look - now

    def close(self) -> None:
        """End all feeds and free their ports. Closing twice is no error."""
        for feed in self._feeds:
            feed.close()

    def _open(self) -> None:
        """A feed for each rank that the ring has and had no feed yet; all share the threads of the first."""
        for rank in range(len(self._feeds), self._reader.ranks or 0):
            try:
                self._feeds.append(self._open_one(rank))
            except BaseException:
                self.close()
                raise

    def _open_one(self, rank: int) -> LoadFeed:
        options = self._options
        if not self._feeds:
            return LoadFeed(self._base, rank, clock=self._clock, **options)
        return LoadFeed(
            self._base,
            rank,
            insecure=options.get("insecure", False),
            unknown_as_zero=options.get("unknown_as_zero", False),
            beside=self._feeds[0],
            clock=self._clock,
        )

    def _send(self, rank: int, load: LoadSnapshot) -> None:
        try:
            self._feeds[rank].publish(load)
        except (InvalidValue, SystemRefused) as error:
            self.failures += 1
            self.last_error = f"rank {rank}: {error}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
