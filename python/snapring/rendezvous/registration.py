"""A row that is kept alive by a thread, and ends with its process."""

import logging
import os
import random
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import msgspec

from snapring.errors import RendezvousTimeout, SnapringError, StoreUnavailable
from snapring.rendezvous.group import Group
from snapring.rendezvous.records import encode
from snapring.rendezvous.row import FOLDER, Row

__all__ = ["Registration"]

REFRESHES: Final = 3
"""In one lease, so that two in a row may fail."""

LONGEST_CALL_S: Final = 5.0

_LOG: Final = logging.getLogger("snapring.rendezvous")


class Registration:
    """A rank's row while it is registered, made by :func:`snapring.rendezvous.register`; a context manager.

    A daemon thread renews the lease at random moments, three to four times per ``ttl``. Where the store fails it goes
    on trying; a lease that ended meanwhile is taken anew unless the row now conflicts with another, which :attr:`lost`
    then tells. Any thread may close it. In a child made by fork it does nothing: neither renew nor unregister.
    """

    def __init__(self, row: Row, group: Group, enter: Callable[[Row], bool]) -> None:
        self._row, self._group, self._enter = row, group, enter
        self._pid = os.getpid()
        self._lost = ""
        self._closed = False
        self._stop = threading.Event()
        self._call_s = min(LONGEST_CALL_S, row.ttl / REFRESHES)
        self._thread = threading.Thread(target=self._serve, name="snapring-row", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "closed" if self._closed else self._lost or "registered"
        return f"<Registration of {self._row.member}: {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def row(self) -> Row:
        """The row as it was last written."""
        return self._row

    @property
    def lost(self) -> str:
        """Why the row is no longer kept, empty while it is: another process of the rank has taken its place."""
        return self._lost

    def close(self) -> None:
        """Stop renewing and remove the row; waits at most about ten seconds for a store that does not answer.

        Harmless when repeated. A row that could not be removed ends with its lease, which a warning says.
        """
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        self._stop.set()
        self._thread.join()
        if self._lost:
            return
        try:
            gone = self._group.swap(FOLDER, self._group.rank, encode(self._row), None, self._call_s)
            why = "" if gone else "it has changed"
        except SnapringError as error:
            why = str(error)
        if why:
            _LOG.warning("%s could not unregister, its row ends in %g s: %s", self._row.member, self._row.ttl, why)

    def _serve(self) -> None:
        failing = False
        while not self._stop.wait(self._row.ttl / REFRESHES * random.uniform(0.7, 1.0)):
            try:
                self._renew()
            except (StoreUnavailable, RendezvousTimeout) as error:
                if not failing:
                    _LOG.warning("%s cannot renew its row, tries on: %s", self._row.member, error)
                failing = True
            except SnapringError as error:
                self._lost = f"renewing failed: {error}"
                _LOG.exception("%s is no longer registered", self._row.member)
            else:
                if failing and not self._lost:
                    _LOG.warning("%s renews its row again", self._row.member)
                failing = False
            if self._lost:
                return

    def _renew(self) -> None:
        fresh = msgspec.structs.replace(self._row, beat=self._row.beat + 1)
        if self._group.swap(FOLDER, self._group.rank, encode(self._row), encode(fresh), self._call_s, ttl=fresh.ttl):
            self._row = fresh
        elif self._group.read(FOLDER, self._group.rank, self._call_s) is None and self._enter(fresh):
            self._row = fresh
            _LOG.warning("the lease of %s had ended; it is registered again", fresh.member)
        else:
            self._lost = "another process has taken its place"
            _LOG.error("%s is no longer registered: %s", self._row.member, self._lost)
