"""The load of one rank for routers that know only an address: :class:`LoadFeed`, one PUB socket per rank.

Any ZeroMQ SUB socket can follow it. A message has three parts:

- the topic, ``load``;
- the sequence, 8 bytes, big-endian: 1, 2, 3 ... since the feed was opened. A gap means that the subscriber was too
  slow; a smaller number than before means that the rank was started again;
- the load, a msgpack array: the text ``LoadStat``, then the ten values of :class:`LoadStat` in their order.
"""

import math
import operator
import os
import re
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from snapring import _core
from snapring.errors import InvalidValue, RankOutOfRange
from snapring.load import LoadSnapshot

__all__ = ["RESEND_S", "LoadFeed", "LoadStat", "feed_endpoint"]

RESEND_S: Final = 1.0
"""A load that has not changed is sent again after this many seconds, or up to 0.05 s earlier."""

# A publisher's own heartbeat has the same length, but what it collects takes now longer, now shorter, so that the next
# publish may come a moment early. Were it held back for that, two heartbeats would pass without a message.
_EARLY_S: Final = 0.05

_LAST_PORT: Final = 65_535
_ADDRESS: Final = re.compile(r"(tcp://.+):(\d{1,5}|\*)", re.DOTALL)
_PLAIN: Final = frozenset({int, type(None)})

Path = str | os.PathLike[str]


class LoadStat(msgspec.Struct, frozen=True, array_like=True, tag="LoadStat", gc=False):
    """What goes over the wire: ten values of a :class:`~snapring.LoadSnapshot`, with its names, units and meanings.

    The array always has eleven elements, the tag included. What the rank did not report is ``None``, nil in msgpack, so
    that a router can tell it from 0. See ``unknown_as_zero`` of :class:`LoadFeed` for routers that take integers only.
    """

    num_running_reqs: int | None = 0
    num_waiting_reqs: int | None = 0
    num_used_tokens: int | None = 0
    max_total_num_tokens: int | None = None
    dp_rank: int | None = None
    num_waiting_uncached_tokens: int | None = None
    num_total_tokens: int | None = 0
    max_running_requests: int | None = None
    total_prefill_uncached_tokens: int | None = None
    total_prefill_busy_us: int | None = None

    @classmethod
    def of(cls, snapshot: LoadSnapshot) -> Self:
        """The values of ``snapshot``; numpy integers become native ones.

        Raises:
            InvalidValue: one is neither a whole number nor None.
        """
        values = [getattr(snapshot, name) for name in cls.__struct_fields__]
        if not _PLAIN.issuperset(map(type, values)):
            values = [_whole(name, value) for name, value in zip(cls.__struct_fields__, values, strict=True)]
        return cls(*values)


def _whole(name: str, value: Any) -> int | None:  # noqa: ANN401  whatever stood in a snapshot
    try:
        return None if value is None else int(operator.index(value))
    except TypeError:
        raise InvalidValue(f"{name} must be a whole number or None, not {value!r}") from None


def feed_endpoint(base: str, rank: int) -> str:
    """Where ``rank`` publishes: the port of ``base`` plus the rank, so that routers need to know ``base`` alone.

    Args:
        base: ``tcp://HOST:PORT``; port 0, or ``*``, means a free port for every rank, which routers must then be told.
        rank: 0 or more.

    Raises:
        InvalidValue: ``base`` has another form, or the port would be above 65,535.
        RankOutOfRange: ``rank`` is negative.
    """
    found = _ADDRESS.fullmatch(base)
    if found is None:
        raise InvalidValue(f"{base!r} is no address of a feed; write tcp://HOST:PORT")
    if rank < 0:
        raise RankOutOfRange(f"rank {rank} is out of range: ranks go from 0 up")
    host, text = found.groups()
    base_port = 0 if text == "*" else int(text)
    port = base_port and base_port + rank
    if port > _LAST_PORT:
        raise InvalidValue(f"port {base_port} plus rank {rank} is above {_LAST_PORT}; choose a smaller base port")
    return f"{host}:{port}"


