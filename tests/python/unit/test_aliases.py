"""The documents of the older load routes, from real rings."""

import math
from pathlib import Path

import pytest
from msgspec import Struct

from snapring import LoadSnapshot, Reader, Snapshot, State, Writer
from snapring.serve.aliases import get_load, get_loads, server_load
from support import eventually


class Other(Struct, frozen=True):
    """A schema that shares one field with LoadSnapshot."""

    num_running_reqs: int


def ended(reader: "Reader[LoadSnapshot]", rank: int) -> "list[Snapshot[LoadSnapshot]]":
    """All ranks, once ``rank`` is seen to be DEAD."""
    eventually(lambda: any(snap.rank == rank and snap.state == State.DEAD for snap in reader.read_all()))
    return reader.read_all()


BUSY = LoadSnapshot(num_running_reqs=5, num_waiting_reqs=2, num_used_tokens=100, num_total_tokens=130)


def test_get_load(ring_dir: Path) -> None:
    """An object per rank with exactly the old fields: requests in all, tokens pending, and the time of the publish."""
    with Writer("main", rank=1, ranks=4) as writer, Reader("main") as reader:
        writer.publish(BUSY)
        (rank,) = reader.read_all()

        document = get_load([rank], now=1000.0)

    assert document == [
        {
            "dp_rank": 1,
            "num_reqs": 7,
            "num_waiting_reqs": 2,
            "num_tokens": 130,
            "num_pending_tokens": 30,
            "ts_tic": pytest.approx(1000.0, abs=60),
        }
    ]


def test_get_loads(ring_dir: Path) -> None:
    """Each rank is a worker with its tokens, a rank whose writer has gone one with -1, in both shapes of a gateway."""
    with Reader("main") as reader, Writer("main", rank=0, ranks=3) as writer:
        writer.publish(BUSY)
        with Writer("main", rank=2, ranks=3) as gone:
            gone.publish(BUSY)

        document = get_loads(ended(reader, 2), "http://here:9400")

    assert document == {
        "workers": [{"worker": "http://here:9400@0", "load": 130}, {"worker": "http://here:9400@2", "load": -1}],
        "loads": [
            {"worker": "http://here:9400@0", "load": 130, "worker_type": None},
            {"worker": "http://here:9400@2", "load": -1, "worker_type": None},
        ],
        "total_workers": 2,
        "successful": 1,
        "failed": 1,
    }


def test_server_load(ring_dir: Path) -> None:
    """Running and waiting requests of all ranks that are there; those of a dead rank are gone."""
    with Reader("main") as reader, Writer("main", rank=0, ranks=3) as zero, Writer("main", rank=1, ranks=3) as one:
        zero.publish(BUSY)
        one.publish(BUSY)
        with Writer("main", rank=2, ranks=3) as gone:
            gone.publish(BUSY)

        assert server_load(ended(reader, 2)) == {"server_load": 14}


def test_a_stale_rank_still_counts(ring_dir: Path) -> None:
    """A rank in a long step has its load still."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main", max_age=0.0) as reader:
        writer.publish(BUSY)
        ranks = reader.read_all()

    assert [rank.state.name for rank in ranks] == ["STALE"]
    assert server_load(ranks) == {"server_load": 7}
    assert len(get_load(ranks, 0.0) or []) == 1
    assert get_loads(ranks, "x")["successful"] == 1


def test_no_rank_is_not_an_idle_server(ring_dir: Path) -> None:
    """Without a rank there is no document that a caller could take for an idle server."""
    with Writer("main", rank=0, ranks=1, keep=True) as writer:
        writer.publish(BUSY)
    with Reader("main") as reader:
        dead = ended(reader, 0)

    for ranks in ([], dead):
        assert get_load(ranks, 0.0) is None
        assert server_load(ranks) is None
    assert get_loads([], "x") == {"workers": [], "loads": [], "total_workers": 0, "successful": 0, "failed": 0}


def test_what_a_ring_does_not_hold(ring_dir: Path) -> None:
    """Numbers that are not reported are 0, since callers know integers only; a worker's load is then not known."""
    with Writer("main", rank=0, ranks=1, schema=Other) as writer, Reader("main", schema=None) as reader:
        writer.publish(Other(3))
        ranks = reader.read_all()

        (row,) = get_load(ranks, math.inf) or [{}]

    assert {name: row[name] for name in row if name != "ts_tic"} == {
        "dp_rank": 0,
        "num_reqs": 3,
        "num_waiting_reqs": 0,
        "num_tokens": 0,
        "num_pending_tokens": 0,
    }
    assert get_loads(ranks, "x")["workers"] == [{"worker": "x@0", "load": -1}]
    assert server_load(ranks) == {"server_load": 3}
