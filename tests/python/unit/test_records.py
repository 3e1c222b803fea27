"""Packing and unpacking: a record holds what the object held, and refuses what it cannot hold."""

import enum
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType

from snapring import InvalidValue, LayoutMismatch, LoadSnapshot, Reader, Snapshot, Writer
from snapring.load import MemorySection, QueuesSection

INT_MIN, INT_MAX = -(2**63), 2**63 - 1


class Mode(enum.Enum):
    PREFILL = "prefill"
    DECODE = "decode"


class Inner(Struct, frozen=True):
    count: int = 7
    deep: MemorySection | None = None


class Every(Struct):
    """One field of every kind."""

    number: int | None = None
    ratio: float | None = None
    flag: bool | None = None
    text: Annotated[str, Meta(max_length=12)] | None = None
    data: Annotated[bytes, Meta(max_length=9)] | None = None
    ints: Annotated[list[int], Meta(max_length=3)] | None = None
    floats: Annotated[list[float], Meta(max_length=4)] | None = None
    mode: Mode | None = None
    word: Literal["b", "a"] | None = None
    step: Literal[3, 1] | None = None
    inner: Inner | None = None


class Plain(Struct):
    """Fields that must be given."""

    number: int
    text: Annotated[str, Meta(max_length=4)]


class Untidy:
    """An integer of its own kind, which does as it likes when asked for its value."""

    def __init__(self, act: Callable[[], int]) -> None:
        self.act = act

    def __index__(self) -> int:
        return self.act()


@pytest.fixture
def through(ring_dir: Path) -> Callable[..., Snapshot[Any]]:
    """``through(value, reads=cls)`` publishes to a new ring and gives the snapshot that a reader finds."""
    del ring_dir
    rings = iter(range(10_000))

    def travel(
        value: Struct, *, reads: type[Struct] | None = None, writes: type[Struct] | None = None
    ) -> Snapshot[Any]:
        name = f"ring-{next(rings)}"
        with Writer(name, rank=2, ranks=3, schema=writes or type(value), cells=2) as writer:
            assert writer.publish(value) == 1
            snapshot = Reader(name, schema=reads or writes or type(value)).read(2)
            assert snapshot is not None
            return snapshot

    return travel


