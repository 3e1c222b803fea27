"""What ranks write into a group's entries: who they are, what they offer, what they saw. Values in, values out.

Entries are JSON, decoded strictly: what does not fit its class is a ``RendezvousFailed``, never a guess.
"""

import os
import secrets
import socket
import time
from datetime import UTC, datetime
from typing import Final, Literal, TypeVar

import msgspec

from snapring.errors import InvalidValue, PayloadTooLarge, RendezvousFailed
from snapring.rendezvous.group import Group

__all__ = ["MAX_VALUE_BYTES", "Answer", "Member", "Offer", "Taken", "Verdict", "decode", "encode", "pack", "unpack"]

MAX_VALUE_BYTES: Final = 64 * 1024
"""The largest value that travels from a leader, bytes once encoded."""


class Member(msgspec.Struct, frozen=True):
    """One incarnation of one rank: a restart is another one, even on the same host with the same pid.

    ``nonce`` is 128 random bits in hexadecimal and alone tells incarnations apart. ``started_ns`` (wall clock, ns since
    1970), ``host`` and ``pid`` are for people.
    """

    job: str
    rank: int
    size: int
    started_ns: int
    nonce: str
    host: str
    pid: int

    @classmethod
    def of(cls, group: Group) -> "Member":
        """This process as a new incarnation of the group's rank."""
        nonce = secrets.token_hex(16)
        return cls(group.job, group.rank, group.size, time.time_ns(), nonce, socket.gethostname(), os.getpid())

    def __str__(self) -> str:
        since = datetime.fromtimestamp(self.started_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return f"rank {self.rank} of {self.size} ({self.host}, pid {self.pid}, since {since}, {self.nonce[:8]})"


class Verdict(msgspec.Struct, frozen=True):
    """How a leader ended: agreed when ``fault`` is empty. It speaks to the incarnations in ``roster`` and no others."""

    fault: str
    roster: dict[int, str]


class Offer(msgspec.Struct, frozen=True):
    """The leader's entry: its value, and, once it has heard from all, its verdict."""

    member: Member
    kind: Literal["json", "bytes"]
    value: bytes
    verdict: Verdict | None = None


class Taken(msgspec.Struct, frozen=True):
    """That a follower took a leader's value, by the nonces of both; ``fault`` says why it could not use it."""

    leader: str
    follower: str
    fault: str = ""


class Answer(msgspec.Struct, frozen=True):
    """A follower's entry: the nonce of the leader whose offer it saw, and the last value that its rank took.

    The latter outlives the sync it belongs to, as the rank may begin the next one before the leader has looked.
    """

    member: Member
    leader: str = ""
    taken: Taken | None = None


R = TypeVar("R", bound=msgspec.Struct)
T = TypeVar("T")


def encode(record: msgspec.Struct) -> bytes:
    """The record as an entry."""
    return msgspec.json.encode(record)


def decode(entry: bytes, kind: type[R], where: str) -> R:
    """The entry as a record; RendezvousFailed, naming ``where`` it stands, when it is something else."""
    try:
        return msgspec.json.decode(entry, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RendezvousFailed(f"{where} holds something else than snapring wrote: {error}; use another job") from error


def pack(value: object) -> tuple[Literal["json", "bytes"], bytes]:
    """A value as it travels.

    Raises InvalidValue for what would not come back as it was (tuples, NaN, numbers as keys, classes), PayloadTooLarge
    above :data:`MAX_VALUE_BYTES`.
    """
    if isinstance(value, bytes):
        kind, data = "bytes", value
    else:
        kind, data = "json", _as_json(value)
    if len(data) > MAX_VALUE_BYTES:
        raise PayloadTooLarge(f"the value has {len(data)} bytes, at most {MAX_VALUE_BYTES} travel; send a file's name")
    return ("bytes" if kind == "bytes" else "json"), data


def _as_json(value: object) -> bytes:
    try:
        data = msgspec.json.encode(value)
        same = msgspec.json.decode(data) == value
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidValue(f"{shown(value)} is neither bytes nor JSON: {error}") from error
    if not same:
        raise InvalidValue(f"{shown(value)} would come back changed; use text, whole numbers, lists and dicts of them")
    return data


def unpack(kind: Literal["json", "bytes"], data: bytes) -> object:
    """The value that :func:`pack` was given; RendezvousFailed when the bytes are none."""
    if kind == "bytes":
        return data
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RendezvousFailed(f"the leader's value is no JSON: {error}; restart the leader") from error


def shown(value: object) -> str:
    """A value for messages, cut to a line's length."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004  about two lines of a terminal
