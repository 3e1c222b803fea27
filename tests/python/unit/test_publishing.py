import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapring.errors import InvalidValue
from snapring.publishing import HEARTBEAT_S, INTERVAL, STALL_INTERVAL_S, Phase, PublishRule


@dataclass
class Call:
    now: float
    force: bool
    phase: str
    due: bool = False
    published: bool = False


@dataclass
class NaiveRule:
    """Obviously right: keeps every call ever made and reads the answer off the list."""

    interval: int
    heartbeat: float
    stall_interval: float
    calls: list[Call] = field(default_factory=list)

    def due(self, call: Call) -> bool:
        previous = self.calls[-1].phase if self.calls else None
        successes = [i for i, old in enumerate(self.calls) if old.published]
        since = self.calls[successes[-1] + 1 :] if successes else self.calls
        self.calls.append(call)
        call.due = self._answer(call, previous, since, self.calls[successes[-1]].now if successes else None)
        return call.due

    def _answer(self, call: Call, previous: str | None, since: list[Call], last: float | None) -> bool:
        if last is None or any(old.due for old in since):
            return True
        waited = call.now - last
        if call.phase == "idle":
            return previous != "idle" or waited >= self.heartbeat
        if call.phase == "stalled":
            return waited >= min(self.stall_interval, self.heartbeat)
        counted = sum(old.phase == "busy" and not old.force for old in [*since, call])
        return call.force or counted >= max(1, self.interval) or waited >= self.heartbeat


# Times are whole 128ths of a second, so that both sides compute differences without rounding.
STEPS = st.lists(
    st.tuples(
        st.integers(0, 160).map(lambda ticks: ticks / 128),
        st.booleans(),
        st.sampled_from(Phase),
        st.booleans(),
    ),
    max_size=60,
)


@given(STEPS, st.integers(-1, 6), st.sampled_from([0.25, 1.0, math.inf]), st.sampled_from([0.0, 0.0625, 0.5]))
def test_agrees_with_the_naive_rule(
    steps: list[tuple[float, bool, Phase, bool]], interval: int, heartbeat: float, stall_interval: float
) -> None:
    """Over any sequence of phases, forces, pauses and failed publishes the answers are those of the full history."""
    rule = PublishRule(interval, heartbeat, stall_interval)
    naive = NaiveRule(interval, heartbeat, stall_interval)
    now = 1000.0
    for pause, force, phase, works in steps:
        now += pause
        call = Call(now, force, phase)
        due = rule.due(now, force, phase)
        assert naive.due(call) == due
        if due and works:
            rule.published(now)
            call.published = True


def answers(rule: PublishRule, calls: list[tuple[float, bool, Phase]]) -> list[bool]:
    """The answer to each call, every due publish coming about at once."""
    result = []
    for now, force, phase in calls:
        result.append(rule.due(now, force, phase))
        if result[-1]:
            rule.published(now)
    return result


def started(**options: Any) -> PublishRule:  # noqa: ANN401  whatever PublishRule takes
    """A rule whose first publish came about at time 0, busy."""
    rule = PublishRule(**options)
    assert rule.due(0.0)
    rule.published(0.0)
    return rule


def test_defaults() -> None:
    """Interval 15, heartbeat 1 s, stall interval 50 ms."""
    assert (INTERVAL, HEARTBEAT_S, STALL_INTERVAL_S) == (15, 1.0, 0.05)
    assert answers(started(), [(0.0, False, Phase.BUSY)] * 30) == [False] * 14 + [True] + [False] * 14 + [True]


@pytest.mark.parametrize("phase", Phase)
def test_the_first_call_is_due(phase: Phase) -> None:
    """A rank is seen as soon as its loop turns."""
    assert PublishRule().due(0.0, phase=phase)


@pytest.mark.parametrize("interval", [1, 0, -7])
def test_small_intervals_act_as_one(interval: int) -> None:
    """An interval under 1 publishes at every busy call."""
    assert answers(started(interval=interval), [(0.0, False, Phase.BUSY)] * 3) == [True] * 3


