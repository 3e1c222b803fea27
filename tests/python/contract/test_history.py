from pathlib import Path

import pytest

from contract.model import Numbered
from snapring import LoadSnapshot, Reader, Writer


def numbers(reader: "Reader[Numbered]", last: int = 32) -> list[int]:
    """The numbers in the history of rank 0."""
    return [int(number) for number in reader.history(0, last=last)["number"]]


@pytest.mark.parametrize("cells", [2, 3, 4, 5, 8])
def test_history_is_dense_and_ends_with_the_newest(ring_dir: Path, cells: int) -> None:
    """Oldest first, no gap, at most one less than the cells: the oldest cell may be written any time."""
    with (
        Writer("main", rank=0, ranks=1, schema=Numbered, cells=cells) as writer,
        Reader("main", schema=Numbered) as reader,
    ):
        assert numbers(reader) == []
        for number in range(1, 3 * cells):
            writer.publish(Numbered(number))

            kept = min(number, cells - 1)
            assert numbers(reader) == list(range(number - kept + 1, number + 1))
            assert numbers(reader, last=2) == list(range(max(number - min(kept, 2) + 1, 1), number + 1))
            assert numbers(reader, last=0) == []


def test_history_goes_on_through_writers_not_through_files(ring_dir: Path) -> None:
    """A new writer of the same file continues the history; a new file begins one, with versions that go on."""
    with Writer("main", rank=0, ranks=1, schema=Numbered, keep=True, cells=8) as writer:
        writer.publish(Numbered(1))
    with Writer("main", rank=0, ranks=1, schema=Numbered, keep=True, cells=8) as writer:
        writer.publish(Numbered(2))
        assert numbers(Reader("main", schema=Numbered)) == [1, 2]

    with Writer("main", rank=0, ranks=1, schema=Numbered, cells=4) as writer:
        reader = Reader("main", schema=Numbered)
        assert numbers(reader) == []
        assert reader.read(0) is None
        assert writer.publish(Numbered(3)) == 3
        assert numbers(reader) == [3]


def test_history_is_columns(ring_dir: Path) -> None:
    """The history is a structured array with the columns of a view, made for numpy."""
    with Writer("main", rank=0, ranks=1) as writer, Reader("main") as reader:
        for number in range(4):
            writer.publish(LoadSnapshot(num_running_reqs=number, token_usage=number / 4))
        history = reader.history(0)

    assert history.dtype == reader_dtype(ring_dir)
    assert history["token_usage"].tolist() == [0.0, 0.25, 0.5, 0.75]
    assert not history.flags.writeable


def reader_dtype(ring_dir: Path) -> object:
    """The dtype of views of a default ring."""
    with Writer("dtype", rank=0, ranks=1), Reader("dtype") as reader:
        return reader.view().records.dtype
