"""One wait: its deadline, its jittered pace, and the last thing that went wrong in it."""

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from snapring.errors import RendezvousTimeout, StoreUnavailable
from snapring.rendezvous.group import check_seconds

__all__ = ["Patience"]

FIRST_PAUSE_S: Final = 0.004
LONGEST_PAUSE_S: Final = 0.25
"""Between two looks at a store: short at first, then so long that 64 waiting ranks do not tire it."""

GROWTH: Final = 1.4

OPERATION_S: Final = 5.0
"""The longest that one question to the store may take; a second endpoint or a second try comes after it."""

T = TypeVar("T")


class Patience:
    """Waits for at most ``timeout`` seconds in all, over any number of questions and pauses.

    Pauses are drawn at random, 0.5 to 1.5 times a length that grows, so that ranks started together do not ask
    together. Belongs to one thread. Raises InvalidValue for a timeout that is not finite or not above 0.
    """

    def __init__(self, timeout: float) -> None:
        self._start = time.monotonic()
        self._end = self._start + check_seconds(timeout, "a timeout")
        self._length = FIRST_PAUSE_S
        self.last_error = ""

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds until the deadline, not below 0."""
        return max(0.0, self._end - time.monotonic())

    def pause(self) -> None:
        """Sleep for a while; RendezvousTimeout once the deadline has passed."""
        left = self.left
        if left == 0.0:
            raise RendezvousTimeout(f"not within {self._end - self._start:g} s; last error: {self.last_error}")
        time.sleep(min(left, self._length * random.uniform(0.5, 1.5)))
        self._length = min(LONGEST_PAUSE_S, self._length * GROWTH)

    def hurry(self) -> None:
        """Go back to short pauses: something has happened, so more may follow soon."""
        self._length = FIRST_PAUSE_S

    def ask(self, operation: Callable[[float], T]) -> T:
        """The answer to ``operation(timeout)``, asked again while the store is unavailable and the deadline allows."""
        while True:
            try:
                return operation(min(OPERATION_S, max(self.left, FIRST_PAUSE_S)))
            except StoreUnavailable as error:
                self.last_error = str(error)
            self.pause()
