from pathlib import Path

import snapring
from snapring import LoadSnapshot, Reader, Writer
from support import eventually


def ranks(reader: "Reader[LoadSnapshot]") -> int | None:
    """Ranks of the ring as a loop sees them that looks for changes first."""
    reader.poll()
    return reader.ranks


def test_a_ring_that_went_is_noticed_between_polls(ring_dir: Path) -> None:
    """A reader that polls all the time lets go of a removed ring all the same."""
    with Writer("box", rank=0, ranks=1) as writer, Reader("box") as reader:
        writer.publish(LoadSnapshot())
        assert ranks(reader) == 1

        writer.close()

        assert eventually(lambda: ranks(reader) is None)
        assert reader.read(0) is None


def test_a_replaced_ring_is_noticed_between_polls(ring_dir: Path) -> None:
    """A reader that polls all the time goes over to the ring that took the old one's place."""
    with Writer("box", rank=0, ranks=1, keep=True) as writer, Reader("box") as reader:
        writer.publish(LoadSnapshot())
        assert ranks(reader) == 1
        writer.close()

        with snapring.Writer("box", rank=1, ranks=2) as newcomer:
            newcomer.publish(LoadSnapshot(num_running_reqs=7))

            assert eventually(lambda: ranks(reader) == 2)
            snapshot = reader.read(1)
    assert snapshot is not None
    assert snapshot.value.num_running_reqs == 7
