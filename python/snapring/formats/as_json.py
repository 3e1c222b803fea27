"""The JSON of ``/v1/loads``: which keys a rank's object has, and the envelope around the objects.

Pure. The native :class:`snapring._core.Document` writes the values; a test holds it equal to ``msgspec``.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from snapring.errors import InvalidValue
from snapring.layout import Kind, SchemaText
from snapring.load import SECTION_FIELDS, LoadSnapshot, Section
from snapring.schema import compile_schema

__all__ = ["Items", "check_extra", "items", "middle"]

Items: TypeAlias = list[Any]
"""What a :class:`snapring._core.Document` is made of: (literal, source), or (literal, items, section)."""

FACTS: Final[Mapping[str, str]] = {"age": "$age", "state": "$state", "version": "$version"}
"""Keys that tell of the rank itself, behind those of its record, whose fields of these names they hide."""

MARK: Final = "num_running_reqs"
"""A record with this field is a load; any other has only the keys of its own fields."""

UNWRITTEN: Final = Kind.BYTES
"""Fields of this kind are left out: JSON has no bytes."""


@lru_cache(maxsize=128)
def items(schema_text: str, include: frozenset[Section]) -> Items:
    """What to write of each rank of a ring with this schema.

    The keys are ``dp_rank``, ``timestamp``, the core fields of ``LoadSnapshot``, those that the ring has beyond them,
    the sections asked for, then ``age`` (s), ``state`` and ``version``. What a rank does not report is null, and so is
    what an older ring lacks, so that the keys do not depend on what a scheduler measures; a section is left out.

    Raises:
        InvalidValue: the ring holds no records.
    """
    schema = msgspec.json.decode(schema_text, type=SchemaText)
    if schema.codec != "record":
        raise InvalidValue(f"the ring holds {schema.codec}, not records; only records can be served as loads")
    kinds = {field.name: field.kind for field in schema.fields}
    hidden = {SECTION_FIELDS[section] for section in Section if section is not Section.CORE and section not in include}
    names = _order(kinds)
    fields = [name for name in names if name not in hidden and name not in FACTS and name != "dp_rank"]
    keys = [("dp_rank", "$rank"), *((name, _source(name, kinds)) for name in fields), *FACTS.items()]
    return _object(keys, kinds, lambda name: [other for other in kinds if other.startswith(f"{name}.")])


def _order(kinds: Mapping[str, Kind]) -> list[str]:
    """Top-level names: those of a load as its class has them, then the ring's own, sections last."""
    own = [name for name, kind in kinds.items() if "." not in name and kind is not UNWRITTEN]
    known = _load_kinds() if MARK in kinds else {}
    flat = [name for name, kind in known.items() if kind is not Kind.STRUCT]
    nested = [name for name, kind in known.items() if kind is Kind.STRUCT and name in kinds]
    more = [name for name in own if name not in known]
    others = [name for name in more if kinds[name] is not Kind.STRUCT]
    structs = [name for name in more if kinds[name] is Kind.STRUCT]
    return ["timestamp", *(name for name in [*flat, *others] if name != "timestamp"), *nested, *structs]


def _load_kinds() -> dict[str, Kind]:
    text = msgspec.json.decode(compile_schema(LoadSnapshot).text, type=SchemaText)
    return {field.name: field.kind for field in text.fields if "." not in field.name}


def _source(name: str, kinds: Mapping[str, Kind]) -> str:
    return "$timestamp" if name == "timestamp" and name not in kinds else name


def _object(keys: list[tuple[str, str]], kinds: Mapping[str, Kind], inside: Callable[[str], list[str]]) -> Items:
    """The items of one object: of its keys, each with where its value comes from."""
    found: Items = []
    for key, source in keys:
        literal = msgspec.json.encode(key) + b":"
        if kinds.get(source) is not Kind.STRUCT:
            found.append((literal, source))
            continue
        depth = source.count(".") + 1
        fields = [name for name in inside(source) if name.count(".") == depth and kinds[name] is not UNWRITTEN]
        inner = _object([(name.rpartition(".")[2], name) for name in fields], kinds, inside)
        found.append((literal + b"{", inner, source))
    return found


OWN: Final = frozenset({"timestamp", "version", "ranks", "ring", "full", "gone", "loads"})
"""Members of the envelope that are ours."""


def check_extra(extra: Mapping[str, object]) -> dict[str, object]:
    """Further members of the envelope, as they are.

    Raises:
        InvalidValue: a name is one of the envelope's own, or a value is nothing that JSON has.
    """
    if taken := sorted(OWN & set(extra)):
        raise InvalidValue(f"{taken[0]!r} is a member of the envelope itself; choose another name than {sorted(OWN)}")
    try:
        msgspec.json.encode(extra)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidValue(
            f"the envelope cannot hold {extra!r}: {error}; give texts, numbers, lists and maps"
        ) from error
    return dict(extra)


def middle(ring: str, extra: Mapping[str, object]) -> bytes:
    """The envelope from behind the number of ranks to the first rank: ``,"ring":"llama",...,"loads":[``."""
    return b"," + msgspec.json.encode({"ring": ring, **extra})[1:-1] + b',"loads":['
