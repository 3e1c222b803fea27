"""Python code that runs amid a publish can do whatever it likes: the ring holds whole values all the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import Struct

from snapring import HandleClosed, InvalidValue, Reader, Writer


class Pair(Struct):
    """Two numbers, the first of which may be an object that runs code when it is asked for its value."""

    first: int
    second: int = 0


class Asked:
    """An integer by ``__index__``, as numpy's and others' are; runs ``code`` when asked."""

    def __init__(self, code: Callable[[], int]) -> None:
        self.code = code

    def __index__(self) -> int:
        return self.code()


def pair(code: Callable[[], int]) -> Pair:
    """A pair whose first number is whatever ``code`` gives."""
    return Pair(Asked(code), 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError, MemoryError])
def test_an_exception_amid_a_publish_publishes_nothing(ring_dir: Path, error: type[BaseException]) -> None:
    """It reaches the caller as it is, the value before stays, and the next one has the next version."""

    def fail() -> int:
        raise error

    with Writer("main", rank=0, ranks=1, schema=Pair) as writer, Reader("main", schema=Pair) as reader:
        writer.publish(Pair(1))
        with pytest.raises((error, InvalidValue)):
            writer.publish(pair(fail))

        assert [(snap.value, snap.version) for snap in reader.read_all()] == [(Pair(1), 1)]
        assert writer.publish(Pair(3)) == 2


def test_a_publish_amid_a_publish(ring_dir: Path) -> None:
    """The inner one is published first; both are whole, and no version is lost."""
    with Writer("main", rank=0, ranks=1, schema=Pair) as writer, Reader("main", schema=Pair) as reader:
        assert writer.publish(pair(lambda: 10 * writer.publish(Pair(7, 7)))) == 2

        assert reader.history(0)["first"].tolist() == [7, 10]
        assert reader.history(0)["second"].tolist() == [7, 2]


def test_a_value_that_changes_amid_a_publish(ring_dir: Path) -> None:
    """Fields are read once each, in order; what they hold later is of no interest, and nothing dangles."""
    value = Pair(0, 5)

    def change() -> int:
        value.first, value.second = 8, 9
        return 4

    value.first = Asked(change)  # type: ignore[assignment]
    with Writer("main", rank=0, ranks=1, schema=Pair) as writer, Reader("main", schema=Pair) as reader:
        writer.publish(value)
        writer.publish(value)

        assert reader.history(0)["first"].tolist() == [4, 8]
        assert reader.history(0)["second"].tolist() == [9, 9]


def test_a_close_amid_a_publish(ring_dir: Path) -> None:
    """The publish finds its writer closed, and writes to nothing that others may own by now."""
    writer = Writer("main", rank=0, ranks=1, schema=Pair)

    def close() -> int:
        writer.close()
        return 1

    with pytest.raises(HandleClosed):
        writer.publish(pair(close))
    assert list(ring_dir.iterdir()) == []


def test_a_default_that_fails_is_the_readers_problem(ring_dir: Path) -> None:
    """A class that cannot be built raises its own error, each time ``value`` is asked for; the fields are there."""

    class Picky(Struct):
        first: int

        def __post_init__(self) -> None:
            raise ValueError("never good")

    with Writer("main", rank=0, ranks=1, schema=Pair) as writer, Reader("main", schema=Picky) as reader:
        writer.publish(Pair(1))
        (snap,) = reader.read_all()

        for _ in range(2):
            with pytest.raises(ValueError, match="never good"):
                _ = snap.value
        assert snap["first"] == 1
