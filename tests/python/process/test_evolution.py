"""Old and new classes on one living ring: nobody has to restart at the same time."""

import enum
import logging
from pathlib import Path
from typing import Annotated, Literal

import pytest
from msgspec import Meta, Struct

from contract.model import Spawn, line, tell
from snapring import InvalidValue, LayoutMismatch, Reader, Writer


class OldInner(Struct, frozen=True):
    """A section of the old release."""

    waiting: int = 0


class NewInner(OldInner, frozen=True):
    """The same with a field more."""

    paused: int = 0


class Old(Struct, frozen=True, kw_only=True):
    """What the old release publishes."""

    running: int
    text: Annotated[str, Meta(max_length=8)] = "old"
    inner: OldInner | None = None


class New(Struct, frozen=True, kw_only=True):
    """The next release: fields added in front, between and behind, one dropped, others in another order."""

    extra: float | None = None
    inner: NewInner | None = None
    flag: bool = True
    running: int
    limit: int = 99
    moments: Annotated[list[float], Meta(max_length=3)] = []


def test_a_new_reader_of_an_old_ring(ring_dir: Path) -> None:
    """Fields go by name; what the ring lacks takes the class's default, not 0."""
    with Writer("main", rank=0, ranks=1, schema=Old) as writer, Reader("main", schema=New) as reader:
        writer.publish(Old(running=3, inner=OldInner(2)))
        (snap,) = reader.read_all()

        assert snap.value == New(running=3, inner=NewInner(2, 0), extra=None, flag=True, limit=99, moments=[])
        assert snap["running"] == 3
        assert "extra" not in (reader.view().records.dtype.names or ())


def test_an_old_reader_of_a_new_ring(ring_dir: Path) -> None:
    """Fields that it does not know are skipped, those that are gone take their defaults."""
    with Writer("main", rank=0, ranks=1, schema=New) as writer, Reader("main", schema=Old) as reader:
        writer.publish(New(running=4, extra=0.5, inner=NewInner(5, 6), moments=[1.0]))

        assert [snap.value for snap in reader.read_all()] == [Old(running=4, text="old", inner=OldInner(5))]


