import math
import threading
import weakref
from typing import Any

import pytest

from publisher_bench import Bench, FakeWriter, warnings
from snapring.errors import ForkedHandle, HandleClosed, InvalidValue, SnapringError, WriterBusy
from snapring.publisher import Publisher


def test_publishes_what_collect_returns_only_when_due() -> None:
    """``collect`` runs once per publish, and the result says whether there was one."""
    bench = Bench(interval=3)

    assert [bench.tick(0.0) for _ in range(4)] == [True, False, False, True]
    assert bench.writer.values == [1, 2]
    assert len(bench.collects) == 2
    assert (bench.publisher.published, bench.publisher.failures, bench.publisher.last_error) == (2, 0, None)


def test_force_and_phase_reach_the_rules() -> None:
    """A forced tick publishes at once when busy and not when idle already."""
    bench = Bench(interval=100)
    bench.tick(0.0)

    assert bench.tick(0.0, force=True)
    assert bench.tick(0.0, phase="idle")
    assert not bench.tick(0.5, phase="idle", force=True)
    assert bench.tick(1.0, phase="idle")
    assert not bench.tick(1.04, phase="stalled")
    assert bench.tick(1.06, phase="stalled")


def test_the_writer_starts_at_the_first_due_tick() -> None:
    """Constructing a publisher opens nothing."""
    bench = Bench()
    assert bench.starts == []

    bench.tick(0.0)
    bench.tick(0.0)
    assert bench.starts == [0.0]


def test_a_failed_start_is_retried_once_per_retry_interval(caplog: pytest.LogCaptureFixture) -> None:
    """A rank whose ring cannot be opened yet publishes later, and does not try in every pass of its loop."""
    bench = Bench(retry=1.0)
    bench.start_error = WriterBusy("rank 3 is written by pid 7")
    for tick in range(25):
        assert not bench.tick(tick / 10)
    bench.start_error = None

    assert bench.tick(3.0)
    assert bench.starts == [0.0, 1.0, 2.0, 3.0]
    assert bench.collects == [3.0]
    assert bench.publisher.failures == 3
    assert bench.publisher.last_error == "WriterBusy: rank 3 is written by pid 7"
    assert len(warnings(caplog)) == 2
    assert "WriterBusy: rank 3" in warnings(caplog)[0]
    assert "publishing again; 3 failures" in warnings(caplog)[1]


def test_a_failed_publish_is_due_at_the_next_tick() -> None:
    """The value is collected anew: what goes out is the newest."""
    bench = Bench(interval=100)
    bench.tick(0.0)
    bench.writer.error = SnapringError("no")
    assert not bench.tick(0.1, force=True)
    bench.writer.error = None

    assert bench.tick(0.1)
    assert bench.writer.values == [1, 3]
    assert bench.starts == [0.0]
    assert not bench.tick(0.1)


@pytest.mark.parametrize("error", [HandleClosed("closed"), ForkedHandle("forked")])
def test_a_dead_handle_is_replaced(error: SnapringError) -> None:
    """A writer that was closed, or inherited through a fork, can never work again: a new one is made."""
    bench = Bench(retry=1.0)
    bench.tick(0.0)
    dead, dead.error, bench.writer = bench.writer, error, FakeWriter()

    assert [bench.tick(at) for at in (0.5, 0.6, 1.0)] == [False, False, True]
    assert bench.starts == [0.0, 1.0]
    assert len(bench.writer.values) == 1
    assert dead.closes == 0


def test_other_errors_keep_the_writer() -> None:
    """A bad snapshot must not cost the claim of the slot: ``collect`` may raise what looks like a dead handle."""
    bench = Bench()
    bench.tick(0.0)
    bench.collect_error = HandleClosed("some other handle")
    bench.tick(5.0)
    bench.collect_error = None
    bench.writer.error = InvalidValue("num_running_reqs is 2**70")
    bench.tick(10.0)
    bench.writer.error = None

    assert bench.tick(15.0)
    assert bench.starts == [0.0]


def test_the_native_heartbeat_starts_with_every_writer() -> None:
    """The beat belongs to the writer: a replacement gets its own, at the publisher's heartbeat."""
    bench = Bench(heartbeat_thread=True, heartbeat=0.25)
    bench.tick(0.0)
    first, first.error, bench.writer = bench.writer, HandleClosed("closed"), FakeWriter()
    bench.tick(2.0)
    bench.tick(4.0)

    assert (first.beats, bench.writer.beats) == ([0.25], [0.25])


def test_no_heartbeat_thread_unless_asked_for() -> None:
    """Threads are the host's decision."""
    bench = Bench()
    bench.tick(0.0)

    assert bench.writer.beats == []


def test_publishing_goes_on_without_a_heartbeat_that_did_not_start(caplog: pytest.LogCaptureFixture) -> None:
    """Snapshots matter more than the beat; the failure is counted and logged once."""
    bench = Bench(heartbeat_thread=True)
    bench.writer.beat_error = RuntimeError("no more threads")

    assert [bench.tick(0.0), bench.tick(0.1)] == [True, True]
    assert bench.publisher.failures == 1
    assert len(warnings(caplog)) == 1
    assert "no more threads" in warnings(caplog)[0]


def test_close_closes_the_writer_once_and_ends_the_ticks() -> None:
    """After close nothing is collected and no writer is made again."""
    with Bench().publisher as publisher:
        assert repr(publisher) == "<Publisher not started, published=0, failures=0>"
    bench = Bench()
    with bench.publisher:
        bench.tick(0.0)
        assert repr(bench.publisher) == "<Publisher publishing, published=1, failures=0>"
    bench.publisher.close()

    assert not bench.tick(9.0, force=True)
    assert (bench.writer.closes, bench.collects, bench.starts) == (1, [0.0], [0.0])
    assert repr(bench.publisher) == "<Publisher closed, published=1, failures=0>"


def test_closing_while_the_writer_starts_gives_the_slot_back() -> None:
    """A signal handler may close the publisher amid the factory: the writer is closed, and nothing collected."""

    def start() -> FakeWriter:
        publisher.close()
        return writer

    writer, publisher = FakeWriter(), Publisher(start, clock=lambda: 0.0)

    assert not publisher.tick(pytest.fail)
    assert (writer.closes, writer.values, publisher.failures) == (1, [], 0)
    assert repr(publisher) == "<Publisher closed, published=0, failures=0>"


@pytest.mark.parametrize(
    "options",
    [
        {"interval": None},
        {"heartbeat": 0.0},
        {"heartbeat": math.inf, "heartbeat_thread": True},
        {"stall_interval": math.nan},
        {"retry": -1.0},
    ],
)
def test_settings_out_of_range_are_refused_at_construction(options: dict[str, Any]) -> None:
    """Only the constructor raises: a wrong setting is seen when the server starts."""
    with pytest.raises(InvalidValue, match=next(iter(options))):
        Publisher(FakeWriter, **options)


def test_makes_no_thread_and_no_reference_cycle() -> None:
    """A publisher is plain state: dropping it frees the writer at once, and with it the claim of the slot."""
    threads = threading.active_count()
    publisher = Publisher(FakeWriter, clock=lambda: 0.0)
    assert publisher.tick(object)
    writer = weakref.ref(publisher._writer)
    assert threading.active_count() == threads

    del publisher
    assert writer() is None
