"""Registering a rank: its row enters only where nothing contradicts it, and stays for as long as its process lives."""

import random
import time
from collections.abc import Mapping
from typing import Final, cast

from snapring.errors import InvalidValue, RendezvousFailed, RendezvousTimeout, StoreUnavailable
from snapring.rendezvous.group import Group, check_seconds
from snapring.rendezvous.patience import Patience
from snapring.rendezvous.records import Member, encode, pack, shown, unpack
from snapring.rendezvous.registration import Registration
from snapring.rendezvous.row import FOLDER, Row, conflicts, rows

__all__ = ["register"]

TTL_S: Final = 10.0
TRIES: Final = 5

FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 8.0
"""Between two tries, doubling; each wait is drawn between half of it and all of it."""

TRY_S: Final = 5.0
"""What one question to the store may take."""

SHORTEST_S: Final = 0.01

LONGEST_S: Final = 1e9
"""Without a timeout: what else ends."""

LEASES: Final = 1.5
"""Times its ``ttl`` that a row may stand unchanged: stores round leases up, and then ask for a moment to end them."""

ROUNDING_S: Final = 2.5


def register(
    row: Mapping[str, object],
    group: Group,
    *,
    ttl: float = TTL_S,
    tries: int = TRIES,
    sizes: Mapping[str, int] | None = None,
    timeout: float | None = None,
) -> Registration:
    """Post this rank's row for all to see, and keep it alive until it is closed or the process ends.

    A living process that has the same rank, or was started with other sizes, is a conflict and refused, naming both. A
    row that such a process left behind is told from a living one by standing still: this call then waits until its
    lease ends, so a rank may restart at once. A store that does not answer is asked again after 1, 2, 4, 8 s, each
    shortened at random by up to half.

    Args:
        row: what the others should know, JSON of at most 64 KiB: endpoints, ports, public keys.
        group: the ranks and their store.
        ttl: seconds, > 0, that the row outlives its process; it is refreshed about three times as often.
        tries: how often a failing store is asked, >= 1.
        sizes: what all ranks must have in common besides the group's size, such as ``{"tp": 8, "dp": 4}``.
        timeout: seconds, > 0, after which there is no further try and no further wait for a row to end; by default as
            long as those take.

    Raises:
        RendezvousFailed: a conflict.
        StoreUnavailable: the store did not take the row in any try. Not to be ignored: nobody can find this rank.
        InvalidValue, PayloadTooLarge: the row cannot travel.

    >>> import tempfile
    >>> from snapring.rendezvous import LocalGroup, rows
    >>> group = LocalGroup(tempfile.mkdtemp(), rank=0, size=2, job="launch-7")
    >>> with register({"endpoint": "tcp://10.0.0.1:40123", "key": "a CURVE public key"}, group):
    ...     rows(group)
    <Rows 1 of 2, rank 1 missing>
    >>> rows(group).missing
    [0, 1]
    """
    if tries < 1:
        raise InvalidValue(f"{tries} tries cannot register anything; give 1 or more")
    mine = Row(Member.of(group), dict(sizes or {}), _json(row), check_seconds(ttl, "a ttl"))
    limit = Patience(LONGEST_S if timeout is None else timeout)
    fault: RendezvousFailed | None = None
    for attempt in range(1, tries + 1):
        try:
            _wait_for_the_dead(mine, group, limit)
            if _enter(mine, group, limit):
                return Registration(mine, group, lambda row: _enter(row, group, Patience(LONGEST_S)))
            fault = StoreUnavailable(f"another rank registered in conflict with {mine.member} at the same moment")
        except (StoreUnavailable, RendezvousTimeout) as error:
            fault = error
        if attempt == tries or limit.left == 0.0:
            break
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
        time.sleep(min(limit.left, longest * random.uniform(0.5, 1.0)))
    raise StoreUnavailable(
        f"{mine.member} is not registered at {group.describe()} after {attempt} tries: {fault}"
    ) from fault


def _json(row: Mapping[str, object]) -> dict[str, object]:
    kind, data = pack(dict(row))
    values = unpack(kind, data)
    if not isinstance(values, dict):
        raise InvalidValue(f"{shown(row)} is no row; give a dict of JSON values")
    return cast("dict[str, object]", values)


def _wait_for_the_dead(mine: Row, group: Group, limit: Patience) -> None:
    """Returns once no row contradicts mine; RendezvousFailed as soon as one of those that do is seen to live.

    And when one still stands at the limit.
    """
    blocking: dict[int, Row] = {}
    patience: Patience | None = None
    while True:
        living = rows(group, _try_s(limit))
        found = conflicts(mine, living)
        if not found:
            return
        moved = [rank for rank in found if rank in blocking and blocking[rank] != living[rank]]
        blocking = {rank: living[rank] for rank in found}
        if moved:
            raise RendezvousFailed(f"{found[moved[0]]}; see {group.describe()}")
        longest = ROUNDING_S + LEASES * max(row.ttl for row in blocking.values())
        patience = patience or Patience(max(SHORTEST_S, min(limit.left, longest)))
        try:
            patience.pause()
        except RendezvousFailed as error:
            raise RendezvousFailed(f"{'; '.join(found.values())}; see {group.describe()}") from error


def _enter(mine: Row, group: Group, limit: Patience) -> bool:
    """Writes the row, and takes it back when another one that contradicts it was written meanwhile.

    Looking again after writing is what makes two ranks that start together see each other: at least one of them looks
    after both have written. Both may step back; the waits before the next try differ.
    """
    entry = encode(mine)
    if not group.swap(FOLDER, group.rank, None, entry, _try_s(limit), ttl=mine.ttl):
        return False
    if not conflicts(mine, rows(group, _try_s(limit))):
        return True
    group.swap(FOLDER, group.rank, entry, None, _try_s(limit))
    return False


def _try_s(limit: Patience) -> float:
    """What the next question to the store may take; always some time, so that it says itself that it is late."""
    return max(SHORTEST_S, min(TRY_S, limit.left))
