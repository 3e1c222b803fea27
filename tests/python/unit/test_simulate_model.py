"""The rank model: its scheduling rules one by one, and conservation laws over random work."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapring.errors import InvalidValue
from snapring.publishing import Phase
from snapring.simulate import RankConfig, RankModel, Request, StepCost, StepResult

COST = StepCost(base_s=1.0, prefill_token_s=0.01, sequence_s=0.1, context_token_s=0.001)


def config(chunk: int = 100, running: int = 8, kv: int = 1000, headroom: int = 0) -> RankConfig:
    """Return a small rank with round costs."""
    return RankConfig(chunk, running, kv, headroom, COST)


def rank_with(setup: RankConfig, *sizes: tuple[int, int]) -> RankModel:
    """Return a rank that was handed requests of these (prompt, answer) sizes at time 0."""
    rank = RankModel(setup)
    for number, (prompt, answer) in enumerate(sizes):
        rank.submit(Request(0.0, prompt, answer, number), 0.0)
    return rank


def drain(rank: RankModel) -> list[StepResult]:
    """Step until idle; return the busy steps."""
    steps, now_s = [], 0.0
    while (step := rank.step(now_s)).phase is Phase.BUSY:
        steps.append(step)
        now_s = step.end_s
    return steps


@given(data=st.data())
def test_every_request_finishes_once_and_memory_holds(data: st.DataObject) -> None:
    """Over any work: each request has one first token and one end, tokens add up, and KV memory never overflows."""
    capacity = data.draw(st.integers(20, 200), label="kv")
    setup = RankConfig(
        data.draw(st.integers(1, 60), label="chunk"),
        data.draw(st.integers(1, 6), label="running"),
        capacity,
        data.draw(st.integers(0, 10), label="headroom"),
        COST,
    )
    length = st.integers(1, capacity // 2)
    todo = data.draw(st.lists(st.tuples(length, length, st.floats(0, 3)), max_size=25), label="requests, gaps")
    rank, now_s, firsts, ends, prefilled, answered = RankModel(setup), 0.0, Counter[int](), Counter[int](), 0, 0
    arrivals = iter(enumerate(todo))
    upcoming = next(arrivals, None)

    while True:
        while upcoming and upcoming[1][2] + upcoming[0] <= now_s:
            number, (prompt, answer, gap) = upcoming
            rank.submit(Request(number + gap, prompt, answer, number), now_s)
            upcoming = next(arrivals, None)
        step = rank.step(now_s)
        firsts.update(milestone.request.id for milestone in step.first_tokens)
        ends.update(milestone.request.id for milestone in step.finished)
        prefilled += step.prefill_tokens
        answered += step.answer_tokens
        state = rank.state()

        assert 0 <= state.used_tokens <= capacity
        assert 0 <= state.running <= setup.max_running
        assert state.received == state.running + state.waiting + ends.total()
        assert state.total_tokens - state.used_tokens >= state.waiting
        assert step.prefill_tokens <= setup.chunk_tokens
        assert prefilled == state.prefill_tokens
        assert set(ends) <= set(firsts)
        if step.phase is Phase.IDLE:
            assert (state.running, state.waiting, state.total_tokens, state.waiting_uncached_tokens) == (0, 0, 0, 0)
            if upcoming is None:
                break
        now_s = step.end_s if step.duration_s else now_s + 0.5

    once = dict.fromkeys(range(len(todo)), 1)
    assert once == firsts
    assert once == ends
    assert answered == sum(answer for _, answer, _ in todo)
    assert prefilled >= sum(prompt for prompt, _, _ in todo)
    assert state.retracted or prefilled == sum(prompt for prompt, _, _ in todo)


@given(
    sizes=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20)), min_size=1, max_size=10),
    kv=st.integers(50, 120),
    steps=st.integers(0, 40),
)
def test_total_tokens_count_each_request_once(sizes: list[tuple[int, int]], kv: int, steps: int) -> None:
    """Total tokens are prompt and answer so far of each unfinished request; a running one's newest is not stored."""
    rank = rank_with(config(chunk=16, kv=kv), *sizes)
    answered, done = 0, set[int]()
    for _ in range(steps):
        step = rank.step(0.0)
        answered += step.answer_tokens
        done |= {milestone.request.id for milestone in step.finished}
    left = sum(prompt for number, (prompt, _) in enumerate(sizes) if number not in done)
    answered_left = answered - sum(sizes[number][1] for number in done)
    state = rank.state()

    slack = left + answered_left - state.total_tokens

    assert 0 <= slack <= state.running


