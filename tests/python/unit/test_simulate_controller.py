"""Where a controller sends requests and when, told by a real ring and a clock of the test's own."""

from pathlib import Path

from snapring import Reader
from snapring.simulate import Request, SimulatedLoad
from snapring.simulate.channel import FromRank
from snapring.simulate.cluster import Cluster, Ended
from snapring.simulate.controller import Controller
from snapring.simulate.rank_process import Place


class Clock:
    """Time that passes only while a cluster is asked for reports."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class FakeCluster(Cluster):
    """Ranks without a process, all ready; ``sent`` holds time, rank and id of each request."""

    def __init__(self, ranks: int, clock: Clock) -> None:
        super().__init__("c", ranks)
        self.clock = clock
        self.sent: list[tuple[float, int, int]] = []

    def reader(self) -> Reader[SimulatedLoad]:
        """A reader to which a rank is live however slow the machine."""
        return Reader(self.name, schema=SimulatedLoad, job=self.job, max_age=86_400.0)

    def is_ready(self, rank: int) -> bool:
        return True

    def send(self, rank: int, request: Request) -> None:
        self.sent.append((self.clock.now_s, rank, request.id))

    def poll(self, timeout_s: float) -> list[tuple[int, FromRank | Ended]]:
        self.clock.now_s += timeout_s
        return []


def serve(arrivals: list[Request], tokens: list[int], speed: float = 1.0) -> list[tuple[float, int, int]]:
    """What a controller sends when the ring says that rank ``r`` holds ``tokens[r]``, which never changes."""
    cluster = FakeCluster(len(tokens), Clock())
    writers = [Place("c", rank, len(tokens), cluster.job).writer() for rank in range(len(tokens))]
    try:
        for writer, held in zip(writers, tokens, strict=True):
            writer.publish(SimulatedLoad(num_total_tokens=held, num_running_reqs=1))
        with Controller(cluster, arrivals, speed=speed, clock=cluster.clock) as controller:
            controller.begin()
            for _ in arrivals:
                controller.turn(60.0)
    finally:
        for writer in writers:
            writer.close()
        cluster.stop()
    return cluster.sent


def chosen(sent: list[tuple[float, int, int]]) -> list[int]:
    """The ranks that got requests, in order of sending."""
    return [rank for _, rank, _ in sent]


def burst(count: int) -> list[Request]:
    """Requests of 100 prompt tokens that arrive together."""
    return [Request(0.0, 100, 10, number) for number in range(count)]


def test_requests_go_where_the_ring_says_are_the_least_tokens(ring_dir: Path) -> None:
    """A rank that publishes 50,000 tokens gets nothing while another, with all that was sent to it, has fewer."""
    first_full = serve(burst(30), tokens=[50_000, 0])
    second_full = serve(burst(30), tokens=[0, 50_000])

    assert chosen(first_full) == [1] * 30
    assert chosen(second_full) == [0] * 30


def test_what_was_sent_counts_until_the_ring_tells(ring_dir: Path) -> None:
    """Tokens sent since a rank's last snapshot count like those in it: the emptier rank is filled up, then both."""
    sent = serve(burst(6), tokens=[250, 0])

    assert chosen(sent[:3]) == [1, 1, 1]
    assert chosen(sent).count(0) == 2


def test_speed_divides_the_times_of_arrival(ring_dir: Path) -> None:
    """At speed 10 a request that arrives after 20 s is sent after 2 s, and not before; at speed 1 after 20 s."""
    arrivals = [Request(second, 100, 10, number) for number, second in enumerate([0.0, 10.0, 20.0])]

    fast = serve(arrivals, tokens=[0], speed=10.0)
    plain = serve(arrivals, tokens=[0])

    assert fast == [(100.0, 0, 0), (101.0, 0, 1), (102.0, 0, 2)]
    assert plain == [(100.0, 0, 0), (110.0, 0, 1), (120.0, 0, 2)]
