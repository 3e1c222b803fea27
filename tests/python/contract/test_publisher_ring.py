"""The publisher with a real ring: whatever happens to the ring, the host's loop goes on."""

import logging
from pathlib import Path

import pytest

from contract.model import Numbered
from snapring import Publisher, Reader, State, Writer
from support import eventually


def publisher(**options: float) -> "Publisher[Numbered]":
    """A publisher of rank 0 of 2 that tries at every tick."""
    options = {"interval": 1, "retry": 0.0, "stall_interval": 0.0, **options}
    return Publisher(lambda: Writer("main", rank=0, ranks=2, schema=Numbered), **options)  # type: ignore[arg-type]


def test_what_is_collected_is_read(ring_dir: Path) -> None:
    """The ring exists from the first tick, and is gone when the publisher closes."""
    with publisher(interval=3) as rank, Reader("main", schema=Numbered) as reader:
        assert list(ring_dir.iterdir()) == []
        ticks = [rank.tick(lambda number=number: Numbered(number)) for number in range(7)]  # type: ignore[misc]
        assert ticks == [True, False, False, True, False, False, True]
        assert [(snap.value, snap.version) for snap in reader.read_all()] == [(Numbered(6), 3)]
    assert list(ring_dir.iterdir()) == []


def test_a_busy_rank_is_tried_until_it_is_free(ring_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that restarts while its predecessor still ends publishes as soon as the rank is free."""
    before = Writer("main", rank=0, ranks=2, schema=Numbered, keep=True)
    before.publish(Numbered(1))
    with publisher() as rank, caplog.at_level(logging.WARNING):
        assert [rank.tick(lambda: Numbered(2)) for _ in range(5)] == [False] * 5
        before.close()
        eventually(lambda: rank.tick(lambda: Numbered(2)))

        assert [(snap.value, snap.version, snap.epoch) for snap in Reader("main", schema=Numbered).read_all()] == [
            (Numbered(2), 2, 2)
        ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "WriterBusy" in caplog.records[0].getMessage()


@pytest.mark.parametrize("bad", [Numbered(2**63), None, "text"], ids=repr)
def test_a_bad_snapshot_costs_one_publish(ring_dir: Path, bad: object) -> None:
    """The value before stays readable, the claim is kept, and the next good value goes out with the next version."""
    with publisher() as rank, Reader("main", schema=Numbered) as reader:
        assert rank.tick(lambda: Numbered(1))
        assert not rank.tick(lambda: bad)  # type: ignore[arg-type, return-value]
        assert [snap.value for snap in reader.read_all()] == [Numbered(1)]
        eventually(lambda: rank.tick(lambda: Numbered(2)))

        assert [(snap.value, snap.version, snap.epoch) for snap in reader.read_all()] == [(Numbered(2), 2, 1)]
        assert rank.failures == 1


def test_a_directory_that_cannot_be_used_is_no_reason_to_stop(ring_dir: Path) -> None:
    """Trouble at the start ends when it is mended, without a restart."""
    ring_dir.chmod(0o755)
    with publisher() as rank:
        assert not rank.tick(lambda: Numbered(1))
        assert rank.last_error is not None
        assert rank.last_error.startswith("RingUntrusted")
        ring_dir.chmod(0o700)

        eventually(lambda: rank.tick(lambda: Numbered(2)))


def test_a_lost_directory_is_made_again(ring_dir: Path) -> None:
    """Even when a sweeper removes everything, publishing goes on."""
    inner = ring_dir / "inner"
    with Publisher(
        lambda: Writer("main", rank=0, ranks=1, schema=Numbered, directory=inner),
        interval=1,
        retry=0.0,
        stall_interval=0.0,
    ) as rank:
        assert rank.tick(lambda: Numbered(1))
        for path in inner.iterdir():
            path.unlink()
        inner.rmdir()
        reader = Reader("main", schema=Numbered, directory=inner)

        eventually(lambda: rank.tick(lambda: Numbered(2)) and reader.read(0) is not None)


def test_a_closed_publisher_frees_its_rank(ring_dir: Path) -> None:
    """Its heartbeat thread ends too, and the rank is DEAD at once."""
    with Writer("main", rank=1, ranks=2, schema=Numbered), Reader("main", schema=Numbered, max_age=1e6) as reader:
        with publisher(heartbeat_thread=True, heartbeat=0.01) as rank:
            assert rank.tick(lambda: Numbered(1))
            assert reader.check(0) is State.LIVE

        assert reader.check(0) is State.DEAD
