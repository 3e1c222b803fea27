from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from contract.model import Numbered
from snapring import InvalidValue, LayoutMismatch, LoadSnapshot, PayloadTooLarge, Reader, RingUntrusted, Writer


class Note(msgspec.Struct, frozen=True):
    """Something that no record could hold."""

    tags: dict[str, list[str]]
    deep: "Note | None" = None


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 4095, 4096])
def test_bytes_come_back_as_they_were(ring_dir: Path, size: int) -> None:
    """Any length from nothing to the whole cell, whatever stood in the cell before."""
    payload = bytes(range(1, 256)) * 17
    with (
        Writer("main", rank=0, ranks=1, schema=bytes, cells=2) as writer,
        Reader("main", schema=bytes) as reader,
    ):
        for _ in range(2):
            writer.publish(payload[:4096])
        writer.publish(payload[:size])

        assert [snap.value for snap in reader.read_all()] == [payload[:size]]


@pytest.mark.parametrize(
    "payload",
    [bytearray(b"abc"), memoryview(b"abc"), memoryview(b"a-b-c")[::2], np.frombuffer(b"abc", "u1")],
    ids=lambda payload: type(payload).__name__,
)
def test_anything_like_bytes_is_taken(ring_dir: Path, payload: Any) -> None:  # noqa: ANN401  a buffer
    """A buffer is copied out; later changes to it do not show."""
    with Writer("main", rank=0, ranks=1, schema=bytes) as writer, Reader("main", schema=bytes) as reader:
        writer.publish(payload)

        assert [snap.value for snap in reader.read_all()] == [b"abc"]


@pytest.mark.parametrize("payload", ["text", 3, None, [1], LoadSnapshot()], ids=repr)
def test_what_is_no_bytes_is_refused(ring_dir: Path, payload: Any) -> None:  # noqa: ANN401  anything
    """Nothing is converted silently."""
    with Writer("main", rank=0, ranks=1, schema=bytes) as writer, pytest.raises(InvalidValue, match="bytes-like"):
        writer.publish(payload)


def test_a_record_takes_no_payload_size(ring_dir: Path) -> None:
    """The schema says how large a record is: a size beside it is refused, and no ring is made."""
    with pytest.raises(InvalidValue, match="payload=10 goes with bytes and msgpack"):
        Writer("main", rank=0, ranks=1, payload=10)

    assert list(ring_dir.iterdir()) == []


def test_a_payload_larger_than_a_cell_is_refused(ring_dir: Path) -> None:
    """The message says what would do; the snapshot before stays, and versions have no gap."""
    with (
        Writer("main", rank=0, ranks=1, schema=bytes, payload=16) as writer,
        Reader("main", schema=bytes) as reader,
    ):
        writer.publish(b"x" * 16)
        with pytest.raises(PayloadTooLarge, match="payload=17"):
            writer.publish(b"y" * 17)

        assert [(snap.value, snap.version) for snap in reader.read_all()] == [(b"x" * 16, 1)]
        assert writer.publish(b"") == 2
        assert [snap.value for snap in reader.read_all()] == [b""]


@pytest.mark.parametrize("value", [Note({"a": ["b", "c"]}, Note({})), Note({})], ids=repr)
def test_msgpack_takes_any_type(ring_dir: Path, value: Note) -> None:
    """What no record could hold goes as msgpack, decoded to the reader's class."""
    with (
        Writer("main", rank=0, ranks=1, schema=Note, codec="msgpack") as writer,
        Reader("main", schema=Note, codec="msgpack") as reader,
        Reader("main", schema=None) as anyone,
    ):
        writer.publish(value)

        assert [snap.value for snap in reader.read_all()] == [value]
        assert [snap.value for snap in anyone.read_all()] == [msgspec.to_builtins(value)]


def test_msgpack_errors_are_typed(ring_dir: Path) -> None:
    """Too large, not encodable, and not what the reader expects are three different errors."""
    with (
        Writer("main", rank=0, ranks=1, schema=object, codec="msgpack", payload=64) as writer,
        Reader("main", schema=Note, codec="msgpack") as reader,
    ):
        writer.publish({"tags": {}})
        with pytest.raises(PayloadTooLarge):
            writer.publish({"tags": {"a": ["b" * 64]}})
        with pytest.raises(InvalidValue, match="msgpack"):
            writer.publish(object())
        assert [snap.value for snap in reader.read_all()] == [Note({})]

        writer.publish([1, 2])
        (snap,) = reader.read_all()
        with pytest.raises(RingUntrusted, match="msgpack"):
            _ = snap.value


def test_only_records_have_fields(ring_dir: Path) -> None:
    """The error of a field of free bytes says what to use."""
    with Writer("main", rank=0, ranks=1, schema=bytes) as writer, Reader("main", schema=bytes) as reader:
        writer.publish(b"x")
        (snap,) = reader.read_all()

        with pytest.raises(InvalidValue, match=r"\.value"):
            snap["number"]


def test_history_of_free_payloads(ring_dir: Path) -> None:
    """A list of values, oldest first, each with its own length."""
    with (
        Writer("main", rank=0, ranks=1, schema=bytes, cells=4) as writer,
        Reader("main", schema=bytes) as reader,
    ):
        for size in range(6):
            writer.publish(b"z" * size)

        assert reader.history(0) == [b"zzz", b"zzzz", b"zzzzz"]
        assert reader.history(0, last=1) == [b"zzzzz"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"schema": bytes}, {"schema": Numbered}),
        ({"schema": Numbered}, {"schema": bytes}),
        ({"schema": Numbered}, {"schema": Numbered, "codec": "msgpack"}),
        ({"schema": Numbered, "codec": "msgpack"}, {"schema": bytes}),
    ],
    ids=repr,
)
def test_codecs_do_not_mix(ring_dir: Path, written: dict[str, Any], read: dict[str, Any]) -> None:
    """A ring of another codec is never misread: reader and second writer both get LayoutMismatch."""
    with Writer("main", rank=0, ranks=2, **written):
        with pytest.raises(LayoutMismatch):
            Reader("main", **read).read(0)
        with pytest.raises(LayoutMismatch):
            Writer("main", rank=1, ranks=2, **read)
