"""Bad input ends in a typed error that names the fix, and changes nothing."""

import os
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

import snapring
from snapring import LoadSnapshot, Reader, Writer


class Bounded(Struct, frozen=True, kw_only=True):
    """A field of every kind that has a limit."""

    number: int = 0
    text: Annotated[str, Meta(max_length=8)] = ""
    data: Annotated[bytes, Meta(max_length=8)] = b""
    numbers: Annotated[list[int], Meta(max_length=3)] = []
    floats: Annotated[list[float], Meta(max_length=3)] = []


@pytest.mark.parametrize(
    "value",
    [
        Bounded(number=2**63),
        Bounded(number=-(2**63) - 1),
        Bounded(number=-(2**63)),
        Bounded(number=10**40),
        Bounded(text="nine byte"),
        Bounded(text="ääääü"),
        Bounded(text="\ud800"),
        Bounded(data=b"123456789"),
        Bounded(numbers=[1, 2, 3, 4]),
        Bounded(numbers=[2**64]),
        Bounded(floats=[1.0, 2.0, 3.0, 4.0]),
        Bounded(number=None),  # type: ignore[arg-type]
        Bounded(number="7"),  # type: ignore[arg-type]
        Bounded(number=1.5),  # type: ignore[arg-type]
        Bounded(text=b"x"),  # type: ignore[arg-type]
        Bounded(numbers=7),  # type: ignore[arg-type]
        Bounded(numbers=[1, None]),  # type: ignore[list-item]
        LoadSnapshot(),
        {"number": 1},
        None,
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_value_that_no_cell_takes_is_refused_whole(ring_dir: Path, value: Any) -> None:  # noqa: ANN401  anything
    """A refused snapshot leaves the one before in place, and the next good one has the next version."""
    with Writer("main", rank=0, ranks=1, schema=Bounded) as writer, Reader("main", schema=Bounded) as reader:
        writer.publish(Bounded(number=1, text="kept"))

        with pytest.raises(snapring.InvalidValue):
            writer.publish(value)

        (snap,) = reader.read_all()
        assert (snap.value, snap.version) == (Bounded(number=1, text="kept"), 1)
        assert writer.publish(Bounded()) == 2


@pytest.mark.parametrize("value", [Bounded(text="12345678"), Bounded(text="ääää"), Bounded(numbers=[1, 2, 3])])
def test_the_limit_itself_fits(ring_dir: Path, value: Bounded) -> None:
    """Limits are inclusive; those of texts count UTF-8 bytes."""
    with Writer("main", rank=0, ranks=1, schema=Bounded) as writer, Reader("main", schema=Bounded) as reader:
        writer.publish(value)

        assert [snap.value for snap in reader.read_all()] == [value]


def test_a_snapshot_of_another_rank_is_refused(ring_dir: Path) -> None:
    """A scheduler that publishes with the wrong rank would steer all traffic wrong; its own rank is fine."""
    with Writer("main", rank=1, ranks=3) as writer:
        with pytest.raises(snapring.InvalidValue, match=r"dp_rank is 2, but the writer's rank is 1"):
            writer.publish(LoadSnapshot(dp_rank=2))

        assert writer.publish(LoadSnapshot(dp_rank=1)) == 1


@pytest.mark.parametrize(("rank", "ranks"), [(-1, 2), (2, 2), (3, 2), (0, 0), (65_536, 65_536), (10**40, 2)])
def test_a_rank_out_of_range_is_refused_by_the_writer(ring_dir: Path, rank: int, ranks: int) -> None:
    """The error is an IndexError too, and no file is made."""
    with pytest.raises(snapring.RankOutOfRange) as caught:
        Writer("main", rank=rank, ranks=ranks)

    assert isinstance(caught.value, IndexError)
    assert list(ring_dir.iterdir()) == []


@pytest.mark.parametrize("rank", [-1, 2, 65_536, 2**63 - 1, -(2**63), 2**64, 10**40])
def test_a_rank_out_of_range_is_refused_by_the_reader(ring_dir: Path, rank: int) -> None:
    """Negative ranks do not count from the end."""
    with Writer("main", rank=0, ranks=2), Reader("main") as reader:
        for ask in (reader.read, reader.check, reader.history):
            with pytest.raises(snapring.RankOutOfRange, match="out of range"):
                ask(rank)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up", "a b", "a\0b", "ä", "a\n", "x" * 65])
@pytest.mark.parametrize("open_handle", [lambda name: Writer(name, 0, 1), Reader], ids=["writer", "reader"])
def test_illegal_names_are_refused(ring_dir: Path, name: str, open_handle: Callable[[str], object]) -> None:
    """A name can never lead out of the directory; the message says what makes a legal one."""
    with pytest.raises(snapring.InvalidValue, match="ring_name"):
        open_handle(name)

    assert list(ring_dir.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"cells": 1},
        {"cells": 0},
        {"cells": 65_537},
        {"schema": bytes, "payload": (1 << 24) + 1},
        {"job": "j" * 65},
        {"codec": "json"},
        {"codec": "bytes", "schema": Bounded},
        {"schema": int},
        {"schema": dict[str, int]},
        {"cells": -1},
        {"schema": bytes, "payload": -1},
        {"ranks": 65_537},
        {"ranks": -1},
        {"ranks": 2**40},
    ],
    ids=repr,
)
def test_options_out_of_range_are_refused(ring_dir: Path, options: dict[str, Any]) -> None:
    """Nothing is rounded or clipped silently, and no file is made."""
    with pytest.raises(snapring.InvalidValue):
        Writer("main", rank=0, **{"ranks": 1, **options})

    assert list(ring_dir.iterdir()) == []


