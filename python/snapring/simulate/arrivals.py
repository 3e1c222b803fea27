"""Requests and where they come from: a replayed trace, or a seeded bursty generator.

Times are seconds since the first request of a trace, or since the start of the generator. Nothing here sleeps or reads
a clock; pacing is the caller's.
"""

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from random import Random

import msgspec

from snapring.errors import InvalidValue

__all__ = ["CHAT_ANSWERS", "CHAT_PROMPTS", "TRACE_HEADER", "Lengths", "Request", "bursty", "read_trace"]

TRACE_HEADER = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
"""The columns of a trace file, in this order."""

_MAX_DIGITS = 9  # more tokens than any context window, and no surprise from a huge integer
_MIN_EPISODE_S = 1e-3  # shorter ones would only burn time between two arrivals
_MAX_VARIATION = 10.0
_NO_SPREAD = 1e-9  # below this a Gamma law is a constant, and its shape parameter heads for infinity


class Request(msgspec.Struct, frozen=True):
    """One request as a rank sees it. Immutable; safe to share between threads and to send between processes.

    ``arrival_s``: seconds since the first request, finite and not negative. ``prompt_tokens`` and ``answer_tokens``:
    tokens, at least 1 each; the answer's length is known beforehand because this is a model. ``id``: any integer that
    the source keeps unique. A value out of range raises `InvalidValue`.
    """

    arrival_s: float
    prompt_tokens: int
    answer_tokens: int
    id: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.arrival_s) and self.arrival_s >= 0):
            raise InvalidValue(f"arrival_s must be a time in seconds, 0 or later, not {self.arrival_s!r}")
        if self.prompt_tokens < 1 or self.answer_tokens < 1:
            raise InvalidValue(
                f"request {self.id}: prompt_tokens and answer_tokens must be at least 1, "
                f"not {self.prompt_tokens} and {self.answer_tokens}"
            )


def read_trace(path: str | PathLike[str]) -> list[Request]:
    """Read a CSV of real arrivals with the columns `TRACE_HEADER`; ids count from 0 in file order.

    A timestamp is ISO 8601 (digits below a microsecond are dropped; one without an offset counts as UTC); arrivals are
    relative to the first row. A byte-order mark, CRLF and blank lines are accepted. Quoted cells are not.

    Rows must be in order of time. They are not sorted here: one damaged timestamp would then move every other arrival
    by years without a word. Raises `InvalidValue` that names the file, the row (line of the file; the header is
    row 1), the column and the offending text; also for a wrong header and for a trace without a request. Errors of
    opening the file pass as the `OSError` they are.
    """
    requests: list[Request] = []
    # Bytes that are no text become visible escapes, so they fail in the cell that holds them, with its row and column.
    with Path(path).open(encoding="utf-8-sig", errors="backslashreplace") as lines:
        _check_header(path, next(lines, ""))
        first = previous = None
        for row, line in enumerate(lines, start=2):
            if not line.strip():
                continue
            cells = _split(path, row, line)
            stamp = _timestamp(path, row, cells[0])
            first = first or stamp
            if previous is not None and stamp < previous:
                raise _bad_cell(
                    path, row, TRACE_HEADER[0], cells[0], "earlier than the row before; sort the file by it"
                )
            previous = stamp
            prompt, answer = (_tokens(path, row, *cell) for cell in zip(TRACE_HEADER[1:], cells[1:], strict=True))
            requests.append(Request((stamp - first).total_seconds(), prompt, answer, len(requests)))
    if not requests:
        raise InvalidValue(f"{path}: the trace holds no request; give a file with at least one row below its header")
    return requests


def _check_header(path: str | PathLike[str], line: str) -> None:
    if tuple(cell.strip() for cell in line.split(",")) != TRACE_HEADER:
        raise InvalidValue(f"{path}, row 1: the header must read {','.join(TRACE_HEADER)}, not {_shown(line)}")


def _split(path: str | PathLike[str], row: int, line: str) -> list[str]:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) < len(TRACE_HEADER):
        raise _bad_cell(path, row, TRACE_HEADER[len(cells)], line, "a row that lacks this column")
    if len(cells) > len(TRACE_HEADER):
        raise _bad_cell(path, row, TRACE_HEADER[-1], line, f"a row of {len(cells)} cells instead of 3")
    return cells


