"""Ranks on other nodes: :class:`RemoteWriter` sends one rank's snapshots, :class:`Relay` writes them into a local ring.

Both are native objects with a thin Python front, as in :mod:`snapring.ring`. A remote writer has the same ``publish``
as a local one; a relay needs no call at all, so the ring follows remote ranks while Python is busy elsewhere. The bytes
between them are documented in ``rust/relay/src/frame.rs``, and any ZeroMQ program can send them:
``tests/python/pyzmq_sender.py`` is one.
"""

import os
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypedDict, TypeVar, Unpack, overload

import msgspec

from snapring import _core
from snapring.errors import InvalidValue
from snapring.load import LoadSnapshot
from snapring.ring import CodecName, describe

__all__ = ["Drain", "Latency", "Relay", "RemoteWriter"]

T = TypeVar("T")

Path = str | os.PathLike[str]

Latency = Literal["tick", "wake"]
"""When a snapshot leaves: within a millisecond, at next to no cost for the publisher, or at once, for the price of the
kernel's wake-up of another thread."""

Drain = Literal["thread", "poll"]
"""Who does a relay's work: a native thread, or the host's event loop through ``fileno`` and ``poll``."""

_ENCODE = msgspec.msgpack.Encoder().encode


class _SenderOptions(TypedDict, total=False):
    codec: CodecName | None
    payload: int | None
    job: str
    latency: Latency
    key: Path | None
    server_key: Path | None
    insecure: bool


class RemoteWriter(_core.RemoteWriter[T], Generic[T]):
    """Publishes the snapshots of one rank to a :class:`Relay` on another node.

    ``publish`` writes into memory of this process; a native thread sends the newest snapshot, so a slow, stopped or
    absent relay costs the caller nothing, the newest one always wins, and the last one always goes out: it is sent
    again after every reconnect, and every second while nothing newer comes, with its age as of then.

    Parameters
    ----------
    endpoint
        Where the relay listens: ``tcp://HOST:PORT``, ``tcp://[IPV6]:PORT`` or ``ipc:///absolute/path``. It need not
        listen yet.
    rank, ranks
        This rank, and the number of ranks of the ring.
    schema, codec, payload, job
        As for :class:`snapring.Writer`; schema and job must be those of the relay, which drops and counts others.
    latency
        See :data:`Latency`.
    key
        Own key file, made by ``snapring keys``; needed for ``tcp://``.
    server_key
        The relay's public key: 40 characters, or the path of its ``.pub`` file.
    insecure
        Speak to ``tcp://`` without keys: anybody on the way can read and forge what is sent.

    Raises
    ------
    InvalidValue, RankOutOfRange, RingUntrusted, SystemRefused
        An option, the rank, a key file that others may read, a thread that could not be started.

    Notes
    -----
    Threads may share it; each publish is whole. In a child of a fork every call raises
    :class:`~snapring.errors.ForkedHandle`. It satisfies :class:`snapring.publisher.WriterLike`.

    Examples
    --------
    >>> import snapring
    >>> with snapring.Relay("remote-docs", ranks=2) as relay:
    ...     with snapring.RemoteWriter(relay.endpoint, rank=1, ranks=2) as writer:
    ...         version = writer.publish(snapring.LoadSnapshot(num_running_reqs=3))
    ...         reader = snapring.Reader("remote-docs")
    ...         _ = reader.wait(timeout=10)
    ...         reader.read(1).value.num_running_reqs
    3
    """

    # As for Writer.
    @overload
    def __new__(
        cls: "type[RemoteWriter[LoadSnapshot]]", endpoint: str, rank: int, ranks: int, **options: Unpack[_SenderOptions]
    ) -> "RemoteWriter[LoadSnapshot]": ...
    @overload
    def __new__(
        cls, endpoint: str, rank: int, ranks: int, *, schema: type[T], **options: Unpack[_SenderOptions]
    ) -> Self: ...
    @overload
    def __new__(
        cls: "type[RemoteWriter[Any]]",
        endpoint: str,
        rank: int,
        ranks: int,
        *,
        schema: object,
        **options: Unpack[_SenderOptions],
    ) -> "RemoteWriter[Any]": ...
    def __new__(
        cls,
        endpoint: str,
        rank: int,
        ranks: int,
        *,
        schema: Any = LoadSnapshot,
        codec: CodecName | None = None,
        payload: int | None = None,
        job: str = "",
        latency: Latency = "tick",
        key: Path | None = None,
        server_key: Path | None = None,
        insecure: bool = False,
    ) -> Self:
        """Start the sending thread."""
        text, compiled = describe(schema, codec)
        _check_payload(payload, compiled is not None)
        return super().__new__(
            cls,
            endpoint,
            rank,
            ranks,
            text,
            compiled,
            _ENCODE if codec == "msgpack" else None,
            payload=payload,
            job=job,
            latency=latency,
            key=key,
            server_key=server_key,
            insecure=insecure,
        )

    def __enter__(self) -> Self:
        """Give the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the writer."""
        self.close()


