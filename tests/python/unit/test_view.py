import math
from pathlib import Path

import numpy as np
import pytest

from snapring import InvalidValue, LoadSnapshot, Reader, State, Writer
from snapring.load import QueuesSection

INT_ABSENT = -(2**63)


def test_a_row_per_rank(ring_dir: Path) -> None:
    """Rows stand at their ranks' indices, also when only some have published; the others are absent throughout."""
    with Writer("main", rank=2, ranks=4) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(LoadSnapshot(num_running_reqs=7, token_usage=0.5))
        view = reader.view()

        assert len(view) == 4
        assert view.records["num_running_reqs"].tolist() == [INT_ABSENT, INT_ABSENT, 7, INT_ABSENT]
        assert view.records["dp_rank"].tolist() == [INT_ABSENT, INT_ABSENT, 2, INT_ABSENT]
        assert [math.isnan(usage) for usage in view.records["token_usage"]] == [True, True, False, True]
        assert view.versions.tolist() == [0, 0, 1, 0]
        assert [math.isnan(age) for age in view.ages] == [True, True, False, True]
        assert view.states.tolist() == [State.NEVER, State.NEVER, State.LIVE, State.NEVER]
        assert view.ok.tolist() == [False, False, True, False]
        assert view.present("num_running_reqs").tolist() == [False, False, True, False]
        assert view.contended.tolist() == [False] * 4


def test_not_reported_is_not_zero(ring_dir: Path) -> None:
    """A measured 0 and a metric that nobody measured differ in records, in ``present`` and in the value."""
    with Writer("main", rank=0, ranks=2) as zero, Writer("main", rank=1, ranks=2) as one, Reader("main") as reader:
        zero.publish(LoadSnapshot(max_running_requests=0, token_usage=0.0, queues=QueuesSection(grammar=0)))
        one.publish(LoadSnapshot())
        view = reader.view()
        values = [snap.value for snap in reader.read_all()]

    for name in ("max_running_requests", "token_usage", "queues", "queues.grammar", "queues.waiting"):
        assert view.present(name).tolist() == [True, False], name
    assert view.records["max_running_requests"].tolist() == [0, INT_ABSENT]
    assert view.records["queues.grammar"].tolist() == [0, INT_ABSENT]
    assert view.records["token_usage"][0] == 0.0
    assert math.isnan(view.records["token_usage"][1])
    assert [value.max_running_requests for value in values] == [0, None]
    assert [value.queues for value in values] == [QueuesSection(grammar=0), None]


def test_a_value_that_is_gone_leaves_nothing(ring_dir: Path) -> None:
    """A field that is reported once and not the next time is absent again, whatever cell it is written to."""
    with Writer("main", rank=0, ranks=1, cells=2) as writer, Reader("main") as reader:
        for number in range(6):
            full = LoadSnapshot(token_usage=0.5, decode_moments=[1.0] * 6, queues=QueuesSection(waiting=9))
            writer.publish(full if number % 2 else LoadSnapshot())
            (snap,), view = reader.read_all(), reader.view()

            assert view.present("queues.waiting").tolist() == [bool(number % 2)]
            assert (snap.value.decode_moments is None) == (number % 2 == 0)
            assert math.isnan(view.records["token_usage"][0]) == (number % 2 == 0)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308])
def test_every_float_is_kept(ring_dir: Path, number: float) -> None:
    """NaN and infinities are values like any other: present, and the same after the way through the ring."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(gen_throughput=number, decode_moments=[number]))
        (snap,), view = reader.read_all(), reader.view()

    found = [snap["gen_throughput"], snap.value.gen_throughput, view.records["gen_throughput"][0]]
    assert [np.float64(value).tobytes() for value in found] == [np.float64(number).tobytes()] * 3
    assert np.array(snap.value.decode_moments).tobytes() == np.array([number]).tobytes()
    assert view.present("gen_throughput").tolist() == [True]


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63) + 1, 0, -1])
def test_every_integer_but_one_is_kept(ring_dir: Path, number: int) -> None:
    """All of 64 bits but the number that stands for absent."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(num_used_tokens=number))

        assert [snap["num_used_tokens"] for snap in reader.read_all()] == [number]
        assert reader.view().records["num_used_tokens"].tolist() == [number]


def test_a_view_cannot_write_to_the_ring(ring_dir: Path) -> None:
    """Records are a private copy, and read-only, so that no reader changes what another sees."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(num_running_reqs=1))
        view = reader.view()

        assert not view.records.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            view.records["num_running_reqs"] = 2
        assert reader.view().records["num_running_reqs"].tolist() == [1]


def test_columns_of_a_view_agree(ring_dir: Path) -> None:
    """Versions, ages and records are of the same moment, whatever is published afterwards."""
    with Writer("main", rank=0, ranks=1, cells=2) as writer, Reader("main") as reader:
        writer.publish(LoadSnapshot(num_running_reqs=1))
        view = reader.view()
        for number in range(2, 6):
            writer.publish(LoadSnapshot(num_running_reqs=number))

        assert view.versions.tolist() == [1]
        assert view.records["num_running_reqs"].tolist() == [1]


def test_unknown_columns_are_named(ring_dir: Path) -> None:
    """A misspelt field is an error that names it."""
    with Writer("main", rank=0, ranks=1), Reader("main") as reader, pytest.raises(InvalidValue, match="nope"):
        reader.view().present("nope")


def test_a_view_is_of_records(ring_dir: Path) -> None:
    """Free payloads have no columns; the error says what to call instead."""
    with Writer("main", rank=0, ranks=1, schema=bytes) as writer, Reader("main", schema=bytes) as reader:
        writer.publish(b"x")

        with pytest.raises(InvalidValue, match="read_all"):
            reader.view()


def test_a_view_counts_its_states(ring_dir: Path) -> None:
    """The repr is enough to see how the ranks are."""
    with Writer("main", rank=0, ranks=3) as writer, Reader("main", max_age=1e6) as reader:
        writer.publish(LoadSnapshot())

        assert repr(reader.view()) == "<View of 3 ranks: 1 live, 0 stale, 0 dead>"