def _timestamp(path: str | PathLike[str], row: int, text: str) -> datetime:
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        raise _bad_cell(path, row, TRACE_HEADER[0], text, "not a date and time like 2023-11-16 18:15:46.68") from None
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)


def _tokens(path: str | PathLike[str], row: int, column: str, text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and int(text) > 0:
        return int(text)
    raise _bad_cell(path, row, column, text, f"not a whole number from 1 to {10**_MAX_DIGITS - 1}")


def _bad_cell(path: str | PathLike[str], row: int, column: str, text: str, why: str) -> InvalidValue:
    return InvalidValue(f"{path}, row {row}, column {column}: {_shown(text)} is {why}")


def _shown(text: str, limit: int = 60) -> str:
    text = text.strip()
    return repr(text if len(text) <= limit else text[:limit] + "...")


class Lengths(msgspec.Struct, frozen=True):
    """A log-normal law of token counts, cut to 1..``longest``. Raises `InvalidValue` for values out of range.

    ``median``: tokens, at least 1. ``sigma``: standard deviation of the natural logarithm, 0 (always the median) or
    more; the mean is median * exp(sigma^2 / 2) before the cut. ``longest``: tokens, not below the median.
    """

    median: float
    sigma: float
    longest: int

    def __post_init__(self) -> None:
        if not (1 <= self.median <= self.longest and 0 <= self.sigma < math.inf):
            raise InvalidValue(f"lengths need 1 <= median <= longest and a finite sigma of 0 or more, not {self}")

    def draw(self, random: Random) -> int:
        """Return one token count; takes one normal variate from ``random``."""
        # The cut comes before the exponential, which would overflow for a wide law.
        exponent = min(random.gauss(math.log(self.median), self.sigma), math.log(self.longest))
        return max(1, min(round(math.exp(exponent)), self.longest))


CHAT_PROMPTS = Lengths(median=1020, sigma=0.5, longest=16_384)
CHAT_ANSWERS = Lengths(median=129, sigma=1.0, longest=2_048)
"""Medians and means (about 1,155 and 211 tokens) as measured in the Azure LLM inference trace 2023, conversation."""


def bursty(
    seed: int,
    rate_rps: float,
    *,
    episode_s: float = 4.0,
    variation: float = 1.0,
    prompts: Lengths = CHAT_PROMPTS,
    answers: Lengths = CHAT_ANSWERS,
) -> Iterator[Request]:
    """Return an endless iterator of requests in bursts and lulls; the same arguments give the same requests.

    The rate is redrawn at the start of each episode from a Gamma law with mean ``rate_rps`` (requests per second) and
    coefficient of variation ``variation`` (0 is plain Poisson); within an episode arrivals are Poisson. Episodes last
    ``episode_s`` seconds on average, exponentially distributed. This is a Poisson process with a Gamma-modulated rate:
    the usual way to write down that inference traffic is over-dispersed. Lengths are drawn independently of time.

    Raises `InvalidValue` at the call unless the rate is positive and finite, ``episode_s`` is finite and at least 1 ms,
    and ``variation`` is between 0 and 10.
    The iterator belongs to one thread; it takes all randomness from its own `random.Random`.
    """
    if not (0 < rate_rps < math.inf and _MIN_EPISODE_S <= episode_s < math.inf and 0 <= variation <= _MAX_VARIATION):
        raise InvalidValue(
            f"rate_rps must be above 0, episode_s at least {_MIN_EPISODE_S} and variation between 0 and "
            f"{_MAX_VARIATION}, all finite, not {rate_rps!r}, {episode_s!r} and {variation!r}"
        )
    random = Random(seed)
    arrivals = _modulated_arrivals(random, rate_rps, episode_s, variation)
    return (
        Request(arrival, prompts.draw(random), answers.draw(random), number) for number, arrival in enumerate(arrivals)
    )


def _modulated_arrivals(random: Random, mean_rps: float, episode_s: float, variation: float) -> Iterator[float]:
    start = 0.0
    spread = variation**2
    while True:
        end = start + random.expovariate(1 / episode_s)
        rate = mean_rps * (random.gammavariate(1 / spread, spread) if spread > _NO_SPREAD else 1.0)
        # Exponential gaps have no memory, so the gap that crosses the end may be dropped and drawn anew at a new rate.
        arrival = start
        while rate and (arrival := arrival + random.expovariate(rate)) < end:
            yield arrival
        start = end
