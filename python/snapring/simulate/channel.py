"""What a controller and its ranks say to each other, and the socket that carries it.

A channel is one end of a Unix socket pair of packets: a message is a packet, so nothing needs framing, order is kept,
and the end of either process shows at the other side as the end of the channel.
"""

import socket
from collections import deque
from typing import Final

import msgspec

from snapring.simulate.arrivals import Request

__all__ = ["Channel", "Finished", "FirstToken", "FromRank", "Ready", "Refused"]

_LARGEST: Final = 1_024  # bytes of a packet, many times those of any message above


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The rank holds its slot and has published for the first time, as ``version``."""

    version: int


class FirstToken(msgspec.Struct, frozen=True, tag=True):
    """The first answer token of request ``id`` came at ``at_s``, seconds of the monotonic clock."""

    id: int
    at_s: float


class Finished(msgspec.Struct, frozen=True, tag=True):
    """Request ``id`` was answered in full at ``at_s``, seconds of the monotonic clock."""

    id: int
    at_s: float


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Request ``id`` can never fit the rank's memory."""

    id: int


FromRank = Ready | FirstToken | Finished | Refused

_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Request).decode
_decode_report = msgspec.msgpack.Decoder(FromRank).decode


class Channel:
    """One end: a controller sends `Request` and receives `FromRank`, a rank the other way round.

    Neither call waits, and neither raises for a peer that is gone: what is sent then is dropped, and ``ended`` becomes
    True once all that the peer had sent has been received. What a stopped peer has no room for waits here and goes out
    with a later call. Belongs to one thread; a forked copy would compete for the same messages.
    """

    def __init__(self, end: socket.socket) -> None:
        """Take over ``end``, a socket of packets (``SOCK_SEQPACKET``)."""
        self._socket = end
        self._socket.settimeout(0)
        self._unsent: deque[bytes] = deque()
        self.ended = False

    @staticmethod
    def pair() -> tuple["Channel", "Channel"]:
        """Return two connected ends; neither is inherited by a child unless passed to it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ours), Channel(theirs)

    def fileno(self) -> int:
        """Return the descriptor, readable when there is a message or the end."""
        return self._socket.fileno()

    def send(self, message: Request | FromRank) -> None:
        """Send ``message`` after all that was sent before."""
        self._unsent.append(_encode(message))
        self._flush()

    def requests(self) -> list[Request]:
        """Receive all that has come; the rank's side."""
        return [_decode_request(packet) for packet in self._packets()]

    def reports(self) -> list[FromRank]:
        """Receive all that has come; the controller's side."""
        return [_decode_report(packet) for packet in self._packets()]

    def close(self) -> None:
        """Close this end. Closing twice is harmless."""
        self._socket.close()

    def _flush(self) -> None:
        try:
            while self._unsent:
                self._socket.send(self._unsent[0])
                self._unsent.popleft()
        except BlockingIOError:
            pass  # the peer is far behind; the rest goes with a later call
        except (BrokenPipeError, ConnectionResetError):
            self._unsent.clear()  # receiving will find the end

    def _packets(self) -> list[bytes]:
        self._flush()
        packets = []
        while not self.ended:
            try:
                packet = self._socket.recv(_LARGEST)
            except BlockingIOError:
                break
            except ConnectionResetError:
                continue  # said once by a peer that left messages of ours unread; what it had sent comes after
            if packet:
                packets.append(packet)
            else:
                self.ended = True
        return packets
