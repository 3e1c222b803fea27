import copy
import pickle
import re
import time
from pathlib import Path

import pytest

from contract.model import Whole, whole
from snapring import InvalidValue, LoadSnapshot, Reader, State, Writer
from snapring.load import QueuesSection


def test_a_value_is_built_when_asked_and_once(ring_dir: Path) -> None:
    """``value`` decodes on first use and then gives the same object."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(num_running_reqs=5))
        snap = reader.read(0)

    assert snap is not None
    assert isinstance(snap.value, LoadSnapshot)
    assert snap.value is snap.value


def test_one_field_by_name(ring_dir: Path) -> None:
    """A field costs no struct; nested ones go by dotted name, and not reported is None."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(num_running_reqs=5, queues=QueuesSection(waiting=3)))
        snap = reader.read(0)

    assert snap is not None
    assert snap["num_running_reqs"] == 5
    assert snap["queues.waiting"] == 3
    assert snap["queues.grammar"] is None
    assert snap["token_usage"] is None
    assert snap["lora.slots_used"] is None


@pytest.mark.parametrize("name", ["nope", "", "queues.nope", "num_running_reqs.x", "queues."])
def test_an_unknown_field_is_named(ring_dir: Path, name: str) -> None:
    """A misspelt field is an error that names it, not a None."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(queues=QueuesSection()))
        snap = reader.read(0)

        assert snap is not None
        with pytest.raises(InvalidValue, match="no field"):
            snap[name]


def test_a_snapshot_is_a_copy(ring_dir: Path) -> None:
    """What was read stays as it was: later publishes, the end of its writer and of its reader change nothing in it."""
    with Writer("main", rank=0, ranks=1, schema=Whole, cells=2) as writer, Reader("main", schema=Whole) as reader:
        writer.publish(whole(1))
        snap, (in_batch,) = reader.read(0), reader.read_all()
        history, records = reader.history(0), reader.view().records
        for number in range(2, 9):
            writer.publish(whole(number))

    assert snap is not None
    assert snap.value == in_batch.value == whole(1)
    assert [history["number"].tolist(), records["number"].tolist()] == [[1], [1]]
    assert snap.version == in_batch.version == 1


def test_age_grows_and_timestamp_does_not(ring_dir: Path) -> None:
    """``age`` is asked anew each time, ``timestamp`` is the wall clock of the publish."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        before = time.time()
        writer.publish(LoadSnapshot())
        after = time.time()
        snap = reader.read(0)
        assert snap is not None
        first = snap.age
        time.sleep(0.02)

        assert snap.age >= first + 0.02
        assert before <= snap.timestamp <= after


def test_a_beat_shows_life_but_renews_no_data(ring_dir: Path) -> None:
    """``beat_age`` is the time since any sign of life, ``age`` always that of the data."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot())
        snap = reader.read(0)
        assert snap is not None
        time.sleep(0.05)
        writer.beat()

        assert snap.beat_age < snap.age
        assert snap.age >= 0.05
        assert snap.version == 1


def test_identity(ring_dir: Path) -> None:
    """A generation is the file's: 32 hex digits, the same for all ranks and readers, another for another file."""
    with Writer("main", rank=0, ranks=2) as zero, Writer("main", rank=1, ranks=2) as one:
        zero.publish(LoadSnapshot())
        one.publish(LoadSnapshot())
        first = {snap.generation for name in range(2) for snap in Reader("main").read_all()}
    with Writer("main", rank=0, ranks=2) as zero:
        zero.publish(LoadSnapshot())
        second = {snap.generation for snap in Reader("main").read_all()}

    assert len(first) == len(second) == 1
    assert first != second
    assert all(len(name) == 32 and int(name, 16) >= 0 for name in first)


def test_a_snapshot_tells_its_state(ring_dir: Path) -> None:
    """The repr is enough to see what was read."""
    with Writer("main", rank=4, ranks=5) as writer, Reader("main", max_age=0) as reader:
        writer.publish(LoadSnapshot())
        snap = reader.read(4)

        assert snap is not None
        assert snap.state is State.STALE
        assert re.fullmatch(r"<Snapshot of rank 4: version 1, \d+\.\d+ s old, STALE>", repr(snap))
        assert not snap.contended


@pytest.mark.parametrize("attempt", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_snapshot_does_not_travel(ring_dir: Path, attempt: object) -> None:
    """A snapshot is tied to its ring: sending one elsewhere is refused with the way to do it."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot())
        snap = reader.read(0)

        with pytest.raises(InvalidValue, match=r"send \.value"):
            attempt(snap)  # type: ignore[operator]
