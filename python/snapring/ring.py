"""The ring from Python: :class:`Writer` publishes one rank, :class:`Reader` reads any.

Both are native objects with a thin Python front that compiles schemas. Neither opens a file, a thread or a signal
handler before it is used, and neither takes a lock that another process could hold.
"""

import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypedDict, TypeVar, Unpack, overload

import msgspec

from snapring import _core
from snapring.errors import InvalidValue, LayoutMismatch, RingNotFound, RingUntrusted
from snapring.layout import SchemaText, class_from_schema
from snapring.load import LoadSnapshot
from snapring.schema import CompiledSchema, compile_schema

__all__ = ["CodecName", "Reader", "Writer", "polled"]

T = TypeVar("T")

CodecName = Literal["record", "bytes", "msgpack"]
"""How a payload is written: fixed words by the schema's fields, free bytes, or one msgpack value."""

Path = str | os.PathLike[str]

DEFAULT_MAX_AGE_S = 2.0
"""A snapshot older than this is STALE unless the reader says otherwise: twice the publisher's heartbeat."""


class _Place(TypedDict, total=False):
    codec: CodecName | None
    directory: Path | None
    allow_disk: bool


class _WriterOptions(_Place, total=False):
    cells: int | None
    payload: int | None
    job: str
    keep: bool
    wake: bool


class _ReaderOptions(_Place, total=False):
    max_age: float
    job: str | None
    must_exist: bool


class Writer(_core.Writer[T], Generic[T]):
    """Publishes the snapshots of one rank of ring ``name``.

    Opening it claims the rank; the kernel frees the claim when the process dies, however it dies. The ring is made
    where there is none and removed by the last writer to close, unless ``keep``.

    Parameters
    ----------
    name
        1 to 64 of ``[A-Za-z0-9._-]``; :func:`snapring.ring_name` makes one of any instance id.
    rank, ranks
        This rank, and the number of ranks of the ring, 1 to 65,536.
    schema
        A ``msgspec.Struct`` class (:class:`snapring.LoadSnapshot` by default), or ``bytes``; with
        ``codec="msgpack"`` any type that msgspec can encode.
    cells
        Snapshots that a slot keeps, 2 to 65,536. By default what the ring has, or the largest power of two in 4 to 64
        that keeps the file at 8 MiB.
    payload
        Largest payload in bytes where it is free (bytes and msgpack); 4,096 by default. A record takes none.
    codec
        See :data:`CodecName`; ``None`` means "bytes" for ``schema=bytes``, else "record".
    job
        Up to 64 bytes of text; rings of another job raise :class:`~snapring.errors.LayoutMismatch`.
    keep
        Leave the file when the last writer closes.
    wake
        Ring a bell for waiting readers. Without it they look every 10 ms, beside writers that ring one every 100 ms.
    directory
        Where rings live; ``$SNAPRING_DIR`` by default, else ``/dev/shm/snapring-<uid>``. Mode 0700, of this user.
    allow_disk
        Accept a directory that is not in memory.

    Raises
    ------
    WriterBusy, LayoutMismatch, RankOutOfRange, InvalidValue, RingFull, RingUntrusted

    Notes
    -----
    The first writer of a process that has threads takes milliseconds longer to open: the kernel then arranges that
    publishes need no fence of their own. Threads may share a writer; each publish is whole. In a child of a fork every
    call raises :class:`~snapring.errors.ForkedHandle`: open a new writer there.

    Examples
    --------
    >>> import snapring
    >>> with snapring.Writer("docs", rank=0, ranks=2) as writer:
    ...     writer.publish(snapring.LoadSnapshot(num_running_reqs=12))
    1
    """

    # What the value's type is: the default, that of the schema, or not known (a union, for example, is no class).
    @overload
    def __new__(
        cls: "type[Writer[LoadSnapshot]]", name: str, rank: int, ranks: int, **options: Unpack[_WriterOptions]
    ) -> "Writer[LoadSnapshot]": ...
    @overload
    def __new__(
        cls, name: str, rank: int, ranks: int, *, schema: type[T], **options: Unpack[_WriterOptions]
    ) -> Self: ...
    @overload
    def __new__(
        cls: "type[Writer[Any]]", name: str, rank: int, ranks: int, *, schema: object, **options: Unpack[_WriterOptions]
    ) -> "Writer[Any]": ...
    def __new__(
        cls,
        name: str,
        rank: int,
        ranks: int,
        *,
        schema: Any = LoadSnapshot,
        cells: int | None = None,
        payload: int | None = None,
        codec: CodecName | None = None,
        job: str = "",
        keep: bool = False,
        wake: bool = True,
        directory: Path | None = None,
        allow_disk: bool = False,
    ) -> Self:
        """Claim the rank."""
        text, compiled = describe(schema, codec)
        if payload is not None and compiled is not None:
            message = f"payload={payload!r} goes with bytes and msgpack; the size of a record is that of its schema"
            raise InvalidValue(message)
        encode = msgspec.msgpack.Encoder().encode if codec == "msgpack" else None
        return super().__new__(
            cls,
            name,
            rank,
            ranks,
            text,
            compiled,
            encode,
            cells=cells,
            payload=payload,
            job=job,
            keep=keep,
            wake=wake,
            dir=directory,
            allow_disk=allow_disk,
        )

    def __enter__(self) -> Self:
        """Give the writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the writer."""
        self.close()


