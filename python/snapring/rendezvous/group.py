"""What a rendezvous needs of a store: one entry per folder and rank, read and replaced as a whole, with a deadline.

Two operations carry everything else. *Read* returns what stands there now; *swap* replaces it only if nobody else has,
so that two processes can never both believe that they wrote last. Everything above is written against :class:`Group`
and runs on any store that has the two.
"""

import math
import re
from typing import Final, Protocol

from snapring.errors import InvalidValue, PayloadTooLarge, RankOutOfRange

__all__ = ["MAX_ENTRY_BYTES", "MAX_SIZE", "Group"]

MAX_ENTRY_BYTES: Final = 256 * 1024
"""The largest entry that a group takes or believes, bytes."""

MAX_SIZE: Final = 65_536
"""The most ranks that a group may have, as in a ring."""

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Group(Protocol):
    """All ranks of one job and the store that they share.

    Contract of every implementation; ``tests/python/contract/test_rendezvous_group.py`` asks it of each:

    - an entry is read whole or not at all, and reads see every swap that returned before them;
    - of several swaps with the same ``old`` exactly one succeeds;
    - a swap whose ``new`` already stands there succeeds, so that one whose answer was lost may be repeated;
    - an entry with a ``ttl`` is gone ``ttl`` seconds after its last swap, give or take what its store says;
    - no call outlives its ``timeout`` by more than a moment: a store that does not answer is ``StoreUnavailable``;
    - jobs do not see each other.

    ``timeout`` and ``ttl`` are in seconds, > 0. Groups may be shared by threads, and used on both sides of a fork.
    """

    @property
    def rank(self) -> int:
        """This process's rank, 0 to ``size - 1``; 0 leads."""

    @property
    def size(self) -> int:
        """How many ranks the job has, 1 to 65,536."""

    @property
    def job(self) -> str:
        """Name of the job, 1 to 64 of ``[A-Za-z0-9._-]``; best a new one for each launch."""

    def describe(self) -> str:
        """Kind and address of the store, for messages; does not ask the store."""

    def read(self, folder: str, rank: int, timeout: float) -> bytes | None:
        """The entry of one rank, None if there is none."""

    def read_all(self, folder: str, timeout: float) -> dict[int, bytes]:
        """Every entry of a folder by rank, also of ranks beyond ``size`` where the store can list them."""

    def swap(
        self, folder: str, rank: int, old: bytes | None, new: bytes | None, timeout: float, *, ttl: float | None = None
    ) -> bool:
        """Replace the entry ``old`` by ``new`` and start its ``ttl`` again; None stands for no entry.

        Returns whether ``new`` stands there now. Raises PayloadTooLarge above :data:`MAX_ENTRY_BYTES`.
        """


def check_name(name: str, what: str) -> str:
    """A legal name of a job or a folder; InvalidValue otherwise."""
    if not _NAME.fullmatch(name):
        raise InvalidValue(f"{what} {name!r} is not 1 to 64 characters of [A-Za-z0-9._-]; choose such a name")
    return name


def check_place(rank: int, size: int) -> None:
    """InvalidValue for a size out of 1 to 65,536, RankOutOfRange for a rank that is none of them."""
    if not 1 <= size <= MAX_SIZE:
        raise InvalidValue(f"a group has 1 to {MAX_SIZE} ranks, not {size}")
    if not 0 <= rank < size:
        raise RankOutOfRange(f"rank {rank} is not in 0..{size - 1}; ranks count from 0")


def check_entry(new: bytes | None) -> None:
    """PayloadTooLarge for an entry that no group takes."""
    if new is not None and len(new) > MAX_ENTRY_BYTES:
        raise PayloadTooLarge(f"an entry of {len(new)} bytes exceeds {MAX_ENTRY_BYTES}; send less, or a file's name")


def check_seconds(seconds: float, what: str) -> float:
    """A finite duration above 0; InvalidValue otherwise."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise InvalidValue(f"{what} of {seconds} s is not a finite time above 0")
    return seconds
