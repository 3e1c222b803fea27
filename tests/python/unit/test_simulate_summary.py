"""Summaries: nearest-rank percentiles against counting, totals per rank, plain values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapring.simulate import Milestone, Request, Tally
from snapring.simulate.summary import nearest_rank


def milestone(at_s: float, arrival_s: float = 0.0, prompt: int = 1, answer: int = 1) -> Milestone:
    """Return a milestone of a request."""
    return Milestone(Request(arrival_s, prompt, answer, 0), arrival_s, at_s)


@given(values=st.lists(st.floats(0, 100), min_size=1), percent=st.integers(0, 100))
def test_percentile_is_the_smallest_value_that_covers(values: list[float], percent: int) -> None:
    """Nearest rank: the smallest value with at least that share of all values at or below it."""
    covering = [v for v in values if 100 * sum(w <= v for w in values) >= percent * len(values)]

    assert min(covering) == nearest_rank(sorted(values), percent)


def test_summary_of_a_run() -> None:
    """Times run from arrival, and each rank's finished work is added up, idle ranks included."""
    tally = Tally(ranks=3)
    for at_s in range(1, 101):
        tally.first_token(milestone(at_s + 5.0, arrival_s=5.0))
    tally.finished(2, milestone(9.0, prompt=10, answer=3))
    tally.finished(2, milestone(9.0, prompt=20, answer=4))
    tally.finished(0, milestone(9.0, prompt=5, answer=5))

    summary = tally.summary().to_dict()

    assert {
        "requests_done": 3,
        "first_token": {"count": 100, "mean_s": pytest.approx(50.5), "p50_s": 50.0, "p99_s": 99.0},
        "ranks": [
            {"rank": 0, "requests": 1, "prompt_tokens": 5, "answer_tokens": 5},
            {"rank": 1, "requests": 0, "prompt_tokens": 0, "answer_tokens": 0},
            {"rank": 2, "requests": 2, "prompt_tokens": 30, "answer_tokens": 7},
        ],
    } == summary


def test_nothing_measured_is_none() -> None:
    """A run without a request has no times; they are null in JSON, not zero."""
    assert (
        json.dumps(Tally().summary().to_dict()["first_token"])
        == '{"count": 0, "mean_s": null, "p50_s": null, "p99_s": null}'
    )


def test_summary_does_not_change_afterwards() -> None:
    """A summary is a picture of its moment; the tally goes on without it."""
    tally = Tally(1)
    before = tally.summary()
    tally.finished(0, milestone(1.0))

    assert (before.requests_done, before.ranks[0].requests) == (0, 0)
    assert tally.summary().requests_done == 1