class Reader(_core.Reader[T], Generic[T]):
    """Reads the ranks of ring ``name``; attaches now or later, and again when the ring was replaced.

    Parameters
    ----------
    name
        The ring; it need not exist yet. Reading before any writer exists gives ``None``, an empty list or no rows.
    schema
        What to decode to, as for :class:`Writer`; ``None`` builds a class from the ring's own description. Fields
        match by name: what the ring lacks takes its default, what the class lacks is skipped.
    codec
        As for :class:`Writer`.
    max_age
        Seconds after which a snapshot of a living writer is STALE. Sets the state and filters nothing.
    job
        The job that the ring must belong to; ``None`` takes any.
    must_exist
        Raise :class:`~snapring.errors.RingNotFound` when there is no ring now.
    directory, allow_disk
        As for :class:`Writer`.

    Raises
    ------
    InvalidValue, RingNotFound
        At once; LayoutMismatch and RingUntrusted on each read until a good ring appears.

    Notes
    -----
    Threads may share a reader. In a child of a fork it attaches anew by itself.

    Examples
    --------
    >>> import snapring
    >>> reader = snapring.Reader("docs")
    >>> with snapring.Writer("docs", rank=1, ranks=2) as writer:
    ...     _ = writer.publish(snapring.LoadSnapshot(num_running_reqs=3))
    ...     snap = reader.read(1)
    >>> snap.value.num_running_reqs, snap["num_running_reqs"], snap.version
    (3, 3, 1)
    """

    _same: "Callable[[], Reader[T]]"
    """Opens another cursor on the same ring."""

    # As for Writer; the class that schema=None builds is known only at run time.
    @overload
    def __new__(
        cls: "type[Reader[LoadSnapshot]]", name: str, **options: Unpack[_ReaderOptions]
    ) -> "Reader[LoadSnapshot]": ...
    @overload
    def __new__(cls, name: str, *, schema: type[T], **options: Unpack[_ReaderOptions]) -> Self: ...
    @overload
    def __new__(
        cls: "type[Reader[Any]]", name: str, *, schema: object, **options: Unpack[_ReaderOptions]
    ) -> "Reader[Any]": ...
    def __new__(
        cls,
        name: str,
        *,
        schema: Any = LoadSnapshot,
        codec: CodecName | None = None,
        max_age: float = DEFAULT_MAX_AGE_S,
        job: str | None = None,
        must_exist: bool = False,
        directory: Path | None = None,
        allow_disk: bool = False,
    ) -> Self:
        """Attach if there is something to attach to."""
        text, source = _decoding(schema, codec)
        # As of now: a clone opens this place too, whatever becomes of the environment and of the working directory.
        # Links stay links, for it to refuse.
        named = directory or os.environ.get("SNAPRING_DIR") or f"/dev/shm/snapring-{os.geteuid()}"  # noqa: S108
        place = os.path.abspath(named)  # noqa: PTH100
        self = super().__new__(cls, name, text, source, max_age=max_age, job=job, dir=directory, allow_disk=allow_disk)
        if must_exist and self.ranks is None:
            message = (
                f"no ring {name!r} in {place}; start a writer for it, or set SNAPRING_DIR to where its writers run"
            )
            raise RingNotFound(message)
        self._same = lambda: Reader(
            name, schema=schema, codec=codec, max_age=max_age, job=job, directory=place, allow_disk=allow_disk
        )
        return self

    def clone(self) -> "Reader[T]":
        """Open another reader of the same ring with the same options; its cursor, for ``poll``, starts from nothing.

        Raises HandleClosed where this one is closed, and otherwise only what the system refuses.
        """
        with contextlib.suppress(LayoutMismatch, RingUntrusted):
            _ = self.ranks  # a closed one says so
        return self._same()

    async def changes(self) -> AsyncGenerator[list[int], None]:
        """Yield the ranks whose version or state changed, each time any did; a cursor of its own.

        The first item is every rank that has published. Changes that come while the caller is busy are merged.
        """
        with self.clone() as reader:
            async with contextlib.aclosing(polled(reader)) as changes:
                async for ranks in changes:
                    yield ranks

    def __enter__(self) -> Self:
        """Give the reader itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the reader."""
        self.close()


