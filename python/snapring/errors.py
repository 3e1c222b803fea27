"""Every exception that snapring raises, on one screen.

One root, :class:`SnapringError`, so that a host can contain all of them with one ``except``; each class also derives
from the builtin that a caller would expect. Messages name the fix. This module imports nothing, so that any layer, and
the native core, may use it.
"""

__all__ = [
    "Contended",
    "ForkedHandle",
    "HandleClosed",
    "InvalidValue",
    "LayoutMismatch",
    "OwnerBusy",
    "PayloadTooLarge",
    "RankOutOfRange",
    "RendezvousFailed",
    "RendezvousTimeout",
    "RingFull",
    "RingNotFound",
    "RingUntrusted",
    "SnapringError",
    "StoreUnavailable",
    "SystemRefused",
    "WriterBusy",
]


class SnapringError(Exception):
    """Root of everything that snapring raises on purpose."""


class RingNotFound(SnapringError, FileNotFoundError):
    """No ring of that name; raised only by commands and with ``must_exist=True``."""


class LayoutMismatch(SnapringError):
    """The ring's ranks, cells, payload, job or field types differ from what was asked; the message names both sides."""


class WriterBusy(SnapringError):
    """A living process already writes this rank; the message names the rank and the holder's pid."""


class RankOutOfRange(SnapringError, IndexError):
    """The rank is negative or not below the ring's number of ranks."""


class PayloadTooLarge(SnapringError, ValueError):
    """The encoded snapshot does not fit a cell; the previous snapshot stays readable."""


class InvalidValue(SnapringError, ValueError):
    """A name, an option or a field's value is not acceptable; nothing was written."""


class HandleClosed(SnapringError, ValueError):
    """The writer or reader was closed."""


class OwnerBusy(SnapringError):
    """Another process owns this role, and no standby was asked for."""


class RingFull(SnapringError, OSError):
    """The file system has too little space for the ring; the message names needed and free bytes."""


class RingUntrusted(SnapringError, PermissionError):
    """Not a file or directory that snapring would have made: a link, a foreign owner, a loose mode, bad bytes."""


class SystemRefused(SnapringError, OSError):
    """The operating system said no: a read-only mount, no descriptors left, no parent directory; see ``errno``."""


class Contended(SnapringError):
    """Every bounded try to read met a write in progress, and no value of late is kept. Read again."""


class ForkedHandle(SnapringError):
    """The handle was opened before a fork and is used in the child; open a new one there."""


class RendezvousFailed(SnapringError, RuntimeError):
    """The ranks cannot agree: no process group, two leaders, other sizes, a rank taken twice; nothing was agreed."""


class RendezvousTimeout(RendezvousFailed, TimeoutError):
    """Not all ranks met before the deadline; the message names the store, the missing ranks and the last error."""


class StoreUnavailable(RendezvousFailed, ConnectionError):
    """The store behind a group did not answer, or not in a way that can be understood; asking again may help."""
