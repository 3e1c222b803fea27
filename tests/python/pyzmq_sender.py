"""Sends a rank's snapshots to a relay, and reads those of a remote writer, with pyzmq and struct alone.

Proof that the wire format needs no snapring. It takes the layout of the payload from the schema's text, as
``snapring schema --class snapring:LoadSnapshot --json`` prints it: numbers only, which is all that a load has to have.
"""

import hashlib
import json
import math
import secrets
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import zmq

HEADER = struct.Struct("<8sIIIIQQQQQQQ")
SNAPSHOT, BEAT, GOODBYE = range(3)
HANG_MS = 60_000
"""How long a message may take before that counts as a hang."""


@contextmanager
def opened(kind: int, **options: object) -> "Iterator[zmq.Socket[bytes]]":
    """A socket with options of pyzmq, closed at the end of the block; what was sent goes out first."""
    with zmq.Context() as context, context.socket(kind) as socket:
        socket.linger = socket.rcvtimeo = socket.sndtimeo = HANG_MS
        for name, value in options.items():
            setattr(socket, name, value)
        yield socket


def digest(text: str) -> int:
    """The number that stands for a job id or a schema."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Frame(NamedTuple):
    """One message: 80 bytes of header, in this order, and the payload."""

    kind: int
    rank: int
    job: int
    fingerprint: int
    start_ns: int
    random: int
    version: int
    wall_ns: int
    age_ns: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        """The bytes to send."""
        kind, rank, *words, payload = self
        return HEADER.pack(b"SNAPWIRE", 1, kind, rank, len(payload), *words) + payload

    @classmethod
    def decode(cls, message: bytes) -> "Frame":
        """The frame that somebody sent."""
        magic, form, kind, rank, length, *words = HEADER.unpack_from(message)
        if (magic, form, length) != (b"SNAPWIRE", 1, len(message) - HEADER.size):
            raise ValueError(message)
        return cls(kind, rank, *words, payload=message[HEADER.size :])


def pack(schema: str, values: dict[str, float]) -> bytes:
    """The record of these values; a field that has none is *not reported*."""
    layout = json.loads(schema)
    record = bytearray(layout["bytes"])
    for field in layout["fields"]:
        value, is_float, word = values.get(field["name"]), field["kind"] == "float", field["bit"] // 64 * 8
        if value is not None:
            present = struct.unpack_from("<Q", record, word)[0] | 1 << field["bit"] % 64
            struct.pack_into("<Q", record, word, present)
        elif field["kind"] != "struct":
            value = math.nan if is_float else -(2**63)
        if value is not None:
            struct.pack_into("<d" if is_float else "<q", record, field["offset"], value)
    return bytes(record)


class Sender:
    """One life of one rank's sender, on a PUSH socket that is connected to the relay."""

    def __init__(self, socket: "zmq.Socket[bytes]", schema: str, rank: int, job: str = "") -> None:
        self._socket, self._schema, self._rank = socket, schema, rank
        self._who = (digest(job), digest(schema), time.time_ns(), secrets.randbits(64))
        self.version = 0

    def frame(self, **values: float) -> bytes:
        """The next snapshot, ready to be sent."""
        self.version += 1
        now_ns = time.time_ns()
        payload = pack(self._schema, {"dp_rank": self._rank, "timestamp": now_ns / 1e9, **values})
        return Frame(SNAPSHOT, self._rank, *self._who, self.version, now_ns, payload=payload).encode()

    def publish(self, **values: float) -> None:
        """Send the newest values. Ages count from here; a real sender would say in ``age_ns`` how long it waited."""
        self._socket.send(self.frame(**values))

    def close(self) -> None:
        """Say goodbye: readers see the rank DEAD."""
        self._socket.send(Frame(GOODBYE, self._rank, *self._who, self.version, time.time_ns()).encode())
