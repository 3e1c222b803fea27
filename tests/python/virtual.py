"""A world with a clock of its own: actors are threads of which one runs at a time, and waiting costs nothing.

Each call to the store and each sleep is a point at which the clock moves on, others run, and an actor may die. So a
schedule of minutes takes milliseconds, is the same for the same seed, and deadlines can be judged exactly.
"""

import heapq
import random
import threading
from collections.abc import Callable

from snapring.errors import StoreUnavailable


class Died(BaseException):  # a death is nothing that code could catch by mistake
    pass


class Actor:
    """One process of the world: when it starts and dies, how it ended, and at what time."""

    def __init__(self, work: Callable[[], object], starts: float, dies: float = float("inf")) -> None:
        self.work, self.starts, self.dies = work, starts, dies
        self.go = threading.Semaphore(0)
        self.result: object = None
        self.error: BaseException | None = None
        self.ended = float("nan")

    @property
    def died(self) -> bool:
        return isinstance(self.error, Died)


class World:
    """Runs actors; stands in for the module ``time`` where they wait."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.now = rng, 0.0
        self._back = threading.Semaphore(0)
        self._queue: list[tuple[float, int, Actor]] = []
        self._count = 0
        self._local = threading.local()

    def monotonic(self) -> float:
        """The world's clock, seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Lets others run until the clock has moved on; the end of an actor whose time has come."""
        actor: Actor = self._local.actor
        self._wake(actor, min(self.now + seconds, max(actor.dies, self.now)))
        self._back.release()
        actor.go.acquire()
        if self.now >= actor.dies:
            raise Died

    def run(self, actors: list[Actor]) -> None:
        """Runs all of them to their ends."""
        threads = [threading.Thread(target=self._live, args=(actor,)) for actor in actors]
        for thread in threads:
            thread.start()
        for actor in actors:
            self._wake(actor, actor.starts)
        while self._queue:
            self.now, _, actor = heapq.heappop(self._queue)
            actor.go.release()
            self._back.acquire()
        for thread in threads:
            thread.join()

    def _wake(self, actor: Actor, when: float) -> None:
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, actor))

    def _live(self, actor: Actor) -> None:
        self._local.actor = actor
        actor.go.acquire()
        try:
            actor.result = actor.work()
        except (Exception, Died) as error:  # noqa: BLE001  the test looks at it
            actor.error = error
        actor.ended = self.now
        self._back.release()


class VirtualStore:
    """What all groups of a world share: entries, and times of outage in which nothing answers."""

    def __init__(self, world: World, latency: float, outage: tuple[float, float] = (0.0, 0.0)) -> None:
        self.world, self.latency, self.outage = world, latency, outage
        self.entries: dict[tuple[str, int], tuple[bytes, float]] = {}

    def trip(self, timeout: float) -> None:
        """One way to the store or back; a timeout during an outage."""
        begin, end = self.outage
        if begin <= self.world.now < end:
            self.world.sleep(timeout)
            raise StoreUnavailable("an outage")
        mean = self.latency * (50 if self.world.rng.random() < 0.05 else 1)  # now and then a packet is late
        self.world.sleep(min(timeout, self.world.rng.expovariate(1 / mean)))

    def get(self, folder: str, rank: int) -> bytes | None:
        entry, ends = self.entries.get((folder, rank), (None, 0.0))
        return entry if self.world.now < ends else None


class VirtualGroup:
    """A group on a virtual store: each call travels, happens at one instant, and travels back."""

    def __init__(self, store: VirtualStore, rank: int, size: int) -> None:
        self.store, self.rank, self.size, self.job = store, rank, size, "job"

    def describe(self) -> str:
        return "virtual store 10.0.0.1:1"

    def read(self, folder: str, rank: int, timeout: float) -> bytes | None:
        self.store.trip(timeout / 2)
        found = self.store.get(folder, rank)
        self.store.trip(timeout / 2)
        return found

    def read_all(self, folder: str, timeout: float) -> dict[int, bytes]:
        self.store.trip(timeout / 2)
        ranks = [rank for place, rank in self.store.entries if place == folder]
        found = {rank: entry for rank in ranks if (entry := self.store.get(folder, rank)) is not None}
        self.store.trip(timeout / 2)
        return found

    def swap(
        self, folder: str, rank: int, old: bytes | None, new: bytes | None, timeout: float, *, ttl: float | None = None
    ) -> bool:
        self.store.trip(timeout / 2)
        done = self.store.get(folder, rank) in {old, new}
        if done and new is None:
            self.store.entries.pop((folder, rank), None)
        elif done and new is not None:
            self.store.entries[folder, rank] = (new, self.store.world.now + (float("inf") if ttl is None else ttl))
        self.store.trip(timeout / 2)
        return done