async def polled(reader: Reader[Any]) -> AsyncGenerator[list[int], None]:
    """Yield what ``reader.poll`` gives, each time that is anything; the reader's own cursor moves."""
    import asyncio  # noqa: PLC0415  a reader that never awaits need not load it

    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    fd = reader.fileno()

    def wake() -> None:
        loop.remove_reader(fd)  # level-triggered: one call is enough until the next poll
        ready.set()

    try:
        while True:
            ready.clear()
            loop.add_reader(fd, wake)
            await ready.wait()
            if ranks := reader.poll():
                yield ranks
    finally:
        loop.remove_reader(fd)


def describe(schema: Any, codec: CodecName | None) -> tuple[str, CompiledSchema | None]:  # noqa: ANN401  as for Writer
    """Give the header's text of ``schema`` and, for records, its compiled class."""
    codec = codec or ("bytes" if schema is bytes else "record")
    if codec == "record":
        compiled = compile_schema(schema)
        return compiled.text, compiled
    if codec not in {"bytes", "msgpack"} or (codec == "bytes" and schema not in {bytes, LoadSnapshot}):
        message = (
            f'codec is "record", "bytes" or "msgpack", and bytes goes with schema=bytes; not {codec!r} with {schema!r}'
        )
        raise InvalidValue(message)
    name = "bytes" if codec == "bytes" else getattr(schema, "__name__", str(schema))
    text = SchemaText(format=1, name=name, codec=codec, bytes=0, fields=())
    return msgspec.json.encode(text).decode(), None


Source = Callable[[str], tuple[CompiledSchema | None, Callable[[bytes], Any] | None]]


def _decoding(schema: Any, codec: CodecName | None) -> tuple[str | None, Source]:  # noqa: ANN401  as for Writer
    """Give the text that a ring must be compatible with, and what decodes a ring of a given text."""
    if schema is not None:
        text, compiled = describe(schema, codec)
        decode = msgspec.msgpack.Decoder(schema).decode if codec == "msgpack" else None
        return text, lambda _: (compiled, decode)

    def from_ring(text: str) -> tuple[CompiledSchema | None, Callable[[bytes], Any] | None]:
        kind = msgspec.json.decode(text)["codec"]
        if kind == "record":
            return compile_schema(class_from_schema(text)), None
        return None, msgspec.msgpack.Decoder().decode if kind == "msgpack" else None

    return None, from_ring
