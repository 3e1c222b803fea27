"""The schema compiler: from Struct classes to layouts, and back."""

import enum
import json
import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import NODEFAULT, UNSET, Meta, Struct, UnsetType

from snapring.errors import InvalidValue
from snapring.layout import class_from_schema, dtype_from_schema
from snapring.load import LoadSnapshot
from snapring.schema import compile_schema

GOLDEN = Path(__file__).parents[2] / "data" / "schema_sample.json"


class Mode(enum.Enum):
    PREFILL = "prefill"
    DECODE = "decode"


class Queues(Struct, frozen=True):
    waiting: Annotated[int, Meta(extra={"unit": "requests"})] = 0
    name: Annotated[str, Meta(max_length=9)] | None = None


class Sample(Struct, frozen=True):
    timestamp: Annotated[float, Meta(extra={"unit": "s", "fill": "timestamp"})] | None = None
    rank: Annotated[int | None, Meta(extra={"fill": "rank"})] = None
    moments: Annotated[list[float], Meta(max_length=3, description="running sums")] = []
    queues: Queues | None = None
    mode: Mode = Mode.PREFILL


def make(annotation: object) -> type[Struct]:
    """A class called Made with one field."""
    return msgspec.defstruct("Made", [("field", annotation)])


def test_golden_text() -> None:
    """The text is, byte for byte, what the Rust builder makes of the same fields."""
    assert compile_schema(Sample).text == GOLDEN.read_text().rstrip("\n")


def test_compiled_once() -> None:
    """A class is compiled once, and equal texts give one class and one dtype."""
    compiled = compile_schema(Sample)

    assert compile_schema(Sample) is compiled
    assert class_from_schema(compiled.text) is class_from_schema(compiled.text)
    assert dtype_from_schema(compiled.text) is dtype_from_schema(compiled.text)


def test_what_building_an_object_needs() -> None:
    """Absent values, defaults, keyword-only fields and Python values of choices are kept beside the layout."""

    class Whole(Struct, kw_only=True):
        unset: int | UnsetType = UNSET
        literal: Literal["b", "a"] | None = "b"
        mode: Mode
        ratio: Annotated[float | None, Meta(extra={"unit": "s"})] = 1.5
        items: Annotated[list[int], Meta(max_length=2)] = msgspec.field(default_factory=lambda: [7])

    unset, literal, mode, ratio, items = compile_schema(Whole).fields

    assert (unset.absent, unset.default) == (UNSET, UNSET)
    assert (literal.absent, literal.default, literal.values) == (None, "b", ("a", "b"))
    assert (mode.absent, mode.default, mode.values) == (NODEFAULT, NODEFAULT, (Mode.PREFILL, Mode.DECODE))
    assert (ratio.absent, ratio.default, ratio.keyword) == (None, 1.5, True)
    assert callable(items.default_factory)
    assert not compile_schema(Sample).fields[0].keyword


def test_literals_in_any_order_give_one_text() -> None:
    """The order of a Literal means nothing to typing, which may hand out an equal one, so it means nothing here."""
    one, other = (make(Literal[choices] | None) for choices in (("b", "a"), ("a", "b")))

    assert compile_schema(one).text == compile_schema(other).text


@pytest.mark.parametrize(
    ("annotation", "hint"),
    [
        (str, "max_length"),
        (bytes | None, "max_length"),
        (list[int], "max_length"),
        (Annotated[list[str], Meta(max_length=3)], "not supported"),
        (Annotated[list[int | None], Meta(max_length=3)], "not supported"),
        (dict[str, int], "not supported"),
        (tuple[int, int], "not supported"),
        (complex, "not supported"),
        (int | str, "more than one type"),
        (Literal["a", 1], "neither all texts nor all integers"),
        (Annotated[int, Meta(extra={"unit": 3})], "unit"),
        (Annotated[float, Meta(extra={"fill": "rank"})], "fill='rank'"),
        (Annotated[float, Meta(extra={"fill": "timestamp"})], "fill='timestamp'"),
        (Annotated[int, Meta(extra={"fill": "clock"})], "fill='clock'"),
    ],
)
def test_unsupported_annotations_name_class_field_and_way_out(annotation: object, hint: str) -> None:
    """What no record can hold is refused when the class is compiled, naming class, field and what would do."""
    with pytest.raises(InvalidValue, match=r"Made\.field") as caught:
        compile_schema(make(annotation))

    assert hint in str(caught.value)