@given(prompt=st.integers(1, 300), answer=st.integers(1, 50), chunk=st.integers(1, 100))
def test_lone_request_takes_the_time_that_the_formula_says(prompt: int, answer: int, chunk: int) -> None:
    """Alone on a rank, a request takes ceil(prompt / chunk) prefill steps and one decode step per further token."""
    steps = drain(rank_with(config(chunk=chunk), (prompt, answer)))

    starts = range(0, prompt, chunk)
    prefill = sum(1 + 0.01 * min(chunk, prompt - start) + 0.1 + 0.001 * start for start in starts)
    decode = sum(1 + 0.1 + 0.001 * (prompt + token) for token in range(answer - 1))
    (first,) = [milestone for step in steps for milestone in step.first_tokens]
    (end,) = [milestone for step in steps for milestone in step.finished]
    assert first.at_s == pytest.approx(prefill)
    assert end.at_s == pytest.approx(prefill + decode)
    assert len(steps) == len(starts) + answer - 1


def test_chunk_budget_is_shared_in_order_of_arrival() -> None:
    """One step fills its budget with the oldest prompts; the one cut off goes on first in the next step."""
    rank = rank_with(config(chunk=100), (60, 5), (70, 5), (10, 5))

    first = rank.step(0.0)
    assert (first.prefill_tokens, first.batch, [m.request.id for m in first.first_tokens]) == (100, 2, [0])
    state = rank.state()
    assert (
        state.running,
        state.waiting,
        state.waiting_uncached_tokens,
        state.used_tokens,
        state.total_tokens,
    ) == (2, 1, 40, 130, 140)

    second = rank.step(first.end_s)
    assert (second.prefill_tokens, [m.request.id for m in second.first_tokens]) == (40, [1, 2])


def test_prefill_goes_before_decode() -> None:
    """A new request that has room is prefilled before the running ones get their next token."""
    rank = rank_with(config(), (10, 5))
    assert rank.step(0.0).prefill
    rank.submit(Request(1.0, 10, 5, 1), 1.0)

    assert [rank.step(2.0).prefill, rank.step(2.0).prefill] == [True, False]


def test_cap_on_running_requests_holds_the_next_one_back() -> None:
    """With the cap reached a request waits though memory is free, and enters when another ends."""
    rank = rank_with(config(running=1), (10, 2), (10, 1))

    assert [[m.request.id for m in step.finished] for step in drain(rank)] == [[], [0], [1]]


def test_headroom_holds_the_next_one_back() -> None:
    """A request is admitted beside others only if headroom for each of them stays free."""
    roomy = rank_with(config(kv=100, headroom=10), (40, 5), (40, 5))
    tight = rank_with(config(kv=100, headroom=11), (40, 5), (40, 5))

    assert [rank.step(0.0).batch for rank in (roomy, tight)] == [2, 1]


def test_newest_is_retracted_and_computed_again() -> None:
    """Out of memory, the newest request goes back to the head of the queue with its answer so far, then finishes."""
    rank = rank_with(config(kv=21), (10, 6), (10, 6), (3, 1))

    prefill, one_decode = rank.step(0.0), rank.step(0.0)
    state = rank.state()

    assert (prefill.batch, one_decode.batch) == (2, 1)
    assert (
        state.running,
        state.waiting,
        state.used_tokens,
        state.total_tokens,
        state.retracted,
    ) == (1, 2, 11, 11 + 11 + 3, 1)
    steps = drain(rank)
    assert [m.request.id for step in steps for m in step.finished] == [0, 2, 1]
    assert [m.request.id for step in steps for m in step.first_tokens] == [2]
    assert rank.state().prefill_tokens == 10 + 10 + 11 + 3


