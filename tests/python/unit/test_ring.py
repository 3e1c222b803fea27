import os
from pathlib import Path

import msgspec
import pytest

import snapring
from snapring import HandleClosed, LoadSnapshot, Reader, State, Writer


def test_what_is_published_is_read(ring_dir: Path) -> None:
    """A snapshot comes back as the class it was published from, with every field as it was."""
    sent = LoadSnapshot(
        num_running_reqs=12,
        token_usage=0.5,
        decode_moments=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        memory=snapring.load.MemorySection(weight_gb=7.5),
    )
    with Writer("main", rank=3, ranks=8) as writer, Reader("main") as reader:
        assert writer.publish(sent) == 1
        snap = reader.read(3)

    assert snap is not None
    assert msgspec.structs.replace(snap.value, dp_rank=None, timestamp=None) == sent


def test_rank_and_time_are_filled_in(ring_dir: Path) -> None:
    """A publisher need not know its rank or read a clock: None becomes the writer's rank and the moment of publish."""
    with Writer("main", rank=1, ranks=2) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot())
        snap = reader.read(1)

    assert snap is not None
    assert snap.value.dp_rank == 1
    assert snap.value.timestamp == pytest.approx(snap.timestamp, abs=1.0)


def test_versions_are_dense_and_epochs_count_the_writers(ring_dir: Path) -> None:
    """Versions go 1, 2, 3 through any number of writers; each writer raises the epoch by one."""
    with Writer("main", rank=1, ranks=2), Reader("main") as reader:
        seen = []
        for _ in range(3):
            with Writer("main", rank=0, ranks=2) as writer:
                seen += [(writer.epoch, writer.publish(LoadSnapshot())) for _ in range(2)]
                assert writer.version == seen[-1][1]
        snap = reader.read(0)

    assert seen == [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (3, 6)]
    assert snap is not None
    assert (snap.epoch, snap.version, snap.origin) == (3, 6, (3, 0, 6))


def test_reading_before_any_writer_is_no_error(ring_dir: Path) -> None:
    """Start order does not matter: a reader without a ring answers with nothing, and attaches by itself later."""
    reader = Reader("main")

    assert reader.ranks is None
    assert reader.schema_text is None
    assert (reader.read(0), reader.read_all(), reader.poll(), reader.wait(0)) == (None, [], [], False)
    assert (len(reader.view()), len(reader.view().records), list(reader.view().ages)) == (0, 0, [])
    assert reader.check(0) is State.NEVER
    assert len(reader.history(0)) == 0
    assert list(ring_dir.iterdir()) == []

    with Writer("main", rank=0, ranks=2) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=5))
        assert reader.ranks == 2
        assert [snap.value.num_running_reqs for snap in reader.read_all()] == [5]


def test_the_directory_need_not_exist(tmp_path: Path, ring_dir: Path) -> None:
    """A reader makes no directory; the first writer makes it for its user alone."""
    inner = ring_dir / "inner"
    reader = Reader("main", directory=inner)
    assert reader.read_all() == []
    assert not inner.exists()

    with Writer("main", rank=0, ranks=1, directory=inner):
        assert inner.stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_files_are_for_the_owner_alone(ring_dir: Path, umask: int) -> None:
    """Every file has mode 0600, whatever the umask."""
    before = os.umask(umask)
    try:
        with Writer("main", rank=0, ranks=1):
            modes = {path.name: path.stat().st_mode & 0o7777 for path in ring_dir.iterdir()}
    finally:
        os.umask(before)

    assert modes == {"main.ring": 0o600, "main.bell": 0o600}


def test_the_last_writer_removes_the_ring(ring_dir: Path) -> None:
    """Orderly ends leave nothing behind; a ring with a living writer stays."""
    first, second = Writer("main", rank=0, ranks=2), Writer("main", rank=1, ranks=2)
    first.close()
    assert (ring_dir / "main.ring").exists()

    second.close()
    assert list(ring_dir.iterdir()) == []


def test_keep_leaves_the_ring(ring_dir: Path) -> None:
    """With ``keep`` the last values outlive their writers, and the next writer goes on where they ended."""
    with Writer("main", rank=0, ranks=1, keep=True) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=4))

    assert Reader("main").check(0) is State.DEAD
    assert [snap.value.num_running_reqs for snap in Reader("main").read_all()] == [4]
    with Writer("main", rank=0, ranks=1) as writer:
        assert writer.publish(LoadSnapshot()) == 2


