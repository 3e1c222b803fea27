"""From a ``msgspec.Struct`` class to the layout of a record.

:func:`compile_schema` turns a class into the JSON text that stands in a ring's header and describes its records as
``snapring.layout`` defines them. A pure function of the class, cached, safe in any thread and after a fork.

A field may be annotated as ``int``, ``float``, ``bool``, ``str``, ``bytes``, ``list[int]``, ``list[float]``, an enum, a
``Literal``, a nested Struct, or any of these with ``None`` (or ``msgspec.UnsetType``), which then stands for *not
reported*.

The maximum of ``str`` (UTF-8 bytes), ``bytes`` (bytes) and lists (items) comes from
``Annotated[str, msgspec.Meta(max_length=16)]``. ``Meta(description=...)`` and ``Meta(extra={"unit": "tokens"})``
travel with the field. ``Meta(extra={"fill": "rank"})`` marks an ``int`` that the writer fills with its rank when it is
None, and that must equal the rank otherwise; ``{"fill": "timestamp"}`` a ``float | None`` that is filled with the wall
clock, in seconds, at publish. Other constraints are msgspec's business and not checked at publish.

The choices of an enum are its values in order of definition, those of a ``Literal`` sorted. Two classes may know
different choices of a field as long as one knows all of the other's: they are matched by value, not by position.
"""

import enum
import types
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, Literal

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, Struct, UnsetType

from snapring.errors import InvalidValue
from snapring.layout import (
    LISTS,
    SCALARS,
    SCHEMA_FORMAT,
    SIZED,
    WORD_BITS,
    WORD_BYTES,
    FieldText,
    Fill,
    Kind,
    SchemaText,
    class_from_schema,
    dtype_from_schema,
)

__all__ = [
    "CompiledField",
    "CompiledSchema",
    "class_from_schema",
    "compile_schema",
    "dtype_from_schema",
]

SUPPORTED: Final = (
    "int, float, bool, str and bytes with a max_length, list[int] and list[float] with a max_length, enums and "
    "Literals of all texts or all integers, nested Structs, and None for any of these"
)


class CompiledField(Struct, frozen=True):
    """What building an object needs to know of a field beyond its layout.

    ``absent`` is what stands for *not reported* (None or ``msgspec.UNSET``); ``default`` and ``default_factory`` are
    those of the class. Each is ``msgspec.NODEFAULT`` where there is none. ``values`` are the Python values of an enum
    or Literal in the order of its choices, ``section`` is the nested class.
    """

    name: str
    kind: Kind
    absent: object
    default: object
    default_factory: Callable[[], object]
    keyword: bool
    values: tuple[object, ...]
    section: "CompiledSchema | None"


class CompiledSchema(Struct, frozen=True):
    """A Struct class with its fields, and ``text``, the JSON that describes its records (empty for a nested class)."""

    cls: type[Struct]
    fields: tuple[CompiledField, ...]
    text: str


