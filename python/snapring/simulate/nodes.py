"""The nodes of a simulated server: which rank is where, and the relay by which ranks of other nodes reach the ring.

Node 0 has the ring; its ranks write there. Each node is a host of its own network where that is allowed, else they all
talk over the loopback interface.
"""

import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final, Self

import msgspec

from snapring.errors import InvalidValue, OwnerBusy, SnapringError, SystemRefused
from snapring.simulate.network import Network
from snapring.simulate.relay_process import Listening, Site

__all__ = ["Nodes"]

_START_S: Final = 60.0  # for the relay; only ends a hang
_GRACE_S: Final = 5.0  # for it to end by itself
_LOOPBACK: Final = "127.0.0.1"


class Nodes:
    """``count`` nodes for ``ranks`` ranks, in blocks of equal size as far as that goes. Belongs to one thread.

    ``why_loopback``: why the nodes have no network of their own; None if they have, before the start, and for one node.

    Raises:
        InvalidValue: ``count`` is not 1 to ``ranks``.
    """

    def __init__(self, count: int, ranks: int) -> None:
        """Describe the nodes; nothing is started yet."""
        if not 1 <= count <= ranks:
            raise InvalidValue(f"{ranks} ranks need 1 to {ranks} nodes, not {count}")
        self.count = count
        self.ranks = ranks
        self.listening: Listening | None = None
        self.why_loopback: str | None = None
        self._relay: subprocess.Popen[bytes] | None = None
        self._network: Network | None = None

    def node(self, rank: int) -> int:
        """Return the node that ``rank`` runs on."""
        return rank * self.count // self.ranks

    def address(self, node: int) -> str | None:
        """Return the address of ``node``; None for a single one, which needs none."""
        if self.count == 1:
            return None
        return self._network.address(node) if self._network else _LOOPBACK

    def command(self, node: int, command: list[str]) -> list[str]:
        """Return the command line that runs ``command`` on ``node``."""
        return self._network.command(node, command) if self._network else command

    def start(self, ring: str, job: str, directory: str) -> None:
        """Make the network, start the relay on node 0, and wait until that listens; with one node, do nothing.

        Raises:
            OwnerBusy, SnapringError: the relay ended; another server has one for a ring of that name.
        """
        if self.count == 1:
            return
        try:
            self._network = Network(self.count)
        except (InvalidValue, SystemRefused) as error:
            self.why_loopback = str(error)
        site = Site(ring, self.ranks, job, directory, self.address(0) or _LOOPBACK)
        command = [sys.executable, "-P", "-m", "snapring.simulate.relay_process", msgspec.json.encode(site).decode()]
        pipe = subprocess.PIPE
        self._relay = subprocess.Popen(self.command(0, command), stdin=pipe, stdout=pipe, stderr=pipe, process_group=0)
        stdout = self._relay.stdout
        if stdout is None or not select.select([stdout], [], [], _START_S)[0] or not (line := stdout.readline()):
            raise self._why_ended(ring)
        self.listening = msgspec.json.decode(line, type=Listening)

    def relay_fd(self) -> int | None:
        """Return a descriptor that is readable when the relay has ended; None without one."""
        return self._relay.stdout.fileno() if self._relay and self._relay.stdout else None

    def check_relay(self, ring: str) -> None:
        """Raise SnapringError when the relay has ended, without which nobody knows of the other nodes' ranks."""
        fd = self.relay_fd()
        if fd is not None and select.select([fd], [], [], 0)[0]:
            raise self._why_ended(ring)

    def close(self) -> None:
        """End the relay and the network. The ranks should have ended before."""
        self._end_relay()
        if self.listening is not None:
            shutil.rmtree(Path(self.listening.key).parent, ignore_errors=True)
        if self._network is not None:
            self._network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end_relay(self) -> str:
        """End the relay; gives the last line of its errors."""
        relay, self._relay = self._relay, None
        if relay is None:
            return ""
        try:
            relay.send_signal(signal.SIGCONT)  # a stopped one could not see the end of its input
            _, errors = relay.communicate(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            relay.kill()
            _, errors = relay.communicate()
        lines: list[str] = errors.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {relay.returncode}"

    def _why_ended(self, ring: str) -> SnapringError:
        reason = self._end_relay()
        if any(name in reason for name in ("OwnerBusy:", "LayoutMismatch:")):
            return OwnerBusy(f"ring {ring!r} is in use by another server; choose another name")
        return SnapringError(f"the relay of ring {ring!r} ended: {reason}")
