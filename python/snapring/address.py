"""Where the relay of a group is, as its store says, and whether it is still there."""

import os
import socket
import tempfile
import time
from contextlib import ExitStack, suppress
from typing import Any, Final

import msgspec

from snapring import _core
from snapring.errors import RendezvousFailed, RendezvousTimeout
from snapring.relay import RemoteWriter
from snapring.rendezvous import Group, listener_answers
from snapring.rendezvous.patience import Patience
from snapring.rendezvous.records import decode

__all__ = ["FOLDER", "LEADER", "PROBE_S", "SHORTEST_S", "Address", "Look", "check", "standing"]

Path = str | os.PathLike[str]

FOLDER: Final = "relay"
LEADER: Final = 0

PROBE_S: Final = 5.0
"""Longest wait for a relay to accept a connection, where more time is left."""

LOOK_S: Final = 1.0
"""Between two tries of an address in the store, and the longest that one takes."""

POLL_S: Final = 0.005
"""Between two looks whether a handshake is done."""

NO_KEY: Final = "it admits known keys only; make one with snapring keys, and give key="

SHORTEST_S: Final = 0.001


class Address(msgspec.Struct, frozen=True):
    """Where a relay listens, and its public key, 40 characters; None for a relay without keys.

    ``incarnation`` is 128 random bits in hexadecimal, new whenever an owner posts its address: it tells a relay from
    the one before it at the same place.
    """

    endpoint: str
    server_key: str | None
    incarnation: str

    def is_place_of(self, other: "Address | None") -> bool:
        """Whether the other is the same but for its incarnation."""
        return other is not None and (self.endpoint, self.server_key) == (other.endpoint, other.server_key)


def standing(group: Group, patience: Patience) -> Address | None:
    """The address in the group's store; RendezvousFailed for what is none, RendezvousTimeout from a silent store."""
    entry = patience.ask(lambda left: group.read(FOLDER, LEADER, left))
    return None if entry is None else decode(entry, Address, f"entry {FOLDER}/{LEADER} at {group.describe()}")


class Look:
    """Looks now and then for an address in the store whose relay answers."""

    def __init__(self, group: Group, key: Path | None) -> None:
        self._group, self._key = group, key
        self._next = 0.0

    def look(self, left: float) -> Address | None:
        """That address; None in between, and while there is none. RendezvousFailed where its relay wants a key."""
        if time.monotonic() < self._next:
            return None
        limit_s = max(min(left, LOOK_S), SHORTEST_S)
        with suppress(RendezvousTimeout):  # the sync asks the same store, and says so
            address = standing(self._group, Patience(limit_s))
            if address is not None and _is_relay(address, self._key, limit_s):
                if address.server_key is not None and self._key is None:
                    raise RendezvousFailed(f"the relay at {address.endpoint} does not let this process in: {NO_KEY}")
                return address
        self._next = time.monotonic() + LOOK_S
        return None


def check(address: Address, left: float, *, is_known: bool) -> bool:
    """True for an address that this member can use, which has a key or not; OSError, saying why, for another."""
    if address.server_key is not None and not is_known:
        raise PermissionError(NO_KEY)
    if not _answers(address.endpoint, max(min(left, PROBE_S), SHORTEST_S)):
        raise ConnectionError(f"nothing answers at {address.endpoint}")
    return True


def _is_relay(address: Address, key: Path | None, timeout: float) -> bool:
    """Whether a relay answers there within ``timeout`` seconds, and has that key: by a handshake, sending nothing.

    Another program may have the port of a relay that ended. Whom the relay does not admit, or not yet, has heard it
    prove its key, so a process without a key comes with one made up.
    """
    end = time.monotonic() + timeout
    if not _answers(address.endpoint, timeout):
        return False
    with ExitStack() as stack:
        options: dict[str, Any] = {"insecure": True}
        if address.server_key is not None:
            if key is None:
                key = f"{stack.enter_context(tempfile.TemporaryDirectory())}/key"
                _core.make_keys(key)
            options = {"key": key, "server_key": address.server_key}
        probe = stack.enter_context(RemoteWriter(address.endpoint, 0, 1, schema=bytes, payload=8, **options))
        while not probe.is_connected:
            if probe.last_refusal is not None:
                return "does not admit" in probe.last_refusal
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
    return True


def _answers(endpoint: str, timeout: float) -> bool:
    """Whether something accepts connections there."""
    scheme, _, place = endpoint.partition("://")
    if scheme == "tcp":
        host, _, port = place.rpartition(":")
        return listener_answers(host.strip("[]"), int(port), timeout)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout)
        return client.connect_ex(place) == 0
