"""How the ranks of other nodes find the relay, and the relay their keys, without a configured port: :func:`meet`.

Member 0 of a group has the relay; the others are ranks, or one process per node that speaks for its ranks. They all
meet once at the start:

1. who has a key posts its public half in a row of the group's registry;
2. the relay's endpoint and public key go to all by a sync, which fails for all if one of them cannot use it;
3. the relay admits the keys of the rows, and a second sync tells everybody that it has.

The address then also stands in the store, where a rank that restarts finds it, and a relay that takes over or restarts
on the same endpoint. What comes through the store is trusted: whoever may write there may send to the relay.
"""

import logging
import os
import re
import secrets
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Final, Self, cast

import msgspec

from snapring import _core
from snapring.address import FOLDER, LEADER, PROBE_S, SHORTEST_S, Address, Look, check, standing
from snapring.errors import InvalidValue, RendezvousFailed, SnapringError, StoreUnavailable
from snapring.relay import Relay
from snapring.rendezvous import Group, Registration, register, rows, sync_from_leader
from snapring.rendezvous.patience import Patience
from snapring.rendezvous.records import encode, shown

__all__ = ["Address", "Meeting", "address_in", "meet", "resume"]

_LOG: Final = logging.getLogger("snapring.meeting")

Path = str | os.PathLike[str]

PUBLIC_KEY: Final = "public_key"
"""What a row calls it."""

