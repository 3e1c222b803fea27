"""Live state of every rank of an LLM server, readable from any process without a lock, a broker or a remote call."""

from snapring._core import Snapshot, View, __version__, ring_name
from snapring.errors import (
    Contended,
    ForkedHandle,
    HandleClosed,
    InvalidValue,
    LayoutMismatch,
    OwnerBusy,
    PayloadTooLarge,
    RankOutOfRange,
    RendezvousFailed,
    RendezvousTimeout,
    RingFull,
    RingNotFound,
    RingUntrusted,
    SnapringError,
    StoreUnavailable,
    SystemRefused,
    WriterBusy,
)
from snapring.load import LoadSnapshot
from snapring.publisher import Publisher
from snapring.publishing import Phase
from snapring.relay import Relay, RemoteWriter
from snapring.ring import Reader, Writer
from snapring.state import State

__all__ = [
    "Contended",
    "ForkedHandle",
    "HandleClosed",
    "InvalidValue",
    "LayoutMismatch",
    "LoadSnapshot",
    "OwnerBusy",
    "PayloadTooLarge",
    "Phase",
    "Publisher",
    "RankOutOfRange",
    "Reader",
    "Relay",
    "RemoteWriter",
    "RendezvousFailed",
    "RendezvousTimeout",
    "RingFull",
    "RingNotFound",
    "RingUntrusted",
    "SnapringError",
    "Snapshot",
    "State",
    "StoreUnavailable",
    "SystemRefused",
    "View",
    "Writer",
    "WriterBusy",
    "__version__",
    "ring_name",
]
