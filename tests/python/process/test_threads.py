"""Threads share handles without a lock of their own."""

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import snapring
from contract.model import Whole, block, number_of, whole
from snapring import HandleClosed, Reader, State, Writer

THREADS, ROUNDS = 64, 150


def patient() -> "Reader[bytes]":
    """A reader to whom nothing is ever stale, however slow the machine."""
    return Reader("main", schema=bytes, max_age=1e6)


def in_threads(work: Callable[[int], object], count: int = THREADS) -> list[object]:
    """Results of ``work(0)``, ``work(1)`` ... in as many threads at once; an error in any of them fails the test."""
    results: list[object] = [None] * count
    errors: list[BaseException] = []
    start = threading.Barrier(count)

    def run(index: int) -> None:
        try:
            start.wait(60)
            results[index] = work(index)
        except BaseException as error:  # noqa: BLE001  shown in the test's thread
            errors.append(error)

    threads = [threading.Thread(target=run, args=[index]) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert errors == []
    return results


def test_threads_share_a_writer(ring_dir: Path) -> None:
    """Every publish is whole and gets a version of its own; together the versions have no gap."""
    with (
        Writer("main", rank=0, ranks=1, schema=Whole) as writer,
        Reader("main", schema=Whole) as reader,
    ):
        versions = in_threads(lambda index: [writer.publish(whole(index)) for _ in range(ROUNDS)])
        (snap,), history = reader.read_all(), reader.history(0)

    published = [version for own in versions for version in own]  # type: ignore[attr-defined]
    assert sorted(published) == list(range(1, THREADS * ROUNDS + 1))
    assert all(own == sorted(own) for own in versions)  # type: ignore[type-var]
    assert snap.version == THREADS * ROUNDS
    assert all(set(copies) == {number} for number, copies in zip(history["number"], history["copies"], strict=True))


def test_threads_share_a_reader(ring_dir: Path) -> None:
    """Each thread sees versions only grow, and every value whole, while another thread publishes."""
    with Writer("main", rank=0, ranks=2, schema=bytes, cells=4) as writer, patient() as reader:
        writer.publish(block(1))

        def work(index: int) -> int:
            if index == 0:
                for _ in range(ROUNDS * 20):
                    writer.publish(block(writer.version + 1))
                return 0
            last = 0
            for _ in range(ROUNDS):
                for snap in [*reader.read_all(), reader.read(0)]:
                    assert snap is not None
                    assert last <= snap.version == number_of(snap.value)
                    last = snap.version
                assert reader.check(0) is State.LIVE
                assert [number_of(value) for value in reader.history(0)]
            return last

        assert all(seen for seen in in_threads(work)[1:])


def test_threads_share_a_snapshot(ring_dir: Path) -> None:
    """However many ask at once, a value is built once and is the same for all."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        for number in range(50):
            writer.publish(snapring.LoadSnapshot(num_running_reqs=number))
            snap, view = reader.read(0), reader.view()
            assert snap is not None
            values = in_threads(lambda _, snap=snap: snap.value, count=8)  # type: ignore[misc]
            records = in_threads(lambda _, view=view: view.records["num_running_reqs"].tolist(), count=8)  # type: ignore[misc]

            assert all(value is values[0] for value in values)
            assert records == [[number]] * 8


def test_threads_poll_and_wait_together(ring_dir: Path) -> None:
    """Polls of many threads share out the changes: each change comes to at least one of them, and no wait hangs."""
    with Writer("main", rank=0, ranks=1, schema=bytes) as writer, patient() as reader:
        reader.fileno()
        done = threading.Event()

        def work(index: int) -> int:
            if index == 0:
                for _ in range(2000):
                    writer.publish(b"x")
                done.set()
                return 0
            found = 0
            while not done.is_set():
                reader.wait(0.01)
                found += len(reader.poll())
            return found

        polls = in_threads(work, count=8)
        assert sum(polls) > 0  # type: ignore[arg-type]
        assert reader.poll() in ([], [0])
        assert reader.poll() == []


def test_closing_under_use(ring_dir: Path) -> None:
    """Handles may be closed while threads use them: each call ends with a value or with HandleClosed."""
    for _ in range(20):
        writer, reader = Writer("main", rank=0, ranks=1, schema=bytes), Reader("main", schema=bytes)
        writer.publish(block(1))

        def work(index: int, writer: "Writer[bytes]" = writer, reader: "Reader[bytes]" = reader) -> str:
            try:
                for number in itertools.count():
                    if index == 0 and number == 50:
                        writer.close()
                        reader.close()
                    if index % 2:
                        writer.publish(block(1))
                    else:
                        for snap in reader.read_all():
                            assert number_of(snap.value) == 1
                        reader.wait(0)
            except HandleClosed:
                return "closed"
            return "open"

        assert set(in_threads(work, count=8)) == {"closed"}
        assert list(ring_dir.iterdir()) == []


def test_threads_open_and_close_at_once(ring_dir: Path) -> None:
    """Threads that race for one rank behave like processes: one holds it at a time, the others are told."""
    held = threading.Lock()

    def work(index: int) -> int:
        wins = 0
        for _ in range(40):
            try:
                with Writer("main", rank=0, ranks=2) as writer:
                    assert held.acquire(blocking=False)
                    writer.publish(snapring.LoadSnapshot())
                    wins += 1
                    held.release()
            except snapring.WriterBusy:
                pass
        return wins

    with Writer("main", rank=1, ranks=2):
        wins = sum(in_threads(work, count=8))  # type: ignore[arg-type]
        snap = Reader("main").read(0)

    assert snap is not None
    assert (snap.version, wins > 0) == (wins, True)
