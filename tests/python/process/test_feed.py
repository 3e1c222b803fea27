import os
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from meta.tree import ROOT
from process.subscriber import Router
from snapring import LoadSnapshot, Publisher
from snapring.errors import HandleClosed, InvalidValue, SystemRefused
from snapring.feed import LoadFeed
from support import eventually

FREE = "tcp://127.0.0.1:0"
ALL = "0.0.0.0"  # noqa: S104  refused without keys, or open for a moment
GOLDEN = ROOT / "tests" / "data" / "feed_message.bin"


class Clock:
    """Seconds, set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of ``feed``."""
    return Clock()


@pytest.fixture
def feed(clock: Clock) -> Iterator[LoadFeed]:
    """The feed of rank 3 on a free port."""
    with LoadFeed(FREE, 3, clock=clock) as feed:
        yield feed


@pytest.fixture
def router() -> Iterator[Router]:
    """Whoever subscribes."""
    with closing(Router()) as router:
        yield router


def count(what: str) -> int:
    """Entries of a directory of /proc/self: ``task`` or ``fd``."""
    return len(list(Path("/proc/self", what).iterdir()))


def ports_of(feeds: list[LoadFeed]) -> list[int]:
    """The ports of the feeds."""
    return [int(feed.endpoint.rpartition(":")[2]) for feed in feeds]


def test_the_bytes_of_a_message(feed: LoadFeed, router: Router) -> None:
    """Topic, big-endian sequence and positional payload are the stored ones: other programs rely on them."""
    subscriber = router.follow(feed.endpoint)
    sequence = subscriber.join(feed)
    while sequence < 257:
        sequence = feed.publish(LoadSnapshot(num_used_tokens=sequence))
        subscriber.receive_until(sequence)

    feed.publish(LoadSnapshot(num_running_reqs=1, num_waiting_reqs=300, max_total_num_tokens=70_000))
    found = subscriber.receive_raw()

    if os.environ.get("SNAPRING_TEST_WRITE"):  # after a wanted change
        GOLDEN.write_bytes(b"".join(found))
    assert b"".join(found) == GOLDEN.read_bytes()
    assert found[:2] == [b"load", struct.pack(">Q", 258)]


def test_every_change_is_sent_and_numbered(feed: LoadFeed, router: Router) -> None:
    """Each load that differs goes out at once, in order, with the next sequence, which publish returns."""
    subscriber = router.follow(feed.endpoint)
    start = subscriber.join(feed)

    for number in range(1, 101):
        sequence = feed.publish(LoadSnapshot(num_running_reqs=number))
        message = subscriber.receive()
        assert (message.topic, message.sequence, sequence) == (b"load", start + number, start + number)
        assert message.load == ["LoadStat", number, 0, 0, None, 3, None, 0, None, None, None]


def test_equal_loads_are_a_heartbeat(feed: LoadFeed, clock: Clock, router: Router) -> None:
    """A load that has not changed is sent again once a second and not in between; the clock of a change starts anew."""
    subscriber = router.follow(feed.endpoint)
    start = subscriber.join(feed)
    times = [0.0, 0.3, 0.6, 0.9, 1.0, 1.1, 1.9, 2.0, 2.5, 3.1]

    sequences = []
    for time in times:
        clock.now = 200.0 + time
        sequences.append(feed.publish(LoadSnapshot(num_running_reqs=7)) - start)
    clock.now += 0.01
    last = feed.publish(LoadSnapshot(num_running_reqs=8))

    assert sequences == [1, 1, 1, 1, 2, 2, 2, 3, 3, 4]
    received = [subscriber.receive() for _ in range(5)]
    assert [message.load[1] for message in received] == [7, 7, 7, 7, 8]
    assert received[-1].sequence == last
    assert not subscriber.has_message()


