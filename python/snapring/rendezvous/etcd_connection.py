"""One HTTP request with one deadline for all of it: the standard library's timeout begins anew at every receive."""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, cast

from snapring.rendezvous.listener import connect

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["post"]


def post(
    place: tuple[str, int],
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    timeout: float,
    *,
    tls: ssl.SSLContext | None,
    most: int,
) -> tuple[int, bytes]:
    """Status and body, at most ``most`` bytes of it, of the answer to one request, on a connection of its own.

    Raises OSError, TimeoutError among them, and HTTPException when there is no answer within ``timeout`` seconds.
    """
    end = time.monotonic() + timeout
    with closing(connect(*place, end)) as plain:
        plain.settimeout(_left(end))
        stream = plain if tls is None else tls.wrap_socket(plain, server_hostname=place[0])
        with stream:
            connection = http.client.HTTPConnection(*place)
            connection.sock = cast("socket.socket", _Timed(stream, end))
            connection.request("POST", path, body, dict(headers))
            with connection.getresponse() as response:
                return response.status, response.read(most)


class _Timed:
    """As much of a socket as http.client wants; whoever opened the stream closes it."""

    def __init__(self, stream: socket.socket, end: float) -> None:
        self._stream, self._end = stream, end

    def sendall(self, data: bytes) -> None:
        self._stream.settimeout(_left(self._end))  # which counts for all of it
        self._stream.sendall(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Received(self._stream, self._end))

    def close(self) -> None:
        """Nothing: the answer may still be read."""


class _Received(io.RawIOBase):
    """What arrives until the deadline."""

    def __init__(self, stream: socket.socket, end: float) -> None:
        self._stream, self._end = stream, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        self._stream.settimeout(_left(self._end))
        return self._stream.recv_into(buffer)


def _left(end: float) -> float:
    """Seconds until the deadline; TimeoutError after it."""
    left = end - time.monotonic()
    if left <= 0.0:
        raise TimeoutError("timed out")
    return left