class Endless(Struct):
    inner: "Endless | None" = None


class Permissions(enum.Flag):
    READ = 1


def test_classes_without_a_fixed_layout() -> None:
    """Recursive and empty classes, flags, and things that are no Struct are refused."""
    for cls, reason in [
        (Endless, "nests Endless in itself"),
        (msgspec.defstruct("Empty", []), "no fields"),
        (make(Permissions), "not supported"),
        (int, "msgspec.Struct class"),
    ]:
        with pytest.raises(InvalidValue, match=reason):
            compile_schema(cls)  # type: ignore[arg-type]


def test_load_snapshot_keeps_names_units_and_order() -> None:
    """The default schema has every field once, sections before their fields, and the units of its annotations."""
    fields = json.loads(compile_schema(LoadSnapshot).text)["fields"]
    names = [field["name"] for field in fields]
    units = {field["name"]: field.get("unit") for field in fields}

    assert [name for name in names if "." not in name] == list(LoadSnapshot.__struct_fields__)
    assert len(set(names)) == len(names)
    assert units["memory.weight_gb"] == "GiB"
    assert units["num_used_tokens"] == "tokens"
    assert names.index("queues") < names.index("queues.waiting")


def test_dtype_reads_a_record() -> None:
    """The dtype has the record's size and finds each value where the layout says."""
    dtype = dtype_from_schema(GOLDEN.read_text())
    record = np.zeros(1, dtype)
    words = record.view("<i8")
    words[3] = 2
    words.view("<f8")[4:6] = 1.5, 2.5
    words[8] = 3
    words.view("S8")[9] = b"abc"

    assert dtype.itemsize == 96
    assert (record["moments:len"][0], *record["moments"][0]) == (2, 1.5, 2.5, 0)
    assert (record["queues.name:len"][0], record["queues.name"][0]) == (3, b"abc")
    assert record["__present__"].shape == (1, 1)


def test_texts_that_describe_no_record() -> None:
    """A text that is no schema, of another format or without a record is refused."""
    for text in ["", "{}", "[1]", GOLDEN.read_text().replace('"format":1', '"format":2')]:
        for inverse in (class_from_schema, dtype_from_schema):
            with pytest.raises(InvalidValue):
                inverse(text)


LEAVES = st.sampled_from(
    [
        int,
        float | None,
        bool,
        Annotated[int, Meta(description="counts", extra={"unit": "tokens"})],
        Annotated[str, Meta(max_length=5)],
        Annotated[bytes, Meta(max_length=8)] | None,
        Annotated[list[int], Meta(max_length=2)],
        Annotated[list[float], Meta(max_length=7)] | None,
        Literal["z", "a", None],  # noqa: PYI061  None inside a Literal is what is tried here
        Literal[3, 1],
        Mode,
    ]
)
CLASSES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, min_size=1, max_size=9).map(
        lambda types: msgspec.defstruct("Random", [(f"f{i}", a) for i, a in enumerate(types)])
    ),
).filter(lambda made: isinstance(made, type) and issubclass(made, Struct))


@given(CLASSES)
def test_class_text_class(cls: type[Struct]) -> None:
    """Text -> class -> text changes only the order of an enum's choices, and the dtype's columns fill the record."""
    text = compile_schema(cls).text
    rebuilt = class_from_schema(text)
    dtype = dtype_from_schema(text)
    schema = json.loads(text)
    presence = 8 * math.ceil(len(schema["fields"]) / 64)
    padding = sum(-field["max"] % 8 for field in schema["fields"] if field["kind"] in {"str", "bytes"})

    for field in schema["fields"]:
        field.get("choices", []).sort()
    assert json.loads(compile_schema(rebuilt).text) == schema
    assert all(value is None for value in msgspec.structs.astuple(rebuilt()))
    assert dtype.itemsize == schema["bytes"]
    assert sum(column.itemsize for column, *_ in dtype.fields.values()) + padding == schema["bytes"]  # type: ignore[union-attr]
    assert dtype["__present__"].itemsize == presence
