"""Ranks as the verbs that print values see them: states by name, values as plain objects, fields by dotted path."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import msgspec

from snapring import Snapshot
from snapring.cli.opening import is_remote, wanted_ranks
from snapring.errors import InvalidValue, RingNotFound
from snapring.layout import Kind, SchemaText
from snapring.ring import Reader
from snapring.state import State

__all__ = ["RankValue", "Selection", "hint", "read_ranks", "text"]

MANY = 8
"""Names that an error message lists at most."""


class RankValue(msgspec.Struct, frozen=True):
    """One rank now; times in seconds, ``timestamp`` since 1970, None where nothing was published.

    ``remote`` is whether a relay wrote it for a rank elsewhere; ``value`` is the snapshot as JSON would show it.
    """

    rank: int
    state: str
    version: int | None = None
    epoch: int | None = None
    age: float | None = None
    beat_age: float | None = None
    timestamp: float | None = None
    remote: bool | None = None
    value: Any = None

    def get(self, name: str) -> Any:  # noqa: ANN401  a field may hold anything
        """A field by dotted path, or one of this class by its name; None where there is none."""
        fields = dict(flat(self.value))
        return fields[name] if name in fields or name in {"value", "get"} else getattr(self, name, None)


class Selection:
    """The fields that a command shows of a ring's values.

    Without ``names`` that is everything. A section stands for all of its fields.

    Raises:
        InvalidValue: the ring's records have no such field.
    """

    def __init__(self, schema_text: str, names: Sequence[str] | None) -> None:
        self.schema_text = schema_text
        schema = msgspec.json.decode(schema_text, type=SchemaText)
        self._is_record = schema.codec == "record"
        self._known = {field.name: field for field in schema.fields}
        self.units = {field.name: field.unit for field in schema.fields}
        self.chosen = None if names is None else [field for name in names for field in self._expand(name)]
        # What the writer fills in by itself is no news beside the rank and the age.
        self._filled = {field.name for field in schema.fields if field.fill is not None}

    @classmethod
    def of(cls, reader: Reader[Any], names: Sequence[str] | None) -> Self:
        """The selection for the ring that the reader is attached to; RingNotFound when there is none."""
        if (schema_text := reader.schema_text) is None:
            raise RingNotFound(f"ring {reader.name!r} is gone: its last writer closed it")
        return cls(schema_text, names)

    def check(self, name: str) -> None:
        """Raise InvalidValue unless the ring's values may have a field of that name."""
        if not self.has(name):
            raise InvalidValue(f"records of this ring have no field {name!r}; {hint(name, list(self._known))}")

    def has(self, name: str) -> bool:
        """Whether the ring's values have a field of that name, or may have: nothing says what free payloads hold."""
        return not self._is_record or name in self._known

    def picked(self, row: RankValue) -> RankValue:
        """The row with its whole value, or with the chosen fields by dotted path."""
        if self.chosen is None or row.value is None:
            return row
        fields = dict(flat(row.value))
        return msgspec.structs.replace(row, value={name: fields.get(name) for name in self.chosen})

    def columns(self, rows: Iterable[RankValue]) -> list[str]:
        """Names of the chosen fields, or of all that a row reports."""
        if self.chosen is not None:
            return self.chosen
        reported = {name: None for row in rows for name, value in flat(row.value) if value is not None}
        return [name for name in reported if name not in self._filled]

    def _expand(self, name: str) -> list[str]:
        """The fields that a name means: itself, or all of its section."""
        self.check(name)
        if name not in self._known or self._known[name].kind is not Kind.STRUCT:
            return [name]
        inside = (field for field in self._known.values() if field.name.startswith(f"{name}."))
        return [field.name for field in inside if field.kind is not Kind.STRUCT]


def read_ranks(reader: Reader[Any], wanted: Sequence[int] | None) -> list[RankValue]:
    """The wanted ranks, or all, in order.

    Raises:
        RingNotFound: the ring went away. RankOutOfRange: it has no such rank.
    """
    ranks = wanted_ranks(reader, wanted)
    snapshots = {snapshot.rank: snapshot for snapshot in reader.read_all()}
    return [_rank_value(rank, snapshots.get(rank)) for rank in ranks]


def _rank_value(rank: int, snapshot: Snapshot[Any] | None) -> RankValue:
    if snapshot is None:
        return RankValue(rank, State.NEVER.name)
    return RankValue(
        rank=rank,
        state=snapshot.state.name,
        version=snapshot.version,
        epoch=snapshot.epoch,
        age=snapshot.age,
        beat_age=snapshot.beat_age,
        timestamp=snapshot.timestamp,
        remote=is_remote(snapshot),
        value=_plain(snapshot.value),
    )


def _plain(value: object) -> object:
    """The value as JSON would show it: keys of maps as texts, extension types of msgpack as a map of code and data."""
    try:
        return msgspec.to_builtins(value, str_keys=True, enc_hook=_extension)
    except TypeError:  # msgpack has lists, null and booleans for keys, too
        return msgspec.to_builtins(_with_text_keys(value), str_keys=True, enc_hook=_extension)


def _extension(value: msgspec.msgpack.Ext) -> dict[str, object]:
    """The one type without a form in JSON that a payload can hold."""
    return {"code": value.code, "data": value.data}


def _with_text_keys(value: object) -> object:
    if isinstance(value, dict):
        return {
            key if isinstance(key, str | bytes) else str(key): _with_text_keys(inner) for key, inner in value.items()
        }
    return [_with_text_keys(item) for item in value] if isinstance(value, list | tuple) else value


def flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of nested dictionaries by dotted path; ``value`` for what is no dictionary."""
    if not isinstance(value, dict):
        yield path or "value", value
        return
    for name, inner in value.items():
        yield from flat(inner, f"{path}.{name}" if path else str(name))


def text(value: object) -> str:
    """A field for people: ``-`` where not reported, floats to four digits, lists with commas."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.0f}"  # noqa: PLR2004  no exponents before a million
    if isinstance(value, list):
        return ",".join(text(item) for item in value)
    return str(value)


def hint(name: str, known: list[str]) -> str:
    """What may have been meant by ``name``, or what there is."""
    close = difflib.get_close_matches(name, known)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(known) - MANY} more (snapring schema lists them)" if len(known) > MANY else ""
    return f"it has {', '.join(known[:MANY])}{more}"
