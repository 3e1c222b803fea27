"""Ages come from a clock that nobody can set, also across time namespaces."""

import os
import struct
import subprocess
import time
from pathlib import Path

import pytest

from contract.model import Numbered, Spawn, line, tell
from snapring import LoadSnapshot, Reader, State, Writer
from support import eventually, python

YEAR_S = 365 * 86_400
CELL_WALL_NS = 7 * 8


def shift_wall_clock(path: Path, seconds: int) -> None:
    """Makes the one snapshot of rank 0 look as if its writer's wall clock were off by so much."""
    with path.open("r+b") as file:
        header = struct.unpack("<8Q", file.read(64))
        place = header[2] + 16 * 8 + 1 * header[7] + CELL_WALL_NS
        file.seek(place)
        (wall_ns,) = struct.unpack("<Q", file.read(8))
        file.seek(place)
        file.write(struct.pack("<Q", max(wall_ns + seconds * 10**9, 0)))


@pytest.mark.parametrize("jump", [3600, -3600, 10 * YEAR_S, -10 * YEAR_S, -100 * YEAR_S])
def test_wall_clocks_make_nobody_young_or_dead(ring_dir: Path, jump: int) -> None:
    """However wrong the writer's wall clock is, ages and states are right; only ``timestamp`` shows it."""
    with Writer("main", rank=0, ranks=1, schema=Numbered) as writer:
        reader = Reader("main", schema=Numbered, max_age=0.3)
        before = time.time()
        writer.publish(Numbered(1))
        shift_wall_clock(ring_dir / "main.ring", jump)

        snap = reader.read(0)
        assert snap is not None
        assert snap.timestamp == pytest.approx(max(before + jump, 0), abs=60)
        assert 0 <= snap.age < 60
        assert reader.check(0) is State.LIVE or snap.age > 0.3
        eventually(lambda: reader.check(0) is State.STALE)
        assert snap.age >= 0.3
    assert reader.check(0) is State.DEAD


# In a time namespace whose monotonic clock is off; publishes one version per line of input.
SHIFTED_WRITER = """
import sys
import snapring
writer = snapring.Writer("main", rank=0, ranks=1)
writer.start_heartbeat(0.01)
for _ in sys.stdin:
    print(writer.publish(snapring.LoadSnapshot()), flush=True)
"""

SHIFTED_READER = """
import sys, time
import snapring
reader = snapring.Reader("main", max_age=0.5)
for _ in sys.stdin:
    snap = reader.read(0)
    in_time = snap.state is snapring.State.LIVE or snap.age > 0.5
    print(snap.version, reader.check(0).name, in_time, 0 <= snap.age < 60, 0 <= snap.beat_age < 60, flush=True)
"""


def offsets() -> list[int]:
    """Seconds by which a namespace's monotonic clock may differ: far ahead, and behind by half of what is there."""
    return [1_000_000, -max(int(time.monotonic()) // 2, 1)]


def in_time_namespace(spawn: Spawn, code: str, offset: int) -> "subprocess.Popen[str]":
    """Starts a Python child whose monotonic clock is off by ``offset`` seconds."""
    probe = ["unshare", "--time", f"--monotonic={offset}", "true"]
    if os.geteuid() != 0 or subprocess.run(probe, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can make a time namespace")
    launch = "import os, sys; os.execvp('unshare', ['unshare', '--time', *sys.argv[1:]])"
    return spawn(launch, f"--monotonic={offset}", *python(code))


@pytest.mark.parametrize("offset", offsets(), ids=["ahead", "behind"])
def test_a_writer_of_another_time_namespace(ring_dir: Path, spawn: Spawn, offset: int) -> None:
    """Its stamps mean nothing here, so age counts from when this reader first saw the version.

    Else it would be young for ever, or old at birth.
    """
    writer = in_time_namespace(spawn, SHIFTED_WRITER, offset)
    reader = Reader("main", max_age=0.5)
    for version in (1, 2, 3):
        tell(writer)
        assert line(writer) == str(version)
        snap = reader.read(0)
        assert snap is not None
        assert snap.version == version
        assert 0 <= snap.age < 60
        assert snap.state is State.LIVE or snap.age > 0.5
        eventually(lambda: (late := reader.read(0)) is not None and late.state is State.STALE)
        late = reader.read(0)
        assert late is not None
        assert 0.5 <= late.age < 60
    writer.kill()
    eventually(lambda: reader.check(0) is State.DEAD)


@pytest.mark.parametrize("offset", offsets(), ids=["ahead", "behind"])
def test_a_reader_of_another_time_namespace(ring_dir: Path, spawn: Spawn, offset: int) -> None:
    """The same the other way round."""
    with Writer("main", rank=0, ranks=1) as writer:
        reader = in_time_namespace(spawn, SHIFTED_READER, offset)
        writer.publish(LoadSnapshot())

        def answer() -> list[str]:
            tell(reader)
            return line(reader).split()

        for version in (1, 2):
            assert (first := answer())[2:] == ["True"] * 3
            assert first[0] == str(version)
            eventually(lambda: answer()[1:] == ["STALE", "True", "True", "True"])
            writer.publish(LoadSnapshot())


@pytest.mark.parametrize("offset", offsets(), ids=["ahead", "behind"])
def test_the_dead_elsewhere_are_dead_to_a_new_reader(ring_dir: Path, spawn: Spawn, offset: int) -> None:
    """A reader that has just come cannot date what it sees, so it asks whether the writer lives."""
    writer = in_time_namespace(spawn, SHIFTED_WRITER, offset)
    tell(writer)
    assert line(writer) == "1"
    writer.kill()
    writer.wait()

    eventually(lambda: Reader("main").check(0) is State.DEAD)
    snap = Reader("main").read(0)
    assert snap is not None
    assert snap.state is State.DEAD
    assert Reader("main").view().states.tolist() == [State.DEAD]


@pytest.mark.parametrize("offset", offsets(), ids=["ahead", "behind"])
def test_a_claim_here_makes_no_value_from_there_young(ring_dir: Path, spawn: Spawn, offset: int) -> None:
    """The last value of a writer in another time namespace ages on while a writer of this one has only claimed."""
    writer = in_time_namespace(spawn, SHIFTED_WRITER, offset)
    tell(writer)
    assert line(writer) == "1"
    reader = Reader("main")
    first = reader.read(0)
    assert first is not None
    writer.kill()
    writer.wait()
    before = first.age

    with Writer("main", rank=0, ranks=1, keep=True):
        snap = reader.read(0)
        assert snap is not None
        assert snap.age >= before
        eventually(lambda: snap.age > 0.2)
        assert snap.state is State.STALE