def same(a: object, b: object) -> bool:
    """Equality under which NaN equals itself and 1 differs from 1.0 and True."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Struct) and isinstance(b, Struct):
        return type(a) is type(b) and all(same(getattr(a, f), getattr(b, f)) for f in a.__struct_fields__)
    return type(a) is type(b) and a == b


INTS = st.integers(INT_MIN + 1, INT_MAX) | st.sampled_from([0, -1, INT_MAX, INT_MIN + 1, 2**30, -(2**60)])
FLOATS = st.floats() | st.sampled_from([math.nan, math.inf, -0.0])
TEXTS = st.text().filter(lambda text: len(text.encode(errors="replace")) <= 12 and text.isprintable())
MEMORY = st.builds(MemorySection, FLOATS | st.none(), FLOATS | st.none(), token_capacity=INTS | st.none())
EVERY = st.builds(
    Every,
    INTS | st.none(),
    FLOATS | st.none(),
    st.booleans() | st.none(),
    TEXTS | st.none(),
    st.binary(max_size=9) | st.none(),
    st.lists(INTS, max_size=3) | st.none(),
    st.lists(FLOATS, max_size=4) | st.none(),
    st.sampled_from([*Mode, None]),
    st.sampled_from(["b", "a", None]),
    st.sampled_from([3, 1, None]),
    st.builds(Inner, INTS, MEMORY | st.none()) | st.none(),
)


def test_what_goes_in_comes_out(ring_dir: Path) -> None:
    """Any object of a class with every kind of field is read as it was, as a whole and field by field."""
    with Writer("every", rank=0, ranks=1, schema=Every) as writer, Reader("every", schema=Every) as reader:

        @given(EVERY)
        def check(value: Every) -> None:
            writer.publish(value)
            snapshot = reader.read(0)
            assert snapshot is not None
            assert same(value, snapshot.value)
            for name in Every.__struct_fields__:
                assert same(getattr(value, name), snapshot[name])
            if value.inner is not None:
                assert same(value.inner.count, snapshot["inner.count"])
                capacity = None if value.inner.deep is None else value.inner.deep.token_capacity
                assert same(capacity, snapshot["inner.deep.token_capacity"])

        check()


def test_numbers_of_numpy(through: Callable[..., Snapshot[Any]]) -> None:
    """Scalars and arrays of numpy go in where a Python number or list does, and come out as Python's own."""
    given_ = Every(
        number=np.uint32(7),
        ratio=np.float32(0.5),
        flag=np.bool_(True),
        ints=np.arange(3, dtype=np.int16),
        floats=(np.float64(1.5), np.int8(2), 3),
        step=np.int64(1),
    )  # type: ignore[arg-type]
    expected = Every(number=7, ratio=0.5, flag=True, ints=[0, 1, 2], floats=[1.5, 2.0, 3.0], step=1)

    assert same(expected, through(given_).value)


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        (Every(number=INT_MIN), "Every.number", "absent value"),
        (Every(number=INT_MAX + 1), "Every.number", "out of range"),
        (Every(number=-(2**64)), "Every.number", "out of range"),
        (Every(number=np.uint64(2**63)), "Every.number", "out of range"),
        (Every(number=1.0), "Every.number", "type float"),
        (Every(number="1"), "Every.number", "type str"),
        (Every(ratio="0.5"), "Every.ratio", "type str"),
        (Every(ratio=10**400), "Every.ratio", "out of range"),
        (Every(flag=1), "Every.flag", "type int"),
        (Every(text="a" * 13), "Every.text", "13 bytes or items, more than its maximum of 12"),
        (Every(text="é" * 7), "Every.text", "14 bytes"),
        (Every(text=b"bytes"), "Every.text", "type bytes"),
        (Every(text="\ud800"), "Every.text", "surrogates"),
        (Every(data=b"0123456789"), "Every.data", "10 bytes"),
        (Every(data="text"), "Every.data", "type str"),
        (Every(ints=[1, 2, 3, 4]), "Every.ints", "4 bytes or items"),
        (Every(ints=[1, None]), "Every.ints", "type NoneType"),
        (Every(ints=[INT_MIN]), "Every.ints", "absent value"),
        (Every(ints=5), "Every.ints", "type int"),
        (Every(floats=["x"]), "Every.floats", "type str"),
        (Every(mode="both"), "Every.mode", "'both'"),
        (Every(word="c"), "Every.word", "'c'"),
        (Every(step=True), "Every.step", "True"),
        (Every(inner={"count": 1}), "Inner", "not dict"),
        (Every(inner=Inner(count="1")), "Inner.count", "type str"),
        (Plain(None, ""), "Plain.number", "is None"),
        (LoadSnapshot(dp_rank=1), "LoadSnapshot.dp_rank", "the writer's rank is 0"),
        (LoadSnapshot(dp_rank=np.int64(1)), "LoadSnapshot.dp_rank", "the writer's rank is 0"),
        ({"num_running_reqs": 1}, "LoadSnapshot", "not dict"),
    ],
)  # type: ignore[arg-type]
def test_refused_values(ring_dir: Path, value: object, field: str, reason: str) -> None:
    """A value that a record cannot hold raises InvalidValue naming class and field; the old snapshot stays."""
    cls = type(value) if isinstance(value, Struct) else LoadSnapshot
    good = Plain(1, "good") if cls is Plain else cls()
    with Writer("ring", rank=0, ranks=1, schema=cls) as writer, Reader("ring", schema=cls) as reader:
        writer.publish(good)
        with pytest.raises(InvalidValue) as caught:
            writer.publish(value)
        snapshot = reader.read(0)

    assert field in str(caught.value)
    assert reason in str(caught.value)
    assert snapshot is not None
    assert snapshot.version == 1


