"""Whether somebody listens where a leader says so."""

import socket

__all__ = ["listener_answers"]


def listener_answers(host: str, port: int, timeout: float) -> bool:
    """Whether a TCP connection to ``host`` and ``port`` is accepted within ``timeout`` seconds per address of the host.

    Sends nothing, and raises nothing for a host that refuses, is unknown or stays silent. For
    ``sync_from_leader(..., verify=lambda port, left: listener_answers(host, port, left))``.
    """
    try:
        socket.create_connection((host, port), timeout=max(timeout, 0.001)).close()
    except (OSError, OverflowError):
        return False
    return True
