"""When a rank publishes: the rules alone, without a clock, a writer or a thread.

:class:`PublishRule` is asked once per pass of the scheduler's loop and answers whether a publish is due. The caller
brings the time and tells afterwards when the publish came about, so everything here can be tested as a table.
"""

import operator
from enum import StrEnum
from typing import Final, Literal

from snapring.errors import InvalidValue

__all__ = ["HEARTBEAT_S", "INTERVAL", "STALL_INTERVAL_S", "Phase", "PhaseName", "PublishRule"]

INTERVAL: Final = 15
"""Default number of unforced busy calls per publish."""

HEARTBEAT_S: Final = 1.0
"""Default longest time between two publishes of a loop that runs, seconds."""

STALL_INTERVAL_S: Final = 0.05
"""Default shortest time between two publishes of a stalled loop, seconds."""


class Phase(StrEnum):
    """What the scheduler's loop did in this pass."""

    BUSY = "busy"
    """It ran a batch."""
    IDLE = "idle"
    """It has nothing to do."""
    STALLED = "stalled"
    """Requests are queued, but none could run."""


PhaseName = Literal["busy", "idle", "stalled"]
"""The same as plain strings."""

# Looked up once: a member found through its class costs more than the comparison it is for.
_BUSY: Final = Phase.BUSY
_IDLE: Final = Phase.IDLE
_STALLED: Final = Phase.STALLED

_NEVER: Final = float("-inf")


class PublishRule:
    """The publishing rules of one rank, as a small state machine.

    A publish is due

    1. at the first call ever;
    2. busy: when forced; at every ``interval``-th unforced busy call since the last publish; when one ``heartbeat``
       has passed since the last publish;
    3. idle: when the previous call was not idle; then once per ``heartbeat``. Force means nothing here, because
       engines force on every pass of an idle loop;
    4. stalled: when ``stall_interval`` (or ``heartbeat``, if that is shorter) has passed since the last publish, forced
       or not. Stalled and idle calls do not count towards the interval;
    5. whenever an earlier one was due and has not come about (see :meth:`published`).

    A publish for whatever reason restarts the interval and the heartbeat.

    Not thread-safe: it belongs to the thread that runs the loop. Plain state, so either side of a fork may use it.

    Args:
        interval: unforced busy calls per publish; values under 1 act as 1.
        heartbeat: seconds, > 0; infinity switches the heartbeat off.
        stall_interval: seconds, >= 0.

    Raises:
        InvalidValue: ``interval`` is no whole number, ``heartbeat`` or ``stall_interval`` is out of range.
    """

    __slots__ = ("_heartbeat", "_interval", "_last", "_left", "_phase", "_stall_interval")

    def __init__(
        self, interval: int = INTERVAL, heartbeat: float = HEARTBEAT_S, stall_interval: float = STALL_INTERVAL_S
    ) -> None:
        try:
            self._interval = operator.index(interval)  # under 1 the countdown is over at the first call, as it is at 1
        except TypeError:
            raise InvalidValue(f"interval must be a whole number of calls, not {interval!r}") from None
        # Written so that NaN, which compares false with everything, is refused too.
        if not heartbeat > 0:
            raise InvalidValue(f"heartbeat must be more than 0 seconds, not {heartbeat!r}")
        if not stall_interval >= 0:
            raise InvalidValue(f"stall_interval must be 0 seconds or more, not {stall_interval!r}")
        self._heartbeat = heartbeat
        self._stall_interval = min(stall_interval, heartbeat)
        self._left = self._interval
        self._phase: str | None = None
        # When the last publish came about. "Never" makes every rule say yes, so it also stands for one that is owed.
        self._last = _NEVER

    def due(self, now: float, force: bool = False, phase: Phase | PhaseName = _BUSY) -> bool:  # noqa: FBT001, FBT002  called by position: runs in every loop pass
        """Count this call and say whether to publish now.

        After ``True`` every further call says ``True`` until :meth:`published` is called.

        Args:
            now: any clock that never goes back, seconds.
            force: the pass changed the load much (a prefill, say); do not wait for the interval.
            phase: what the loop did.

        Raises:
            InvalidValue: ``phase`` is none of the three; the call then changed nothing.
        """
        if phase == _BUSY:
            if force:
                due = True
            else:
                self._left -= 1
                due = self._left <= 0 or now - self._last >= self._heartbeat
        elif phase == _IDLE:
            due = self._phase != _IDLE or now - self._last >= self._heartbeat
        elif phase == _STALLED:
            due = now - self._last >= self._stall_interval
        else:
            raise InvalidValue(f"unknown phase {phase!r}; valid phases: {', '.join(Phase)}")
        self._phase = phase
        if due:
            self._last = _NEVER
        return due

    def published(self, now: float) -> None:
        """The publish that was due came about at ``now``, seconds of the same clock: all rules start over."""
        self._last = now
        self._left = self._interval