@lru_cache(maxsize=256)
def compile_schema(cls: type[Struct]) -> CompiledSchema:
    """The layout of ``cls``, compiled once per class.

    Raises:
        InvalidValue: ``cls`` is no Struct class, or a field has a type or mark that no record supports; the message
            names class, field and what is supported.
    """
    given: object = cls
    if not (isinstance(given, type) and issubclass(given, Struct)):
        raise InvalidValue(f"a schema is a msgspec.Struct class, not {cls!r}")
    entries: list[FieldText] = []
    fields = _compile_fields(cls, "", (cls,), entries)
    if not entries:
        raise InvalidValue(f"{cls.__name__} has no fields, so there is nothing to publish")
    word = -(-len(entries) // WORD_BITS)
    placed = []
    for bit, entry in enumerate(entries):
        placed.append(msgspec.structs.replace(entry, offset=word * WORD_BYTES, bit=bit))
        word += entry.words
    text = SchemaText(SCHEMA_FORMAT, cls.__name__, "record", word * WORD_BYTES, tuple(placed))
    return CompiledSchema(cls, fields, msgspec.json.encode(text).decode())


def _compile_fields(
    cls: type[Struct], prefix: str, outer: tuple[type[Struct], ...], entries: list[FieldText]
) -> tuple[CompiledField, ...]:
    """Compiles the fields of ``cls`` and appends their entries; ``outer`` are the classes being compiled."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise InvalidValue(
            f"an annotation of {cls.__name__} cannot be resolved ({error}); define what it names at module level"
        ) from error
    positional = set(cls.__match_args__)
    compiled = []
    for info in msgspec.structs.fields(cls):
        where = f"{cls.__name__}.{info.name}"
        parsed = _parse(hints[info.name], where)
        entries.append(_entry(parsed, prefix + info.name, where))
        section = None
        if parsed.kind is Kind.STRUCT:
            nested = parsed.nested
            if nested in outer:
                raise InvalidValue(f"{where} nests {nested.__name__} in itself; a record has a fixed size")
            section = CompiledSchema(
                nested, _compile_fields(nested, f"{prefix}{info.name}.", (*outer, nested), entries), ""
            )
        compiled.append(
            CompiledField(
                info.name,
                parsed.kind,
                parsed.absent,
                info.default,
                info.default_factory,
                info.name not in positional,
                parsed.values,
                section,
            )
        )
    return tuple(compiled)


class _Parsed(Struct):
    """An annotation taken apart."""

    kind: Kind
    metas: tuple[Meta, ...]
    absent: object
    values: tuple[Any, ...] = ()
    nested: type[Struct] = Struct


def _parse(hint: object, where: str) -> _Parsed:
    base, metas, absent = _unwrap(hint, where)
    origin = typing.get_origin(base)
    if base in SCALARS:
        return _Parsed(SCALARS[base], metas, absent)
    if origin is list:
        item, _, item_absent = _unwrap(typing.get_args(base)[0], where)
        if item in LISTS and item_absent is NODEFAULT:
            return _Parsed(LISTS[item], metas, absent)
    if origin is Literal:
        values = typing.get_args(base)
        # typing caches equal Literals, whatever their order, so only sorting gives a class one text in all processes.
        choices = sorted((value for value in values if value is not None), key=_rank_choice)
        return _Parsed(Kind.ENUM, metas, None if None in values else absent, tuple(choices))
    if isinstance(base, type) and issubclass(base, Struct):
        return _Parsed(Kind.STRUCT, metas, absent, nested=base)
    if isinstance(base, type) and issubclass(base, enum.Enum) and not issubclass(base, enum.Flag):
        return _Parsed(Kind.ENUM, metas, absent, tuple(base))
    raise InvalidValue(f"{where}: {base!r} is not supported; use {SUPPORTED}")


def _rank_choice(value: object) -> tuple[int, str]:
    """Numbers by size, then texts by letters; anything else is refused later."""
    return (value if isinstance(value, int) else 0, str(value))


def _unwrap(hint: Any, where: str) -> tuple[Any, tuple[Meta, ...], object]:  # noqa: ANN401  any annotation
    """The bare type, its Metas (outermost first) and the value that means *absent*, or NODEFAULT."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        base, metas, absent = _unwrap(hint.__origin__, where)
        return base, (*(m for m in reversed(hint.__metadata__) if isinstance(m, Meta)), *metas), absent
    if origin in {typing.Union, types.UnionType}:
        members = typing.get_args(hint)
        rest = [member for member in members if member not in {types.NoneType, UnsetType}]
        if len(rest) != 1:
            raise InvalidValue(f"{where}: {hint} has more than one type beside None; use {SUPPORTED}")
        base, metas, _ = _unwrap(rest[0], where)
        return base, metas, None if types.NoneType in members else UNSET
    return hint, (), NODEFAULT


def _entry(parsed: _Parsed, path: str, where: str) -> FieldText:
    """The text's entry, not placed yet."""
    marks: dict[str, object] = {}
    for meta in reversed(parsed.metas):
        marks |= meta.extra or {}
    unit = marks.get("unit", "")
    if not isinstance(unit, str):
        raise InvalidValue(f"{where}: the unit is {unit!r}; give a text")
    doc = next((meta.description for meta in parsed.metas if meta.description), "")
    return FieldText(
        name=path,
        kind=parsed.kind,
        offset=0,
        bit=0,
        max=_maximum(parsed, where),
        choices=_choices(parsed, where),
        unit=unit,
        doc=doc,
        fill=_fill(parsed, marks, where),
    )


def _maximum(parsed: _Parsed, where: str) -> int:
    if parsed.kind not in SIZED:
        return 0
    maximum = next((meta.max_length for meta in parsed.metas if meta.max_length is not None), 0)
    if maximum < 1:
        raise InvalidValue(
            f"{where}: a record has a fixed size; give the longest length, as in "
            f"Annotated[{parsed.kind.replace('list_', 'list of ')}, msgspec.Meta(max_length=16)]"
        )
    return maximum


def _choices(parsed: _Parsed, where: str) -> tuple[int | str, ...]:
    if parsed.kind is not Kind.ENUM:
        return ()
    choices = tuple(value.value if isinstance(value, enum.Enum) else value for value in parsed.values)
    if not any(choices and all(type(choice) is wanted for choice in choices) for wanted in (int, str)):
        raise InvalidValue(f"{where}: the choices {choices} are neither all texts nor all integers; use {SUPPORTED}")
    return choices


def _fill(parsed: _Parsed, marks: dict[str, object], where: str) -> Fill | None:
    mark = marks.get("fill")
    match mark, parsed.kind, parsed.absent:
        case None, _, _:
            return None
        case Fill.RANK, Kind.INT, _:
            return Fill.RANK
        case Fill.TIMESTAMP, Kind.FLOAT, None:
            return Fill.TIMESTAMP
        case _:
            raise InvalidValue(
                f"{where}: fill={mark!r} does not fit; use 'rank' on an int or 'timestamp' on a float | None"
            )
