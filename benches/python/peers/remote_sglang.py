"""SGLang's own way to other nodes: its ZeroMQ writer and collector, out of the same module as its shared memory.

The module asks the rest of SGLang how to connect and whom to admit. The stand-ins connect plainly and admit anyone, as
the relay beside it does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import payload
from model import Absent, Load

from peers.lines import Collector, Line, Memory, Sender
from peers.sglang import SGLang0523, load_module
from peers.structs import build


@functools.cache
def remote_module() -> ModuleType:
    """Return the module with a way to connect. Raises `Absent` when it or pyzmq cannot be had."""
    try:
        import zmq  # noqa: F401  the module imports it when a writer is made
    except ImportError as error:
        raise Absent(f"pyzmq is not installed ({error})") from error
    module = load_module(SGLang0523.release)
    stand_ins: dict[str, Callable[..., object]] = {
        "is_zmq_endpoint_ipv6": lambda endpoint: False,
        "restrict_zmq_peers": lambda context, socket: None,
        "zmq_connect": lambda socket, endpoint: socket.connect(endpoint),
    }
    vars(module).update(stand_ins)
    return module


def _file(where: Path) -> str:
    return str(where / "sglang.shm")


class SGLangMemory(Memory):
    """Its reader of the file."""

    def __init__(self, where: Path, ranks: int) -> None:
        """Attach, now or later."""
        self._reader = remote_module().ShmLoadSnapshotReader(_file(where), ranks)

    def peek(self, rank: int) -> Load | None:
        """Read all of it; a slot without a timestamp was never written."""
        value = self._reader.read(rank)
        return None if value is None or not value.timestamp else payload.flatten(value)

    def timestamp(self, rank: int) -> float:
        """Read all of it: there is no other way."""
        value = self._reader.read(rank)
        return 0.0 if value is None else float(value.timestamp)

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()


class SGLangCollector(Collector):
    """Its reader that owns the socket, driven by its descriptor as its router process does."""

    def __init__(self, endpoint: str, where: Path, ranks: int) -> None:
        """Bind; the file appears with the first snapshot."""
        self._owner = remote_module().ZmqShmLoadSnapshotReader(endpoint, _file(where), ranks)
        self.memory = SGLangMemory(where, ranks)
        self._seen = 0
        self._last = 0.0

    def fileno(self) -> int:
        """Return its edge-triggered descriptor."""
        return int(self._owner.fileno())

    def poll(self) -> None:
        """Drain into the file: at most one snapshot per rank gets there."""
        self._owner.poll()

    def seen(self) -> int:
        """Count another one whenever the file holds another one; to be called after each poll."""
        newest = self.memory.timestamp(0)
        self._seen += newest != self._last
        self._last = newest
        return self._seen

    def close(self) -> None:
        """Close both."""
        self.memory.close()
        self._owner.close()


class SGLangSender(Sender):
    """Its writer for other nodes."""

    def __init__(self, endpoint: str, rank: int, ranks: int) -> None:
        """Connect."""
        self._rank = rank
        self._module = remote_module()
        self._writer = self._module.ZmqLoadSnapshotWriter(endpoint, ranks, rank)

    def publisher(self, steps: Iterable[int]) -> Callable[[int], None]:
        """Return a publisher of prepared Structs."""
        values = [build(self._module.LoadSnapshot, payload.nested_load(self._rank, step)) for step in steps]
        write = self._writer.write
        return lambda index: write(values[index])

    def close(self) -> None:
        """Close the socket."""
        self._writer.close()


class RemoteSGLang(Line):
    """ZmqLoadSnapshotWriter and ZmqShmLoadSnapshotReader."""

    def collector(self, endpoint: str, where: Path, ranks: int) -> Collector:
        """Return its collector."""
        return SGLangCollector(endpoint, where, ranks)

    def sender(self, endpoint: str, rank: int, ranks: int, *, at_once: bool) -> Sender:
        """Return its writer, which knows one way to send."""
        return SGLangSender(endpoint, rank, ranks)

    def memory(self, where: Path, ranks: int) -> Memory:
        """Return its reader of the file."""
        return SGLangMemory(where, ranks)
