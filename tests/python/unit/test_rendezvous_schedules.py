"""Syncs in a virtual world: thousands of schedules with late, dead and restarted ranks, and exact deadlines."""

import os
import random
import re
from collections import defaultdict
from collections.abc import Callable

import pytest

from snapring.errors import RendezvousFailed, RendezvousTimeout
from snapring.rendezvous import patience, sync_from_leader
from virtual import Actor, VirtualGroup, VirtualStore, World

SYNCS = int(os.environ.get("SNAPRING_SYNCS") or 120) // 5  # for each of the five tests
LATEST_S = 300.0
GRACE_S = 1.0

EXPLAINED = re.compile(r"waited \d+\.\d s at virtual store 10\.0\.0\.1:1: .*(rank|leader).*; last error: .+")


class Case:
    """One world of 2 to 64 ranks, few large ones, with one store and one deadline for all."""

    def __init__(self, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rng = rng
        self.size = int(2 ** rng.uniform(1, 6.01))
        self.timeout = rng.choice([0.5, 5.0, 30.0] if self.size > 8 else [0.5, 5.0, 30.0, LATEST_S])
        self.world = World(rng)
        self.store = VirtualStore(self.world, rng.choice([1e-4, 1e-3, 1e-2]))
        self.actors: list[Actor] = []
        self.lives: defaultdict[int, list[Actor]] = defaultdict(list)
        self.leaders: dict[object, Actor] = {}
        monkeypatch.setattr(patience, "time", self.world)
        monkeypatch.setattr(patience, "random", rng)  # of the pauses; each schedule is its seed's

    def add(self, rank: int, value: object, starts: float, dies: float = float("inf")) -> Actor:
        """One incarnation of a rank."""
        group = VirtualGroup(self.store, rank, self.size)
        actor = Actor(lambda: sync_from_leader(value, group, self.timeout), starts, dies)
        self.actors.append(actor)
        self.lives[rank].append(actor)
        if rank == 0:
            self.leaders[value] = actor
        return actor

    def run(self) -> None:
        """Runs all. Whatever happened, ends are in time, typed and explained.

        The newest incarnations never have two values. A second value can be returned at all only where every rank began
        anew after the first. Each value's leader was alive when those who returned it began.
        """
        self.world.run(self.actors)
        for actor in self.actors:
            if not actor.died:
                assert actor.error is None or isinstance(actor.error, RendezvousFailed), repr(actor.error)
                assert actor.ended <= actor.starts + self.timeout + GRACE_S
            if isinstance(actor.error, RendezvousTimeout):
                assert EXPLAINED.search(str(actor.error)), str(actor.error)
        returned = [actor for actor in self.actors if actor.error is None]
        newest = [max(lives, key=lambda actor: actor.starts) for lives in self.lives.values()]
        assert len({actor.result for actor in newest if actor.error is None}) <= 1
        assert len({actor.result for actor in returned}) <= min(len(lives) for lives in self.lives.values())
        assert all(self.leaders[actor.result].ended >= actor.starts for actor in returned)


def moments(rng: random.Random) -> Callable[[float], float]:
    """Draws times up to a limit, early ones as likely as late ones."""
    return lambda limit: limit * 10 ** rng.uniform(-5, 0)


@pytest.fixture(params=range(4))
def share(request: pytest.FixtureRequest) -> range:
    """A quarter of the schedules."""
    return range(request.param, SYNCS, 4)


def test_late_ranks_meet(share: range, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late ranks come within the deadline, leader or not, all return the leader's value."""
    for number in share:
        case = Case(random.Random(f"{rng.random()} {number}"), monkeypatch)
        late = moments(case.rng)
        spare = 1.0 + 400 * case.store.latency  # for the round trips after the last has come
        latest = max(0.0, case.timeout - spare)
        for rank in range(case.size):
            case.add(rank, rank, late(latest) if latest else 0.0)
        if not latest:
            case.timeout += spare

        case.run()

        assert [actor.result for actor in case.actors] == [0] * case.size, [actor.error for actor in case.actors]


def test_without_a_leader(share: range, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the leader dead before it offers, no follower returns a value, and each says so in time."""
    for number in share:
        case = Case(random.Random(f"{rng.random()} {number}"), monkeypatch)
        for rank in range(1, case.size):
            case.add(rank, rank, moments(case.rng)(case.timeout))

        case.run()

        assert all(isinstance(actor.error, RendezvousTimeout) for actor in case.actors)
        assert all("rank 0, made no offer" in str(actor.error) for actor in case.actors)


def test_missing_ranks_are_named(share: range, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a follower missing, nobody returns a value, and the leader names the missing rank."""
    for number in share:
        case = Case(random.Random(f"{rng.random()} {number}"), monkeypatch)
        case.timeout = 5.0
        absent = case.rng.randrange(1, case.size)
        for rank in range(case.size):
            if rank != absent:
                case.add(rank, rank, 0.0)

        case.run()

        assert all(isinstance(actor.error, RendezvousFailed) for actor in case.actors)
        assert f"rank {absent} did not answer" in str(case.actors[0].error)


def test_deaths_and_restarts(share: range, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks die at any moment and restart, the leader with another value; the store fails: one value at a time."""
    agreed = 0
    for number in share:
        case = Case(random.Random(f"{rng.random()} {number}"), monkeypatch)
        late = moments(case.rng)
        if case.rng.random() < 0.3:
            begin = late(case.timeout)
            case.store.outage = (begin, begin + late(case.timeout))
        for rank in range(case.size):
            starts = late(case.timeout)
            for life in range(case.rng.choice([1, 1, 2, 3] if rank == 0 or case.rng.random() < 0.1 else [1])):
                dies = starts + late(case.timeout) if case.rng.random() < 0.5 / (1 + rank) else float("inf")
                case.add(rank, f"value {rank}.{life}", starts, dies)
                starts = min(dies, starts + late(case.timeout)) + late(case.timeout)

        case.run()

        agreed += any(actor.error is None for actor in case.actors)
    print(f"{agreed} of {len(share)} schedules agreed")


def test_two_leaders(share: range, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two living leaders with different values at most one agrees, and all who return have its value."""
    for number in share:
        case = Case(random.Random(f"{rng.random()} {number}"), monkeypatch)
        case.timeout = 5.0
        for rank in range(1, case.size):
            case.add(rank, rank, 0.0)
        close = 10 * case.store.latency
        leaders = [case.add(0, f"leader {name}", case.rng.uniform(0.0, close)) for name in "ab"]

        case.run()

        assert sum(leader.error is None for leader in leaders) <= 1