class LoadFeed:
    """Publishes the load of one rank to all routers that subscribe, as a writer that a Publisher can drive.

    ``snapring.Publisher(lambda: LoadFeed("tcp://127.0.0.1:5600", rank=3))`` publishes by the rules of the ring and
    never raises into its host. A load that differs from the one before goes out at once; an equal one only as a sign of
    life, when :data:`RESEND_S` has passed since the last message. How often one is offered at all is the publisher's
    rule.

    A slow, stopped or hostile subscriber never holds up ``publish``: beyond eight messages that wait for it, the newest
    are dropped, for it alone. It learns the last value with the next sign of life, as a new subscriber does, so within
    a second where the publisher ticks.

    Addresses of this host need no keys. Others need ``key`` and ``clients`` (CURVE, for both ends), or ``insecure``.

    Threads: one at a time; the publish of another may at worst repeat an equal load. In a child of a fork every call
    raises :class:`~snapring.errors.ForkedHandle`, and the child does not keep the port.

    Args:
        endpoint: the base address; this rank gets :func:`feed_endpoint` of it.
        rank: this rank, 0 or more.
        key: own key file, made by ``snapring keys``.
        clients: public keys of the routers: 40 characters each, or ``.pub`` files, or directories of such.
        insecure: publish without keys also where other hosts can connect.
        unknown_as_zero: send 0 for what was not reported, for routers that take integers only; they then cannot tell
            it from nothing.
        beside: a feed of this process whose native threads and keys to share; ``key`` and ``clients`` are then its.
        clock: seconds that never go back.

    Attributes:
        rank: this rank.
        endpoint: where it publishes, with the real port.

    Raises:
        InvalidValue, RankOutOfRange: the address, rank or keys; an address that other hosts reach, without keys.
        RingUntrusted: others may have read the key file.
        SystemRefused: the port is taken, the address is not one of this machine's, or descriptors are short.
    """

    def __init__(
        self,
        endpoint: str,
        rank: int,
        *,
        key: Path | None = None,
        clients: Iterable[Path] = (),
        insecure: bool = False,
        unknown_as_zero: bool = False,
        beside: "LoadFeed | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        keys = [os.fspath(client) for client in clients]
        if beside is not None and (key is not None or keys):
            raise InvalidValue("key and clients are those of the feed beside; leave them out")
        other = None if beside is None else beside._core  # noqa: SLF001  one of our own
        self._core: Final[_core.Feed] = _core.Feed(
            feed_endpoint(endpoint, rank), key=key, clients=keys, insecure=insecure, beside=other
        )
        self.rank = rank
        self.endpoint: str = self._core.endpoint
        self._unknown = 0 if unknown_as_zero else None
        self._clock = clock
        self._last = b""
        self._sequence = 0
        self._resend_at = -math.inf

    def publish(self, snapshot: LoadSnapshot) -> int:
        """Send ``snapshot`` if it differs from what was sent last, or if a sign of life is due.

        ``dp_rank=None`` is filled with this rank.

        Returns:
            The sequence of the last message, 1 or more: this one's, or that of an equal one less than a second ago.

        Raises:
            InvalidValue: a value is no whole number of 64 bits, or ``dp_rank`` is another rank; nothing was sent.
            HandleClosed, ForkedHandle: the feed was closed, or belongs to the parent process.
        """
        payload = self._encode(snapshot)
        now = self._clock()
        if payload == self._last:
            if self._core.sequence != self._sequence:  # the heartbeat thread was quicker
                self._sent(self._core.sequence, now)
            if now < self._resend_at:
                return self._sequence
        self._sent(self._core.send(payload), now)
        self._last = payload
        return self._sequence

    def start_heartbeat(self, interval: float) -> None:
        """Send the last load again from a native thread, whenever ``interval`` seconds passed without a message.

        It shows that the process lives, also while its loop is blocked, and not that the load is new. The thread ends
        when the feed is closed. Calling again changes the interval.

        Args:
            interval: seconds, above 0 and below 1,000,000.

        Raises:
            InvalidValue: ``interval`` is out of range.
            HandleClosed, ForkedHandle: as :meth:`publish`.
        """
        self._core.start_heartbeat(interval)

    def close(self) -> None:
        """End the feed and free its port. Closing twice is no error.

        Where feeds share threads, the ports of all are free when the last has closed.

        Raises:
            ForkedHandle: the feed belongs to the parent process.
        """
        self._core.close()

    def _sent(self, sequence: int, now: float) -> None:
        self._sequence = sequence
        self._resend_at = now + RESEND_S - _EARLY_S

    def _encode(self, snapshot: LoadSnapshot) -> bytes:
        stat = LoadStat.of(snapshot)
        if stat.dp_rank != self.rank:
            if stat.dp_rank is not None:
                raise InvalidValue(f"dp_rank is {stat.dp_rank}, and this is the feed of rank {self.rank}")
            stat = msgspec.structs.replace(stat, dp_rank=self.rank)
        if self._unknown is not None:
            stat = LoadStat(*(0 if value is None else value for value in msgspec.structs.astuple(stat)))
        try:
            return msgspec.msgpack.encode(stat)
        except OverflowError:
            raise InvalidValue(f"a value does not fit 64 bits: {stat}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LoadFeed of rank {self.rank} at {self.endpoint}>"
