"""A stopped process stops nobody else."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from contract.model import BLOCKS, Spawn, block, line, tell
from snapring import Reader, State, Writer, WriterBusy
from support import eventually, stop

STOPS = 300

# A reader that does everything a reader can do, as fast as it can.
READER = (
    BLOCKS
    + """
import select, sys
import snapring
reader, last = snapring.Reader("main", schema=bytes), 0
fd = reader.fileno()
print("up", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    reader.wait(0.0005)
    select.select([fd], [], [], 0)
    reader.poll()
    for snap in [*reader.read_all(), reader.read(0)]:
        if snap.version < last or number_of(snap.value) != snap.version:
            raise SystemExit(f"{snap.version} after {last}")
        last = snap.version
    reader.history(0)
    reader.check(0)
print(last, flush=True)
"""
)


def test_stopped_readers_hold_up_no_publish(ring_dir: Path, spawn: Spawn, rng: random.Random) -> None:
    """Readers are stopped at random moments, at last all of them, and the writer goes on; so do they afterwards.

    A single lock or acknowledgement among them would end it.
    """
    with Writer("main", rank=0, ranks=1, schema=bytes, cells=4) as writer:
        writer.publish(block(1))
        readers = [spawn(READER) for _ in range(3)]
        assert [line(reader) for reader in readers] == ["up"] * 3
        for _ in range(STOPS):
            reader = rng.choice(readers)
            reader.send_signal(signal.SIGSTOP)
            before = writer.version
            for _ in range(200):
                writer.publish(block(writer.version + 1))
            assert writer.version == before + 200
            reader.send_signal(signal.SIGCONT)
        for reader in readers:
            stop(reader.pid)
        for _ in range(20_000):
            writer.publish(block(writer.version + 1))
        for reader in readers:
            reader.send_signal(signal.SIGCONT)
            tell(reader)

        assert [int(line(reader)) > 1 for reader in readers] == [True] * 3
        assert writer.version == 1 + STOPS * 200 + 20_000


STOPPABLE_READER = (
    BLOCKS
    + """
import sys
import snapring
reader = snapring.Reader("main", schema=bytes)
for _ in sys.stdin:
    snap = reader.read(0)
    print(snap.version, number_of(snap.value), snap.contended, flush=True)
"""
)


def test_a_reader_that_slept_through_laps_reads_the_newest(ring_dir: Path, spawn: Spawn) -> None:
    """However often the slot was written over meanwhile, the next read is current and whole."""
    reader = spawn(STOPPABLE_READER)
    with Writer("main", rank=0, ranks=1, schema=bytes, cells=2) as writer:
        for laps in (1, 2, 3, 500):
            writer.publish(block(writer.version + 1))
            tell(reader)
            assert line(reader) == f"{writer.version} {writer.version} False"
            stop(reader.pid)
            for _ in range(2 * laps):
                writer.publish(block(writer.version + 1))
            tell(reader)
            reader.send_signal(signal.SIGCONT)

            assert line(reader) == f"{writer.version} {writer.version} False"


# Can be stopped amid a publish: 256 kB take long enough to be caught.
BUSY_WRITER = """
import sys
import snapring
size = 1 << 18
writer = snapring.Writer("main", rank=0, ranks=1, schema=bytes, payload=size, cells=3)
writer.publish(bytes(size))
print("up", flush=True)
while True:
    writer.publish(bytes([writer.version % 251]) * size)
"""


def test_a_stopped_writer_holds_up_no_reader(ring_dir: Path, spawn: Spawn, rng: random.Random) -> None:
    """A writer stopped amid a publish leaves its last complete value readable for as long as it is stopped.

    The rank turns STALE, not DEAD: its writer may go on any time.
    """
    writer = spawn(BUSY_WRITER)
    assert line(writer) == "up"
    reader = Reader("main", schema=bytes, max_age=0.05)
    for _ in range(25):
        time.sleep(rng.random() * 0.01)
        stop(writer.pid)
        snaps = [reader.read(0) for _ in range(4)]

        assert len({snap.version for snap in snaps if snap}) == len({snap.value for snap in snaps if snap}) == 1
        assert all(snap and not snap.contended and len(set(snap.value)) == 1 for snap in snaps)
        writer.send_signal(signal.SIGCONT)
    writer.send_signal(signal.SIGSTOP)
    eventually(lambda: reader.check(0) is State.STALE)
    assert all_states(reader) == {State.STALE}
    writer.kill()
    eventually(lambda: reader.check(0) is State.DEAD)


# Rank 0 of 2, as fast as it can.
TIGHT_WRITER = """
import snapring
writer = snapring.Writer("main", rank=0, ranks=2, schema=bytes, cells=4)
writer.publish(bytes(4096))
print("up", flush=True)
value = bytes(4096)
while True:
    writer.publish(value)
"""


def test_a_stopped_writer_holds_up_no_other(ring_dir: Path, spawn: Spawn, rng: random.Random) -> None:
    """A rank stopped at any moment of its publishing keeps no other rank from publishing, nor from being read.

    A single lock between the two would end it.
    """
    stopped = spawn(TIGHT_WRITER)
    assert line(stopped) == "up"
    with Writer("main", rank=1, ranks=2, schema=bytes, cells=4) as writer, Reader("main", schema=bytes) as reader:
        for number in range(1, STOPS // 3 + 1):
            time.sleep(rng.random() * 0.002)
            stop(stopped.pid)
            versions = [writer.publish(block(writer.version + 1)) for _ in range(200)]
            snap = reader.read(1)
            stopped.send_signal(signal.SIGCONT)

            assert versions == list(range(200 * number - 199, 200 * number + 1))
            assert snap is not None
            assert (snap.version, snap.value) == (200 * number, block(200 * number))


def all_states(reader: "Reader[bytes]") -> set[State]:
    """States of all ranks, each asked many times."""
    return {snap.state for _ in range(50) for snap in reader.read_all()}


def test_a_lone_stop_is_no_end(ring_dir: Path, spawn: Spawn) -> None:
    """A stopped writer keeps its claim: nobody takes its rank, and it goes on where it was."""
    writer = spawn(BUSY_WRITER)
    assert line(writer) == "up"
    stop(writer.pid)
    for _ in range(50):
        with pytest.raises(WriterBusy, match="rank 0"):
            Writer("main", rank=0, ranks=1, schema=bytes, payload=1 << 18)
    reader = Reader("main", schema=bytes)
    before = reader.read(0)
    os.kill(writer.pid, signal.SIGCONT)

    assert before is not None
    eventually(lambda: (snap := reader.read(0)) is not None and snap.version > before.version)
