"""Connections that a deadline ends, and whether somebody listens where a leader says so."""

import socket
import time

__all__ = ["connect", "listener_answers"]

SHORTEST_S = 0.001


def listener_answers(host: str, port: int, timeout: float) -> bool:
    """Whether a TCP connection to ``host`` and ``port`` is accepted within ``timeout`` seconds, by any address.

    Sends nothing, and raises nothing for a host that refuses, is unknown or stays silent. For
    ``sync_from_leader(..., verify=lambda port, left: listener_answers(host, port, left))``. Looking up a name takes the
    time that the host's resolver takes.
    """
    try:
        connect(host, port, time.monotonic() + timeout).close()
    except (OSError, OverflowError):
        return False
    return True


def connect(host: str, port: int, end: float) -> socket.socket:
    """A connection to the first address of the host that accepts one; OSError when none did until ``end``.

    ``end`` is on the monotonic clock, seconds. Each address that is still to be tried keeps a fair share of the time.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    fault: OSError = ConnectionError(f"{host} has no address")
    for count, (_, _, _, _, (address, *_)) in enumerate(found):
        share = max(SHORTEST_S, (end - time.monotonic()) / (len(found) - count))
        try:
            return socket.create_connection((str(address), port), timeout=share)
        except OSError as error:
            fault = error
    raise fault