def test_rank_and_time_are_filled(through: Callable[..., Snapshot[Any]]) -> None:
    """A rank or timestamp left out is the writer's own; one that is given stays."""
    filled = through(LoadSnapshot())
    given_ = through(LoadSnapshot(dp_rank=2, timestamp=12.5))

    assert (filled.value.dp_rank, filled.value.timestamp) == (2, pytest.approx(filled.timestamp, abs=1.0))
    assert (given_.value.dp_rank, given_.value.timestamp) == (2, 12.5)


def test_absent_is_not_zero(through: Callable[..., Snapshot[Any]]) -> None:
    """A section that is not reported is None, and so are its fields by name, whatever their defaults."""
    snapshot = through(LoadSnapshot(num_running_reqs=0))

    assert snapshot.value.queues is None
    assert (snapshot["num_running_reqs"], snapshot["queues"], snapshot["queues.waiting"]) == (0, None, None)
    assert through(LoadSnapshot(queues=QueuesSection()))["queues.waiting"] == 0


def test_unset_is_absent(through: Callable[..., Snapshot[Any]]) -> None:
    """msgspec.UNSET means not reported, and comes back where the type has no None."""

    class Sparse(Struct, kw_only=True):
        maybe: int | UnsetType = UNSET
        either: int | UnsetType | None = 5
        items: Annotated[list[int], Meta(max_length=2)] = msgspec.field(default_factory=lambda: [4])

    value = through(Sparse(either=UNSET, items=[])).value

    assert (value.maybe, value.either, value.items) == (UNSET, None, [])


def test_older_and_newer_classes_meet(through: Callable[..., Snapshot[Any]]) -> None:
    """Fields match by name: what the ring lacks takes the class's default, what the class lacks is skipped."""

    class Newer(Struct, kw_only=True):
        text: Annotated[str, Meta(max_length=4)] = "none"
        fresh: Annotated[list[int], Meta(max_length=2)] = msgspec.field(default_factory=lambda: [9])
        number: int = -1
        inner: Inner | None = None

    class Older(Struct):
        number: int

    class Demanding(Older):
        other: int

    newer, older = Newer(text="new", number=3), Plain(4, "old")

    assert same(Newer(text="old", number=4), through(older, reads=Newer).value)
    assert same(Older(3), through(newer, reads=Older).value)
    assert through(older, reads=Newer)["inner"] is None
    with pytest.raises(LayoutMismatch, match=r"Demanding\.other has no default"):
        _ = through(older, reads=Demanding).value


def test_choices_are_matched_by_value(through: Callable[..., Snapshot[Any]]) -> None:
    """One side may know more choices, in any order; one that a class does not know is not reported."""

    class Few(Struct):
        role: Literal["b", "d"] | None = None

    class Many(Struct):
        role: Literal["a", "b", "c", "d"] | None = None

    class Others(Struct):
        role: Literal["a", "b"] | None = None

    assert through(Few("d"), reads=Many).value == Many("d")
    assert through(Many("d"), reads=Few).value == Few("d")
    assert through(Many("c"), reads=Few).value == Few(None)
    with pytest.raises(LayoutMismatch, match="choices"):
        through(Few("b"), reads=Others)


def test_a_choice_that_the_ring_lacks(ring_dir: Path) -> None:
    """A newer writer on an older ring cannot publish a choice that the ring's schema does not have."""

    class Few(Struct):
        role: Literal["a", "b"] | None = None

    class Many(Struct):
        role: Literal["0", "a", "b"] | None = None

    with (
        Writer("ring", 0, 2, schema=Few),
        Writer("ring", 1, 2, schema=Many) as writer,
        Reader("ring", schema=Few) as reader,
    ):
        writer.publish(Many("b"))
        with pytest.raises(InvalidValue, match=r"Many\.role is none of the choices"):
            writer.publish(Many("0"))
        snapshot = reader.read(1)

    assert snapshot is not None
    assert snapshot.value == Few("b")


