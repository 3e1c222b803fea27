import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from command import LONG, start
from process.subscriber import Router, Subscriber
from snapring import LoadSnapshot, Reader, State, Writer
from snapring.ring_feed import RingFeed
from support import eventually

FREE = "tcp://127.0.0.1:0"


@pytest.fixture
def router() -> Iterator[Router]:
    """Whoever subscribes."""
    with closing(Router()) as router:
        yield router


def test_living_ranks_are_heard_and_dead_ones_are_silent(ring_dir: Path, router: Router) -> None:
    """A change goes out with the next step, a living rank is repeated every second, a dead one never again."""
    now = 0.0
    with ExitStack() as stack:
        writers = [stack.enter_context(Writer("box", rank, 3)) for rank in range(2)]
        reader = stack.enter_context(Reader[LoadSnapshot]("box", max_age=1e6))
        feed = stack.enter_context(RingFeed(reader, FREE, clock=lambda: now))
        assert len(feed.endpoints) == 3
        subscribers = [router.follow(endpoint) for endpoint in feed.endpoints]
        for rank in range(2):
            publish_until_heard(writers[rank], feed, subscribers[rank])

        writers[1].publish(LoadSnapshot(num_running_reqs=7))
        assert 0 < feed.step() <= 0.25
        changed = eventually(lambda: subscribers[1].has_message(10) and subscribers[1].receive())
        assert (changed.load[1], changed.load[5]) == (7, 1)

        writers[1].close()
        eventually(lambda: (found := reader.read(1)) is not None and found.state is State.DEAD)
        repeats = []
        for tick in range(1, 9):
            now = tick * 1.0
            feed.step()
            repeats.append(subscribers[0].receive())
        assert [message.sequence - repeats[0].sequence for message in repeats] == list(range(8))
        assert not subscribers[1].has_message()
        assert not subscribers[2].has_message()
        assert feed.failures == 0


def publish_until_heard(writer: "Writer[LoadSnapshot]", feed: RingFeed, subscriber: Subscriber) -> None:
    """Until the subscription has arrived; then what is left is taken."""
    number = 0

    def heard() -> bool:
        nonlocal number
        number += 1
        writer.publish(LoadSnapshot(num_used_tokens=number))
        feed.step()
        return subscriber.has_message(10)

    eventually(heard)
    while subscriber.receive().load[3] != number:
        pass


def test_the_command(ring_dir: Path, router: Router) -> None:
    """``snapring feed`` says where each rank is published, sends changes, and ends in order at Ctrl-C."""
    with (
        Writer[LoadSnapshot]("box", rank=1, ranks=2) as writer,
        start("feed", "box", *LONG, "--json", "--endpoint", FREE) as command,
    ):
        assert command.stdout is not None
        begun = json.loads(command.stdout.readline())
        assert (begun["name"], len(begun["endpoints"])) == ("box", 2)
        subscriber = router.follow(begun["endpoints"][1])
        number = 0

        def heard() -> bool:
            nonlocal number
            number += 1
            writer.publish(LoadSnapshot(num_running_reqs=number))
            return subscriber.has_message(10)

        eventually(heard)
        while subscriber.receive().load[1] != number:
            pass

        command.send_signal(signal.SIGINT)
        assert command.wait(timeout=60) == 0
        assert command.stderr is not None
        assert command.stderr.read() == ""


@pytest.mark.parametrize(
    ("endpoint", "code"), [("tcp://0.0.0.0:5600", 2), ("ipc:///tmp/feed", 2), ("tcp://127.0.0.1:65535", 2)]
)
def test_the_command_refuses(ring_dir: Path, endpoint: str, code: int) -> None:
    """Addresses that others reach need keys, and all ranks need a port; nothing is printed but the reason."""
    with (
        Writer[LoadSnapshot]("box", rank=0, ranks=2),
        start("feed", "box", "--endpoint", endpoint) as command,
    ):
        out, error = command.communicate(timeout=60)

        assert (command.returncode, out) == (code, "")
        assert error.startswith("snapring: ")
