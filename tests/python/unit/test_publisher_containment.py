import logging
import weakref

import pytest

from publisher_bench import Bench, FakeWriter, warnings
from snapring.errors import SnapringError
from snapring.publisher import Publisher


@pytest.mark.parametrize("broken", ["collect_error", "writer"])
def test_a_lasting_failure_does_not_cost_a_collect_in_every_pass(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    """One retry at once, then one per stall interval; one warning however long it lasts."""
    bench = Bench(stall_interval=0.05)
    if broken == "writer":
        bench.writer.error = SnapringError("no room")
    else:
        bench.collect_error = KeyError("batch")
    for tick in range(1000):
        assert not bench.tick(tick / 1000)

    assert 19 <= len(bench.collects) <= 22
    assert bench.collects[:2] == [0.0, 0.001]
    assert len(bench.collects) == bench.publisher.failures
    assert len(warnings(caplog)) == 1


def test_every_episode_logs_its_begin_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """Two lines per episode, and a publish ends the episode and its pacing."""
    bench = Bench()
    for start in (0.0, 10.0):
        bench.collect_error = ValueError("odd")
        for tick in range(5):
            assert not bench.tick(start + tick)
        bench.collect_error = None
        assert bench.tick(start + 5)
        assert bench.tick(start + 5)

    assert [
        next(part for part in ("failed (ValueError: odd)", "again; 5 ", "again; 10 ") if part in line)
        for line in warnings(caplog)
    ] == ["failed (ValueError: odd)", "again; 5 ", "failed (ValueError: odd)", "again; 10 "]


@pytest.mark.parametrize(("level", "traceback"), [(logging.DEBUG, True), (logging.INFO, False)])
def test_the_traceback_is_shown_at_debug_level(level: int, traceback: bool, caplog: pytest.LogCaptureFixture) -> None:
    """One line normally; who debugs gets to see where it came from."""
    bench = Bench()
    bench.collect_error = ValueError("odd")
    with caplog.at_level(level, "snapring.publisher"):
        bench.tick(0.0)

    assert traceback == bool(caplog.records[0].exc_info)


def test_an_unknown_phase_is_a_failure_not_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    """Even a wrong argument does not reach the host; the message names the valid phases."""
    bench = Bench()

    assert not bench.tick(0.0, phase="sleeping")
    assert not bench.tick(0.0, phase=["idle"])
    assert bench.collects == []
    assert bench.publisher.failures == 2
    assert len(warnings(caplog)) == 1
    assert "busy, idle, stalled" in warnings(caplog)[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("place", ["start_error", "collect_error", "writer"])
def test_requests_to_stop_pass(place: str, error: BaseException) -> None:
    """Ctrl-C in the middle of a publish still stops the server, and the publish stays due."""
    bench = Bench(interval=100, retry=0.0)
    setattr(bench.writer if place == "writer" else bench, "error" if place == "writer" else place, error)
    with pytest.raises(type(error)):
        bench.tick(0.0)
    bench.start_error = bench.collect_error = bench.writer.error = None

    assert bench.tick(0.0)
    assert bench.publisher.failures == 0


def test_a_failing_clock_logger_or_error_text_is_contained() -> None:
    """Everything that the host passes in may fail."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    class Log(logging.Logger):
        def isEnabledFor(self, level: int) -> bool:  # noqa: N802  the base class's name
            raise OSError

    publisher = Publisher(FakeWriter, clock=lambda: 1 / 0, log=Log("x"))
    assert not publisher.tick(object)
    assert publisher.last_error == "ZeroDivisionError: division by zero"

    bench = Bench(log=Log("x"))
    bench.collect_error = Mute()
    assert not bench.tick(0.0)
    assert bench.publisher.last_error == "Mute"
    bench.collect_error = None
    assert bench.tick(0.0)
    assert bench.publisher.failures == 1


def test_a_failure_keeps_nothing_of_the_host_alive() -> None:
    """The last error is text: an exception would hold the frames of ``collect``, and what they hold."""

    class Tensor:
        pass

    seen = []

    def collect() -> object:
        tensor = Tensor()
        seen.append(weakref.ref(tensor))
        raise ValueError(tensor)

    publisher = Publisher(FakeWriter, clock=lambda: 0.0)
    publisher.tick(collect)

    assert publisher.failures == 1
    assert seen[0]() is None


def test_a_failing_close_is_contained() -> None:
    """Leaving the server must not fail for a snapshot's sake."""
    bench = Bench()
    bench.tick(0.0)
    bench.writer.error = OSError("gone")
    bench.publisher.close()

    assert bench.publisher.last_error == "OSError: gone"
