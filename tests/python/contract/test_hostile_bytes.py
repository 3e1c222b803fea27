"""Whatever bytes stand at the path: a typed error or a value, never a crash, and no write to what is not ours."""

import contextlib
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.model import Numbered
from snapring import LayoutMismatch, LoadSnapshot, Reader, RingUntrusted, SnapringError, State, Writer
from snapring.load import QueuesSection

HEADER_BYTES = 32 * 8
FORMAT = 1 * 8
SLOT_CELLS = 16 * 8
EXTREMES = [0, 1, 255, 2**32, 2**63, 2**64 - 1]


@pytest.fixture
def good(ring_dir: Path) -> bytes:
    """Bytes of a ring with three versions of a full snapshot in rank 0 of 2."""
    with Writer("main", rank=0, ranks=2, cells=4) as writer:
        for number in range(3):
            queues = QueuesSection(waiting=number)
            writer.publish(LoadSnapshot(num_running_reqs=number, decode_moments=[1.0] * 6, queues=queues))
        return (ring_dir / "main.ring").read_bytes()


def plant(ring_dir: Path, content: bytes) -> Path:
    """Puts ``content`` at the path of the ring, with the right mode."""
    path = ring_dir / "main.ring"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def use(ring_dir: Path) -> None:
    """Calls everything that looks at a ring; only typed errors may come out."""
    readers = [Reader("main"), Reader("main", schema=None), Reader("main", schema=Numbered)]
    calls: list[Callable[[Reader[object]], object]] = [
        lambda reader: [(snap.value, snap.age, snap.state, repr(snap)) for snap in reader.read_all()],
        lambda reader: (snap := reader.read(0)) and (snap["num_running_reqs"], snap["queues.waiting"], snap.origin),
        lambda reader: (view := reader.view()) and (view.records.tolist(), view.ages, view.states, repr(view)),
        lambda reader: len(reader.history(0, last=9)),
        lambda reader: (reader.poll(), reader.wait(0), reader.check(0), reader.ranks, repr(reader)),
    ]
    for reader in readers:
        with reader:
            for call in calls:
                attempt(lambda call=call, reader=reader: call(reader))  # type: ignore[misc]
    attempt(lambda: Writer("main", rank=0, ranks=2, keep=True).publish(LoadSnapshot()))


def attempt(call: Callable[[], object]) -> None:
    """Calls it; typed errors are fine, anything else fails the test."""
    with contextlib.suppress(SnapringError):
        call()


def test_the_good_ring_passes_its_own_test(ring_dir: Path, good: bytes) -> None:
    """The bytes that the other tests spoil are those of a ring that reads well."""
    plant(ring_dir, good)

    assert [snap["num_running_reqs"] for snap in Reader("main").read_all()] == [2]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 255, 256, 4095, 4096, 4097, -4096, -1])
def test_a_file_that_is_cut_off_is_refused(ring_dir: Path, good: bytes, size: int) -> None:
    """Readers and writers refuse it, and leave it as it is: it may be somebody's evidence."""
    path = plant(ring_dir, good[:size])

    with pytest.raises(RingUntrusted):
        Reader("main").read(0)
    with pytest.raises(RingUntrusted):
        Writer("main", rank=0, ranks=2)
    assert path.read_bytes() == good[:size]


@pytest.mark.parametrize(
    "content", [b"x" * 8192, b"\0" * 8192, b"SNAPRING" * 1024, b"\xff" * 8192], ids=lambda c: c[:8]
)
def test_foreign_bytes_are_refused(ring_dir: Path, content: bytes) -> None:
    """A file that snapring did not make is neither read nor written."""
    path = plant(ring_dir, content)

    use(ring_dir)
    with pytest.raises((RingUntrusted, LayoutMismatch)):
        Reader("main").read_all()
    with pytest.raises((RingUntrusted, LayoutMismatch)):
        Writer("main", rank=0, ranks=2)
    assert path.read_bytes() == content