@pytest.mark.parametrize("options", [{"max_age": -1.0}, {"max_age": float("nan")}, {"codec": "json"}, {"schema": int}])
def test_reader_options_out_of_range_are_refused(ring_dir: Path, options: dict[str, Any]) -> None:
    """The reader says so at once, not at its first read."""
    with pytest.raises(snapring.InvalidValue):
        Reader("main", **options)


def test_times_out_of_range_are_refused(ring_dir: Path) -> None:
    """Negative and undefined durations mean nothing."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        for seconds in (-1.0, float("nan")):
            with pytest.raises(snapring.InvalidValue, match="seconds"):
                reader.wait(seconds)
        for seconds in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(snapring.InvalidValue, match="seconds"):
                writer.start_heartbeat(seconds)


def test_a_missing_ring_is_an_error_only_on_request(ring_dir: Path) -> None:
    """``must_exist`` names the ring and the directory that was looked in."""
    with pytest.raises(snapring.RingNotFound, match=rf"'main' in {ring_dir}.*SNAPRING_DIR") as caught:
        Reader("main", must_exist=True)

    assert isinstance(caught.value, FileNotFoundError)


def test_every_call_on_a_closed_writer_says_so(ring_dir: Path) -> None:
    """Closing twice is fine, everything else raises HandleClosed."""
    writer = Writer("main", rank=0, ranks=1)
    writer.close()
    writer.close()

    calls: list[Callable[[], object]] = [
        lambda: writer.publish(LoadSnapshot()),
        writer.beat,
        lambda: writer.start_heartbeat(1.0),
        lambda: writer.version,
        lambda: writer.epoch,
    ]
    for call in calls:
        with pytest.raises(snapring.HandleClosed, match="writer is closed"):
            call()
    assert list(ring_dir.iterdir()) == []


@pytest.mark.parametrize("ring", ["none", "good", "unfit"])
def test_every_call_on_a_closed_reader_says_so(ring_dir: Path, ring: str) -> None:
    """A closed reader is closed, whatever stands at its path."""
    writer = Writer("main", rank=0, ranks=1, schema=bytes if ring == "unfit" else LoadSnapshot)
    reader = Reader("main")
    if ring == "none":
        writer.close()
    reader.close()
    reader.close()

    calls: list[Callable[[], object]] = [
        lambda: reader.read(0),
        reader.read_all,
        reader.view,
        lambda: reader.history(0),
        lambda: reader.check(0),
        lambda: reader.wait(0),
        reader.poll,
        reader.fileno,
        lambda: reader.ranks,
    ]
    for call in calls:
        with pytest.raises(snapring.HandleClosed, match="reader is closed"):
            call()
    writer.close()


def test_a_directory_on_disk_is_refused(ring_dir: Path, tmp_path: Path) -> None:
    """Write-back would stall publishes, so a disk needs ``allow_disk``."""
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    if file_system(disk) == "tmpfs":
        pytest.skip("the temporary directory is in memory here")

    for open_handle in (
        lambda: Writer("main", 0, 1, directory=disk),
        lambda: Reader("main", directory=disk).read_all(),
    ):
        with pytest.raises(snapring.InvalidValue, match="allow_disk"):
            open_handle()
    with Writer("main", rank=0, ranks=1, directory=disk, allow_disk=True) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=3))
        snaps = Reader("main", directory=disk, allow_disk=True).read_all()
    assert [snap["num_running_reqs"] for snap in snaps] == [3]


def file_system(path: Path) -> str:
    """Type of the file system that holds ``path``."""
    mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
    holding = [entry for entry in mounts if os.path.commonpath([entry[1], path]) == entry[1]]
    return max(holding, key=lambda entry: len(entry[1]))[2]