def test_a_publishers_heartbeat_is_heard(clock: Clock, router: Router) -> None:
    """The throttle of a Publisher and that of a feed never add up to two heartbeats, however long a collect takes."""
    with LoadFeed(FREE, 0, clock=clock) as feed, Publisher(lambda: feed, heartbeat=1.0, clock=clock) as publisher:

        def collect(takes: float) -> LoadSnapshot:
            clock.now += takes
            return LoadSnapshot(num_running_reqs=1)

        assert publisher.tick(lambda: collect(0.02), phase="idle")
        sequences = []
        for tick in range(1, 6):
            clock.now = 100.0 + tick * 1.0001
            assert publisher.tick(lambda: collect(0.0), phase="idle")
            sequences.append(feed.publish(LoadSnapshot(num_running_reqs=1)))

    assert sequences == [2, 3, 4, 5, 6]


def test_a_native_thread_shows_life(feed: LoadFeed, router: Router) -> None:
    """start_heartbeat repeats the last load without any call, and a publish of the same load is not sent on top."""
    subscriber = router.follow(feed.endpoint)
    subscriber.join(feed)
    sent = feed.publish(LoadSnapshot(num_running_reqs=5))
    subscriber.receive_until(sent)

    feed.start_heartbeat(0.01)
    beats = [subscriber.receive() for _ in range(5)]
    again = feed.publish(LoadSnapshot(num_running_reqs=5))

    assert [message.sequence for message in beats] == [sent + number for number in range(1, 6)]
    assert {message.load[1] for message in beats} == {5}
    assert again >= beats[-1].sequence
    changed = feed.publish(LoadSnapshot(num_running_reqs=6))
    assert subscriber.receive_until(changed).load[1] == 6


@pytest.mark.parametrize("interval", [0.0, -1.0, float("nan"), 1e6])
def test_intervals_of_heartbeats(feed: LoadFeed, interval: float) -> None:
    """An interval that no clock can keep is refused."""
    with pytest.raises(InvalidValue, match="seconds above 0"):
        feed.start_heartbeat(interval)


def test_a_stuck_subscriber_holds_up_nobody(feed: LoadFeed, router: Router) -> None:
    """A subscriber that takes nothing loses messages, whole ones only; the publisher and the others do not notice."""
    stuck = router.follow(feed.endpoint, rcvhwm=1, rcvbuf=4096)
    stuck.join(feed)
    for number in range(100_000):
        last = feed.publish(LoadSnapshot(num_running_reqs=number))

    other = router.follow(feed.endpoint)
    other.join(feed)
    sequence = feed.publish(LoadSnapshot(num_running_reqs=1))
    assert other.receive_until(sequence).load[1] == 1

    received = [stuck.receive()]
    while stuck.has_message(1000):
        received.append(stuck.receive())
    assert len(received) < 100_000 < last
    assert [message.sequence for message in received] == sorted({message.sequence for message in received})
    assert {len(message.load) for message in received} == {11}


def test_a_port_for_each_rank(router: Router) -> None:
    """The ports follow the base in the order of ranks, with shared threads too, and each carries its own rank only."""
    feeds = eventually(lambda: consecutive(3))
    try:
        first = ports_of(feeds)[0]
        assert ports_of(feeds) == [first, first + 1, first + 2]
        for rank, feed in enumerate(feeds):
            subscriber = router.follow(feed.endpoint)
            subscriber.join(feed)
            feed.publish(LoadSnapshot())
            assert subscriber.receive().load[5] == rank
    finally:
        for feed in feeds:
            feed.close()


