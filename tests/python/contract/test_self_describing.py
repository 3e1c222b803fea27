"""A ring says what is in it: readers need neither the class nor, at the end, snapring."""

import enum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, Struct

import pure_reader
from snapring import LayoutMismatch, LoadSnapshot, Reader, Writer
from snapring.load import DisaggregationSection, MemorySection, QueuesSection


class Colour(enum.Enum):
    """An enum of texts."""

    RED = "red"
    BLUE = "blue"


class Inner(Struct, frozen=True):
    """A section."""

    level: Literal[1, 5, 9] = 5
    flag: bool | None = None


class Everything(Struct, frozen=True, kw_only=True):
    """A field of every kind, with and without None."""

    number: int
    maybe: int | None = None
    ratio: float | None = None
    flag: bool = False
    text: Annotated[str, Meta(max_length=12)] = ""
    data: Annotated[bytes, Meta(max_length=5)] | None = None
    numbers: Annotated[list[int], Meta(max_length=3)] = []
    floats: Annotated[list[float], Meta(max_length=2)] | None = None
    colour: Colour = Colour.RED
    inner: Inner | None = None


VALUES: list[Struct] = [
    Everything(number=1),
    Everything(
        number=-(2**62), maybe=0, ratio=-0.5, flag=True, text="grün", data=b"\0\xff\0", numbers=[3, -1, 2], floats=[1.5]
    ),
    Everything(number=3, text="twelve bytes", data=b"", floats=[], colour=Colour.BLUE, inner=Inner(9, flag=False)),
    Everything(number=4, inner=Inner()),
    LoadSnapshot(num_running_reqs=1, timestamp=1.0),
    LoadSnapshot(
        timestamp=2.0,
        token_usage=0.25,
        decode_moments=[1.0, 2.0],
        memory=MemorySection(kv_cache_gb=1.0),
        disaggregation=DisaggregationSection(mode="decode"),
        queues=QueuesSection(waiting=2),
    ),
]


def plain(value: Any) -> Any:  # noqa: ANN401  a struct of any class
    """A struct as nested dictionaries of plain values."""
    if isinstance(value, Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    return value.value if isinstance(value, enum.Enum) else value


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_the_description_suffices_to_decode(ring_dir: Path, value: Struct) -> None:
    """Eighty lines of Python that never saw snapring decode the file to what the reader gives."""
    with Writer("main", rank=1, ranks=3, schema=type(value)) as writer:
        writer.publish(value)
        snap = Reader("main", schema=type(value)).read(1)
        found = pure_reader.read(ring_dir / "main.ring", 1)

        assert snap is not None
        assert found == {"version": 1, "epoch": 1, "value": plain(snap.value)}
        assert pure_reader.read(ring_dir / "main.ring", 0) is None


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_a_reader_without_a_class_builds_one(ring_dir: Path, value: Struct) -> None:
    """``schema=None`` reads any ring; enums come as their values."""
    with (
        Writer("main", rank=0, ranks=1, schema=type(value)) as writer,
        Reader("main", schema=type(value)) as typed,
        Reader("main", schema=None) as anyone,
    ):
        writer.publish(value)
        (expected,), (snap,) = typed.read_all(), anyone.read_all()

        assert plain(snap.value) == plain(expected.value)
        assert type(snap.value).__name__ == type(value).__name__
        assert anyone.view().records.dtype == typed.view().records.dtype


def test_a_reader_without_a_class_follows_the_ring(ring_dir: Path) -> None:
    """A ring that is made anew with another class, or as bytes, is decoded by its new description."""
    reader = Reader("main", schema=None)
    found = []
    for schema, value in [(Everything, Everything(number=7)), (bytes, b"seven"), (Inner, Inner(1))]:
        with Writer("main", rank=0, ranks=1, schema=schema) as writer:
            writer.publish(value)
            while not (snaps := reader.read_all()) or snaps[0].generation in [one.generation for one in found]:
                reader.wait(0.05)
        found += snaps

    assert [plain(snap.value) for snap in found] == [plain(Everything(number=7)), b"seven", {"level": 1, "flag": None}]


def test_units_and_meanings_travel_with_the_ring(ring_dir: Path) -> None:
    """The header's text says which field is in which unit."""
    with Writer("main", rank=0, ranks=1):
        text = Reader("main").schema_text

    assert text is not None
    units = {field["name"]: field.get("unit", "") for field in msgspec.json.decode(text)["fields"]}
    assert units["token_usage"] == "ratio"
    assert units["memory.weight_gb"] == "GiB"
    assert all(unit for name, unit in units.items() if name.startswith("num_"))


def test_jobs_do_not_mix(ring_dir: Path) -> None:
    """A ring of another job raises for readers and writers that name theirs; the message names both."""
    with Writer("main", rank=0, ranks=2, job="red") as writer:
        writer.publish(LoadSnapshot())
        assert len(Reader("main", job="red").read_all()) == len(Reader("main").read_all()) == 1

        for attempt in (lambda: Reader("main", job="blue").read_all(), lambda: Writer("main", 1, 2, job="blue")):
            with pytest.raises(LayoutMismatch, match=r'(?s)"red".*"blue"'):
                attempt()
