import math
from pathlib import Path

import msgspec
import pytest

from snapring import LoadSnapshot, Reader, State, Writer
from snapring.formats.aggregate import aggregate


class Rank(msgspec.Struct):
    """A snapshot as far as it is looked at."""

    value: LoadSnapshot
    state: State = State.LIVE


BUSY = LoadSnapshot(
    num_running_reqs=6,
    num_waiting_reqs=2,
    num_waiting_uncached_tokens=100,
    num_used_tokens=900,
    num_total_tokens=1200,
    max_total_num_tokens=1000,
    token_usage=0.9,
    gen_throughput=300.0,
    cache_hit_rate=0.5,
    utilization=1.2,
    total_prefill_uncached_tokens=5000,
)
IDLE = LoadSnapshot(
    num_running_reqs=1,
    num_used_tokens=100,
    num_total_tokens=400,
    max_total_num_tokens=1000,
    token_usage=0.1,
    gen_throughput=50.0,
    total_prefill_uncached_tokens=700,
)


def test_totals_and_averages() -> None:
    """Totals are sums and averages means over the ranks that report the number."""
    result = aggregate([Rank(BUSY), Rank(IDLE, State.STALE)])

    assert msgspec.structs.asdict(result) == {
        "ranks": 2,
        "states": {"LIVE": 1, "STALE": 1},
        "total_running_reqs": 7,
        "total_waiting_reqs": 2,
        "total_reqs": 9,
        "total_waiting_uncached_tokens": 100,
        "total_used_tokens": 1000,
        "total_tokens": 1600,
        "total_capacity_tokens": 2000,
        "total_throughput": 350.0,
        "total_prefill_uncached_tokens": 5700,
        "avg_token_usage": 0.5,
        "avg_throughput": 175.0,
        "avg_cache_hit_rate": 0.5,
        "avg_utilization": 1.2,
        "imbalance": 1.5,
    }


def test_not_reported_is_not_zero() -> None:
    """What no rank reports stays None; what one rank reports as 0 is 0."""
    result = aggregate([Rank(LoadSnapshot()), Rank(LoadSnapshot(gen_throughput=0.0, max_total_num_tokens=0))])

    assert (result.total_throughput, result.avg_throughput, result.total_capacity_tokens) == (0.0, 0.0, 0)
    assert (result.avg_token_usage, result.avg_cache_hit_rate, result.avg_utilization) == (None, None, None)
    assert (result.total_waiting_uncached_tokens, result.total_prefill_uncached_tokens) == (None, None)
    assert (result.total_reqs, result.imbalance) == (0, None)


def test_dead_ranks() -> None:
    """What a dead rank last said counts only on request; that it is dead is always told."""
    ranks = [Rank(BUSY), Rank(IDLE, State.DEAD)]

    without, with_them = aggregate(ranks), aggregate(ranks, dead=True)

    assert (without.ranks, without.total_running_reqs, without.avg_throughput) == (1, 6, 300.0)
    assert (with_them.ranks, with_them.total_running_reqs, with_them.avg_throughput) == (2, 7, 175.0)
    assert without.states == with_them.states == {"LIVE": 1, "DEAD": 1}


def test_no_ranks() -> None:
    """Without ranks nothing is reported, rather than 0."""
    result = aggregate(iter([]))

    assert (result.ranks, result.states, result.total_reqs, result.avg_token_usage) == (0, {}, None, None)
    assert result.imbalance is None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none(number: float) -> None:
    """NaN and infinities of one rank do not spoil the others' totals and averages."""
    odd = LoadSnapshot(token_usage=number, gen_throughput=number)

    result = aggregate([Rank(odd), Rank(IDLE)])

    assert (result.avg_token_usage, result.avg_throughput, result.total_throughput) == (0.1, 50.0, 50.0)
    assert aggregate([Rank(odd)]).avg_token_usage is None


def test_of_a_ring(ring_dir: Path) -> None:
    """The snapshots of a reader can be given as they are, and the result is JSON-ready."""
    with Writer("main", rank=0, ranks=3) as zero, Writer("main", rank=2, ranks=3) as two, Reader("main") as reader:
        zero.publish(BUSY)
        two.publish(IDLE)
        result = aggregate(reader.read_all())

    assert (result.ranks, result.total_reqs, result.states) == (2, 9, {"LIVE": 2})
    assert msgspec.json.decode(msgspec.json.encode(result))["total_tokens"] == 1600
