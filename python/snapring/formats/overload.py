"""When a server is so full that a new request is better refused: one rule, and for how long.

Pure, safe in any thread and after a fork.
"""

import math
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from snapring.choice import CaselessChoice
from snapring.errors import InvalidValue
from snapring.formats.ratios import RankState, kv_ratio, live_values, number, slot_ratio

__all__ = [
    "Unknown",
    "Verdict",
    "check_limits",
    "overloaded",
    "passing",
    "rank_pressure",
    "refusing",
    "seconds_to_drain",
]

LIMIT: Final = 0.95
"""The pressure from which on a rank is full, unless the caller says otherwise."""

SHORTEST_S: Final = 1
LONGEST_S: Final = 60
UNKNOWN_S: Final = 5
"""Seconds to wait where no rank reports a rate, or none is live."""


class Unknown(CaselessChoice):
    """What to do with requests while no LIVE rank reports how full it is. Names are compared without case.

    Raises:
        InvalidValue: a name that is none of these.
    """

    PASS = "pass"
    """Let them through: a broken measurement must not stop a server that works."""
    REFUSE = "refuse"
    """Refuse them, as where every rank is dead."""

    @classmethod
    def _what(cls) -> str:
        return "choice for when_unknown"


class Verdict(Struct, frozen=True):
    """Whether to refuse a request.

    Attributes:
        overloaded: refuse it.
        retry_after_s: whole seconds after which to try again, 1..60; 0 where not overloaded.
        reason: one sentence for the log or the client.
    """

    overloaded: bool
    retry_after_s: int
    reason: str


def rank_pressure(value: object) -> float | None:
    """How full a rank is for a new request, 0..1; the largest of its reported terms, None where it reports none.

    - KV: the used part of the cache, whether or not somebody waits: a new request would find no room.
    - slots: ``num_running_reqs / max_running_requests`` while requests wait, else 0. Full slots alone are no overload:
      a scheduler that has no queue at all runs dry between two requests.
    """
    waiting = number(value, "num_waiting_reqs")
    slots = None if waiting is None else slot_ratio(value)
    if slots is not None and not waiting:
        slots = 0.0
    return max((term for term in (kv_ratio(value), slots) if term is not None), default=None)


def seconds_to_drain(value: object, limit: float = LIMIT) -> float | None:
    """Estimated seconds until a full rank takes requests again, unbounded; None where it reports no rate.

    ``(queued + over) / rate``, where *queued* is ``num_waiting_uncached_tokens``, or ``num_total_tokens -
    num_used_tokens`` without it; *over* is what ``num_used_tokens`` has above ``limit`` of the capacity; and *rate* is
    ``gen_throughput``, or ``total_prefill_uncached_tokens / total_prefill_busy_us`` on ranks that do not generate. A
    rank that is full frees as many tokens as it generates, seen over a while; prefill is faster, so with a long queue
    this errs on the late side.
    """
    rate = number(value, "gen_throughput") or _prefill_rate(value)
    if not rate:
        return None
    used = number(value, "num_used_tokens") or 0.0
    queued = number(value, "num_waiting_uncached_tokens")
    if queued is None:
        queued = max((number(value, "num_total_tokens") or 0.0) - used, 0.0)
    capacity = number(value, "max_total_num_tokens")
    over = max(used - limit * capacity, 0.0) if capacity else 0.0
    return (queued + over) / rate


def overloaded(
    ranks: Iterable[RankState],
    *,
    limit: float = LIMIT,
    release: float | None = None,
    was: bool = False,
    when_unknown: Unknown | str = Unknown.PASS,
) -> Verdict:
    """Whether every LIVE rank is full, so that a request would only make all others wait longer.

    Overloaded: each LIVE rank reports a :func:`rank_pressure` of ``limit`` or more. A LIVE rank that reports none of
    its terms may have room, so it counts as not full; where *all* report none, or no rank is LIVE, ``when_unknown``
    decides. The retry time is that of the rank with the shortest :func:`seconds_to_drain`, rounded up, 1 to 60.

    Args:
        ranks: snapshots, as of ``Reader.read_all``.
        limit: pressure of a full rank, above 0 and at most 1.
        release: with hysteresis: once overloaded, the server stays so until a rank falls below this, above 0 and at
            most ``limit``. None is ``limit``.
        was: what the last verdict said.
        when_unknown: see :class:`Unknown`.

    Raises:
        InvalidValue: ``limit``, ``release`` or ``when_unknown`` is not acceptable.
    """
    release = check_limits(limit, release)
    choice = Unknown(when_unknown)
    values = live_values(ranks)
    pressures = [rank_pressure(value) for value in values]
    known = [pressure for pressure in pressures if pressure is not None]
    if not known:
        reason = "no live rank reports how full it is" if values else "no rank is live"
        return refusing(reason, UNKNOWN_S) if choice is Unknown.REFUSE else passing(reason)
    threshold = release if was else limit
    if len(known) < len(values):
        return passing("a live rank does not report how full it is")
    if min(known) < threshold:
        return passing(f"a live rank is at {min(known):.2f}, below {threshold:g}")
    waits = [wait for value in values if (wait := seconds_to_drain(value, limit)) is not None]
    retry = max(math.ceil(min(*waits, LONGEST_S)), SHORTEST_S) if waits else UNKNOWN_S
    return refusing(f"every live rank is full: the emptiest of {len(values)} is at {min(known):.2f}", retry)


def passing(reason: str) -> Verdict:
    """Let requests through."""
    return Verdict(overloaded=False, retry_after_s=0, reason=reason)


def refusing(reason: str, retry_after_s: int) -> Verdict:
    """Refuse requests for so many seconds."""
    return Verdict(overloaded=True, retry_after_s=retry_after_s, reason=reason)


def check_limits(limit: float, release: float | None) -> float:
    """The release limit.

    Raises:
        InvalidValue: not ``0 < release <= limit <= 1``.
    """
    release = limit if release is None else release
    if not 0 < release <= limit <= 1:
        raise InvalidValue(f"limit={limit!r} and release={release!r} must be 0 < release <= limit <= 1")
    return release


def _prefill_rate(value: object) -> float | None:
    """Prompt tokens per busy second since start."""
    tokens, busy_us = number(value, "total_prefill_uncached_tokens"), number(value, "total_prefill_busy_us")
    return tokens / (busy_us * 1e-6) if tokens and busy_us else None
