"""A group over etcd v3, for ranks on any hosts: entries are keys, their ends are leases."""

import base64
import math
import ssl
import time
from collections.abc import Mapping, Sequence
from typing import Final, TypedDict

from snapring.errors import InvalidValue
from snapring.rendezvous.etcd_gateway import SHORTEST_S, Gateway
from snapring.rendezvous.group import check_entry, check_name, check_place, check_seconds

__all__ = ["EtcdGroup"]


class _Pair(TypedDict, total=False):
    key: str
    value: str


class EtcdGroup:
    """Ranks of one job that share an etcd v3 cluster, 3.4 or newer.

    Only the standard library is needed: requests go to etcd's JSON gateway, each on a connection of its own, to the
    endpoints in turn. An entry is the key ``<prefix>/<job>/<folder>/<rank>``; one with a ``ttl`` hangs on a lease,
    which etcd rounds up to whole seconds, at least about two. Making a group does not connect.

    Args:
        endpoints: URLs such as ``http://10.0.0.1:2379``, one or several of one cluster; ``https`` checks certificates.
        prefix: in front of every key, without a slash at its end.
        rank: this process's rank.
        size: how many ranks the job has.
        job: keeps launches apart.
        tls: client certificate, private authority and the like; None takes the system's.
        user: for a cluster with authentication. The password is never an argument: it is read at each log-in from
            ``password_file``, or from the environment variable SNAPRING_ETCD_PASSWORD.
        password_file: its first line is the password; refused if others may read it. Off this host use ``https``.

    Threads and both sides of a fork may use one group. Raises InvalidValue for a bad endpoint, prefix, size or job,
    RankOutOfRange for a bad rank. Calls raise StoreUnavailable when no endpoint answered well in time, RingUntrusted
    for a loose password file, and RendezvousFailed when etcd refuses for good, as it does with a wrong password.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        prefix: str,
        rank: int,
        size: int,
        *,
        job: str = "default",
        tls: ssl.SSLContext | None = None,
        user: str | None = None,
        password_file: str | None = None,
    ) -> None:
        check_place(rank, size)
        if not prefix or prefix.endswith("/"):
            raise InvalidValue(f"the prefix {prefix!r} is empty or ends with a slash; name one like /snapring")
        self._rank, self._size, self._job = rank, size, check_name(job, "the job")
        self._prefix = prefix
        urls = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        self._gateway = Gateway(urls, tls=tls, user=user, password_file=password_file)
        self._leases: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"EtcdGroup({self.describe()}, rank={self._rank}, size={self._size}, job={self._job!r})"

    @property
    def rank(self) -> int:
        """This process's rank."""
        return self._rank

    @property
    def size(self) -> int:
        """How many ranks the job has."""
        return self._size

    @property
    def job(self) -> str:
        """Name of the job."""
        return self._job

    def describe(self) -> str:
        """The endpoints and the prefix."""
        return f"etcd {self._gateway.describe()}, keys {self._prefix}/{self._job}/"

    def read(self, folder: str, rank: int, timeout: float) -> bytes | None:
        """The entry of one rank; one linearizable range request."""
        pairs = self._range({"key": _text(self._key(folder, rank))}, timeout)
        return base64.b64decode(pairs[0].get("value", "")) if pairs else None

    def read_all(self, folder: str, timeout: float) -> dict[int, bytes]:
        """Every entry of a folder by rank; one linearizable range request."""
        head = self._key(folder, "")
        beyond = f"{head[:-1]}0"  # "0" follows "/": the first key after all that begin with the head
        pairs = self._range({"key": _text(head), "range_end": _text(beyond)}, timeout)
        names = {base64.b64decode(pair["key"]).decode("utf-8", "replace").removeprefix(head): pair for pair in pairs}
        return {int(name): base64.b64decode(pair.get("value", "")) for name, pair in names.items() if name.isdecimal()}

    def swap(
        self, folder: str, rank: int, old: bytes | None, new: bytes | None, timeout: float, *, ttl: float | None = None
    ) -> bool:
        """Replace the entry ``old`` by ``new`` in one transaction; whether ``new`` stands there now."""
        check_entry(new)
        key = self._key(folder, rank)
        end = time.monotonic() + check_seconds(timeout, "a timeout")
        lease = 0 if ttl is None or new is None else self._lease(key, check_seconds(ttl, "a ttl"), end)
        if self._swap_if(key, old, new, lease, end) or (old != new and self._swap_if(key, new, new, lease, end)):
            return True
        self._leases.pop(key, None)
        return False

    def _swap_if(self, key: str, old: bytes | None, new: bytes | None, lease: int, end: float) -> bool:
        there = {"key": _text(key)}
        if old is None:
            condition = {**there, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}
        else:
            condition = {**there, "target": "VALUE", "result": "EQUAL", "value": base64.b64encode(old).decode()}
        if new is None:
            change: Mapping[str, object] = {"request_delete_range": there}
        else:
            change = {"request_put": {**there, "value": base64.b64encode(new).decode(), "lease": str(lease)}}
        answer = self._gateway.ask("/v3/kv/txn", {"compare": [condition], "success": [change]}, _left(end))
        return bool(answer.get("succeeded", False))

    def _lease(self, key: str, ttl: float, end: float) -> int:
        """The lease of an entry, kept alive if there still is one of that length, else a new one."""
        seconds = math.ceil(ttl)
        if known := self._leases.get(key):
            answer = self._gateway.ask("/v3/lease/keepalive", {"ID": str(known)}, _left(end))
            result = answer.get("result")
            if isinstance(result, dict) and int(result.get("TTL", 0)) >= seconds:
                return known
        answer = self._gateway.ask("/v3/lease/grant", {"TTL": str(seconds)}, _left(end))
        self._leases[key] = granted = int(str(answer["ID"]))
        return granted

    def _range(self, request: Mapping[str, str], timeout: float) -> list[_Pair]:
        answer = self._gateway.ask("/v3/kv/range", request, timeout)
        pairs = answer.get("kvs", [])
        return [_Pair(key=str(pair["key"]), value=str(pair.get("value", ""))) for pair in _dicts(pairs)]

    def _key(self, folder: str, rank: int | str) -> str:
        return f"{self._prefix}/{self._job}/{check_name(folder, 'a folder')}/{rank}"


_EMPTY: Final[list[Mapping[str, object]]] = []


def _dicts(pairs: object) -> list[Mapping[str, object]]:
    return [pair for pair in pairs if isinstance(pair, dict)] if isinstance(pairs, list) else _EMPTY


def _left(end: float) -> float:
    """Seconds that the next of several requests has; always some, so that it says itself that it is late."""
    return max(SHORTEST_S, end - time.monotonic())


def _text(key: str) -> str:
    """A key as the gateway wants it: base64."""
    return base64.b64encode(key.encode()).decode()
