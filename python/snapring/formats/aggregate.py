"""Totals and averages over ranks.

A pure function of snapshots, safe in any thread and after a fork.
"""

import math
from collections.abc import Iterable
from typing import Protocol

from msgspec import Struct

from snapring.load import LoadSnapshot
from snapring.state import State

__all__ = ["Aggregate", "RankSnapshot", "aggregate"]


class RankSnapshot(Protocol):
    """What is needed of a snapshot; those of ``Reader.read_all`` are such."""

    @property
    def value(self) -> LoadSnapshot:
        """What the rank published."""

    @property
    def state(self) -> State:
        """What is known of its writer."""


class Aggregate(Struct, frozen=True):
    """Several ranks as one.

    A total is the sum over the ranks that report the number, an average their mean, each rank weighing the same. Both
    are None where no rank reports it; so is what is not finite in a rank.

    Attributes:
        ranks: ranks counted.
        states: of all ranks given, how many are in which state, by name; states without a rank are left out.
        total_running_reqs, total_waiting_reqs: requests.
        total_reqs: running and waiting requests.
        total_waiting_uncached_tokens: prompt tokens still to be computed, tokens.
        total_used_tokens: KV slots in use, tokens.
        total_tokens: used tokens plus the lengths of requests without KV slots, tokens.
        total_capacity_tokens: KV capacity, tokens.
        total_throughput: generated tokens per second.
        total_prefill_uncached_tokens: prompt tokens computed since start, tokens.
        avg_token_usage, avg_cache_hit_rate, avg_utilization: ratios.
        avg_throughput: generated tokens per second of one rank.
        imbalance: the largest ``num_total_tokens`` over their mean, >= 1; None where all are 0.
    """

    ranks: int
    states: dict[str, int]
    total_running_reqs: int | None
    total_waiting_reqs: int | None
    total_reqs: int | None
    total_waiting_uncached_tokens: int | None
    total_used_tokens: int | None
    total_tokens: int | None
    total_capacity_tokens: int | None
    total_throughput: float | None
    total_prefill_uncached_tokens: int | None
    avg_token_usage: float | None
    avg_throughput: float | None
    avg_cache_hit_rate: float | None
    avg_utilization: float | None
    imbalance: float | None


def aggregate(snapshots: Iterable[RankSnapshot], *, dead: bool = False) -> Aggregate:
    """Totals and averages of ``snapshots``.

    DEAD ranks are counted in ``states`` only, because what they last said they hold is gone; ``dead=True`` adds them.
    STALE ranks count: an idle rank has nothing new to say.
    """
    snapshots = list(snapshots)
    states = [snapshot.state for snapshot in snapshots]
    loads = [snapshot.value for snapshot, state in zip(snapshots, states, strict=True) if dead or state != State.DEAD]
    throughputs = _finite(load.gen_throughput for load in loads)
    tokens = [load.num_total_tokens for load in loads]
    return Aggregate(
        ranks=len(loads),
        states={state.name: states.count(state) for state in State if state in states},
        total_running_reqs=_sum(load.num_running_reqs for load in loads),
        total_waiting_reqs=_sum(load.num_waiting_reqs for load in loads),
        total_reqs=_sum(load.num_running_reqs + load.num_waiting_reqs for load in loads),
        total_waiting_uncached_tokens=_sum(load.num_waiting_uncached_tokens for load in loads),
        total_used_tokens=_sum(load.num_used_tokens for load in loads),
        total_tokens=_sum(tokens),
        total_capacity_tokens=_sum(load.max_total_num_tokens for load in loads),
        total_throughput=math.fsum(throughputs) if throughputs else None,
        total_prefill_uncached_tokens=_sum(load.total_prefill_uncached_tokens for load in loads),
        avg_token_usage=_mean(load.token_usage for load in loads),
        avg_throughput=_mean(throughputs),
        avg_cache_hit_rate=_mean(load.cache_hit_rate for load in loads),
        avg_utilization=_mean(load.utilization for load in loads),
        imbalance=max(tokens) * len(tokens) / sum(tokens) if any(tokens) else None,
    )


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _sum(values: Iterable[int | None]) -> int | None:
    reported = [value for value in values if value is not None]
    return sum(reported) if reported else None


def _mean(values: Iterable[float | None]) -> float | None:
    reported = _finite(values)
    return math.fsum(reported) / len(reported) if reported else None
