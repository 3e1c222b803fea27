"""The layout of a record as a JSON text, and what a reader makes of that text.

The text stands in a ring's header. :func:`class_from_schema` and :func:`dtype_from_schema` turn it into a class and a
numpy dtype, so a reader needs no other source. Pure functions, cached, safe in any thread and after a fork.

The layout, in 64-bit little-endian words: first one presence bit for every field and section (bit ``b`` is bit
``b % 64`` of word ``b // 64``), then the fields in order of declaration.

=====================  ==================  ============================================================
annotation             words               content; absent
=====================  ==================  ============================================================
``int``                1                   value; -2**63, which a value must not be
``float``              1                   value, NaN and infinities included; NaN
``bool``               1                   0 or 1; -2**63
``str``, ``bytes``     1 + max / 8         length in bytes, then UTF-8 or bytes, zero padded; length -2**63
``list[int | float]``  1 + max             number of items, then the items, padded as absent; length -2**63
enum, ``Literal``      1                   position of the value among the choices; -2**63
nested Struct          those of its fields
=====================  ==================  ============================================================
"""

import enum
import typing
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from snapring.errors import InvalidValue

__all__ = ["FieldText", "Fill", "Kind", "SchemaText", "class_from_schema", "dtype_from_schema"]

SCHEMA_FORMAT: Final = 1
"""Version of the JSON text."""

PRESENCE: Final = "__present__"
"""Column of a structured array that holds the presence words."""

WORD_BYTES: Final = 8
WORD_BITS: Final = 64


class Kind(enum.StrEnum):
    """What a field holds."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STR = "str"
    BYTES = "bytes"
    LIST_INT = "list_int"
    LIST_FLOAT = "list_float"
    ENUM = "enum"
    STRUCT = "struct"


class Fill(enum.StrEnum):
    """Who fills a field that the publisher leaves out."""

    RANK = "rank"
    TIMESTAMP = "timestamp"


class FieldText(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One field in the JSON text; ``offset`` in bytes, ``max`` in bytes or items."""

    name: str
    kind: Kind
    offset: int
    bit: int
    max: int = 0
    choices: tuple[int | str, ...] = ()
    unit: str = ""
    doc: str = ""
    fill: Fill | None = None

    @property
    def words(self) -> int:
        """64-bit words that the value takes."""
        match self.kind:
            case Kind.STRUCT:
                return 0
            case Kind.STR | Kind.BYTES:
                return 1 + -(-self.max // WORD_BYTES)
            case Kind.LIST_INT | Kind.LIST_FLOAT:
                return 1 + self.max
            case _:
                return 1


class SchemaText(Struct, frozen=True, forbid_unknown_fields=True):
    """The JSON text; ``bytes`` of one record, 0 unless the codec is ``record``."""

    format: int
    name: str
    codec: Literal["record", "bytes", "msgpack"]
    bytes: int
    fields: tuple[FieldText, ...]


SCALARS: Final[dict[object, Kind]] = {
    int: Kind.INT,
    float: Kind.FLOAT,
    bool: Kind.BOOL,
    str: Kind.STR,
    bytes: Kind.BYTES,
}
"""Types that are fields by themselves."""

LISTS: Final[dict[object, Kind]] = {int: Kind.LIST_INT, float: Kind.LIST_FLOAT}
"""Types that lists may hold."""

SIZED: Final = frozenset({Kind.STR, Kind.BYTES, Kind.LIST_INT, Kind.LIST_FLOAT})
"""Kinds with a maximum."""


@lru_cache(maxsize=256)
def class_from_schema(text: str) -> type[Struct]:
    """A frozen Struct class for the records that ``text`` describes: every field optional, default None.

    Enums become Literals of their choices. Equal texts give the same class.

    Raises:
        InvalidValue: ``text`` describes no record.
    """
    schema = _record(text)
    sections = {entry.name: entry for entry in schema.fields if entry.kind is Kind.STRUCT}
    return _define(schema, "", "".join(c if c.isalnum() else "_" for c in schema.name), sections)


def _define(schema: SchemaText, prefix: str, name: str, sections: dict[str, FieldText]) -> type[Struct]:
    fields: list[tuple[str, Any, None]] = []
    for entry in schema.fields:
        section, _, attribute = entry.name.rpartition(".")
        if section != prefix:
            continue
        if entry.name in sections:
            camel = "".join(word.capitalize() for word in attribute.split("_"))
            base: Any = _define(schema, entry.name, name + camel, sections)
        elif entry.kind is Kind.ENUM:
            base = Literal[entry.choices]
        else:
            base = _BASES[entry.kind]
        fields.append((attribute, typing.Annotated[base, _meta(entry)] | None, None))
    return msgspec.defstruct(name, fields, frozen=True, module=__name__)


_BASES: Final[dict[Kind, object]] = {kind: base for base, kind in SCALARS.items()} | {
    kind: list[item]  # type: ignore[valid-type]
    for item, kind in LISTS.items()
}


def _meta(entry: FieldText) -> Meta:
    extra = {"unit": entry.unit} if entry.unit else {}
    if entry.fill is not None:
        extra["fill"] = entry.fill
    return Meta(max_length=entry.max or None, description=entry.doc or None, extra=extra or None)


@lru_cache(maxsize=256)
def dtype_from_schema(text: str, before: int = 0) -> np.dtype[np.void]:
    """The numpy dtype of one record that stands ``before`` bytes into its row; its itemsize is the row's size in bytes.

    Columns are called by the fields' dotted paths. An int, bool or enum is ``<i8`` (-2**63 where absent), a float
    ``<f8``, a text or bytes field ``S<max>``, a list a sub-array of ``max`` items. Texts, bytes and lists have a second
    column ``<path>:len`` with their length in bytes or items. ``__present__`` holds the presence words.

    Raises:
        InvalidValue: ``text`` describes no record.
    """
    schema = _record(text)
    columns: list[tuple[str, Any, int]] = [(PRESENCE, ("<u8", (-(-len(schema.fields) // WORD_BITS),)), 0)]
    for entry in schema.fields:
        columns.extend(_columns(entry))
    names, formats, offsets = zip(*columns, strict=True)
    offsets = tuple(before + offset for offset in offsets)
    return np.dtype(
        {"names": list(names), "formats": list(formats), "offsets": list(offsets), "itemsize": before + schema.bytes}
    )


def _columns(entry: FieldText) -> Iterator[tuple[str, Any, int]]:
    match entry.kind:
        case Kind.STRUCT:
            return
        case Kind.FLOAT:
            yield entry.name, "<f8", entry.offset
            return
        case Kind.INT | Kind.BOOL | Kind.ENUM:
            yield entry.name, "<i8", entry.offset
            return
        case Kind.STR | Kind.BYTES:
            data: Any = f"S{entry.max}"
        case Kind.LIST_INT:
            data = ("<i8", (entry.max,))
        case Kind.LIST_FLOAT:
            data = ("<f8", (entry.max,))
        case _:
            typing.assert_never(entry.kind)
    yield f"{entry.name}:len", "<i8", entry.offset
    yield entry.name, data, entry.offset + WORD_BYTES


def _record(text: str) -> SchemaText:
    try:
        schema = msgspec.json.decode(text, type=SchemaText)
    except msgspec.DecodeError as error:
        raise InvalidValue(f"not the text of a schema: {error}") from error
    if schema.codec != "record" or schema.format != SCHEMA_FORMAT:
        raise InvalidValue(f"the schema {schema.name!r} ({schema.codec}, format {schema.format}) describes no record")
    return schema
