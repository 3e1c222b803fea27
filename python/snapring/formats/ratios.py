"""How full a rank is: the ratios from which utilisation, overload and scaling are computed.

Pure functions of a snapshot's value. They take a value of any schema: a field that it lacks, that is None, no number,
negative or not finite counts as not reported, and what needs it is not reported either (never 0).
"""

import math
from collections.abc import Iterable
from typing import Final, Protocol

from snapring.state import State

__all__ = ["RankState", "kv_ratio", "live_values", "mean", "number", "slot_ratio"]


TOO_MUCH: Final = 1e300
"""No load is this large, and the sum of all ranks below it is a float."""


class RankState(Protocol):
    """A rank's snapshot; those of ``Reader.read_all`` are such, with values of any schema."""

    @property
    def value(self) -> object:
        """What the rank published."""

    @property
    def state(self) -> State:
        """What is known of its writer."""


def live_values(ranks: Iterable[RankState]) -> list[object]:
    """The values of the LIVE ranks: what the others said last may no longer be true."""
    return [rank.value for rank in ranks if rank.state == State.LIVE]


def number(value: object, name: str) -> float | None:
    """A field of ``value`` that is a number, >= 0 and finite; None where it is not reported."""
    found = getattr(value, name, None)
    return found if isinstance(found, int | float) and 0 <= found < TOO_MUCH else None


def kv_ratio(value: object) -> float | None:
    """Used part of the KV cache, 0..1: ``token_usage``, or ``num_used_tokens / max_total_num_tokens`` without it."""
    usage = number(value, "token_usage")
    return (
        _quotient(number(value, "num_used_tokens"), number(value, "max_total_num_tokens")) if usage is None else usage
    )


def slot_ratio(value: object, *, waiting: bool = False) -> float | None:
    """Requests per request slot: ``num_running_reqs / max_running_requests``, 0..1.

    With ``waiting``, ``num_waiting_reqs`` counts as well, and more than 1 means a backlog.
    """
    running, queued = number(value, "num_running_reqs"), number(value, "num_waiting_reqs") if waiting else 0
    if running is None or queued is None:
        return None
    return _quotient(running + queued, number(value, "max_running_requests"))


def mean(numbers: Iterable[float | None]) -> float | None:
    """The mean of those that are reported; None where none is."""
    reported = [item for item in numbers if item is not None]
    return math.fsum(reported) / len(reported) if reported else None


def _quotient(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None
