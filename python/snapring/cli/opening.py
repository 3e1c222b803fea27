"""How the verbs that show a ring open it, and which of its ranks they may be asked for."""

import argparse
from collections.abc import Sequence
from typing import Any

from snapring import Snapshot
from snapring.errors import RankOutOfRange, RingNotFound
from snapring.ring import Reader

__all__ = ["is_remote", "open_reader", "wanted_ranks"]


def open_reader(args: argparse.Namespace, *, must_exist: bool) -> Reader[Any]:
    """A reader of whatever the ring that ``args`` names holds; on a disk too, for looking on does no harm there.

    ``args`` has ``name``, ``dir`` and ``max_age``. Raises what `Reader` raises.
    """
    return Reader(
        args.name, schema=None, max_age=args.max_age, must_exist=must_exist, directory=args.dir, allow_disk=True
    )


def is_remote(snapshot: Snapshot[Any]) -> bool:
    """Whether a relay wrote it, for a rank that published elsewhere: only those have a random part in their origin."""
    return snapshot.origin[1] != 0


def wanted_ranks(reader: Reader[Any], wanted: Sequence[int] | None) -> Sequence[int]:
    """The ``wanted`` ranks, which are in order, or all.

    Raises:
        RingNotFound: the ring went away. RankOutOfRange: it has no such rank.
    """
    count = reader.ranks
    if count is None:
        raise RingNotFound(f"ring {reader.name!r} is gone: its last writer closed it")
    if wanted and wanted[-1] >= count:
        raise RankOutOfRange(f"rank {wanted[-1]} is out of range: the ring has ranks 0 to {count - 1}")
    return wanted or range(count)
