"""A rank's own entry in a folder: written by one process, and loud when a second one writes it too."""

from collections.abc import Callable

import msgspec

from snapring.errors import RendezvousFailed
from snapring.rendezvous.group import Group
from snapring.rendezvous.patience import Patience
from snapring.rendezvous.records import encode, shown

__all__ = ["OwnEntry"]


class OwnEntry:
    """The entry of ``group.rank`` in ``folder``, which this process alone should write. Belongs to one thread."""

    def __init__(self, group: Group, folder: str, patience: Patience, ttl: float) -> None:
        self._group, self._folder, self._patience, self._ttl = group, folder, patience, ttl
        self._bytes: bytes | None = None

    def claim(self, record: Callable[[bytes | None], msgspec.Struct]) -> None:
        """Write the first record, made from what stood there: an earlier incarnation's entry, or None."""
        while True:
            self._bytes = self._patience.ask(self._read)
            if self._swap(encode(record(self._bytes)), self._patience):
                return
            self._patience.pause()

    def write(self, record: msgspec.Struct, patience: Patience | None = None) -> None:
        """Replace this process's last record; RendezvousFailed when another process has replaced it before.

        ``patience`` bounds this write alone, where the wait's own is used up.
        """
        patience = patience or self._patience
        if not self._swap(encode(record), patience):
            self.check(patience.ask(self._read))

    def check(self, found: bytes | None) -> None:
        """RendezvousFailed unless what was found there is this process's last record."""
        if found != self._bytes:
            raise RendezvousFailed(
                f"another process joined as rank {self._group.rank} of job {self._group.job!r} at"
                f" {self._group.describe()}: it wrote {shown(found)}, this one {shown(self._bytes)};"
                " give each process a rank of its own, and each launch a job of its own"
            )

    def _read(self, timeout: float) -> bytes | None:
        return self._group.read(self._folder, self._group.rank, timeout)

    def _swap(self, new: bytes, patience: Patience) -> bool:
        def swap(timeout: float) -> bool:
            return self._group.swap(self._folder, self._group.rank, self._bytes, new, timeout, ttl=self._ttl)

        if done := patience.ask(swap):
            self._bytes = new
        return done
