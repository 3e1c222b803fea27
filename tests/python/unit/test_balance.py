"""The picker and the books of what is in flight, against obviously right versions of themselves."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapring.balance import InFlight, LeastTokens, RankLoad
from snapring.errors import InvalidValue

LOADS = st.lists(
    st.builds(RankLoad, st.integers(0, 7), st.integers(0, 5), st.integers(0, 3)), unique_by=lambda load: load.rank
)


def idle(ranks: int) -> list[RankLoad]:
    """Return ranks without any load."""
    return [RankLoad(rank, 0, 0) for rank in range(ranks)]


@given(rounds=st.lists(LOADS), sent=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5))))
def test_pick_is_a_minimum_and_the_longest_unused_of_it(
    rounds: list[list[RankLoad]], sent: list[tuple[int, int]]
) -> None:
    """The pick has the least (tokens, requests) with what is in flight; of equals, the one picked longest ago."""
    picker, in_flight, history = LeastTokens(), InFlight(), list[int]()
    for rank, tokens in sent:
        in_flight.sent(rank, tokens)

    for loads in rounds:
        total = {
            load.rank: (
                load.tokens + sum(tokens for rank, tokens in sent if rank == load.rank),
                load.requests + sum(rank == load.rank for rank, _ in sent),
            )
            for load in loads
        }
        least = sorted(rank for rank in total if total[rank] == min(total.values()))
        unused = [rank for rank in least if rank not in history]
        by_age = [rank for rank in dict.fromkeys(reversed(history)) if rank in least][::-1]
        expected = (unused + by_age)[0] if least else None

        picked = picker.pick(loads, in_flight)

        assert expected == picked
        if picked is not None:
            history.append(picked)


@given(loads=LOADS, mask=st.lists(st.booleans(), max_size=8))
def test_masked_ranks_do_not_exist(loads: list[RankLoad], mask: list[bool]) -> None:
    """A mask gives the same pick as leaving the masked ranks out; a rank beyond the mask is out too."""
    left = [load for load in loads if load.rank < len(mask) and mask[load.rank]]

    assert LeastTokens().pick(left) == LeastTokens().pick(loads, mask=mask)
    assert LeastTokens().pick(left) == LeastTokens().pick(loads, mask=np.array(mask, dtype=bool))


def test_negative_rank_never_reads_the_mask_from_its_end() -> None:
    """A mask is indexed by rank; a rank below 0 is outside of it."""
    assert LeastTokens().pick([RankLoad(-1, 0, 0)], mask=[True]) is None


def test_nobody_eligible_changes_nothing() -> None:
    """No load, or none that the mask lets through, is None, and the order of turns stays as it was."""
    picker = LeastTokens()
    assert picker.pick(idle(2)) == 0

    assert picker.pick([]) is None
    assert picker.pick(idle(2), mask=[False, False]) is None

    assert picker.pick(idle(2)) == 1


def test_equal_ranks_are_used_evenly() -> None:
    """With loads that never differ, every rank gets the same share."""
    picker = LeastTokens()

    counts = Counter(picker.pick(idle(8)) for _ in range(80))

    assert dict.fromkeys(range(8), 10) == counts


def test_ties_are_fair_though_another_rank_wins_between() -> None:
    """A rank that wins outright between two ties does not send every tie to the same rank."""
    picker, counts = LeastTokens(), Counter[int | None]()
    for _ in range(10):
        assert picker.pick([RankLoad(0, 1, 0), RankLoad(1, 1, 0), RankLoad(2, 0, 0)]) == 2
        counts[picker.pick(idle(2))] += 1

    assert counts == {0: 5, 1: 5}


def test_burst_on_one_snapshot_spreads() -> None:
    """A burst between two snapshots is balanced by what was sent, not piled on the rank that looked emptiest."""
    picker, in_flight, counts = LeastTokens(), InFlight(), Counter[int]()
    loads = [RankLoad(0, 0, 0), RankLoad(1, 300, 3), RankLoad(2, 300, 3)]
    for _ in range(9):
        rank = picker.pick(loads, in_flight)
        assert rank is not None
        in_flight.sent(rank, 100)
        counts[rank] += 1

    assert counts == {0: 5, 1: 2, 2: 2}


def test_requests_in_flight_decide_equal_tokens() -> None:
    """Of ranks with equal tokens, the one with fewer requests wins, those on their way counted."""
    in_flight = InFlight()
    in_flight.sent(0, 0)

    assert LeastTokens().pick([RankLoad(0, 5, 1), RankLoad(1, 5, 1)], in_flight) == 1


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("sent"), st.integers(0, 2), st.integers(0, 9)),
            st.tuples(st.just("received"), st.integers(0, 2), st.integers(0, 12)),
            st.tuples(st.just("forget"), st.integers(0, 2), st.just(0)),
        )
    )
)
def test_in_flight_is_sent_minus_received(events: list[tuple[str, int, int]]) -> None:
    """In flight are exactly the dispatches numbered above the highest count reported since the rank was forgotten."""
    in_flight = InFlight()
    sent: dict[int, list[int]] = {0: [], 1: [], 2: []}
    seen = dict.fromkeys(sent, 0)
    for event, rank, value in events:
        getattr(in_flight, event)(*((rank,) if event == "forget" else (rank, value)))
        if event == "sent":
            sent[rank].append(value)
        elif event == "received":
            seen[rank] = max(seen[rank], min(value, len(sent[rank])))
        else:
            sent[rank], seen[rank] = [], 0

        assert [sum(sent[r][seen[r] :]) for r in sent] == [in_flight.tokens(r) for r in sent]
        assert [len(sent[r][seen[r] :]) for r in sent] == [in_flight.requests(r) for r in sent]


def test_snapshot_from_before_delivery_keeps_the_dispatch() -> None:
    """A newer snapshot, taken before the rank received the dispatch, does not wipe it."""
    in_flight = InFlight()
    in_flight.sent(0, 10)
    in_flight.sent(0, 20)

    in_flight.received(0, 1)
    assert (in_flight.tokens(0), in_flight.requests(0)) == (20, 1)

    in_flight.received(0, 0)
    assert (in_flight.tokens(0), in_flight.requests(0)) == (20, 1)
    assert repr(in_flight) == "<InFlight {0: 1}>"


def test_negative_tokens_are_refused() -> None:
    """A dispatch of negative tokens is an error and leaves the books alone."""
    in_flight = InFlight()
    with pytest.raises(InvalidValue, match="-1 tokens"):
        in_flight.sent(0, -1)

    assert in_flight.requests(0) == 0
