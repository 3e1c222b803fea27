"""Files that vanish or are replaced: everybody finds the next one, and no version goes back."""

import signal
from pathlib import Path

import pytest

from contract.model import FORKS, Numbered, Spawn, block, line, tell
from snapring import LayoutMismatch, LoadSnapshot, Reader, State, Writer, WriterBusy
from support import eventually, stop


class Other(Numbered, frozen=True):
    """A field more than Numbered."""

    ratio: float | None = None


def patient() -> "Reader[LoadSnapshot]":
    """A reader to whom nothing is ever stale, however slow the machine."""
    return Reader("main", max_age=1e6)


# Publishes 1, 2, 3 ... on request and says which version it became.
PUBLISHER = """
import sys
import snapring
rank, ranks = int(sys.argv[1]), int(sys.argv[2])
writer = snapring.Writer("main", rank=rank, ranks=ranks, keep=True)
print("up", flush=True)
for _ in sys.stdin:
    version = writer.publish(snapring.LoadSnapshot(num_running_reqs=writer.version + 1))
    print(writer.epoch, version, flush=True)
"""


def test_an_unlinked_ring_comes_back(ring_dir: Path) -> None:
    """A sweeper that removes the file stops nothing: writers make it anew, and readers follow.

    Versions go on from where they were.
    """
    with Writer("main", rank=0, ranks=2) as zero, Writer("main", rank=1, ranks=2) as one, patient() as reader:
        for _ in range(5):
            zero.publish(LoadSnapshot())
            one.publish(LoadSnapshot())
        first = reader.read(0)
        (ring_dir / "main.ring").unlink()
        epochs = [zero.epoch, one.epoch]

        def both_moved() -> bool:
            zero.publish(LoadSnapshot())
            one.publish(LoadSnapshot())
            return [zero.epoch, one.epoch] > epochs and {snap.generation for snap in reader.read_all()} != {generation}

        assert first is not None
        generation = first.generation
        eventually(both_moved)
        published = [zero.publish(LoadSnapshot()), one.publish(LoadSnapshot())]

        assert published[0] == published[1]  # both published as often: nobody's versions went back or had a gap
        assert [snap.version for snap in reader.read_all()] == published
        assert len({snap.generation for snap in reader.read_all()}) == 1
        assert [snap.epoch for snap in reader.read_all()] == [2, 2]
        assert reader.check(0) is reader.check(1) is State.LIVE


def test_versions_never_go_back_while_files_come_and_go(ring_dir: Path, spawn: Spawn) -> None:
    """Seen by a reader in another process, the version only grows through lost files."""
    publishers = [spawn(PUBLISHER, str(rank), "2") for rank in range(2)]
    assert [line(publisher) for publisher in publishers] == ["up", "up"]
    reader, seen = Reader("main"), {0: 0, 1: 0}

    def publish_and_look() -> set[str]:
        for publisher in publishers:
            tell(publisher)
        promised = [int(line(publisher).split()[1]) for publisher in publishers]
        snaps = reader.read_all()
        for snap in snaps:
            assert seen[snap.rank] <= snap.version <= promised[snap.rank]
            assert snap.value.num_running_reqs == snap.version
            seen[snap.rank] = snap.version
        return {snap.generation for snap in snaps}

    for _ in range(4):
        before = publish_and_look()
        (ring_dir / "main.ring").unlink()
        eventually(lambda before=before: len(now := publish_and_look()) == 1 and now != before)  # type: ignore[misc]


@pytest.mark.parametrize(
    "change",
    [{"ranks": 3}, {"ranks": 1}, {"cells": 9}, {"schema": bytes}, {"job": "next"}, {"schema": bytes, "payload": 64}],
    ids=repr,
)
def test_dead_writers_do_not_hold_a_layout(ring_dir: Path, change: dict[str, int]) -> None:
    """With nobody alive a newcomer of another shape makes the ring anew; it inherits versions and epochs."""
    with Writer("main", rank=0, ranks=2, keep=True) as writer:
        for _ in range(3):
            writer.publish(LoadSnapshot())

    with Writer("main", rank=0, **{"ranks": 2, **change}) as writer:  # type: ignore[arg-type]
        assert writer.publish(b"x" if "schema" in change else LoadSnapshot()) == 4
        assert writer.epoch == 2
    assert list(ring_dir.iterdir()) == []


def test_a_compatible_class_needs_no_new_ring(ring_dir: Path) -> None:
    """A class that only adds fields writes into the ring that is there."""
    with Writer("main", rank=0, ranks=2, schema=Numbered, keep=True) as writer:
        writer.publish(Numbered(1))
    inode = (ring_dir / "main.ring").stat().st_ino

    with Writer("main", rank=1, ranks=2, schema=Other, keep=True) as writer:
        writer.publish(Other(2, 0.5))
    assert (ring_dir / "main.ring").stat().st_ino == inode


def test_readers_follow_a_resize(ring_dir: Path) -> None:
    """A server that restarts with more ranks is seen with all of them by readers that never re-open.

    The old file is never shrunk under them: what they took from it stays readable.
    """
    reader, watcher, views = Reader("main"), Reader("main"), []
    for ranks in (2, 5, 1, 3):
        with Writer("main", rank=ranks - 1, ranks=ranks, keep=True) as writer:
            writer.publish(LoadSnapshot(num_running_reqs=ranks))
            eventually(lambda ranks=ranks: len(reader.view()) == ranks)  # type: ignore[misc]
            views.append(reader.view())

            assert reader.ranks == ranks
            eventually(lambda ranks=ranks: ranks - 1 in watcher.poll())  # type: ignore[misc]

    assert [view.records["num_running_reqs"][-1] for view in views] == [2, 5, 1, 3]
    assert [State(view.states[-1]) for view in views] == [State.DEAD] * 4


