"""What a request for loads may ask: its query string, checked."""

import math
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from snapring.errors import InvalidValue
from snapring.load import Section, parse_include

__all__ = ["FORMATS", "LONGEST_WAIT_S", "BadQuery", "LoadsQuery", "parse_query"]

FORMATS: Final = ("json", "prometheus", "openmetrics", "orca")
"""What ``format`` may be."""

SECTIONS: Final = ("all", *Section)
"""What ``include`` may list."""

LONGEST_WAIT_S: Final = 60.0
"""A long-poll ends after this even if it asked for more: proxies cut what is silent for longer."""

LONGEST: Final = 1024
"""Bytes of a query string; longer ones would keep the event loop, and the memory of those that were parsed."""

MOST_RANKS: Final = 65_536


class BadQuery(Exception):
    """A parameter that cannot be; ``code`` is the HTTP status, ``valid`` the choices there are."""

    def __init__(self, code: int, message: str, valid: tuple[str, ...] = ()) -> None:
        """Keep all three."""
        super().__init__(message)
        self.code, self.valid = code, valid


class LoadsQuery(NamedTuple):
    """Parameters of ``/v1/loads``.

    Attributes:
        rank: the only rank wanted, None for all; any integer.
        include: the sections wanted.
        format: one of :data:`FORMATS`.
        max_age: seconds from which a living rank is STALE, None for the reader's own.
        wait: seconds to wait for news, 0 to :data:`LONGEST_WAIT_S`; counts only with ``If-None-Match``.
        ranks: ``rank`` as a choice of ranks: empty for one that no ring can have.
    """

    rank: int | None
    include: frozenset[Section]
    format: str
    max_age: float | None
    wait: float
    ranks: list[int] | None


def parse_query(text: bytes) -> LoadsQuery:
    """The parameters of a query string; unknown ones are passed over, and of one given twice the last counts.

    Raises:
        BadQuery: 422 for what should be a number and is none; 400 for an unknown section or format, and for
            ``max_age`` with ``format=orca``; 414 for more than 1024 bytes.
    """
    if len(text) > LONGEST:
        raise BadQuery(414, f"the query has {len(text)} bytes; {LONGEST} are allowed")
    return _parse(text)


@lru_cache(maxsize=256)
def _parse(text: bytes) -> LoadsQuery:
    given = dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True))
    if (form := given.get("format", "json").strip().lower() or "json") not in FORMATS:
        raise BadQuery(400, f"unknown format {form!r}; valid names: {', '.join(FORMATS)}", FORMATS)
    try:
        include = parse_include(given.get("include", ""))
    except InvalidValue as wrong:
        raise BadQuery(400, str(wrong), SECTIONS) from None
    rank, max_age = _rank(given.get("dp_rank")), _seconds("max_age", given.get("max_age"))
    if form == "orca" and max_age is not None:
        raise BadQuery(400, "a report counts ranks that are LIVE for the reader; leave max_age out, or choose a format")
    return LoadsQuery(
        rank=rank,
        include=include,
        format=form,
        max_age=max_age,
        wait=min(_seconds("wait", given.get("wait")) or 0.0, LONGEST_WAIT_S),
        ranks=None if rank is None else [rank] if 0 <= rank < MOST_RANKS else [],
    )


def _rank(text: str | None) -> int | None:
    if text is None or not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise BadQuery(422, f"dp_rank is a whole number, not {text!r}") from None


def _seconds(name: str, text: str | None) -> float | None:
    if text is None or not text.strip():
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise BadQuery(422, f"{name} is a number of seconds, 0 or more, not {text!r}")
    return seconds
