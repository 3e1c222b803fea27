"""A value that is read at most every few milliseconds, and whose failure never reaches who asks."""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Generic, TypeVar

from snapring.errors import InvalidValue

__all__ = ["KEEP_S", "Recent"]

_LOG: Final = logging.getLogger("snapring.serve")

KEEP_S: Final = 0.02
"""How old a value may get, seconds: as the window in which dispatchers read loads, far below what a load lasts."""

T = TypeVar("T")


class Recent(Generic[T]):
    """The last value of ``make``, made anew when asked for after ``keep`` seconds.

    Args:
        make: makes the value; whatever it raises gives None for as long, and is logged once for each class of error.
        what: what is missing then, for the log.
        keep: seconds, >= 0.

    Raises:
        InvalidValue: ``keep`` is negative or not finite.

    Belongs to one event loop. Threads that share it may make a value twice, which does no harm.
    """

    def __init__(self, make: Callable[[], T], *, what: str, keep: float = KEEP_S) -> None:
        if not 0 <= keep < float("inf"):
            raise InvalidValue(f"keep={keep!r} must be seconds, 0 or more")
        self._make = make
        self._what = what
        self._keep = keep
        self._due = float("-inf")
        self._value: T | None = None
        self._told: set[type[Exception]] = set()

    def get(self) -> T | None:
        """The value, or None while it cannot be made. Never raises an ``Exception``."""
        now = time.monotonic()
        if now >= self._due:
            try:
                self._value = self._make()
            except Exception as error:  # noqa: BLE001  a host's response must not fail for want of its load
                self._value = None
                self._tell(error)
            self._due = now + self._keep
        return self._value

    def _tell(self, error: Exception) -> None:
        if type(error) in self._told:
            return
        self._told.add(type(error))
        with suppress(Exception):  # an error's text, or a log handler, is the host's code
            _LOG.warning("%s: %s (%s); not logged again", self._what, error, type(error).__name__)
