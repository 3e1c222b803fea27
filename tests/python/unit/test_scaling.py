"""The rule by which an autoscaler adds and removes ranks."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from snapring import InvalidValue, LoadSnapshot, State
from snapring.formats.scaling import Scaling, ScalingTerm, ScalingTerms, scaling
from snapring.load import DisaggregationSection


class Rank(Struct):
    value: object
    state: State = State.LIVE


def found(ranks: list[Rank], **targets: float) -> Scaling:
    """What the rule says; the test fails where that is nothing."""
    result = scaling(ranks, **targets)
    assert result is not None
    return result


def test_the_larger_term_counts() -> None:
    """The value is the larger of the two terms, and both are shown with their targets."""
    ranks = [Rank(LoadSnapshot(num_waiting_reqs=6, token_usage=0.25)), Rank(LoadSnapshot(token_usage=0.75))]

    assert found(ranks, target_waiting=2, target_kv=0.8) == Scaling(
        value=1.5,
        desired_ranks=3,
        idle=False,
        live_ranks=2,
        ranks=2,
        terms=ScalingTerms(ScalingTerm(3.0, 2, 1.5), ScalingTerm(0.5, 0.8, 0.625)),
    )


@pytest.mark.parametrize(
    ("usage", "live", "expected"),
    [(0.8, 4, 4), (0.4, 4, 2), (0.41, 4, 3), (1.0, 4, 5), (0.01, 4, 1), (0.0, 4, 1), (0.9, 1, 2)],
)
def test_desired_ranks(usage: float, live: int, expected: int) -> None:
    """Present ranks times the value, rounded up, and never fewer than one while somebody works."""
    ranks = [Rank(LoadSnapshot(num_running_reqs=1, token_usage=usage)) for _ in range(live)]

    assert found(ranks, target_kv=0.8).desired_ranks == expected


def test_only_live_ranks_count() -> None:
    """What a STALE or DEAD rank said last is no present load, and it is no present rank."""
    ranks = [
        Rank(LoadSnapshot(num_waiting_reqs=4, token_usage=0.1)),
        Rank(LoadSnapshot(num_waiting_reqs=400, token_usage=1.0), State.STALE),
        Rank(LoadSnapshot(num_waiting_reqs=400, token_usage=1.0), State.DEAD),
    ]

    result = found(ranks, target_waiting=4)

    assert (result.value, result.desired_ranks, result.live_ranks, result.ranks) == (1.0, 1, 1, 3)


def test_a_term_that_nobody_reports_is_left_out() -> None:
    """Without KV figures the queue alone decides; KV can also be had from tokens; NaN is not reported."""
    without = found([Rank(LoadSnapshot(num_waiting_reqs=8)), Rank(LoadSnapshot(token_usage=math.nan))])
    derived = found([Rank(LoadSnapshot(num_used_tokens=40, max_total_num_tokens=100))], target_kv=0.8)

    assert (without.value, without.terms.kv) == (1.0, None)
    assert (derived.value, derived.terms.kv) == (0.5, ScalingTerm(0.4, 0.8, 0.5))


@pytest.mark.parametrize(
    "ranks", [[], [Rank(LoadSnapshot(), State.DEAD)], [Rank(LoadSnapshot(), State.STALE)], [Rank(object())]]
)
def test_unknown_is_not_zero(ranks: list[Rank]) -> None:
    """Without a LIVE rank that reports there is no number, so that nothing is scaled down by mistake."""
    assert scaling(ranks) is None


@pytest.mark.parametrize(
    ("others", "idle"),
    [
        ([], True),
        ([Rank(LoadSnapshot(num_running_reqs=9), State.DEAD)], True),
        ([Rank(LoadSnapshot(), State.STALE)], False),
        ([Rank(LoadSnapshot(num_running_reqs=1))], False),
        ([Rank(LoadSnapshot(num_waiting_reqs=1))], False),
        ([Rank(LoadSnapshot(disaggregation=DisaggregationSection(prefill_inflight_queue_reqs=1)))], False),
        ([Rank(object())], False),
    ],
)
def test_idle(others: list[Rank], idle: bool) -> None:
    """Only where no LIVE rank has a request, and no STALE one may have, are 0 ranks enough."""
    result = found([Rank(LoadSnapshot(token_usage=0.0)), *others])

    assert result.idle is idle
    assert (result.desired_ranks == 0) is idle


LOADS = st.builds(
    LoadSnapshot,
    num_running_reqs=st.integers(0, 2**63 - 1),
    num_waiting_reqs=st.integers(0, 2**63 - 1),
    num_used_tokens=st.integers(0, 2**63 - 1),
    max_total_num_tokens=st.none() | st.integers(0, 2**63 - 1),
    token_usage=st.none() | st.floats(),
)


@given(
    ranks=st.lists(st.builds(Rank, LOADS, st.sampled_from(State)), max_size=6),
    waiting=st.floats(1e-3, 1e9),
    kv=st.floats(1e-3, 1),
)
def test_any_load_gives_a_finite_number(ranks: list[Rank], waiting: float, kv: float) -> None:
    """With a LIVE rank there is a number that JSON can hold, and the ranks asked for suffice by both terms."""
    live = [rank for rank in ranks if rank.state == State.LIVE]

    result = scaling(ranks, target_waiting=waiting, target_kv=kv)

    assert (result is None) == (not live)
    if result is not None:
        assert 0 <= result.value < math.inf
        assert result.idle or result.desired_ranks >= max(1, result.value * len(live))
        assert result.value == max(term.value for term in (result.terms.waiting, result.terms.kv) if term)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("target_waiting", 0.0),
        ("target_waiting", -1.0),
        ("target_waiting", math.nan),
        ("target_waiting", math.inf),
        ("target_kv", 0.0),
        ("target_kv", 1.5),
        ("target_kv", math.nan),
    ],
)
def test_targets_are_checked(name: str, target: float) -> None:
    """A target outside of its range is refused by name, also when there is no rank."""
    with pytest.raises(InvalidValue, match=f"{name}=.* must be a number from 0.001 to"):
        scaling([], **{name: target})