class Relay(_core.Relay):
    """Receives the snapshots of remote ranks and writes them into ring ``name`` of this node; one owner at a time.

    The first relay of a ring on this host takes a kernel lock, binds the socket and owns both until it closes or dies;
    others stand by and take over within milliseconds. A stopped owner keeps the lock, since two could write one slot;
    its ranks turn STALE.

    A rank is claimed at its first snapshot and DEAD once its sender said goodbye, or its connection is gone and stays
    so for half a second. Snapshots of a rank that a local writer holds are dropped and counted. Ages count from the
    publish on the other node, however often a snapshot is sent again; the way through the network counts as no time,
    and neither does a wait in the socket of a relay that is stopped.

    Parameters
    ----------
    name
        The ring to write; made where there is none.
    endpoint
        Where to listen: ``ipc:///absolute/path`` in a directory of mode 0700, or ``tcp://HOST:PORT``, port 0 for a
        free one. By default a socket beside the ring, for ranks of this host.
    ranks
        Number of ranks of the ring, 1 to 65,536.
    schema, codec, cells, payload, job, keep, directory, allow_disk
        As for :class:`snapring.Writer`.
    drain
        See :data:`Drain`.
    standby
        Wait while another relay owns the ring; without it that raises OwnerBusy.
    kill_hung
        Seconds, 1 or more: as a standby, end by SIGKILL an owner of this host that has not worked for so long, and take
        over. Time in which the standby was stopped itself does not count.
    key
        Own key file, made by ``snapring keys``; needed for ``tcp://``.
    clients
        Public keys that may connect: 40 characters each, or ``.pub`` files, or directories of such; none by default.
        More can be admitted later by ``admit``.
    allow
        Addresses that may connect, as ``"10.0.0.0/8"`` or ``"::1"``; all by default.
    insecure
        Listen on ``tcp://`` without keys: anybody who reaches the port can forge the load of every rank.
    max_peers
        Connections at a time; by default twice ``ranks`` and 64 more.

    Raises
    ------
    OwnerBusy
        Another process owns the relay, and ``standby`` is false; or another ring's relay owns the socket.
    InvalidValue, LayoutMismatch, RingUntrusted, RingFull, SystemRefused
        An option or key file; the ring; a port in use.

    Notes
    -----
    Threads may share it. In a child of a fork every call raises :class:`~snapring.errors.ForkedHandle`, and the child
    keeps neither the lock nor the port. What goes wrong after the start is counted in ``stats()``, kept in
    ``last_error``, and tried again.
    """

    def __new__(
        cls,
        name: str,
        endpoint: str | None = None,
        *,
        ranks: int,
        schema: object = LoadSnapshot,
        codec: CodecName | None = None,
        cells: int | None = None,
        payload: int | None = None,
        job: str = "",
        drain: Drain = "thread",
        standby: bool = True,
        kill_hung: float | None = None,
        key: Path | None = None,
        clients: Iterable[Path] | None = None,
        allow: Iterable[str] | None = None,
        insecure: bool = False,
        max_peers: int | None = None,
        keep: bool = False,
        directory: Path | None = None,
        allow_disk: bool = False,
    ) -> Self:
        """Own or stand by."""
        text, compiled = describe(schema, codec)
        _check_payload(payload, compiled is not None)
        return super().__new__(
            cls,
            name,
            endpoint,
            ranks,
            text,
            cells=cells,
            payload=payload,
            job=job,
            drain=drain,
            standby=standby,
            kill_hung=kill_hung,
            key=key,
            clients=[os.fspath(client) for client in clients or ()],
            allow=None if allow is None else list(allow),
            insecure=insecure,
            max_peers=max_peers,
            keep=keep,
            dir=directory,
            allow_disk=allow_disk,
        )

    def __enter__(self) -> Self:
        """Give the relay itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the relay."""
        self.close()


def _check_payload(payload: int | None, is_record: bool) -> None:  # noqa: FBT001  one fact of the schema
    if payload is not None and is_record:
        raise InvalidValue(
            f"payload={payload!r} goes with bytes and msgpack; the size of a record is that of its schema"
        )
