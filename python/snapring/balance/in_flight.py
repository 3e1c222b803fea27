"""Dispatches that no snapshot shows yet.

A snapshot is always a little older than the last dispatch. Balancing on snapshots alone sends a whole burst to the
rank that looked emptiest, and a correction that the next snapshot wipes only makes the burst shorter: that snapshot
may have been taken before the rank received anything. So a dispatch is counted here until the rank itself says that it
has it.
"""

from collections import deque

import msgspec

from snapring.errors import InvalidValue

__all__ = ["InFlight"]


class _Rank(msgspec.Struct):
    sent: int = 0  # number of the newest dispatch of this incarnation
    tokens: int = 0  # sum over pending
    pending: deque[tuple[int, int]] = msgspec.field(default_factory=deque)  # (number, tokens), oldest first


class InFlight:
    """Per rank: how much one dispatcher has sent that the rank had not yet received when it last published.

    The rule: the n-th dispatch to a rank counts until that rank reports that it has received n or more requests. The
    rank's count starts at 0 with each of its incarnations, so call `forget` when a rank is started anew. No clock takes
    part: a late, lost or repeated snapshot can neither drop a dispatch too early nor count it twice.

    The rule needs one dispatcher per reported count and delivery in order. Belongs to one thread; a forked copy counts
    on its own. Any integer may name a rank; ranks come into being with their first dispatch.
    """

    def __init__(self) -> None:
        """Start with nothing in flight."""
        self._ranks: dict[int, _Rank] = {}

    def __repr__(self) -> str:
        counts = ", ".join(f"{rank}: {len(state.pending)}" for rank, state in sorted(self._ranks.items()))
        return f"<InFlight {{{counts}}}>"

    def sent(self, rank: int, tokens: int) -> None:
        """Count one request of ``tokens`` (0 or more) sent to ``rank``; negative ones raise `InvalidValue`."""
        if tokens < 0:
            raise InvalidValue(f"a dispatch cannot hold {tokens} tokens; give 0 or more")
        state = self._ranks.setdefault(rank, _Rank())
        state.sent += 1
        state.tokens += tokens
        state.pending.append((state.sent, tokens))

    def received(self, rank: int, count: int) -> None:
        """Take note that ``rank`` has received ``count`` requests in all. An older, smaller count changes nothing."""
        state = self._ranks.get(rank)
        while state and state.pending and state.pending[0][0] <= count:
            state.tokens -= state.pending.popleft()[1]

    def forget(self, rank: int) -> None:
        """Drop everything about ``rank``: it died, or a new incarnation of it counts from 0 again."""
        self._ranks.pop(rank, None)

    def tokens(self, rank: int) -> int:
        """Return the tokens on their way to ``rank``."""
        state = self._ranks.get(rank)
        return state.tokens if state else 0

    def requests(self, rank: int) -> int:
        """Return the requests on their way to ``rank``."""
        state = self._ranks.get(rank)
        return len(state.pending) if state else 0
