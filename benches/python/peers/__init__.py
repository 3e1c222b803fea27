"""The implementations that are compared, one module each."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from model import Absent

from peers.floor import Floor
from peers.iceoryx import Iceoryx
from peers.ring import Snapring
from peers.sglang import SGLang0514, SGLang0523
from peers.shm import SharedMemoryStruct
from peers.store import Store

__all__ = ["BASELINE", "FLOOR", "KINDS", "OURS", "Store", "new_room", "obtain", "open_store"]

KINDS: dict[str, type[Store]] = {
    kind.name: kind for kind in (Snapring, SGLang0523, SGLang0514, Iceoryx, SharedMemoryStruct, Floor)
}
OURS = Snapring.name
BASELINE = SGLang0523.name
FLOOR = Floor.name


def obtain(names: Iterable[str]) -> dict[str, Absent | None]:
    """Get hold of each peer once, before anything is timed; the reason stands where that failed."""
    found: dict[str, Absent | None] = {}
    for name in names:
        try:
            KINDS[name].obtain()
        except Absent as reason:
            found[name] = reason
        else:
            found[name] = None
    return found


def open_store(name: str, where: Path, ranks: int, writes: Iterable[int] = ()) -> Store:
    """Open one peer's memory in an existing directory. Raises `Absent` when the peer cannot be had."""
    return KINDS[name](where, ranks, writes)


def new_room(home: Path) -> Path:
    """Make an empty directory of mode 0700 inside `home`, for one store."""
    return Path(tempfile.mkdtemp(dir=home))
