import math

import msgspec
import numpy as np
import pytest

from snapring import LoadSnapshot
from snapring.errors import InvalidValue, RankOutOfRange
from snapring.feed import LoadStat, feed_endpoint

FULL = LoadSnapshot(
    dp_rank=3,
    num_running_reqs=1,
    num_waiting_reqs=2,
    num_used_tokens=30,
    num_total_tokens=70,
    max_total_num_tokens=400,
    num_waiting_uncached_tokens=60,
    max_running_requests=8,
    total_prefill_uncached_tokens=9000,
    total_prefill_busy_us=10_000_000_000,
    gen_throughput=1.5,
)


def test_the_values_stand_in_the_order_of_the_wire() -> None:
    """Running, waiting, used, capacity, rank, waiting uncached, total, most running, prefill tokens, prefill time."""
    encoded = msgspec.msgpack.encode(LoadStat.of(FULL))

    expected = ["LoadStat", 1, 2, 30, 400, 3, 60, 70, 8, 9000, 10_000_000_000]
    assert msgspec.msgpack.decode(encoded) == expected
    assert msgspec.msgpack.decode(encoded, type=LoadStat) == LoadStat.of(FULL)


def test_what_is_not_reported_is_nil_and_not_zero() -> None:
    """The array keeps its eleven elements, so that positions hold."""
    encoded = msgspec.msgpack.encode(LoadStat.of(LoadSnapshot()))

    assert msgspec.msgpack.decode(encoded) == ["LoadStat", 0, 0, 0, None, None, None, 0, None, None, None]


def test_numbers_of_numpy_are_numbers() -> None:
    """A scheduler may take its counts from arrays."""
    stat = LoadStat.of(LoadSnapshot(num_running_reqs=np.int64(5), num_used_tokens=np.uint8(7)))  # type: ignore[arg-type]

    assert (stat.num_running_reqs, stat.num_used_tokens) == (5, 7)
    assert type(stat.num_running_reqs) is int


@pytest.mark.parametrize("value", [1.5, "1", math.nan, [1]])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    """A router that reads integers would choke on anything else."""
    with pytest.raises(InvalidValue, match="num_running_reqs must be a whole number"):
        LoadStat.of(LoadSnapshot(num_running_reqs=value))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("base", "rank", "expected"),
    [
        ("tcp://127.0.0.1:5600", 0, "tcp://127.0.0.1:5600"),
        ("tcp://127.0.0.1:5600", 7, "tcp://127.0.0.1:5607"),
        ("tcp://[::1]:5600", 1, "tcp://[::1]:5601"),
        ("tcp://node-3.cluster:65528", 7, "tcp://node-3.cluster:65535"),
        ("tcp://127.0.0.1:0", 7, "tcp://127.0.0.1:0"),
        ("tcp://127.0.0.1:*", 7, "tcp://127.0.0.1:0"),
    ],
)
def test_each_rank_has_the_next_port(base: str, rank: int, expected: str) -> None:
    """Routers find every rank from one address; free ports have no order, so each rank asks for its own."""
    assert feed_endpoint(base, rank) == expected


@pytest.mark.parametrize(
    "base",
    ["", "127.0.0.1:5600", "tcp://127.0.0.1", "udp://127.0.0.1:5600", "ipc:///run/feed", "tcp://:5600", "tcp://a:-1"],
)
def test_a_base_is_an_address_with_a_port(base: str) -> None:
    """Anything else is refused, with the form that is meant."""
    with pytest.raises(InvalidValue, match="tcp://HOST:PORT"):
        feed_endpoint(base, 0)


def test_ports_end() -> None:
    """A rank never lands on a port that is none, or on that of rank 0."""
    with pytest.raises(InvalidValue, match="port 65530 plus rank 6"):
        feed_endpoint("tcp://127.0.0.1:65530", 6)
    with pytest.raises(RankOutOfRange):
        feed_endpoint("tcp://127.0.0.1:5600", -1)
