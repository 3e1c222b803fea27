"""``GET /v1/loads/history``: the last publishes of every rank, as columns, out of the ring itself.

``last``
    Publishes of each rank, 1 to 65,536; 60 by default. A ring keeps one less than it has cells.
``fields``
    Names with commas between, as ``/v1/loads`` nests them with dots: ``num_running_reqs,queues.waiting``. Numbers and
    truths can be had; choices, texts and lists cannot. By default what a dispatcher looks at, as far as the ring
    has it.
``dp_rank``
    Only this rank; one that there is not gives none.

The answer is ``{"ranks": [{"dp_rank": 0, "timestamp": [...], "num_running_reqs": [...], ...}]}``, oldest first, all
columns of a rank equally long. ``timestamp`` is the wall clock at publish (Unix seconds) of rings that have it. Not
reported, NaN and infinite are null. Ranks that never published in this ring are not there, and neither is one whose
slot cannot be read; without a ring there is none. An answer has at most 400,000 numbers, a few megabytes of text: where
the ranks asked for would give more, each gets equally fewer publishes, its newest.

Errors: 400 for an unknown field, with those there are, and where one publish of each rank were too much; 422 for what
should be a number and is none, or is out of its range; 503 where the ring cannot be read or holds no records.
"""

import asyncio
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from snapring.errors import InvalidValue, SnapringError
from snapring.layout import Kind, SchemaText
from snapring.loads import Loads
from snapring.serve.query import BadQuery, parse_query
from snapring.serve.reply import JSON, AnswerResponse, error, unreadable, whole

__all__ = ["DEFAULT_FIELDS", "DEFAULT_LAST", "LONGEST", "MOST_VALUES", "routes"]

DEFAULT_FIELDS: Final = ("num_running_reqs", "num_waiting_reqs", "num_total_tokens", "gen_throughput")
DEFAULT_LAST: Final = 60
LONGEST: Final = 65_536
"""The most that ``last`` may be, for each rank."""

MOST_VALUES: Final = 400_000
"""Numbers of one answer: what a request costs must not depend on how much it asks for."""

AT_ONCE: Final = 4_096
"""Numbers of a rank that are copied and told without a pause."""

NUMBERS: Final = frozenset({Kind.INT, Kind.FLOAT, Kind.BOOL})
"""Kinds that a chart can show."""

ABSENT: Final = -(2**63)
"""An integer or a truth that is not reported; a float is NaN then, which JSON writes as null by itself."""

RANK: Final = "dp_rank"
TIME: Final = "timestamp"


class HistoryQuery(NamedTuple):
    """Parameters: the ranks (None for all), publishes of each, and fields (none for the default)."""

    ranks: list[int] | None
    last: int
    fields: tuple[str, ...]


def routes(loads: Loads) -> list[Route]:
    """The route over ``loads``; it lets other requests in after each rank, and after each column of a long past."""

    async def history(request: Request) -> Response:
        try:
            body = await _document(loads, _parse(request.scope["query_string"]))
        except BadQuery as wrong:
            return error(wrong.code, str(wrong), wrong.valid)
        except SnapringError as problem:
            return AnswerResponse(unreadable(problem))
        return AnswerResponse(whole(200, JSON, body))

    return [Route("/v1/loads/history", history)]


async def _document(loads: Loads, query: HistoryQuery) -> bytes:
    schema_text, count = loads.reader.schema_text, loads.reader.ranks
    if schema_text is None or count is None:
        return b'{"ranks":[]}'
    columns = (TIME, *_chosen(query.fields, _numeric(schema_text)))
    ranks = range(count) if query.ranks is None else [rank for rank in query.ranks if rank < count]
    most = MOST_VALUES // (max(len(ranks), 1) * len(columns))
    if not most:
        text = f"{len(ranks)} ranks with {len(columns)} columns are too much for one answer; ask for fewer fields"
        raise BadQuery(400, text)
    parts = []
    for rank in ranks:
        await asyncio.sleep(0)
        parts.append(await _columns(loads, rank, min(query.last, most), columns))
    return b'{"ranks":[%b]}' % b",".join(part for part in parts if part is not None)


async def _columns(loads: Loads, rank: int, last: int, names: tuple[str, ...]) -> bytes | None:
    """The object of one rank, encoded; None where there is nothing to tell."""
    long = last * len(names) > AT_ONCE
    picked = await asyncio.to_thread(_picked, loads, rank, last, names) if long else _picked(loads, rank, last, names)
    if picked is None:
        return None
    members = [b'"%b":%d' % (RANK.encode(), rank)]
    for name, column in picked.items():
        if long:
            await asyncio.sleep(0)
        members.append(b"%b:%b" % (msgspec.json.encode(name), msgspec.json.encode(_plain(column))))
    return b"{%b}" % b",".join(members)


def _picked(loads: Loads, rank: int, last: int, names: tuple[str, ...]) -> dict[str, Any] | None:
    """Copies of the columns of one rank, so that its rows, which may be megabytes, are not kept meanwhile."""
    try:
        rows: Any = loads.reader.history(rank, last)
    except SnapringError:  # of this rank alone, or the ring has just gone; others still have their say
        return None
    # A ring that came since may hold no records, or others.
    if isinstance(rows, list) or not len(rows):
        return None
    absent = np.full(len(rows), ABSENT)
    return {name: rows[name].copy() if name in rows.dtype.names else absent for name in names}


def _plain(column: Any) -> list[int | float | None]:  # noqa: ANN401  numpy tells no dtype of a column
    values: list[int | float | None] = column.tolist()
    return [None if value == ABSENT else value for value in values] if column.dtype.kind == "i" else values


def _chosen(wanted: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, ...]:
    if not wanted:
        return tuple(name for name in DEFAULT_FIELDS if name in known)
    for name in wanted:
        if name not in known:
            raise BadQuery(400, f"unknown field {name!r} in fields; valid names: {', '.join(known)}", known)
    return tuple(name for name in dict.fromkeys(wanted) if name != TIME)


@lru_cache(maxsize=16)
def _numeric(schema_text: str) -> tuple[str, ...]:
    """The fields that a chart can show, as the schema has them."""
    schema = msgspec.json.decode(schema_text, type=SchemaText)
    if schema.codec != "record":
        raise InvalidValue(f"the ring holds {schema.codec}, not records; only records have a history of numbers")
    return tuple(field.name for field in schema.fields if field.kind in NUMBERS and field.name != RANK)


def _parse(text: bytes) -> HistoryQuery:
    """The parameters of a query string.

    Raises:
        BadQuery: 422 for what should be a number and is none, and what `parse_query` raises.
    """
    ranks = parse_query(text).ranks  # which also refuses a query that is too long
    given = dict(parse_qsl(text.decode("latin-1"), keep_blank_values=True))
    fields = tuple(name for part in given.get("fields", "").split(",") if (name := part.strip()))
    return HistoryQuery(ranks, _last(given.get("last", "")), fields)


def _last(text: str) -> int:
    if not text.strip():
        return DEFAULT_LAST
    try:
        last = int(text)
    except ValueError:
        last = 0
    if not 1 <= last <= LONGEST:
        raise BadQuery(422, f"last is a whole number from 1 to {LONGEST}, not {text!r}")
    return last