KEY: Final = re.compile(r"[0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
"""Letters of Z85 (ZeroMQ RFC 32)."""


class Meeting:
    """What :func:`meet` agreed on, for as long as it is open; a context manager.

    A rank keeps it open as long as it publishes: its public key stays posted for relays that take over. Threads may
    share it. In a child of a fork ``close`` does nothing.

    Attributes:
        endpoint: where the relay listens, for ``RemoteWriter(endpoint, ...)``.
        server_key: the relay's public key, for ``RemoteWriter(server_key=...)``; None for a relay without keys.
    """

    def __init__(self, address: Address, group: Group, *, row: Registration | None, relay: Relay | None) -> None:
        self.endpoint, self.server_key = address.endpoint, address.server_key
        self._address, self._group, self._row, self._relay = address, group, row, relay
        self._seen: set[str] = set()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Meeting at {self.endpoint}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def admit(self, timeout: float = 5.0) -> int:
        """As the relay's process: admit the keys that were posted since the last call, and count them.

        To be called now and then: a rank that restarts with another key posts it. ``timeout`` in seconds, > 0. Raises
        RendezvousTimeout when the store does not answer. Elsewhere, and without keys, it does nothing.
        """
        if self._relay is None or self.server_key is None:
            return 0
        keys = (row.values.get(PUBLIC_KEY) for row in rows(self._group, timeout).values())
        fresh = {key for key in keys if isinstance(key, str)} - self._seen
        self._seen |= fresh
        return sum(self._admit(self._relay, key) for key in sorted(fresh))

    def _admit(self, relay: Relay, key: str) -> bool:
        """Admit one; what is no key, and might be a path, keeps nobody else out."""
        if KEY.fullmatch(key):
            with suppress(InvalidValue):
                relay.admit([key])
                return True
        _LOG.warning("somebody posted %s to %s as a public key, which it is not", shown(key), self._group.describe())
        return False

    def close(self) -> None:
        """Take back what this process posted: a rank its key, the relay's owner its address. Again does nothing."""
        if os.getpid() != self._pid:
            return
        if self._row is not None:
            self._row.close()
        if self._relay is not None:
            owned, self._relay = self._relay.is_owner, None
            if owned:
                self._withdraw()

    def _withdraw(self) -> None:
        try:
            _post(self._group, Patience(PROBE_S), old=self._address, new=None)
        except SnapringError as error:
            _LOG.warning("the address of the relay stays in the store, though nobody listens there: %s", error)


def meet(
    group: Group, timeout: float, *, relay: Relay | None = None, key: Path | None = None, host: str | None = None
) -> Meeting:
    """Agree on the relay: every member of the group calls it, member 0 with the relay that it opened.

    The relay may listen on any port, ``tcp://ADDRESS:0``. On return the relay admits
    everybody's key. A member that restarts later gets the address at once, while the relay answers there, else as soon
    as one does; a relay that restarts on the endpoint that it had waits for nobody. Give each launch a job of its own:
    an address that a killed one left behind is tried, and a relay that has its key would be believed.

    Args:
        group: the processes that meet, and their store; member 0 has the relay.
        timeout: seconds, > 0, until this member gives up.
        relay: of member 0 alone; it owns its ring, see :func:`resume` for one that stood by.
        key: own key file, made by ``snapring keys``, as given to :class:`snapring.RemoteWriter`. Member 0 may leave it
            out: its relay knows.
        host: name or address by which the others reach the relay; by default the address that it listens on.

    Raises:
        RendezvousTimeout: not all members came in time; names those that are missing.
        RendezvousFailed: a relay that does not answer, a member without a key, two processes of one number.
        StoreUnavailable: the store did not take the public key.
        InvalidValue: the relay is missing or one too many, or listens where nobody can connect to.

    Threads: any one. A fork during the call leaves the child with nothing.

    >>> import tempfile, threading, snapring
    >>> from snapring.rendezvous import LocalGroup
    >>> store = tempfile.mkdtemp()
    >>> def rank() -> None:
    ...     with meet(LocalGroup(store, 1, 2, job="launch-7"), timeout=30) as meeting:
    ...         snapring.RemoteWriter(meeting.endpoint, rank=0, ranks=1, insecure=True).close()
    >>> thread = threading.Thread(target=rank)
    >>> thread.start()
    >>> with snapring.Relay("meet-docs", "tcp://127.0.0.1:0", ranks=1, insecure=True) as relay:
    ...     with meet(LocalGroup(store, 0, 2, job="launch-7"), timeout=30, relay=relay) as meeting:
    ...         thread.join()
    ...         meeting.endpoint == relay.endpoint
    True
    """
    if (group.rank == LEADER) != (relay is not None):
        fix = "gives relay=, and the others do not" if group.rank == LEADER else "gives no relay=; that is for member 0"
        raise InvalidValue(f"member {group.rank} of a group {fix}")
    patience = Patience(timeout)
    if relay is None:
        return _join(group, patience, key)
    address = _address_of(relay, key, host)
    if address.is_place_of(standing(group, patience)):
        return resume(relay, group, key=key, host=host, timeout=max(patience.left, PROBE_S))
    sync_from_leader(msgspec.to_builtins(address), group, _left(patience), name="relay")
    meeting = Meeting(address, group, row=None, relay=relay)
    if address.server_key is not None:
        meeting.admit(_left(patience))
        sync_from_leader("admitted", group, _left(patience), name="relay.keys")
    _post(group, patience, old=standing(group, patience), new=address)
    return meeting


def resume(
    relay: Relay, group: Group, *, key: Path | None = None, host: str | None = None, timeout: float = 30.0
) -> Meeting:
    """Go on for a relay that ended: post the address again and admit the keys that are posted; nobody else takes part.

    For member 0 when a relay that stood by has become the owner. It listens where the one before it did, with the same
    ``key`` and ``host``: ranks stay connected to that address. :func:`address_in` tells it to a standby that starts.

    Raises RendezvousTimeout when the store does not answer within ``timeout`` seconds; InvalidValue as :func:`meet`.
    """
    patience = Patience(timeout)
    address = _address_of(relay, key, host)
    meeting = Meeting(address, group, row=None, relay=relay)
    meeting.admit(_left(patience))
    _post(group, patience, old=standing(group, patience), new=address)
    return meeting


def address_in(group: Group, timeout: float = 5.0) -> Address | None:
    """The address that the group met at, None before that; the relay there may have ended since.

    ``timeout`` in seconds, > 0; RendezvousTimeout when the store does not answer in time.
    """
    return standing(group, Patience(timeout))


def _join(group: Group, patience: Patience, key: Path | None) -> Meeting:
    """Any member but the relay's."""
    public = None if key is None else _core.public_key(key)
    with ExitStack() as undo:
        row = None if public is None else undo.enter_context(_registered(public, group, patience))
        address = _agreed(group, patience, key, is_known=public is not None)
        undo.pop_all()
        return Meeting(address, group, row=row, relay=None)


def _agreed(group: Group, patience: Patience, key: Path | None, *, is_known: bool) -> Address:
    """The address that the relay's process gives to all, once it admits this member; or the one in the store.

    The latter may come at any time: a relay that restarts, or takes over, posts it and syncs with nobody.
    """
    look = Look(group, key).look
    value = sync_from_leader(
        cast("object", {}),
        group,
        _left(patience),
        name="relay",
        verify=lambda value, left: check(msgspec.convert(value, Address), left, is_known=is_known),
        elsewhere=look,
    )
    if isinstance(value, Address):
        return value
    address = msgspec.convert(value, Address)
    if address.server_key is None:
        return address
    admitted = sync_from_leader(cast("object", ""), group, _left(patience), name="relay.keys", elsewhere=look)
    return admitted if isinstance(admitted, Address) else address


def _registered(public: str, group: Group, patience: Patience) -> Registration:
    """The row with the public key; a store that is not up yet is waited for."""
    while True:
        try:
            return register({PUBLIC_KEY: public}, group, tries=1, timeout=_left(patience))
        except StoreUnavailable as error:
            patience.last_error = str(error)
        patience.pause()


def _address_of(relay: Relay, key: Path | None, host: str | None) -> Address:
    """What the others are told of this relay."""
    endpoint, server_key = relay.endpoint, relay.public_key
    if endpoint is None:
        raise InvalidValue(f"{relay!r} does not own its ring; resume() goes on once it does")
    if key is not None and _core.public_key(key) != server_key:
        raise InvalidValue(f"{relay!r} was opened with another key than key={os.fspath(key)}; leave key= out")
    if host is not None and endpoint.startswith("tcp://"):
        endpoint = f"tcp://{host}:{endpoint.rpartition(':')[2]}"
    if endpoint.startswith(("tcp://0.0.0.0:", "tcp://[::]:")):
        raise InvalidValue(f"nobody can connect to {endpoint}; give host=, an address that the others reach")
    return Address(endpoint, server_key, secrets.token_hex(16))


def _post(group: Group, patience: Patience, *, old: Address | None, new: Address | None) -> None:
    """Replace the address in the store; one that another relay has replaced meanwhile stays."""
    before, after = (None if address is None else encode(address) for address in (old, new))
    done = patience.ask(lambda left: group.swap(FOLDER, LEADER, before, after, left))
    if not done and new is not None:
        raise RendezvousFailed(
            f"another relay of job {group.job!r} has posted its address; give each launch its own job"
        )


def _left(patience: Patience) -> float:
    """Seconds left, and always some: what is asked then says itself that it is late."""
    return max(patience.left, SHORTEST_S)
