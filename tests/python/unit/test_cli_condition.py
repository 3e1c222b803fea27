from typing import Any

import pytest

from snapring.cli.condition import parse
from snapring.errors import InvalidValue

Rank = dict[str, Any]

RANKS: list[Rank] = [
    {"waiting": 0, "queues.waiting": 2, "usage": 0.5, "state": "LIVE", "role": None, "busy": True},
    {"waiting": 3, "queues.waiting": 2, "usage": None, "state": "DEAD", "role": None, "busy": True},
]


@pytest.mark.parametrize(
    "text",
    [
        "waiting<=3",
        "waiting >= 0",
        "all(waiting)!=7",
        "any(waiting)==0",
        "any(state)==DEAD",
        "any(state)==dead",
        "any( state ) != 'DEAD'",
        "sum(waiting)==3",
        "min(waiting)==0",
        "max(waiting)>2.5",
        "queues.waiting==2",
        "sum(usage)==0.5",
        "min(usage)<1",
        "any(usage)==none",
        "role==None",
        "busy==true",
        "waiting>-1",
    ],
)
def test_holds(text: str) -> None:
    """A condition speaks of all ranks, of any, or of a total over those that report the field."""
    assert parse(text).holds(RANKS)


@pytest.mark.parametrize(
    "text",
    [
        "waiting==0",
        "waiting<3",
        "any(waiting)>3",
        "sum(waiting)!=3",
        "usage<1",
        "usage==none",
        "usage!=none",
        "sum(role)==0",
        "max(role)<9",
        "absent==0",
        "busy==false",
        "state==LIVE",
        "all(state)!=live",
    ],
)
def test_does_not_hold(text: str) -> None:
    """One rank that differs, or does not report the field, is enough; a total of nothing is nothing."""
    assert not parse(text).holds(RANKS)


@pytest.mark.parametrize("text", ["a==0", "any(a)!=1", "sum(a)==0", "a==none"])
def test_nothing_holds_of_no_rank(text: str) -> None:
    """While there is no rank to ask, no condition holds."""
    assert not parse(text).holds([])


@pytest.mark.parametrize("text", ["", "a", "a=0", "a==", "==0", "avg(a)==1", "sum(a==0", "a b==0", "a()==0"])
def test_no_conditions(text: str) -> None:
    """What is no condition is refused with one that is."""
    with pytest.raises(ValueError, match="num_waiting_reqs==0"):
        parse(text)


@pytest.mark.parametrize("text", ["state<3", "max(state)>1", "sum(state)==1", "waiting<many"])
def test_unequal_kinds(text: str) -> None:
    """Comparing text with numbers is an error that shows both, not a condition that never holds."""
    with pytest.raises(InvalidValue, match="compares"):
        parse(text).holds(RANKS)
