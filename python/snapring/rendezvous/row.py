"""The rows of a registry: what one says, which of them contradict each other, whether all are there."""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from snapring.errors import RendezvousFailed
from snapring.rendezvous.agreement import named
from snapring.rendezvous.group import Group
from snapring.rendezvous.patience import Patience
from snapring.rendezvous.records import Member, decode

__all__ = ["FOLDER", "Row", "Rows", "conflicts", "rows"]

FOLDER: Final = "rows"


class Row(msgspec.Struct, frozen=True):
    """One rank's row: who wrote it, the sizes it was started with, what it says, and its lease.

    ``beat`` counts refreshes, so that a row which is kept alive can be told from one whose process has died; ``ttl`` is
    the lease in seconds.
    """

    member: Member
    sizes: dict[str, int]
    values: dict[str, object]
    ttl: float
    beat: int = 0


class Rows(Mapping[int, Row]):
    """The living rows of a group by rank, as they were at one moment. Immutable.

    Attributes:
        expected: how many ranks the group has.
        faults: rank and reason of entries that are no good rows; they count as missing.
    """

    def __init__(self, found: Mapping[int, Row], expected: int, faults: Mapping[int, str]) -> None:
        self._found, self.expected, self.faults = dict(found), expected, dict(faults)

    def __getitem__(self, rank: int) -> Row:
        return self._found[rank]

    def __iter__(self) -> Iterator[int]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        absent = f", {named(self.missing)} missing" if self.missing else ", ready"
        return f"<Rows {len(self)} of {self.expected}{absent}>"

    @property
    def missing(self) -> list[int]:
        """Ranks without a living row, ascending."""
        return [rank for rank in range(self.expected) if rank not in self._found]

    @property
    def ready(self) -> bool:
        """Whether every rank has a living row: distinct ranks are counted, not registrations."""
        return not self.missing


def rows(group: Group, timeout: float = 5.0) -> Rows:
    """The living rows of the group's job, asked for anew at each call.

    A row whose process has ended without closing it stays for at most its ``ttl`` (over torch, for that long after the
    first look of this process). ``timeout`` is in seconds, > 0. Any thread, either side of a fork.

    Raises RendezvousTimeout when the store did not answer in time.
    """
    patience = Patience(timeout)
    entries = patience.ask(lambda left: group.read_all(FOLDER, left))
    found, faults = {}, {}
    for rank, entry in sorted(entries.items()):
        try:
            row = decode(entry, Row, f"row {rank} at {group.describe()}")
        except RendezvousFailed as error:
            faults[rank] = str(error)
            continue
        if row.member.rank == rank:
            found[rank] = row
        else:
            faults[rank] = f"the row of rank {rank} says that it is {row.member}; remove it"
    return Rows(found, group.size, faults)


def conflicts(mine: Row, others: Mapping[int, Row]) -> dict[int, str]:
    """Which of the rows cannot stand beside mine, and why: another incarnation of my rank, or other sizes."""
    found = {}
    for rank, other in others.items():
        if other.member.nonce == mine.member.nonce:
            continue
        both = f"{mine.member} and {other.member}"
        if rank == mine.member.rank:
            found[rank] = f"{both} cannot both register; end one of them"
        elif (other.member.size, other.sizes) != (mine.member.size, mine.sizes):
            found[rank] = f"{both} have sizes {mine.sizes} and {other.sizes}; start all ranks with the same ones"
    return found
