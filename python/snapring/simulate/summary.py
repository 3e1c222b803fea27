"""What a run came to: requests done, totals per rank, time to first token."""

import math
from array import array
from typing import Any

import msgspec

from snapring.simulate.model import Milestone

__all__ = ["FirstTokenTimes", "RankTotals", "Summary", "Tally", "nearest_rank"]


class FirstTokenTimes(msgspec.Struct, frozen=True):
    """Time to first token, seconds, over ``count`` requests; percentiles by nearest rank. None without a request."""

    count: int
    mean_s: float | None
    p50_s: float | None
    p99_s: float | None


class RankTotals(msgspec.Struct):
    """What one rank finished: requests, and their prompt and answer tokens."""

    rank: int
    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


class Summary(msgspec.Struct, frozen=True):
    """A finished run. ``ranks`` is in order of rank; `to_dict` gives plain values for JSON."""

    requests_done: int
    first_token: FirstTokenTimes
    ranks: list[RankTotals]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers, with the names of the fields."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def nearest_rank(ordered: list[float], percent: float) -> float:
    """Return the percentile of ``ordered`` (ascending, not empty) by nearest rank: a value that occurred.

    It is the smallest value with at least ``percent`` (0..100) of all values at or below it.
    """
    return ordered[max(0, math.ceil(percent * len(ordered) / 100) - 1)]


class Tally:
    """Counts milestones as they come and gives a `Summary` at any time.

    Keeps 8 bytes per request. Belongs to one thread; a forked copy counts on its own.
    """

    def __init__(self, ranks: int = 0) -> None:
        """Start with zeros for ranks 0 to ``ranks`` - 1; others appear with their first milestone."""
        self._first_token_s = array("d")
        self._totals = {rank: RankTotals(rank) for rank in range(ranks)}

    def first_token(self, milestone: Milestone) -> None:
        """Count a first token; its time runs from the request's own arrival."""
        self._first_token_s.append(milestone.since_arrival_s)

    def finished(self, rank: int, milestone: Milestone) -> None:
        """Count a request that ``rank`` has answered in full."""
        totals = self._totals.setdefault(rank, RankTotals(rank))
        totals.requests += 1
        totals.prompt_tokens += milestone.request.prompt_tokens
        totals.answer_tokens += milestone.request.answer_tokens

    def summary(self) -> Summary:
        """Return the counts so far; sorts all times, so not for every tick of a display."""
        ranks = [msgspec.structs.replace(self._totals[rank]) for rank in sorted(self._totals)]
        return Summary(sum(totals.requests for totals in ranks), self._first_token_times(), ranks)

    def _first_token_times(self) -> FirstTokenTimes:
        ordered = sorted(self._first_token_s)
        if not ordered:
            return FirstTokenTimes(0, None, None, None)
        mean_s = math.fsum(ordered) / len(ordered)
        return FirstTokenTimes(len(ordered), mean_s, nearest_rank(ordered, 50), nearest_rank(ordered, 99))