def test_a_file_with_holes_is_refused(ring_dir: Path, good: bytes) -> None:
    """A page without memory behind it could be a SIGBUS later; the right size alone is not enough."""
    path = plant(ring_dir, good[:4096])
    with path.open("r+b") as file:
        file.truncate(len(good))

    with pytest.raises(RingUntrusted, match="memory"):
        Reader("main").read(0)


def test_another_format_is_named(ring_dir: Path, good: bytes) -> None:
    """A ring of another snapring is no damage: the error names both formats."""
    plant(ring_dir, good[:FORMAT] + struct.pack("<Q", 2) + good[FORMAT + 8 :])

    with pytest.raises(LayoutMismatch, match=r"format 2.*format 1"):
        Reader("main").read(0)
    with pytest.raises(LayoutMismatch, match=r"format 2.*format 1"):
        Writer("main", rank=0, ranks=2)


def test_every_header_word_with_every_extreme(ring_dir: Path, good: bytes) -> None:
    """No length, offset or count in the header is trusted."""
    for offset in range(0, HEADER_BYTES, 8):
        for value in EXTREMES:
            plant(ring_dir, good[:offset] + struct.pack("<Q", value) + good[offset + 8 :])
            use(ring_dir)


def test_every_slot_word_with_every_extreme(ring_dir: Path, good: bytes) -> None:
    """Nor is any word of a slot or of the cell that its head names."""
    slot = first_slot(good)
    newest = slot + SLOT_CELLS + 3 * struct.unpack_from("<Q", good, 7 * 8)[0]
    for start, words in [(slot, 16), (newest, 72)]:
        for offset in range(start, start + words * 8, 8):
            for value in EXTREMES:
                plant(ring_dir, good[:offset] + struct.pack("<Q", value) + good[offset + 8 :])
                use(ring_dir)


def first_slot(good: bytes) -> int:
    """Offset of slot 0: the header's length."""
    return int(struct.unpack_from("<Q", good, 2 * 8)[0])


def test_random_damage(ring_dir: Path, good: bytes, rng: random.Random) -> None:
    """Rings with random bytes in random places."""
    end = first_slot(good) + 4096
    for _ in range(300):
        content = bytearray(good)
        for _ in range(rng.choice([1, 3, 30])):
            content[rng.randrange(end)] = rng.randrange(256)
        plant(ring_dir, bytes(content))
        use(ring_dir)


def test_a_record_of_another_rank_is_not_believed(ring_dir: Path, good: bytes) -> None:
    """A slot whose record names another rank is not believed, and it takes no other rank along."""
    plant(ring_dir, good)
    text = Reader("main").schema_text
    assert text is not None
    (field,) = [field for field in json.loads(text)["fields"] if field["name"] == "dp_rank"]
    place = first_slot(good) + SLOT_CELLS + 3 * struct.unpack_from("<Q", good, 7 * 8)[0] + 9 * 8 + field["offset"]
    plant(ring_dir, good[:place] + struct.pack("<q", 1) + good[place + 8 :])

    reader = Reader("main")
    with pytest.raises(RingUntrusted, match="slot 0 names another rank"):
        reader.read(0)
    assert reader.read_all() == []
    view = reader.view()
    assert view.faults.tolist() == [True, *[False] * (len(view) - 1)]
    assert (view.states[0], view.versions[0], view.ok[0]) == (State.DEAD, 0, False)
    assert not view.present("num_running_reqs")[0]
    assert reader.read(1) is None


def test_a_good_ring_is_found_once_it_is_there(ring_dir: Path, good: bytes) -> None:
    """A reader that met an unfit file is not lost: it attaches to the next good one."""
    reader = Reader("main")
    path = plant(ring_dir, b"x" * 8192)
    for _ in range(3):
        with pytest.raises(RingUntrusted):
            reader.read(0)
    path.unlink()

    with Writer("main", rank=0, ranks=2) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=6))
        assert [snap["num_running_reqs"] for snap in reader.read_all()] == [6]
