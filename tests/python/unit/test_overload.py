"""The rule by which requests are refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from snapring import InvalidValue, LoadSnapshot, State
from snapring.formats.overload import Unknown, overloaded, rank_pressure, seconds_to_drain


class Rank(Struct):
    value: object
    state: State = State.LIVE


FULL = Rank(LoadSnapshot(token_usage=0.99))
ROOM = Rank(LoadSnapshot(token_usage=0.5))
SILENT = Rank(LoadSnapshot(num_running_reqs=9, num_waiting_reqs=9))
DEAD_ROOM = Rank(LoadSnapshot(token_usage=0.1), State.DEAD)
STALE_ROOM = Rank(LoadSnapshot(token_usage=0.1), State.STALE)
STALE_FULL = Rank(LoadSnapshot(token_usage=1.0), State.STALE)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (LoadSnapshot(), None),
        (LoadSnapshot(num_running_reqs=4, num_waiting_reqs=1), None),
        (LoadSnapshot(num_running_reqs=4, num_waiting_reqs=1, max_running_requests=4), 1.0),
        (LoadSnapshot(num_running_reqs=4, num_waiting_reqs=0, max_running_requests=4), 0.0),
        (LoadSnapshot(num_running_reqs=4, num_waiting_reqs=0, max_running_requests=4, token_usage=0.7), 0.7),
        (LoadSnapshot(num_running_reqs=1, num_waiting_reqs=9, max_running_requests=4, token_usage=0.1), 0.25),
        (LoadSnapshot(num_used_tokens=96, max_total_num_tokens=100), 0.96),
        (LoadSnapshot(token_usage=math.nan), None),
        (object(), None),
    ],
)
def test_pressure(load: object, expected: float | None) -> None:
    """A rank is as full as its KV cache, or as its slots once requests wait for them."""
    assert rank_pressure(load) == expected


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([FULL], True),
        ([FULL, FULL], True),
        ([FULL, ROOM], False),
        ([FULL, SILENT], False),
        ([FULL, DEAD_ROOM], True),
        ([FULL, STALE_ROOM], True),
        ([ROOM, STALE_FULL], False),
        ([Rank(LoadSnapshot(token_usage=0.95))], True),
        ([Rank(LoadSnapshot(token_usage=0.9499))], False),
    ],
)
def test_every_live_rank_must_be_full(ranks: list[Rank], expected: bool) -> None:
    """One LIVE rank with room, or one that may have room, is enough; what the others said last does not count."""
    verdict = overloaded(ranks)

    assert verdict.overloaded is expected
    assert (verdict.retry_after_s > 0) is expected
    assert verdict.reason


@pytest.mark.parametrize("ranks", [[], [SILENT], [SILENT, SILENT], [DEAD_ROOM], [STALE_FULL]])
def test_the_unknown_is_a_choice(ranks: list[Rank]) -> None:
    """Where no LIVE rank reports how full it is, requests pass, or are refused where the caller wants that."""
    assert not overloaded(ranks).overloaded
    assert not overloaded(ranks, when_unknown=Unknown.PASS).overloaded
    refusal = overloaded(ranks, when_unknown="Refuse")
    assert (refusal.overloaded, refusal.retry_after_s) == (True, 5)


@pytest.mark.parametrize(
    ("usage", "was", "expected"),
    [
        (0.96, False, True),
        (0.85, False, False),
        (0.85, True, True),
        (0.80, True, True),
        (0.79, True, False),
    ],
)
def test_hysteresis(usage: float, was: bool, expected: bool) -> None:
    """With ``release``, an overloaded server stays so until a rank is below it."""
    ranks = [Rank(LoadSnapshot(token_usage=usage))]

    assert overloaded(ranks, limit=0.95, release=0.8, was=was).overloaded is expected


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        (LoadSnapshot(num_waiting_uncached_tokens=3000, gen_throughput=1000.0), 3.0),
        (LoadSnapshot(num_used_tokens=500, num_total_tokens=2500, gen_throughput=1000.0), 2.0),
        (LoadSnapshot(num_used_tokens=500, num_total_tokens=100, gen_throughput=1000.0), 0.0),
        (LoadSnapshot(num_used_tokens=100, max_total_num_tokens=100, gen_throughput=10.0), 0.5),
        (
            LoadSnapshot(
                num_waiting_uncached_tokens=3000, total_prefill_uncached_tokens=500, total_prefill_busy_us=500_000
            ),
            3.0,
        ),
        (LoadSnapshot(num_waiting_uncached_tokens=3000), None),
        (LoadSnapshot(num_waiting_uncached_tokens=3000, gen_throughput=0.0), None),
        (LoadSnapshot(num_waiting_uncached_tokens=3000, gen_throughput=math.nan), None),
        (object(), None),
    ],
)
def test_seconds_to_drain(load: object, expected: float | None) -> None:
    """Queued tokens, and those in use above the limit, over the rate at which the rank works."""
    found = seconds_to_drain(load, limit=0.95)

    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("waits", "expected"),
    [([30_000], 30), ([30_000, 7_100], 8), ([10], 1), ([0], 1), ([10**9], 60), ([None], 5), ([None, 20_000], 20)],
)
def test_retry_after(waits: list[int | None], expected: int) -> None:
    """The first rank with room counts; whole seconds, rounded up, 1 to 60; 5 where no rank tells its rate."""
    ranks = [
        Rank(
            LoadSnapshot(
                token_usage=1.0,
                num_waiting_uncached_tokens=wait,
                gen_throughput=None if wait is None else 1000.0,
            )
        )
        for wait in waits
    ]

    assert overloaded(ranks).retry_after_s == expected


NUMBERS = st.none() | st.integers(0, 2**62)
FLOATS = st.none() | st.floats()
RANKS = st.lists(
    st.builds(
        Rank,
        st.builds(
            LoadSnapshot,
            num_running_reqs=st.integers(0, 2**62),
            num_waiting_reqs=st.integers(0, 2**62),
            num_used_tokens=st.integers(0, 2**62),
            num_total_tokens=st.integers(0, 2**62),
            num_waiting_uncached_tokens=NUMBERS,
            max_total_num_tokens=NUMBERS,
            max_running_requests=NUMBERS,
            token_usage=FLOATS,
            gen_throughput=FLOATS,
            total_prefill_uncached_tokens=NUMBERS,
            total_prefill_busy_us=NUMBERS,
        ),
        st.sampled_from(State),
    ),
    max_size=5,
)


@given(ranks=RANKS, limit=st.floats(0.01, 1), unknown=st.sampled_from(Unknown))
def test_any_load_gives_a_verdict(ranks: list[Rank], limit: float, unknown: Unknown) -> None:
    """No load raises, and the time to wait is 0 exactly where requests pass, else 1 to 60."""
    verdict = overloaded(ranks, limit=limit, when_unknown=unknown)

    assert verdict.retry_after_s in (range(1, 61) if verdict.overloaded else {0})


@given(ranks=RANKS, unknown=st.sampled_from(Unknown))
def test_a_rank_with_room_ends_it(ranks: list[Rank], unknown: Unknown) -> None:
    """Whatever the others are, one LIVE rank with room lets requests through."""
    assert not overloaded([*ranks, ROOM], when_unknown=unknown).overloaded


@given(ranks=RANKS, low=st.floats(0.01, 1), high=st.floats(0.01, 1))
def test_a_lower_limit_refuses_no_less(ranks: list[Rank], low: float, high: float) -> None:
    """What is overloaded at a limit is so at any lower one."""
    low, high = sorted((low, high))

    assert overloaded(ranks, limit=low).overloaded >= overloaded(ranks, limit=high).overloaded


@pytest.mark.parametrize(
    ("limit", "release"), [(0.0, None), (1.1, None), (-1.0, None), (math.nan, None), (0.9, 0.95), (0.9, 0.0)]
)
def test_limits_are_checked(limit: float, release: float | None) -> None:
    """A limit that no rank or every rank passes is a mistake."""
    with pytest.raises(InvalidValue, match="0 < release <= limit <= 1"):
        overloaded([], limit=limit, release=release)


def test_choices_are_checked() -> None:
    """An unknown choice names the valid ones."""
    with pytest.raises(InvalidValue, match="pass, refuse"):
        overloaded([], when_unknown="maybe")
