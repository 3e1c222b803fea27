"""What ``top`` and ``demo`` show of a ring: a row per rank, from one look at all ranks.

A look turns snapshots into plain rows; nothing in here knows of colours or widths.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import msgspec
import numpy as np

from snapring._core import Snapshot
from snapring.cli.opening import is_remote
from snapring.layout import Kind, SchemaText
from snapring.ring import Reader
from snapring.state import State

__all__ = ["LOAD_COLUMNS", "Board", "Row", "sort_rows"]

LOAD_COLUMNS: Final = {
    "node": "node",
    "running": "num_running_reqs",
    "waiting": "num_waiting_reqs",
    "tokens": "num_used_tokens",
    "capacity": "max_total_num_tokens",
    "throughput": "gen_throughput",
}
"""Names of columns for the fields of a load snapshot that have a place of their own."""

HISTORY: Final = ("num_total_tokens", "num_used_tokens", "num_running_reqs")
"""The sparkline shows the first of these that the ring has, else the first number there is."""

HISTORY_LENGTH: Final = 16
RATE_SECONDS: Final = 3.0
"""Versions per second are taken over this time, or since the first look if that is later."""

_OWN: Final = {
    "rank": "rank",
    "state": "state",
    "age": "age",
    "beat": "beat_age",
    "epoch": "epoch",
    "version": "version",
    "rate": "rate",
}
"""Columns of every ring, and where a `Row` has them."""

_ABSENT_INT: Final = np.iinfo(np.int64).min
_NUMBERS: Final = {Kind.INT, Kind.FLOAT, Kind.BOOL}


class Row(msgspec.Struct, frozen=True):
    """One rank at one look.

    ``fields``: its numbers by field name, None where not reported. ``age``, ``beat_age``: seconds since the newest
    snapshot, and since the last sign of life. ``timestamp``: when the newest was published, seconds since 1970.
    ``rate``: versions per second. ``remote``: whether a relay wrote it. None wherever there is nothing yet.
    ``history``: one field's values, oldest first, None where not reported.
    """

    rank: int
    state: State
    fields: dict[str, float | None] = {}
    age: float | None = None
    beat_age: float | None = None
    epoch: int | None = None
    version: int | None = None
    rate: float | None = None
    history: tuple[float | None, ...] = ()
    timestamp: float | None = None
    remote: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the history is left out."""
        plain = {name: value for name, value in msgspec.structs.asdict(self).items() if name != "history"}
        return plain | {"state": self.state.name}


class Board:
    """Looks at all ranks of a ring and remembers versions, since a rate takes two looks. Belongs to one thread."""

    def __init__(
        self, reader: Reader[Any], ranks: Iterable[int] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Show ``ranks``, or all; ``reader`` should have been opened with ``schema=None``, so that any ring will do."""
        self._reader = reader
        self._wanted = None if ranks is None else frozenset(ranks)
        self._clock = clock
        self._looks: deque[tuple[float, dict[int, int]]] = deque()
        self._schema_text: str | None = None
        self.numbers: tuple[str, ...] = ()
        self.history_field: str | None = None

    def look(self) -> list[Row]:
        """Return a row for each rank, in order; none while there is no ring. Raises what `Reader` raises."""
        count = self._reader.ranks
        if count is None:
            return []
        self._learn()
        snapshots = {snapshot.rank: snapshot for snapshot in self._reader.read_all()}
        rates = self._rates({rank: snapshot.version for rank, snapshot in snapshots.items()})
        ranks = [rank for rank in range(count) if self._wanted is None or rank in self._wanted]
        return [self._row(rank, snapshots.get(rank), rates.get(rank)) for rank in ranks]

    def sort_names(self) -> list[str]:
        """Return what the rows of the ring last seen can be sorted by."""
        columns = (name for name, field in LOAD_COLUMNS.items() if field in self.numbers)
        return [*_OWN, *columns, *self.numbers]

    def _learn(self) -> None:
        """Find out which numbers the ring's records hold, whenever the ring is another one."""
        text = self._reader.schema_text
        if text is None or text == self._schema_text:
            return
        schema = msgspec.json.decode(text, type=SchemaText)
        names = [entry.name for entry in schema.fields if entry.kind in _NUMBERS and entry.fill is None]
        self._schema_text = text
        self.numbers = tuple(names)
        self.history_field = next((name for name in (*HISTORY, *names) if name in names), None)

    def _rates(self, versions: dict[int, int]) -> dict[int, float]:
        now_s = self._clock()
        while len(self._looks) > 1 and self._looks[1][0] <= now_s - RATE_SECONDS:
            self._looks.popleft()
        self._looks.append((now_s, versions))
        since_s, before = self._looks[0]
        if now_s <= since_s:
            return {}
        # A ring that was removed and made anew counts from the start.
        return {
            rank: max(0, version - before[rank]) / (now_s - since_s)
            for rank, version in versions.items()
            if rank in before
        }

    def _row(self, rank: int, snapshot: Snapshot[Any] | None, rate: float | None) -> Row:
        if snapshot is None:
            return Row(rank, State.NEVER)
        return Row(
            rank,
            snapshot.state,
            {name: snapshot[name] for name in self.numbers},
            snapshot.age,
            snapshot.beat_age,
            snapshot.epoch,
            snapshot.version,
            rate,
            self._history(rank),
            snapshot.timestamp,
            is_remote(snapshot),
        )

    def _history(self, rank: int) -> tuple[float | None, ...]:
        if self.history_field is None:
            return ()
        values = self._reader.history(rank, last=HISTORY_LENGTH)[self.history_field]
        return tuple(None if value == _ABSENT_INT or value != value else value for value in values.tolist())  # noqa: PLR0124  NaN


def sort_rows(rows: Iterable[Row], by: str, *, reverse: bool = False) -> list[Row]:
    """Return ``rows`` by a column or field, the largest first, but ranks from 0; ``reverse`` turns that round.

    Ranks that do not report the value come last either way, and equal ones stay in order of rank. An unknown name sorts
    nothing, since a ring that comes later may know it.
    """
    keyed = [(_value(row, by), row) for row in rows]
    known = [(value, row) for value, row in keyed if value is not None]
    known.sort(key=lambda pair: pair[0], reverse=(by != "rank") != reverse)
    return [row for _, row in known] + [row for value, row in keyed if value is None]


def _value(row: Row, name: str) -> float | None:
    if name in _OWN:
        return cast("float | None", getattr(row, _OWN[name]))
    return row.fields.get(LOAD_COLUMNS.get(name, name))
