"""Send each request to the rank with the least tokens."""

from collections.abc import Iterable
from typing import Protocol, SupportsIndex

import msgspec

from snapring.balance.in_flight import InFlight

__all__ = ["LeastTokens", "Mask", "RankLoad"]


class RankLoad(msgspec.Struct, frozen=True):
    """What the picker looks at: a rank, its tokens (used and waiting) and its requests (running and waiting)."""

    rank: int
    tokens: int
    requests: int


class Mask(Protocol):
    """Truth values indexed by rank, such as a list of bool or the ``ok`` array of a ring's view."""

    def __len__(self) -> int: ...

    def __getitem__(self, rank: SupportsIndex, /) -> object: ...


class LeastTokens:
    """Picks the rank with the least (tokens, requests), counting what is in flight.

    Ranks that tie are used in turn: the one picked longest ago goes first, those never picked before all others, the
    lowest number among these. Without that, equal ranks under light load would leave all work to rank 0.

    Deterministic. Belongs to one thread; a forked copy decides on its own.
    """

    def __init__(self) -> None:
        """Start with no rank ever picked."""
        self._picks = 0
        self._last_pick: dict[int, int] = {}

    def pick(
        self, loads: Iterable[RankLoad], in_flight: InFlight | None = None, mask: Mask | None = None
    ) -> int | None:
        """Return the rank for the next request, or None when none is eligible; then nothing changes.

        ``loads``: at most one per rank, in any order. ``in_flight``: added to each load; call its ``sent`` once the
        request is on its way. ``mask``: ranks to consider, so that the caller can leave out stale and dead ones; a rank
        outside of it is left out too. Without a mask every rank in ``loads`` is eligible. Raises nothing of its own.
        """
        keys = [self._key(load, in_flight) for load in loads if _eligible(load.rank, mask)]
        if not keys:
            return None
        rank = min(keys)[-1]
        self._picks += 1
        self._last_pick[rank] = self._picks
        return rank

    def _key(self, load: RankLoad, in_flight: InFlight | None) -> tuple[int, int, int, int]:
        """Return what the smallest of wins; the rank at the end makes it unique."""
        turn = self._last_pick.get(load.rank, 0)
        if in_flight is None:
            return load.tokens, load.requests, turn, load.rank
        on_the_way = in_flight.tokens(load.rank), in_flight.requests(load.rank)
        return load.tokens + on_the_way[0], load.requests + on_the_way[1], turn, load.rank


def _eligible(rank: int, mask: Mask | None) -> bool:
    return mask is None or (0 <= rank < len(mask) and bool(mask[rank]))
