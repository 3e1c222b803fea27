"""The scheduler's side in one call: :meth:`Publisher.tick` in every pass of the loop, and nothing ever comes back up.

The rules of *when* are :class:`snapring.publishing.PublishRule`; this module adds what they leave out: the clock, the
writer's start and restart, and the containment of every error.
"""

import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeVar

from snapring.errors import ForkedHandle, HandleClosed, InvalidValue
from snapring.publishing import HEARTBEAT_S, INTERVAL, STALL_INTERVAL_S, Phase, PhaseName, PublishRule

__all__ = ["RETRY_S", "Publisher", "WriterLike"]

RETRY_S: Final = 1.0
"""Default shortest time between two starts of a writer, seconds."""

_LOG: Final = logging.getLogger("snapring.publisher")

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class WriterLike(Protocol[T_contra]):
    """What a :class:`Publisher` needs of a writer; ``snapring.Writer`` has it, and so has a fake of ten lines."""

    def publish(self, snapshot: T_contra, /) -> int:
        """Publish and return the version; raising means that nothing was published."""

    def start_heartbeat(self, interval: float, /) -> None:
        """Show from a native thread, every ``interval`` seconds, that the process lives."""

    def close(self) -> None:
        """Give the slot back."""


class Publisher(Generic[T]):
    """Publishes snapshots by the rules of :class:`~snapring.publishing.PublishRule` and never raises into its host.

    The writer is made by ``factory`` at the first tick that is due, so a ring that cannot be opened yet does not stop
    a scheduler from starting. What fails later is retried:

    - a failed start of the writer: at most once per ``retry`` seconds;
    - a failed ``collect`` or publish: at the next tick, and from the second failure in a row on at most once per
      ``stall_interval``, so that a lasting failure does not cost a ``collect`` in every pass;
    - a writer that was closed, or inherited through a fork, is dropped and made anew.

    Failures in a row form an episode: it logs one warning when it begins and one when a publish ends it. The first
    carries the traceback if the logger is at debug level. Only ``Exception`` is contained; ``KeyboardInterrupt``,
    ``SystemExit`` and ``asyncio.CancelledError`` pass.

    Not thread-safe: it belongs to the thread that runs the loop, and ``close`` to the same. After a fork one side only
    should go on ticking; the other gets ``WriterBusy`` from its factory, contained and counted, while the first lives.

    Args:
        factory: makes the writer. It runs in the host's loop, so it should not wait.
        interval: unforced busy ticks per publish; values under 1 act as 1.
        heartbeat: longest time between two publishes while the loop runs, seconds, > 0.
        stall_interval: shortest time between two publishes of a stalled loop, seconds, >= 0.
        retry: shortest time between two starts of the writer, seconds, >= 0.
        heartbeat_thread: have the writer show every ``heartbeat`` seconds, from a native thread, that the process
            lives, also while the loop is blocked or paused. If that cannot be started, it is counted and logged, and
            publishing goes on without.
        clock: seconds that never go back.
        log: where the episodes go.

    Attributes:
        published: publishes so far.
        failures: failures so far, of any kind.
        last_error: the latest failure as ``"Type: message"``, kept after recovery; None before the first. Text, since
            an exception would keep the frames of the host alive.

    Raises:
        InvalidValue: ``interval`` is no whole number, a duration is out of range, or ``heartbeat_thread`` goes with an
            infinite ``heartbeat``. Only the constructor raises.
    """

    __slots__ = (
        "_clock",
        "_closed",
        "_due",
        "_factory",
        "_failing",
        "_heartbeat",
        "_heartbeat_thread",
        "_log",
        "_next_start",
        "_next_try",
        "_retry",
        "_rule",
        "_stall_interval",
        "_writer",
        "failures",
        "last_error",
        "published",
    )

    def __init__(
        self,
        factory: Callable[[], WriterLike[T]],
        *,
        interval: int = INTERVAL,
        heartbeat: float = HEARTBEAT_S,
        stall_interval: float = STALL_INTERVAL_S,
        retry: float = RETRY_S,
        heartbeat_thread: bool = False,
        clock: Callable[[], float] = time.monotonic,
        log: logging.Logger = _LOG,
    ) -> None:
        if not retry >= 0:
            raise InvalidValue(f"retry must be 0 seconds or more, not {retry!r}")
        if heartbeat_thread and heartbeat == math.inf:
            raise InvalidValue("heartbeat_thread needs a heartbeat of finite seconds; infinity switches it off")
        self._rule = PublishRule(interval, heartbeat, stall_interval)
        self._due = self._rule.due  # bound once: the hot path of tick is a clock, this call and two branches
        self._clock = clock
        self._factory = factory
        self._heartbeat = heartbeat
        self._stall_interval = stall_interval
        self._retry = retry
        self._heartbeat_thread = heartbeat_thread
        self._log = log
        self._writer: WriterLike[T] | None = None
        self._next_start = float("-inf")
        self._next_try = float("-inf")
        self._failing = False
        self._closed = False
        self.published = 0
        self.failures = 0
        self.last_error: str | None = None

    def tick(self, collect: Callable[[], T], *, force: bool = False, phase: Phase | PhaseName = "busy") -> bool:
        """Publish what ``collect`` returns, if a publish is due. Call it once per pass of the scheduler's loop.

        Never raises an ``Exception``. Costs a fraction of a microsecond when nothing is due, and makes no system call
        then beyond reading the clock.

        Args:
            collect: builds the snapshot; called only when one is due.
            force: publish now; meant for passes that changed the load much, such as a prefill.
            phase: what the loop did in this pass: ``"busy"``, ``"idle"`` or ``"stalled"``. Anything else counts as a
                failure, and nothing is published.

        Returns:
            True if a snapshot was published; False if none was due, on failure, and after :meth:`close`.
        """
        try:
            now = self._clock()
            if not self._due(now, force, phase):
                return False
            return self._attempt(collect, now)
        except Exception as error:  # noqa: BLE001  whatever goes wrong here must not stop a scheduler
            self._failed("publishing", error)
            return False

    def close(self) -> None:
        """Close the writer, if there is one. Ticks then do nothing. Closing twice is harmless; never raises."""
        self._closed = True
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.close()
            except Exception as error:  # noqa: BLE001  the same promise as tick's
                self._failed("closing the writer", error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            state = "closed"
        elif self._failing:
            state = "failing"
        else:
            state = "not started" if self._writer is None else "publishing"
        return f"<Publisher {state}, published={self.published}, failures={self.failures}>"

    def _attempt(self, collect: Callable[[], T], now: float) -> bool:
        """Publish if nothing holds it back; raises whatever the factory, ``collect`` or the writer raise."""
        if self._closed or now < self._next_try:
            return False
        writer = self._writer
        if writer is None:
            if now < self._next_start:
                return False
            self._next_start = now + self._retry
            writer = self._start()
            if writer is None:
                return False
        if self._failing:
            self._next_try = now + self._stall_interval
        snapshot = collect()
        try:
            writer.publish(snapshot)
        except (HandleClosed, ForkedHandle):
            self._writer = None
            raise
        self._succeeded(now)
        return True

    def _start(self) -> WriterLike[T] | None:
        """The writer, started; None if a signal handler closed this publisher meanwhile and found none to close."""
        writer = self._writer = self._factory()
        if self._heartbeat_thread:
            try:
                writer.start_heartbeat(self._heartbeat)
            except Exception as error:  # noqa: BLE001  snapshots matter more than the beat
                self._count(error)
                self._warn("the heartbeat thread did not start (%s); publishing without it", self.last_error)
        if self._closed:
            self.close()
            return None
        return writer

    def _succeeded(self, now: float) -> None:
        self._rule.published(now)
        self.published += 1
        if self._failing:
            self._failing = False
            self._next_try = now
            self._warn("publishing again; %d failures so far", self.failures)

    def _failed(self, what: str, error: Exception) -> None:
        self._count(error)
        if not self._failing:
            self._failing = True
            self._warn("%s failed (%s); retried, not logged again until it works", what, self.last_error, error=error)

    def _count(self, error: Exception) -> None:
        self.failures += 1
        self.last_error = type(error).__name__
        with suppress(Exception):  # an error's text is the host's code too
            self.last_error = f"{self.last_error}: {error}"

    def _warn(self, message: str, *values: object, error: Exception | None = None) -> None:
        with suppress(Exception):  # and so is a log handler
            self._log.warning(message, *values, exc_info=error if self._log.isEnabledFor(logging.DEBUG) else None)