def test_a_stopped_writer_comes_back_to_its_rank(ring_dir: Path, spawn: Spawn) -> None:
    """A writer that slept while its file was lost re-attaches when it wakes; its version goes on."""
    publisher = spawn(PUBLISHER, "0", "2")
    assert line(publisher) == "up"
    for version in (1, 2):
        tell(publisher)
        assert line(publisher) == f"1 {version}"
    stop(publisher.pid)
    (ring_dir / "main.ring").unlink()
    with Writer("main", rank=1, ranks=2) as neighbour:
        neighbour.publish(LoadSnapshot())
        publisher.send_signal(signal.SIGCONT)

        def moved() -> bool:
            tell(publisher)
            return line(publisher).startswith("2 ")

        eventually(moved)
        snaps = Reader("main").read_all()
        assert [snap.rank for snap in snaps] == [0, 1]
        assert snaps[0].version >= 3
        assert snaps[0].value.num_running_reqs == snaps[0].version


def test_a_writer_whose_rank_was_taken_says_so(ring_dir: Path) -> None:
    """When its file was lost and another claimed the rank in the new one, publishing is an error.

    It is never a second writer in one slot.
    """
    old = Writer("main", rank=0, ranks=1)
    old.publish(LoadSnapshot())
    (ring_dir / "main.ring").unlink()
    with Writer("main", rank=0, ranks=1) as new:
        new.publish(LoadSnapshot(num_running_reqs=1))

        def refused() -> bool:
            try:
                old.publish(LoadSnapshot(num_running_reqs=2))
            except WriterBusy:
                return True
            return False

        eventually(refused)
        assert [snap["num_running_reqs"] for snap in Reader("main").read_all()] == [1]
        assert new.publish(LoadSnapshot()) == 2


def test_a_file_moved_over_the_ring_is_followed(ring_dir: Path) -> None:
    """Restored from a copy or swapped by an operator: readers and writers go by what the path names now."""
    with Writer("other", rank=0, ranks=1, keep=True) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=77))
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(num_running_reqs=1))
        assert reader.read(0) is not None
        (ring_dir / "other.ring").rename(ring_dir / "main.ring")

        eventually(lambda: writer.publish(LoadSnapshot(num_running_reqs=2)) and writer.epoch == 2)
        eventually(lambda: [(snap["num_running_reqs"], snap.epoch) for snap in reader.read_all()] == [(2, 2)])


def test_a_rank_of_a_retired_ring_is_told_apart(ring_dir: Path) -> None:
    """A mismatch is reported on both sides: by the newcomer at once, by the old reader on each read."""
    with Writer("main", rank=0, ranks=1, keep=True) as writer:
        writer.publish(LoadSnapshot())
    reader = Reader("main")
    assert reader.read(0) is not None

    with Writer("main", rank=0, ranks=1, schema=bytes) as writer:
        writer.publish(block(1))
        eventually(lambda: mismatch(reader))
        assert mismatch(reader)
        with pytest.raises(LayoutMismatch, match="codec"):
            Writer("main", rank=0, ranks=1)


def mismatch(reader: "Reader[LoadSnapshot]") -> bool:
    """True when a read raises LayoutMismatch."""
    try:
        reader.read(0)
    except LayoutMismatch:
        return True
    return False


def test_a_lost_bell_loses_no_update(ring_dir: Path) -> None:
    """Without the bell's file waiters look by themselves; writers make a new one."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot())
        reader.poll()
        (ring_dir / "main.bell").unlink()
        for _ in range(5):
            writer.publish(LoadSnapshot())
            assert reader.wait(30.0)
            assert reader.poll() == [0]
        eventually(lambda: writer.publish(LoadSnapshot()) and (ring_dir / "main.bell").exists())


# Publishes without a pause, and tells its last version only in memory that its parent shares.
RUNNER = (
    FORKS
    + """
import json, mmap, os, signal, struct, sys, time
import snapring
promised, odd = mmap.mmap(-1, 8), []
for _ in range(int(sys.argv[1])):
    neighbour = snapring.Writer("main", rank=0, ranks=2)
    child = os.fork()
    if child == 0:
        writer = snapring.Writer("main", rank=1, ranks=2)
        while True:
            promised[:] = struct.pack("<q", writer.publish(snapring.LoadSnapshot()))
    time.sleep(0.3)
    os.unlink(os.environ["SNAPRING_DIR"] + "/main.ring")
    epoch = neighbour.epoch
    while neighbour.epoch == epoch:
        neighbour.publish(snapring.LoadSnapshot())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    known, = struct.unpack("<q", promised[:])
    with snapring.Writer("main", rank=1, ranks=2) as writer:
        odd += [known - writer.version] if known > writer.version + 1 else []
    neighbour.close()
print(json.dumps(odd), flush=True)
"""
)


def test_a_rank_that_dies_amid_the_move_loses_nothing(ring_dir: Path, spawn: Spawn) -> None:
    """A writer killed just when its neighbour made the lost ring anew: what it had published is inherited."""
    assert line(spawn(RUNNER, "4")) == "[]"
