from pathlib import Path
from typing import Annotated, Any

import msgspec

import snapring
from snapring import State
from snapring.cli.board import Board
from support import eventually


class Sensor(msgspec.Struct, frozen=True):
    label: Annotated[str, msgspec.Meta(max_length=16)] = ""
    watts: float | None = None
    count: int | None = None


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def reader(name: str) -> "snapring.Reader[Any]":
    """A reader of whatever the ring holds."""
    return snapring.Reader(name, schema=None)


def test_no_ring_gives_no_rows(ring_dir: Path) -> None:
    """A board waits for its ring, and shows it once it is there."""
    with reader("later") as source:
        board = Board(source)

        before = board.look()
        with snapring.Writer("later", rank=0, ranks=1) as writer:
            writer.publish(snapring.LoadSnapshot(num_running_reqs=4))
            (row,) = board.look()

    assert before == []
    assert (row.rank, row.state, row.fields["num_running_reqs"], row.version, row.epoch) == (0, State.LIVE, 4, 1, 1)


def test_every_rank_has_a_row(ring_dir: Path) -> None:
    """Ranks that never published, live and have died are all there, each with its state."""
    with snapring.Writer("r", rank=0, ranks=3) as living, reader("r") as source:
        living.publish(snapring.LoadSnapshot())
        with snapring.Writer("r", rank=2, ranks=3) as closed:
            closed.publish(snapring.LoadSnapshot())

        board = Board(source)
        rows = eventually(lambda: rows if (rows := board.look())[2].state != State.LIVE else None)
        chosen = Board(source, ranks=[2]).look()

    assert [(row.rank, row.state) for row in rows] == [(0, State.LIVE), (1, State.NEVER), (2, State.DEAD)]
    assert [row.rank for row in chosen] == [2]


def test_rate_counts_versions_over_seconds(ring_dir: Path) -> None:
    """The rate is the versions between two looks by the time between them; the first look has none."""
    clock = Clock()
    with snapring.Writer("r", rank=0, ranks=1) as writer, reader("r") as source:
        board = Board(source, clock=clock)
        writer.publish(snapring.LoadSnapshot())
        (first,) = board.look()
        for _ in range(10):
            writer.publish(snapring.LoadSnapshot())
        clock.now += 2.0
        (second,) = board.look()
        clock.now += 10.0
        board.look()
        clock.now += 3.0
        (quiet,) = board.look()

    assert (first.rate, second.rate, quiet.rate) == (None, 5.0, 0.0)


def test_history_is_oldest_first_with_gaps(ring_dir: Path) -> None:
    """The sparkline's values come in order; what was not reported stays a gap, for integers and floats."""
    with snapring.Writer("r", rank=0, ranks=1, schema=Sensor) as writer, reader("r") as source:
        board = Board(source)
        for watts in (1.0, None, 3.0):
            writer.publish(Sensor(watts=watts))
        (floats,) = board.look()

    with snapring.Writer("load", rank=0, ranks=1) as writer, reader("load") as source:
        board = Board(source)
        for tokens in (10, 20):
            writer.publish(snapring.LoadSnapshot(num_total_tokens=tokens))
        (integers,) = board.look()

    assert floats.history == (1.0, None, 3.0)
    assert integers.history == (10, 20)


def test_any_schema(ring_dir: Path) -> None:
    """A ring of another schema gives its numbers; texts are left out."""
    with snapring.Writer("r", rank=0, ranks=1, schema=Sensor) as writer, reader("r") as source:
        writer.publish(Sensor(label="left", watts=61.5))
        board = Board(source)

        (row,) = board.look()

    assert board.numbers == ("watts", "count")
    assert row.fields == {"watts": 61.5, "count": None}
    assert row.to_dict()["state"] == "LIVE"


def test_free_bytes_have_no_numbers(ring_dir: Path) -> None:
    """A ring of bytes shows what every ring has: states, ages and versions."""
    with snapring.Writer("r", rank=0, ranks=1, schema=bytes) as writer, reader("r") as source:
        writer.publish(b"anything")
        board = Board(source)

        (row,) = board.look()

    assert (row.fields, row.history, row.version, row.state) == ({}, (), 1, State.LIVE)