def test_kinds_that_differ_are_a_mismatch(through: Callable[..., Snapshot[Any]]) -> None:
    """A common field of another kind is refused, naming both sides."""

    class Other(Struct):
        number: float = 0.0

    with pytest.raises(LayoutMismatch, match=r'"number" differs: the ring has Int, the class has Float'):
        _ = through(Plain(1, ""), reads=Other).value


def test_subclasses_and_plain_values(through: Callable[..., Snapshot[Any]]) -> None:
    """A subclass's object is packed by the writer's class, and enum members may be given by value."""

    class Extended(Every):
        more: int = 1

    assert same(Every(number=5), through(Extended(number=5), writes=Every).value)
    assert through(Every(mode="decode")).value.mode is Mode.DECODE  # type: ignore[arg-type]


def test_objects_that_change_while_they_are_packed(through: Callable[..., Snapshot[Any]]) -> None:
    """Code that runs during packing may drop what the object holds; what was read so far stays alive."""
    every = Every(text="t" * 12, floats=[1.0, 2.0])

    def drop() -> int:
        every.number = None
        every.ints = None
        return 1

    every.number = Untidy(drop)  # type: ignore[assignment]
    every.ints = [2, Untidy(drop), 3]  # type: ignore[list-item]

    value = through(every).value

    assert (value.number, value.ints, value.text) == (1, None, "t" * 12)

    items: list[Any] = []

    def clear() -> int:
        items.clear()
        return 1

    items[:] = [Untidy(clear), 2, 3]
    assert through(Every(ints=items)).value.ints == [1]


def test_errors_of_the_host_pass_through(ring_dir: Path) -> None:
    """What a number's own method raises reaches the caller unchanged."""

    def fail() -> int:
        raise KeyboardInterrupt

    with Writer("ring", rank=0, ranks=1, schema=Every) as writer, pytest.raises(KeyboardInterrupt):
        writer.publish(Every(number=Untidy(fail)))  # type: ignore[arg-type]


def test_a_deleted_field_is_named(ring_dir: Path) -> None:
    """An attribute that was deleted is refused, by slot and by attribute."""

    class Extended(Every):
        pass

    for cls in (Every, Extended):
        value = cls()
        del value.ratio
        with (
            Writer("ring", rank=0, ranks=1, schema=Every) as writer,
            pytest.raises(InvalidValue, match=r"ratio is not set"),
        ):
            writer.publish(value)


def test_unknown_names_suggest_close_ones(through: Callable[..., Snapshot[Any]]) -> None:
    """An unknown field is refused with names that come close."""
    with pytest.raises(InvalidValue, match="num_running_reqs"):
        _ = through(LoadSnapshot())["num_runing_reqs"]


def test_no_reference_is_lost_or_kept(ring_dir: Path) -> None:
    """Publishing and reading leave every reference count as it was."""
    text = str(10**11)
    value = Every(text=text, mode=Mode.DECODE, inner=Inner(deep=MemorySection(1.5)), floats=[1.5], ints=[2**40])
    with Writer("ring", rank=0, ranks=1, schema=Every) as writer, Reader("ring", schema=Every) as reader:

        def once() -> None:
            writer.publish(value)
            snapshot = reader.read(0)
            assert snapshot is not None
            assert snapshot.value == value
            assert snapshot["mode"] is Mode.DECODE

        watched = [value, text, Mode.DECODE, value.inner, value.floats, value.ints, Every, MemorySection]
        once()
        before = [sys.getrefcount(item) for item in watched]
        for _ in range(200):
            once()

        assert [sys.getrefcount(item) for item in watched] == before
