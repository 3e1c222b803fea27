"""Where a server listens: an address of text, resolved, then a socket that is bound."""

import errno
import ipaddress
import os
import re
import socket
from typing import Any, Final, NamedTuple

from snapring.errors import InvalidValue, SystemRefused

__all__ = ["Bind", "is_local", "is_loopback", "listening", "parse_bind"]

BACKLOG: Final = 512
"""Connections that may wait until they are accepted."""

MAX_PORT: Final = 65_535

ADDRESS: Final = re.compile(r"(?:\[(?P<six>[^\[\]]+)\]|(?P<host>[^:\[\]/\s]+)):(?P<port>[0-9]{1,5})")

ABSENT: Final = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""This host has no such address; a name may have another one that it has."""


class Bind(NamedTuple):
    """A name or an address of this host, IPv6 without brackets, and a port; port 0 is any free one."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """As in a URL: ``127.0.0.1:9400``, ``[::1]:9400``."""
        return f"{self.name}:{self.port}"

    @property
    def name(self) -> str:
        """The host as in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host


def parse_bind(text: str) -> Bind:
    """The address of ``127.0.0.1:9400``, ``localhost:0``, ``0.0.0.0:9400`` or ``[::]:9400``.

    Raises:
        InvalidValue: it is none.
    """
    found = ADDRESS.fullmatch(text)
    if found is None or int(found["port"]) > MAX_PORT:
        raise InvalidValue(f"{text!r} is no address to listen at; write 127.0.0.1:9400, 0.0.0.0:9400 or [::]:9400")
    if found["six"] is not None:
        try:
            ipaddress.IPv6Address(found["six"])
        except ValueError as error:
            raise InvalidValue(f"[{found['six']}] is no IPv6 address; write one, such as [::1]") from error
    return Bind(found["six"] or found["host"], int(found["port"]))


def is_loopback(host: str) -> bool:
    """Whether an address is of this host alone, so that nobody else can reach it; a name that is none is not."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def is_local(bind: Bind) -> bool:
    """Whether only this host can reach it, whatever of the name's addresses is taken.

    Raises:
        InvalidValue: the name has no address.
    """
    return all(is_loopback(str(place[0])) for _, place in _resolved(bind))


def listening(bind: Bind) -> socket.socket:
    """A socket that listens there; connections wait in it until somebody accepts them. The caller closes it.

    An IPv6 socket of all interfaces takes IPv4 too, where the system has it so.

    Raises:
        InvalidValue: the name has no address. SystemRefused: the port is taken, or not for this user, or the address is
        not of this host.
    """
    refusal: OSError | None = None
    for family, place in _resolved(bind):
        opened = None
        try:
            opened = socket.socket(family, socket.SOCK_STREAM)
            # A server that restarts finds connections of the last one still closing.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(place)
            opened.listen(BACKLOG)
        except OSError as error:
            if opened is not None:
                opened.close()
            refusal = error
            if error.errno not in ABSENT:
                break
        else:
            return opened
    raise _refused(bind, refusal)


def _resolved(bind: Bind) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """The addresses that a name has, each as a socket takes it; an address has only itself."""
    try:
        found = socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidValue(
            f"no address belongs to {bind.host!r}; give one of this host, or correct the name"
        ) from error
    return [(family, place) for family, _, _, _, place in found]


def _refused(bind: Bind, error: OSError | None) -> SystemRefused:
    """What to do about an address that cannot be had."""
    number = error.errno if error is not None and error.errno is not None else errno.EADDRNOTAVAIL
    if number == errno.EADDRINUSE:
        reason = f"another process listens there; end it, or give another port, as {bind.name}:0 for a free one"
    elif number == errno.EACCES:
        reason = f"ports below 1024 are not for this user; give a higher one, such as {bind.name}:9400"
    elif number in ABSENT:
        reason = "this host has no such address; give one of its own, or 0.0.0.0 for all"
    else:
        reason = os.strerror(number)
    return SystemRefused(number, f"cannot listen at {bind.authority}: {reason}")