def test_request_that_can_never_fit_is_refused_but_received() -> None:
    """What exceeds KV memory raises at once and counts as received; the largest that fits runs to its end."""
    rank = RankModel(config(kv=50))
    with pytest.raises(InvalidValue, match="request 7 needs 51 KV tokens and the rank has 50"):
        rank.submit(Request(0.0, 42, 10, 7), 0.0)
    assert (rank.state().received, rank.state().waiting) == (1, 0)

    rank.submit(Request(0.0, 41, 10, 8), 0.0)
    assert [m.request.id for step in drain(rank) for m in step.finished] == [8]


def test_steps_never_overlap() -> None:
    """A step asked for too early starts when the one before has ended; one asked for later starts when asked."""
    rank = rank_with(config(), (10, 3))
    first, second, third = rank.step(5.0), rank.step(0.0), rank.step(100.0)

    assert (5.0, first.end_s, 100.0) == (first.start_s, second.start_s, third.start_s)


def test_idle_rank_says_so() -> None:
    """With nothing to do a step takes no time and counts nowhere."""
    rank = RankModel(config())
    step = rank.step(3.0)

    assert (step.phase, step.duration_s, step.prefill, step.batch) == (Phase.IDLE, 0.0, False, 0)
    assert rank.state().decode_moments is None
    assert rank.state().throughput_tps is None


def test_counters_follow_the_steps() -> None:
    """Prefill counters and the six decode moments are the sums over the steps that were made."""
    rank = rank_with(config(), (10, 4), (20, 7))
    steps = drain(rank)
    decodes = [(step.batch, step.duration_s * 1e6) for step in steps if not step.prefill]
    state = rank.state()

    assert state.prefill_tokens == 30
    assert state.prefill_busy_us == round(sum(step.duration_s for step in steps if step.prefill) * 1e6)
    assert state.decode_moments == pytest.approx(
        (
            len(decodes),
            sum(batch for batch, _ in decodes),
            sum(us for _, us in decodes),
            sum(batch**2 for batch, _ in decodes),
            sum(batch * us for batch, us in decodes),
            sum(batch for batch, _ in decodes),
        )
    )


def test_pauses_stay_out_of_the_moments() -> None:
    """A decode step of two seconds or more is no step to fit a line to."""
    slow = RankConfig(cost=StepCost(base_s=2.0))
    rank = rank_with(slow, (10, 4))
    drain(rank)

    assert rank.state().decode_moments is None


def test_throughput_is_tokens_per_second_of_the_last_window() -> None:
    """The rate is measured over windows of a second or more, and returns to zero on an idle rank."""
    rank = rank_with(RankConfig(cost=StepCost(0.1, 0.0, 0.0, 0.0)), (10, 35))
    steps = drain(rank)

    assert rank.state().throughput_tps == pytest.approx(10.0)
    rank.step(steps[-1].end_s + 1.0)
    rank.step(steps[-1].end_s + 2.5)
    assert rank.state().throughput_tps == 0.0


def test_same_calls_same_results() -> None:
    """The model has no clock and no chance in it."""
    sizes = [(30, 9), (200, 3), (5, 40)]

    assert drain(rank_with(config(), *sizes)) == drain(rank_with(config(), *sizes))


def test_repr_tells_the_load() -> None:
    """A printed model says how loaded it is."""
    assert repr(rank_with(config(), (10, 1))) == "<RankModel 0 running, 1 waiting, 0 of 1000 KV tokens>"


@pytest.mark.parametrize("bad", [{"base_s": 0.0}, {"base_s": float("nan")}, {"sequence_s": -1.0}])
def test_bad_costs_are_refused(bad: dict[str, float]) -> None:
    """A step that takes no time, or negative time, would let a loop run for ever."""
    with pytest.raises(InvalidValue):
        StepCost(**bad)


@pytest.mark.parametrize("name", ["chunk_tokens", "max_running", "kv_capacity_tokens"])
def test_bad_configs_are_refused(name: str) -> None:
    """A rank that can hold nothing is an error."""
    bad: dict[str, Any] = {name: 0}
    with pytest.raises(InvalidValue, match=name):
        RankConfig(**bad)
