"""Traces are read exactly or refused by row and column; generated arrivals repeat and have the stated statistics."""

import math
import statistics
from itertools import islice, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapring.errors import InvalidValue
from snapring.simulate import Lengths, Request, bursty, read_trace

HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens"


def trace(folder: Path, *rows: bytes, header: bytes = HEADER, end: bytes = b"\n") -> Path:
    """Write a trace file."""
    path = folder / "trace.csv"
    path.write_bytes(end.join((header, *rows)))
    return path


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("tail", [[], [b""], [b"", b"  ", b""]])
def test_rows_become_requests(tmp_path: Path, end: bytes, mark: bytes, tail: list[bytes]) -> None:
    """Arrivals count from the first row, ids in file order, whatever the line ends, the mark and the blank tail."""
    rows = [b"2023-11-16 18:15:46.6805900,374,44", b"2023-11-16 18:15:46.6805900,1,1", b"2023-11-17 00:00:00,20,3"]

    requests = read_trace(trace(tmp_path, *rows, *tail, header=mark + HEADER, end=end))

    assert [Request(0.0, 374, 44, 0), Request(0.0, 1, 1, 1), Request(20653.31941, 20, 3, 2)] == requests


@pytest.mark.parametrize(
    ("row", "column", "shown"),
    [
        (b"2023-11-16 25:00:00,1,1", "TIMESTAMP", "'2023-11-16 25:00:00' is not a date"),
        (b",1,1", "TIMESTAMP", "'' is not a date"),
        (b"2023-11-16 17:00:00,1,1", "TIMESTAMP", "'2023-11-16 17:00:00' is earlier"),
        (b"2023-11-16 19:00:00,1.5,1", "ContextTokens", "'1.5' is not a whole number"),
        (b"2023-11-16 19:00:00,,1", "ContextTokens", "'' is not a whole number"),
        (b"2023-11-16 19:00:00,1,-4", "GeneratedTokens", "'-4' is not"),
        (b"2023-11-16 19:00:00,1,0", "GeneratedTokens", "'0' is not"),
        (b"2023-11-16 19:00:00,1,1_0", "GeneratedTokens", "'1_0' is not"),
        (b"2023-11-16 19:00:00,1," + b"9" * 5000, "GeneratedTokens", "9...' is not"),
        ("2023-11-16 19:00:00,1,٣".encode(), "GeneratedTokens", "'٣' is not"),
        (b"2023-11-16 19:00:00,\xff\x00,1", "ContextTokens", r"\\xff"),
        (b"2023-11-16 19:00:00,1", "GeneratedTokens", "'2023-11-16 19:00:00,1' is a row that lacks"),
        (b"2023-11-16", "ContextTokens", "'2023-11-16' is a row that lacks"),
        (b"2023-11-16 19:00:00,1,1,1", "GeneratedTokens", "4 cells"),
        (b'"2023-11-16 19:00:00",1,1', "TIMESTAMP", "is not a date"),
    ],
)
def test_unreadable_row_is_named(tmp_path: Path, row: bytes, column: str, shown: str) -> None:
    """A row that cannot be read raises with file, row, column and the text; blank lines count as rows of the file."""
    path = trace(tmp_path, b"2023-11-16 18:00:00,1,1", b"", row, b"2023-11-16 20:00:00,1,1")

    with pytest.raises(InvalidValue) as raised:
        read_trace(path)

    assert f"{path}, row 4, column {column}: " in str(raised.value)
    assert shown in str(raised.value)
    assert len(str(raised.value)) < len(str(path)) + 250


@pytest.mark.parametrize("header", [b"", b"a,b,c", b"ContextTokens,TIMESTAMP,GeneratedTokens", b"\x00\xfe" * 500])
def test_wrong_header_is_refused(tmp_path: Path, header: bytes) -> None:
    """A file that does not begin with the three columns is no trace; the message says what it begins with."""
    with pytest.raises(
        InvalidValue, match="row 1: the header must read TIMESTAMP,ContextTokens,GeneratedTokens, not '"
    ):
        read_trace(trace(tmp_path, b"2023-11-16 18:00:00,1,1", header=header))