def test_a_new_writer_in_an_old_ring(ring_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It publishes what the ring has room for, and says once what it drops; the old ranks notice nothing."""
    with Writer("main", rank=0, ranks=2, schema=Old) as old:
        inode = (ring_dir / "main.ring").stat().st_ino
        old.publish(Old(running=1))
        with caplog.at_level(logging.WARNING), Writer("main", rank=1, ranks=2, schema=New) as new:
            for number in range(10):
                new.publish(New(running=number, extra=1.5, inner=NewInner(7, 8)))
            found = [snap.value for snap in Reader("main", schema=New).read_all()]

        assert found == [New(running=1), New(running=9, inner=NewInner(7, 0))]
        assert (ring_dir / "main.ring").stat().st_ino == inode
    (warning,) = [record.getMessage() for record in caplog.records]
    assert all(name in warning for name in ("main", "extra", "inner.paused", "flag", "limit", "moments"))


def test_an_old_writer_in_a_new_ring(ring_dir: Path) -> None:
    """What it does not know is not reported, which is not 0: records say so, values take the reader's default."""
    with Writer("main", rank=0, ranks=2, schema=New) as new:
        new.publish(New(running=1, limit=0))
        with Writer("main", rank=1, ranks=2, schema=Old) as old, Reader("main", schema=New) as reader:
            old.publish(Old(running=2, text="lost"))
            view = reader.view()

            assert view.present("limit").tolist() == [True, False]
            assert view.records["limit"].tolist() == [0, -(2**63)]
            assert [snap.value.running for snap in reader.read_all()] == [1, 2]
            assert [snap.value.limit for snap in reader.read_all()] == [0, 99]


def test_the_next_ring_has_the_new_fields(ring_dir: Path) -> None:
    """When the last writer of the old release has ended, the ring is made anew with all that the new one reports."""
    with Writer("main", rank=0, ranks=1, schema=Old) as old:
        old.publish(Old(running=1))
    with Writer("main", rank=0, ranks=1, schema=New) as new, Reader("main", schema=New) as reader:
        new.publish(New(running=2, extra=0.25))

        assert [snap.value.extra for snap in reader.read_all()] == [0.25]


class Colour(enum.Enum):
    """Two choices."""

    RED = "red"
    BLUE = "blue"


class Typed(Struct, frozen=True, kw_only=True):
    """A field that later changes."""

    field: int = 0


class AsFloat(Struct, frozen=True, kw_only=True):
    """The same name as a number of another kind."""

    field: float = 0.0


class AsText(Struct, frozen=True, kw_only=True):
    """The same name as a text."""

    field: Annotated[str, Meta(max_length=8)] = ""


class LongerText(Struct, frozen=True, kw_only=True):
    """The same text with more room."""

    field: Annotated[str, Meta(max_length=16)] = ""


class AsChoice(Struct, frozen=True, kw_only=True):
    """The same name as a choice."""

    field: Colour = Colour.RED


class OtherChoice(Struct, frozen=True, kw_only=True):
    """A choice that the ring has not, and one missing that it has."""

    field: Literal["green", "red"] = "red"


@pytest.mark.parametrize(
    ("ring", "other"),
    [
        (Typed, AsFloat),
        (AsFloat, Typed),
        (Typed, AsText),
        (AsText, LongerText),
        (Typed, AsChoice),
        (AsChoice, OtherChoice),
    ],
    ids=lambda schema: schema.__name__,
)
def test_a_field_that_changed_its_meaning_is_refused(ring_dir: Path, ring: type[Struct], other: type[Struct]) -> None:
    """Bits are never read as another type: both sides learn which field differs."""
    with Writer("main", rank=0, ranks=2, schema=ring):
        with pytest.raises(LayoutMismatch, match="field"):
            Reader("main", schema=other).read(0)
        with pytest.raises(LayoutMismatch, match="field"):
            Writer("main", rank=1, ranks=2, schema=other)


class Reordered(Struct, frozen=True, kw_only=True):
    """The choices of Colour, the other way round and as texts."""

    field: Literal["blue", "red"] = "red"


def test_choices_go_by_value(ring_dir: Path) -> None:
    """Their order in the class means nothing, nor does whether they are an enum or a Literal."""
    with (
        Writer("main", rank=0, ranks=2, schema=AsChoice) as one,
        Writer("main", rank=1, ranks=2, schema=Reordered) as two,
    ):
        one.publish(AsChoice(field=Colour.BLUE))
        two.publish(Reordered(field="red"))

        found = [
            [snap["field"] for snap in Reader("main", schema=schema).read_all()] for schema in (AsChoice, Reordered)
        ]
        assert found == [[Colour.BLUE, Colour.RED], ["blue", "red"]]


class Fewer(Struct, frozen=True, kw_only=True):
    """A mode of two choices."""

    mode: Literal["a", "b"] = "a"


class More(Struct, frozen=True, kw_only=True):
    """A choice appended."""

    mode: Literal["a", "b", "c"] = "a"


def test_a_choice_that_the_ring_does_not_know_is_refused(ring_dir: Path) -> None:
    """Choices may be appended; a value that only the new class knows cannot be written into the old ring."""
    with Writer("main", rank=0, ranks=1, schema=Fewer, keep=True) as writer:
        writer.publish(Fewer(mode="b"))
        with Reader("main", schema=More) as reader:
            assert [snap.value for snap in reader.read_all()] == [More(mode="b")]
    with Writer("main", rank=0, ranks=1, schema=More) as writer:
        writer.publish(More(mode="a"))
        with pytest.raises(InvalidValue, match="mode"):
            writer.publish(More(mode="c"))
        assert [snap.value for snap in Reader("main", schema=Fewer).read_all()] == [Fewer(mode="a")]


# The other release, in a process of its own as it would be.
OTHER_RELEASE = """
import sys
from typing import Annotated
from msgspec import Struct
import snapring
class Old(Struct, frozen=True, kw_only=True):
    running: int
    dropped: int = 5
reader = snapring.Reader("main", schema=Old)
with snapring.Writer("main", rank=1, ranks=2, schema=Old) as writer:
    for _ in sys.stdin:
        writer.publish(Old(running=writer.version + 1))
        print([snap.value.running for snap in reader.read_all()], flush=True)
"""


def test_two_releases_share_a_living_ring(ring_dir: Path, spawn: Spawn, caplog: pytest.LogCaptureFixture) -> None:
    """Each process uses its own class, all the time, in both directions."""
    with Writer("main", rank=0, ranks=2, schema=New) as writer, Reader("main", schema=New) as reader:
        other = spawn(OTHER_RELEASE)
        for number in range(1, 20):
            writer.publish(New(running=100 + number, extra=0.5))
            tell(other)

            assert line(other) == str([100 + number, number])
            assert [snap.value.running for snap in reader.read_all()] == [100 + number, number]
            assert [snap.value.extra for snap in reader.read_all()] == [0.5, None]