def test_a_dropped_writer_frees_its_rank(ring_dir: Path) -> None:
    """A writer that nobody holds any more counts as closed."""
    writer = Writer("main", rank=0, ranks=1)
    del writer

    with Writer("main", rank=0, ranks=1) as writer:
        assert writer.epoch == 1


def test_size_follows_what_the_ring_has(ring_dir: Path) -> None:
    """Only the first writer chooses the number of cells; those who do not care take what is there."""
    with Writer("main", rank=0, ranks=2, cells=7) as first, Writer("main", rank=1, ranks=2):
        for _ in range(9):
            first.publish(LoadSnapshot())

        assert len(Reader("main").history(0)) == 6


@pytest.mark.parametrize("instance", ["", "/", "http://10.0.0.1:30000", "x" * 500, "üñí", "a\nb", "model 70b"])
def test_any_instance_id_gives_a_name(ring_dir: Path, instance: str) -> None:
    """``ring_name`` makes a legal name of anything, the same one each time."""
    name = snapring.ring_name(instance)

    assert name == snapring.ring_name(instance)
    with Writer(name, rank=0, ranks=1):
        assert (ring_dir / f"{name}.ring").exists()


def test_different_instances_get_different_names() -> None:
    """Two servers whose ids end alike do not share a ring."""
    ids = ["a", "b/a", "c/a", "a/", "a ", "a_", "A"]

    assert len({snapring.ring_name(instance) for instance in ids}) == len(ids)


def test_handles_tell_their_state(ring_dir: Path) -> None:
    """A repr says which ring, which rank and how far; so does the one of a closed handle."""
    reader = Reader("main")
    assert repr(reader) == '<Reader of ring "main": not attached yet>'
    with Writer("main", rank=1, ranks=2) as writer:
        writer.publish(LoadSnapshot())
        assert repr(writer) == '<Writer of ring "main", rank 1 of 2: epoch 1, version 1>'
        assert repr(Reader("main")) == '<Reader of ring "main": 2 ranks>'
        assert (writer.name, writer.rank, writer.ranks) == ("main", 1, 2)
    reader.close()

    assert repr(writer) == '<Writer of ring "main", rank 1 of 2: closed>'
    assert repr(reader) == '<Reader of ring "main": closed>'
    assert (reader.name, reader.max_age) == ("main", 2.0)


def test_numpy_numbers_are_numbers(ring_dir: Path) -> None:
    """Schedulers count with numpy: its scalars are packed like Python's."""
    import numpy as np

    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(num_running_reqs=np.int32(7), token_usage=np.float32(0.25)))  # type: ignore[arg-type]
        snap = reader.read(0)

    assert snap is not None
    assert (snap["num_running_reqs"], snap["token_usage"]) == (7, 0.25)


def test_clone_stays_where_it_is(ring_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone reads the ring of the first one, whatever became of the environment and of the working directory."""
    monkeypatch.chdir(ring_dir.parent)
    with Writer("twice", rank=0, ranks=1) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=3))
        found = []
        for directory in (None, ring_dir.name):
            reader = Reader("twice", directory=directory)
            with monkeypatch.context() as later:
                later.setenv("SNAPRING_DIR", str(tmp_path))
                later.chdir("/")
                found.append(reader.clone().read(0))

    assert [snapshot and snapshot.value.num_running_reqs for snapshot in found] == [3, 3]


@pytest.mark.usefixtures("ring_dir")
def test_clone_of_a_closed_reader() -> None:
    """What is closed opens nothing any more."""
    reader = Reader("twice")
    reader.close()

    with pytest.raises(HandleClosed):
        reader.clone()


@pytest.mark.usefixtures("ring_dir")
def test_clone_has_a_cursor_of_its_own() -> None:
    """A clone reads the same ring with the same options, and sees as new what the first one has polled already."""
    with Writer("twice", rank=0, ranks=1, job="a") as writer, Reader("twice", max_age=7.0, job="a") as reader:
        writer.publish(LoadSnapshot(num_running_reqs=3))
        first = reader.poll()

        with reader.clone() as clone:
            again, snapshot, max_age = clone.poll(), clone.read(0), clone.max_age

    assert (first, again) == ([0], [0])
    assert snapshot is not None
    assert (snapshot.value.num_running_reqs, max_age) == (3, 7.0)