@pytest.mark.parametrize("tail", [[], [b""], [b"", b""]])
def test_trace_without_a_request_is_refused(tmp_path: Path, tail: list[bytes]) -> None:
    """A header alone is an error, not an endless wait for the first request."""
    with pytest.raises(InvalidValue, match="holds no request"):
        read_trace(trace(tmp_path, *tail))


def test_offsets_count(tmp_path: Path) -> None:
    """A timestamp with an offset is compared as the moment that it means; one without is UTC."""
    path = trace(tmp_path, b"2023-11-16 18:00:00,1,1", b"2023-11-16T20:00:01+02:00,1,1")

    assert [request.arrival_s for request in read_trace(path)] == [0.0, 1.0]


def test_missing_file_passes_as_it_is(tmp_path: Path) -> None:
    """The error of opening a file is the builtin one."""
    with pytest.raises(FileNotFoundError):
        read_trace(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("arrival_s", "prompt", "answer"), [(-1.0, 1, 1), (math.nan, 1, 1), (math.inf, 1, 1), (0, 0, 1), (0, 1, 0)]
)
def test_impossible_request_is_refused(arrival_s: float, prompt: int, answer: int) -> None:
    """A request has a time and at least one token each way."""
    with pytest.raises(InvalidValue):
        Request(arrival_s, prompt, answer, 0)


@given(seed=st.integers(), rate_rps=st.floats(0.5, 1000), variation=st.floats(0, 3))
def test_same_seed_same_arrivals(seed: int, rate_rps: float, variation: float) -> None:
    """Equal arguments give equal requests, in order of time; another seed gives others."""
    one, same, other = (
        list(islice(bursty(s, rate_rps, variation=variation, episode_s=30), 20)) for s in (seed, seed, abs(seed) + 1)
    )

    assert one == same
    assert one != other
    assert list(range(20)) == [request.id for request in one]
    assert all(a.arrival_s <= b.arrival_s for a, b in pairwise(one))


def counts_per_second(variation: float) -> list[int]:
    """Return arrivals per second over a long while, at a mean of 4."""
    seconds = 20_000
    counts = [0] * seconds
    for request in bursty(5, 4.0, variation=variation):
        if request.arrival_s >= seconds:
            return counts
        counts[int(request.arrival_s)] += 1
    raise AssertionError("the generator ended")


def test_bursts_keep_the_mean_and_raise_the_spread() -> None:
    """Whatever the variation, the mean rate is the one asked for; without it counts are Poisson, with it far wider."""
    calm, bursts = counts_per_second(0.0), counts_per_second(1.0)

    assert statistics.fmean(calm) == pytest.approx(4.0, rel=0.05)
    assert statistics.fmean(bursts) == pytest.approx(4.0, rel=0.1)
    assert statistics.variance(calm) / 4.0 == pytest.approx(1.0, rel=0.1)
    assert statistics.variance(bursts) / 4.0 > 2.5


def test_lengths_follow_their_law() -> None:
    """Lengths have the stated median, never pass the longest, and vary independently of the arrivals' rate."""
    law = Lengths(median=100, sigma=1.0, longest=400)
    drawn = [request.answer_tokens for request in islice(bursty(6, 10.0, answers=law), 20_000)]

    assert statistics.median(drawn) == pytest.approx(100, rel=0.05)
    assert max(drawn) == 400
    assert min(drawn) >= 1
    assert {7} == {r.prompt_tokens for r in islice(bursty(6, 10.0, prompts=Lengths(7, 0, 9)), 50)}


@pytest.mark.parametrize("bad", [{"rate_rps": 0}, {"rate_rps": math.inf}, {"episode_s": 0}, {"variation": -1}])
def test_bad_parameters_raise_at_the_call(bad: dict[str, float]) -> None:
    """The mistake shows where it is made, not at the first request."""
    with pytest.raises(InvalidValue):
        bursty(0, **{"rate_rps": 1.0, **bad})  # type: ignore[arg-type]


@pytest.mark.parametrize(("median", "sigma", "longest"), [(0, 1, 9), (10, 1, 9), (1, -1, 9), (1, math.nan, 9)])
def test_bad_lengths_are_refused(median: float, sigma: float, longest: int) -> None:
    """A law that cannot be drawn from is an error."""
    with pytest.raises(InvalidValue):
        Lengths(median, sigma, longest)