def consecutive(count: int) -> list[LoadFeed]:
    """Feeds of that many ranks, the later ones beside the first; none when somebody else has one of the ports."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        base = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    feeds: list[LoadFeed] = []
    try:
        for rank in range(count):
            feeds.append(LoadFeed(base, rank, beside=feeds[0] if feeds else None))
    except (SystemRefused, InvalidValue):
        for feed in feeds:
            feed.close()
        return []
    return feeds


def test_threads_are_shared_beside() -> None:
    """A feed beside another starts no thread of its own, and outlives it."""
    with LoadFeed(FREE, 0) as first:
        before = count("task")
        second = LoadFeed(FREE, 1, beside=first)
        after = count("task")
    with second:
        second.publish(LoadSnapshot())

        assert after == before
        assert second.publish(LoadSnapshot(num_running_reqs=1)) == 2
    with pytest.raises(HandleClosed):
        LoadFeed(FREE, 1, beside=first)


def test_close_frees_port_threads_and_descriptors() -> None:
    """The same port can be had again at once, and nothing is left behind."""
    with LoadFeed(FREE, 0) as feed:
        endpoint = feed.endpoint
    threads, descriptors = count("task"), count("fd")

    for _ in range(10):
        with LoadFeed(endpoint, 0) as feed:
            feed.publish(LoadSnapshot())

    assert count("task") == threads
    assert count("fd") == descriptors


def test_a_closed_feed_says_so(feed: LoadFeed) -> None:
    """Every call after close names the fix, equal loads too; closing twice is no error."""
    feed.publish(LoadSnapshot())
    feed.close()
    feed.close()

    for call in (lambda: feed.publish(LoadSnapshot()), lambda: feed.start_heartbeat(1.0)):
        with pytest.raises(HandleClosed, match="open a new one"):
            call()


def test_another_rank_is_refused(feed: LoadFeed) -> None:
    """A load that names another rank is a mistake; one that names none, or too large a number, is told apart."""
    with pytest.raises(InvalidValue, match="dp_rank is 4, and this is the feed of rank 3"):
        feed.publish(LoadSnapshot(dp_rank=4))
    with pytest.raises(InvalidValue, match="64 bits"):
        feed.publish(LoadSnapshot(num_used_tokens=2**64))

    assert feed.publish(LoadSnapshot(dp_rank=3)) == 1


def test_zero_for_unknown(router: Router) -> None:
    """For routers that take integers only, what is not reported can be sent as 0."""
    with LoadFeed(FREE, 1, unknown_as_zero=True) as feed:
        subscriber = router.follow(feed.endpoint)
        subscriber.join(feed)
        feed.publish(LoadSnapshot())

        assert subscriber.receive().load == ["LoadStat", 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_a_taken_port_is_named() -> None:
    """Two feeds on one port are refused by the system, in words that say what to do."""
    with LoadFeed(FREE, 0) as feed, pytest.raises(SystemRefused, match="choose a free port") as caught:
        LoadFeed(feed.endpoint, 0)

    assert caught.value.errno == 98


@pytest.mark.parametrize("host", [ALL, "[::]", "10.1.2.3", "[2001:db8::1]", "example.com"])
def test_other_hosts_need_keys(host: str) -> None:
    """Where other hosts can connect, keys are asked for before anything is opened, or a clear word."""
    with pytest.raises(InvalidValue, match=r"can be reached from other hosts.*key=, clients=.*insecure=True"):
        LoadFeed(f"tcp://{host}:0", 0)


def test_insecure_is_a_clear_word(router: Router) -> None:
    """With it the feed listens on all interfaces."""
    with LoadFeed(f"tcp://{ALL}:0", 0, insecure=True) as feed:
        subscriber = router.follow(feed.endpoint.replace(ALL, "127.0.0.1"))

        assert subscriber.join(feed) >= 1


def test_a_publisher_survives_a_feed_that_fails() -> None:
    """A port that is taken, and a feed that was closed behind its back, are retried and never raised into the host."""
    taken = LoadFeed(FREE, 0)
    made: list[LoadFeed] = []

    def factory() -> LoadFeed:
        made.append(LoadFeed(taken.endpoint, 0))
        return made[-1]

    with Publisher(factory, interval=1, retry=0.0, stall_interval=0.0) as publisher:
        assert not publisher.tick(LoadSnapshot)
        assert publisher.last_error is not None
        assert publisher.last_error.startswith("SystemRefused: ")
        taken.close()
        assert publisher.tick(LoadSnapshot)
        made[-1].close()
        assert not publisher.tick(LoadSnapshot)
        assert not publisher.tick(lambda: LoadSnapshot(dp_rank=9))
        assert publisher.tick(LoadSnapshot)

    assert len(made) == 2
    assert (publisher.published, publisher.failures) == (2, 3)
    with pytest.raises(HandleClosed):
        made[-1].publish(LoadSnapshot())
