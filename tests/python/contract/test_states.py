import time
from pathlib import Path

from contract.model import Numbered
from snapring import Reader, State, Writer
from support import eventually


def states(reader: "Reader[Numbered]") -> list[State]:
    """State of every rank, by view."""
    return [State(state) for state in reader.view().states]


def test_the_life_of_a_rank(ring_dir: Path) -> None:
    """NEVER until the first publish, LIVE, STALE once silent for longer than ``max_age``, LIVE again, DEAD at the end.

    The last value stays readable throughout.
    """
    patient, strict = Reader("main", schema=Numbered, max_age=1e6), Reader("main", schema=Numbered, max_age=0.05)
    with Writer("main", rank=1, ranks=2, schema=Numbered):
        writer = Writer("main", rank=0, ranks=2, schema=Numbered)
        assert (patient.check(0), states(patient)) == (State.NEVER, [State.NEVER, State.NEVER])
        for number in range(2):
            writer.publish(Numbered(number))
            assert patient.check(0) is State.LIVE
            assert states(patient) == [State.LIVE, State.NEVER]
            eventually(lambda: states(strict)[0] is State.STALE)
            snap = strict.read(0)
            assert snap is not None
            assert snap.state is strict.check(0) is State.STALE
        writer.close()

        for reader in (patient, strict):
            assert reader.check(0) is State.DEAD
            eventually(lambda reader=reader: states(reader)[0] is State.DEAD)  # type: ignore[misc]
        assert snap.state is State.DEAD
        assert snap.value == Numbered(1)


def test_dead_is_known_at_once_when_asked(ring_dir: Path) -> None:
    """``check`` asks the kernel: no age, no beat and no earlier answer can hide that a writer is gone."""
    with Writer("main", rank=1, ranks=2, schema=Numbered), Reader("main", schema=Numbered, max_age=60) as reader:
        for _ in range(20):
            with Writer("main", rank=0, ranks=2, schema=Numbered) as writer:
                writer.publish(Numbered(1))
                writer.beat()
                assert reader.check(0) is State.LIVE

            assert reader.check(0) is State.DEAD


def test_a_value_of_an_earlier_writer_is_not_live(ring_dir: Path) -> None:
    """A restarted writer that has not published yet does not make the old value look fresh."""
    with Writer("main", rank=1, ranks=2, schema=Numbered), Reader("main", schema=Numbered, max_age=60) as reader:
        with Writer("main", rank=0, ranks=2, schema=Numbered) as writer:
            writer.publish(Numbered(1))
        with Writer("main", rank=0, ranks=2, schema=Numbered) as writer:
            snap = reader.read(0)
            assert snap is not None
            assert snap.state is reader.check(0) is State.STALE
            writer.publish(Numbered(2))
            assert reader.check(0) is State.LIVE


def test_max_age_sets_the_state_and_filters_nothing(ring_dir: Path) -> None:
    """Each reader chooses what is too old for it; old values are shown all the same."""
    with Writer("main", rank=0, ranks=1, schema=Numbered) as writer:
        writer.publish(Numbered(1))
        time.sleep(0.01)
        strict, patient = Reader("main", schema=Numbered, max_age=0.005), Reader("main", schema=Numbered, max_age=1e9)

        assert (states(strict), states(patient)) == ([State.STALE], [State.LIVE])
        assert [snap.value for snap in strict.read_all()] == [Numbered(1)]
        assert len(strict.view().records) == len(strict.history(0)) == 1


def test_a_beat_does_not_make_data_fresh(ring_dir: Path) -> None:
    """Age is of the data: a rank whose loop hangs turns STALE although its heartbeat goes on."""
    with Writer("main", rank=0, ranks=1, schema=Numbered) as writer:
        writer.publish(Numbered(1))
        writer.start_heartbeat(0.01)
        reader = Reader("main", schema=Numbered, max_age=0.1)
        eventually(lambda: states(reader) == [State.STALE])

        snap = reader.read(0)
        assert snap is not None
        eventually(lambda: snap.beat_age < 0.1 < snap.age)
