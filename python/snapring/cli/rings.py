"""What the verbs that look after rings know of them: the native module's answers as classes."""

import time
from collections import Counter
from typing import Final

import msgspec

from snapring import _core
from snapring.errors import LayoutMismatch, RingNotFound, RingUntrusted
from snapring.layout import SchemaText
from snapring.state import State

__all__ = [
    "Geometry",
    "Kernel",
    "RankInfo",
    "RingInfo",
    "Unreadable",
    "all_rings",
    "directory_path",
    "geometry",
    "inspect",
    "kernel",
]

LEFT_BEHIND_S: Final = 60.0
"""Files on their way to replace another are so for microseconds; at this age their maker is gone."""


class Geometry(msgspec.Struct, frozen=True):
    """Where things stand in a ring's file; all but ``format``, ``ranks`` and ``cells`` in bytes.

    Rank ``r``'s slot starts at ``header_bytes + r * slot_stride + (r % skews) * 64``, its cell ``c`` at ``cells_offset
    + c * cell_stride`` in it, and the cell's payload ``payload_offset`` later. Version ``n`` stands in cell ``n %
    cells``.
    """

    format: int
    file_bytes: int
    header_bytes: int
    ranks: int
    slot_stride: int
    skews: int
    cells: int
    cells_offset: int
    cell_stride: int
    payload_offset: int
    payload_bytes: int
    slot: dict[str, int]
    """Byte offsets in a slot: ``head``, its last complete version, and others."""
    cell: dict[str, int]
    """Byte offsets in a cell: ``seq``, which is ``2 * n`` once version ``n`` is complete, and others."""


class RankInfo(msgspec.Struct, frozen=True):
    """What is known of one rank; ages in seconds, None when nothing was published; pid and start only for display."""

    rank: int
    state: State
    version: int
    epoch: int
    pid: int
    start_ticks: int
    claimed: bool
    age: float | None
    beat_age: float | None


class RingInfo(msgspec.Struct, frozen=True):
    """What is known of one ring; ``created`` in seconds since 1970.

    ``this_boot`` is False for a file made before the kernel booted, ``retired`` True for one about to vanish.
    """

    name: str
    geometry: Geometry
    created: float
    this_boot: bool
    retired: bool
    job: str
    generation: str
    schema_text: str
    ranks: list[RankInfo]

    @property
    def age(self) -> float:
        """Seconds since the newest publish of any rank, or since creation when there was none."""
        ages = [rank.age for rank in self.ranks if rank.age is not None]
        return min(ages) if ages else max(0.0, time.time() - self.created)

    @property
    def in_use(self) -> bool:
        """Whether a living process claims a rank."""
        return any(rank.claimed for rank in self.ranks)

    @property
    def schema_name(self) -> str:
        """Name of the class that the ring was made with."""
        return msgspec.json.decode(self.schema_text, type=SchemaText).name

    def count(self, state: State) -> int:
        """Ranks in ``state``."""
        return Counter(rank.state for rank in self.ranks)[state]


class Unreadable(msgspec.Struct, frozen=True):
    """A file with a ring's name that is no ring of this version, and why."""

    name: str
    reason: str


class Kernel(msgspec.Struct, frozen=True):
    """What the kernel offers; ``time_namespace`` is an inode, 0 where the kernel has none."""

    membarrier: bool
    futex: bool
    time_namespace: int


def inspect(name: str, directory: str | None, max_age: float) -> RingInfo:
    """Everything known of ring ``name``; ``max_age`` in seconds divides LIVE from STALE.

    Raises:
        RingNotFound, RingUntrusted, LayoutMismatch, InvalidValue
    """
    return msgspec.convert(_core.inspect(name, directory, max_age=max_age), RingInfo)


def all_rings(directory: str | None, max_age: float) -> list[RingInfo | Unreadable]:
    """Every ring of a directory, by name; none where there is no directory. One that goes meanwhile is left out."""
    found: list[RingInfo | Unreadable] = []
    for name in _core.rings(directory):
        try:
            found.append(inspect(name, directory, max_age))
        except RingNotFound:
            continue
        except (RingUntrusted, LayoutMismatch) as error:
            found.append(Unreadable(name, str(error)))
    return found


def geometry(schema_text: str, ranks: int, cells: int | None = None) -> Geometry:
    """Sizes that a ring of this schema would have."""
    return msgspec.convert(_core.geometry(schema_text, ranks, cells), Geometry)


def kernel() -> Kernel:
    """What the kernel offers to waiting readers."""
    return msgspec.convert(_core.kernel(), Kernel)


def directory_path(directory: str | None) -> str:
    """The directory that ``--dir`` means, there or not."""
    return str(_core.directory(directory))