def test_the_heartbeat_bounds_the_wait() -> None:
    """Slow steps do not wait for the interval."""
    assert answers(started(), [(0.999, False, Phase.BUSY), (1.0, False, Phase.BUSY), (1.5, False, Phase.BUSY)]) == [
        False,
        True,
        False,
    ]


def test_force_publishes_and_restarts_the_countdown() -> None:
    """After a forced publish the interval counts from the start."""
    calls = [(0.0, False, Phase.BUSY)] * 2 + [(0.0, True, Phase.BUSY)] + [(0.0, False, Phase.BUSY)] * 3

    assert answers(started(interval=3), calls) == [False, False, True, False, False, True]


def test_a_forcing_idle_loop_publishes_the_transition_and_the_heartbeat_only() -> None:
    """An idle loop that spins and forces 10,000 times a second publishes once per second."""
    calls = [(tick / 10_000, True, Phase.IDLE) for tick in range(30_000)]

    due = [now for (now, _, _), yes in zip(calls, answers(started(), calls), strict=True) if yes]

    assert due == [0.0, 1.0, 2.0]


def test_a_forcing_stalled_loop_publishes_every_stall_interval() -> None:
    """A loop that cannot run its queue publishes at most every 50 ms, forced or not."""
    calls = [(tick / 1000, bool(tick % 2), Phase.STALLED) for tick in range(1001)]

    due = [now for (now, _, _), yes in zip(calls, answers(started(), calls), strict=True) if yes]

    assert due[0] >= 0.05
    assert all(0.05 <= later - earlier < 0.052 for earlier, later in pairwise(due))
    assert len(due) >= 19


def test_a_transition_to_idle_is_told_at_once_even_when_the_last_publish_was_idle() -> None:
    """What was done between two idle passes ends up in a snapshot without waiting for the heartbeat."""
    calls = [(0.0, False, Phase.IDLE), (0.1, False, Phase.BUSY), (0.2, False, Phase.IDLE), (0.3, False, Phase.IDLE)]

    assert answers(started(), calls) == [True, False, True, False]


def test_a_publish_that_was_due_stays_due() -> None:
    """Nothing is forgotten because a publish failed, even if the later call alone would not be due."""
    rule = started()
    assert rule.due(0.1, force=True)

    assert rule.due(0.1)
    assert rule.due(0.1, phase=Phase.STALLED)
    rule.published(0.1)
    assert not rule.due(0.1)


@pytest.mark.parametrize("phase", ["sleeping", "", "BUSY", None, ["idle"]])
def test_an_unknown_phase_is_refused_and_changes_nothing(phase: Any) -> None:  # noqa: ANN401  wrong on purpose
    """The message lists the valid phases; the countdown and the last phase stand as before."""
    rule = started(interval=2)
    with pytest.raises(InvalidValue, match="valid phases: busy, idle, stalled"):
        rule.due(0.0, phase=phase)

    assert answers(rule, [(0.0, False, Phase.BUSY)] * 2) == [False, True]


def test_plain_strings_are_phases() -> None:
    """Hosts need not import the enum."""
    rule = started()

    assert rule.due(0.0, phase="idle")
    rule.published(0.0)
    assert not rule.due(0.0, phase=Phase.IDLE)


def test_the_heartbeat_bounds_a_stalled_loop_too() -> None:
    """A stall interval over the heartbeat acts as the heartbeat."""
    calls = [(0.9, False, Phase.STALLED), (1.0, False, Phase.STALLED), (1.5, False, Phase.STALLED)]

    assert answers(started(heartbeat=1.0, stall_interval=60.0), calls) == [False, True, False]


@pytest.mark.parametrize("interval", [None, "15", math.nan, 15.0])
def test_an_interval_that_is_no_whole_number_is_refused(interval: Any) -> None:  # noqa: ANN401  wrong on purpose
    """A countdown from it would end in an error at every call, or never."""
    with pytest.raises(InvalidValue, match="interval must be a whole number"):
        PublishRule(interval)


@pytest.mark.parametrize("options", [{"heartbeat": 0}, {"heartbeat": math.nan}, {"stall_interval": -0.1}])
def test_durations_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """A heartbeat of 0 or NaN seconds would silently publish always or never."""
    with pytest.raises(InvalidValue, match=next(iter(options))):
        PublishRule(**options)
