"""One call for each process of a server: :func:`open_writer` for its ranks, :func:`open_reader` for its roles.

Both look at the same :class:`~snapring.config.ClusterConfig` and choose between shared memory and the relay, so a
scheduler, a front end or a dispatcher has the same code on one node and on many. Options that the chosen transport has
no use for are ignored, so that the call itself can be the same everywhere too.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Generic, Self, TypedDict, TypeVar, Unpack, overload

from snapring import _core
from snapring.config import ClusterConfig
from snapring.errors import ForkedHandle, InvalidValue
from snapring.load import LoadSnapshot
from snapring.ownership import Role, is_relay_owner, sends_to_relay
from snapring.relay import Drain, Latency, Relay, RemoteWriter
from snapring.ring import CodecName, Path, Reader, Writer

__all__ = ["OwningReader", "open_reader", "open_writer"]

T = TypeVar("T")


class _Place(TypedDict, total=False):
    endpoint: str | None
    directory: Path | None


class _WriterOnly(TypedDict, total=False):
    cells: int | None
    keep: bool
    wake: bool
    allow_disk: bool


class _RemoteWriterOnly(TypedDict, total=False):
    latency: Latency
    key: Path | None
    server_key: str | None
    insecure: bool


class _WriterOptions(_Place, _WriterOnly, _RemoteWriterOnly, total=False):
    codec: CodecName | None
    payload: int | None
    job: str


class _ReaderOnly(TypedDict, total=False):
    max_age: float


class _RelayOnly(TypedDict, total=False):
    payload: int | None
    drain: Drain
    standby: bool
    kill_hung: float | None
    key: Path | None
    clients: list[str] | None
    insecure: bool
    allow: list[str] | None
    max_peers: int | None
    keep: bool


class _ReaderOptions(_Place, _ReaderOnly, _RelayOnly, total=False):
    codec: CodecName | None
    job: str
    allow_disk: bool


@overload
def open_writer(
    config: ClusterConfig, name: str, rank: int, **options: Unpack[_WriterOptions]
) -> Writer[LoadSnapshot] | RemoteWriter[LoadSnapshot]: ...
@overload
def open_writer(
    config: ClusterConfig, name: str, rank: int, *, schema: type[T], **options: Unpack[_WriterOptions]
) -> Writer[T] | RemoteWriter[T]: ...
@overload
def open_writer(
    config: ClusterConfig, name: str, rank: int, *, schema: object, **options: Unpack[_WriterOptions]
) -> Writer[Any] | RemoteWriter[Any]: ...
def open_writer(
    config: ClusterConfig,
    name: str,
    rank: int,
    *,
    endpoint: str | None = None,
    directory: Path | None = None,
    schema: Any = LoadSnapshot,
    **options: Any,
) -> Writer[Any] | RemoteWriter[Any]:
    """Open the writer of a rank that runs on this node.

    A rank of node 0 gets a :class:`snapring.Writer`, since the ring is there; a rank of any other node, and with
    ``force_zmq`` every rank, gets a :class:`snapring.relay.RemoteWriter`. Both publish in the same way.

    Args:
        config: shape of the server; its ``ranks`` are the ring's.
        name: the ring on node 0; see :func:`snapring.ring_name`.
        rank: 0 to ``config.ranks - 1``.
        endpoint: where the relay of node 0 listens. With one node the default is a socket file beside the ring; with
            more it must be given, by every rank that goes through the relay.
        directory: as for :class:`snapring.Writer`.
        schema: as for :class:`snapring.Writer`; the same for all ranks and for the relay's owner.
        options: ``codec``, ``payload`` and ``job`` for either transport; ``cells``, ``keep``, ``wake`` and
            ``allow_disk`` for shared memory; ``latency``, ``key``, ``server_key`` and ``insecure`` for the relay.

    Raises:
        InvalidValue: no ``endpoint`` where one is needed, or a rank on another node although no relay is on, whom
            nobody would hear; and whatever the chosen writer raises.

    Threads and forks: as for the chosen writer.

    Examples:
        >>> from snapring.config import ClusterConfig
        >>> with open_writer(ClusterConfig(ranks=2), "docs", rank=1) as writer:
        ...     writer.publish(LoadSnapshot(num_running_reqs=12))
        1
    """
    if sends_to_relay(config):
        to = _local_endpoint(config, name, directory) if endpoint is None else endpoint
        return RemoteWriter(to, rank, config.ranks, schema=schema, **_without(_WriterOnly, options))
    if config.node_rank != 0:
        raise InvalidValue(
            f"rank {rank} is on node {config.node_rank}, and nobody on node 0 would see it: no relay is on; "
            "set dp_attention=True if ranks live on every node, or force_zmq=True"
        )
    return Writer(name, rank, config.ranks, schema=schema, directory=directory, **_without(_RemoteWriterOnly, options))


class OwningReader(Reader[T], Generic[T]):
    """A :class:`snapring.Reader` that has a relay: closing it closes both.

    Made by :func:`open_reader`. With ``drain="poll"`` the host drives ``relay.fileno()`` and ``relay.poll()``, which
    have nothing to do with the ``fileno`` and ``poll`` of the reader: those tell of changes, however they arrived. In a
    child of a fork the reader goes on reading; the relay stays with the parent.

    Attributes:
        relay: the :class:`snapring.relay.Relay`; it owns the socket, or stands by (``relay.is_owner``).
    """

    relay: Relay

    def __new__(cls, name: str, *, relay: Callable[[], Relay], **options: Any) -> Self:  # noqa: ANN401  as for Reader
        """Attach the reader, then open the relay: what is wrong with the former leaves no socket behind."""
        self: Self = super().__new__(cls, name, **options)
        self.relay = relay()
        return self

    def close(self) -> None:
        """Give the socket to a standby, and close the reader; again does nothing."""
        try:
            with suppress(ForkedHandle):  # it is the parent's
                self.relay.close()
        finally:
            super().close()


@overload
def open_reader(
    config: ClusterConfig, role: Role | str, name: str, **options: Unpack[_ReaderOptions]
) -> Reader[LoadSnapshot]: ...
@overload
def open_reader(
    config: ClusterConfig, role: Role | str, name: str, *, schema: type[T], **options: Unpack[_ReaderOptions]
) -> Reader[T]: ...
@overload
def open_reader(
    config: ClusterConfig, role: Role | str, name: str, *, schema: object, **options: Unpack[_ReaderOptions]
) -> Reader[Any]: ...
def open_reader(
    config: ClusterConfig,
    role: Role | str,
    name: str,
    *,
    endpoint: str | None = None,
    directory: Path | None = None,
    schema: Any = LoadSnapshot,
    **options: Any,
) -> Reader[Any]:
    """Open the reader of a process in ``role``.

    If the role owns the relay on this node it is an :class:`OwningReader`, which also fills the ring with what ranks
    send; else a plain :class:`snapring.Reader`. A process in no role, an exporter or one of several tokenizer workers,
    opens a plain one itself. On nodes other than 0 the ring holds nothing while the relay is on.

    Args:
        config: shape of the server; its ``ranks`` are the ring's.
        role: a :class:`~snapring.ownership.Role` or its name.
        name: the ring; see :func:`snapring.ring_name`.
        endpoint: where the relay listens. With one node the default is a socket file beside the ring; with more it
            must be given: ``tcp://HOST:0`` takes a free port, and ``reader.relay.endpoint`` tells which.
        directory: as for :class:`snapring.Reader`.
        schema: as for :class:`snapring.Reader`; the owner also makes the ring, so there it cannot be ``None``.
        options: ``codec``, ``job``, ``allow_disk`` and ``max_age`` for the reader; ``payload``, ``drain``, ``standby``,
            ``kill_hung``, ``key``, ``clients``, ``insecure``, ``allow``, ``max_peers`` and ``keep`` for the relay,
            with the first three.

    Raises:
        OwnerBusy: another process owns the relay, and ``standby=False``.
        InvalidValue: no ``endpoint`` where one is needed, or no such role; and whatever Reader and Relay raise.

    Threads: may share the reader. Forks: see :class:`OwningReader`.

    Examples:
        >>> from snapring.config import ClusterConfig
        >>> with open_reader(ClusterConfig(ranks=2), "DataParallelController", "docs") as reader:
        ...     reader.read_all()
        []
    """
    reading = {"schema": schema, "directory": directory, **_without(_RelayOnly, options)}
    if not is_relay_owner(config, role):
        return Reader(name, **reading)
    if schema is None:
        raise InvalidValue(f"{role} owns the relay, which makes the ring: give it the schema of the ranks, not None")
    at = _local_endpoint(config, name, directory) if endpoint is None else endpoint
    relaying = {"schema": schema, "directory": directory, **_without(_ReaderOnly, options)}
    return OwningReader(name, relay=lambda: Relay(name, at, ranks=config.ranks, **relaying), **reading)


def _local_endpoint(config: ClusterConfig, name: str, directory: Path | None) -> str:
    """The socket file beside the ring; only a server of one node can do with it."""
    if config.nodes > 1:
        raise InvalidValue(
            f"a relay for {config.nodes} nodes needs endpoint='tcp://HOST:PORT' on node 0, and its ranks the same; "
            "sync_from_leader carries reader.relay.endpoint to them"
        )
    Reader(name, directory=directory).close()  # opens nothing, and refuses a name that is none
    return f"ipc://{_core.directory(directory).absolute()}/{name}.sock"


def _without(names: type[object], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options but those that ``names``, a TypedDict, lists; what nobody lists stays, for its target to refuse."""
    return {name: value for name, value in options.items() if name not in names.__annotations__}
