"""The processes of a simulated server, one per rank, as their parent sees them."""

import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Final, Self

import msgspec

from snapring.errors import InvalidValue, LayoutMismatch, SnapringError, WriterBusy
from snapring.ring import Reader
from snapring.simulate.arrivals import Request
from snapring.simulate.channel import Channel, FromRank, Ready
from snapring.simulate.nodes import Nodes
from snapring.simulate.rank_process import Place
from snapring.simulate.snapshot import SimulatedLoad

__all__ = ["Cluster", "Ended"]

_ARRIVING_S: Final = 0.005  # from look to look for a snapshot that is on its way
_GRACE_S: Final = 5.0  # for a rank to end by itself; a step takes a fraction of a second


class Ended(msgspec.Struct, frozen=True):
    """A rank's process ended; all that it had reported was received before."""


class _Process:
    """One incarnation of a rank."""

    def __init__(self, place: Place, nodes: Nodes, epoch: int) -> None:
        self.channel, theirs = Channel.pair()
        self.is_ready = False
        self.is_remote = place.relay is not None
        self.epoch_before = epoch  # that the ring said when this one started
        command = [sys.executable, "-P", "-m", "snapring.simulate.rank_process", msgspec.json.encode(place).decode()]
        try:
            self._process = subprocess.Popen(
                nodes.command(place.node or 0, [*command, str(theirs.fileno())]),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                process_group=0,  # neither Ctrl-C nor Ctrl-Z at the terminal is meant for a rank
            )
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def reap(self, deadline_s: float) -> str:
        """Wait for the end, enforced at ``deadline_s`` of the monotonic clock; gives the last line of its errors."""
        self.channel.close()
        try:
            _, errors = self._process.communicate(timeout=max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, errors = self._process.communicate()
        lines: list[str] = errors.decode(errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
        code = self._process.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


class Cluster:
    """Starts, kills and restarts the processes of ``ranks`` ranks that publish into ring ``name``.

    A context manager: at its end no process and no file of its own is left. Should its own process be killed, the ranks
    end by themselves. It starts nothing before `start`. The ring carries a job id of this cluster alone, so that a ring
    in use by others is never written to. Belongs to one thread; must not be used in a fork.

    ``incarnations``: how often each rank was started. ``first_versions``: version of each rank's first publish.
    ``nodes``: where the ranks run; those of node 0 write into the ring, the others through a relay.
    """

    def __init__(self, name: str, ranks: int, directory: str | None = None, *, nodes: int = 1) -> None:
        """Describe the cluster; ``ranks`` is at least 1, and there are as many nodes at most. Raises `InvalidValue`."""
        if ranks < 1:
            raise InvalidValue(f"a cluster needs at least 1 rank, not {ranks}")
        self.nodes = Nodes(nodes, ranks)
        self.name = name
        self.ranks = ranks
        # On a host of its own a user may look like root, for whom the default would be another place.
        self.directory = directory or os.environ.get("SNAPRING_DIR") or f"/dev/shm/snapring-{os.geteuid()}"  # noqa: S108
        self.job = f"demo {secrets.token_hex(8)}"
        self.incarnations = [0] * ranks
        self.first_versions: dict[int, int] = {}
        self._processes: dict[int, _Process] = {}
        self._reasons: dict[int, str] = {}
        self._again: set[int] = set()  # to be started when they have ended
        self._selector = selectors.DefaultSelector()
        self._reader: Reader[SimulatedLoad] | None = None  # with a relay
        self._arriving: set[int] = set()  # that have published, through the relay

    def start(self, rank: int) -> bool:
        """Start ``rank`` unless it runs; False if it does. It can take requests once `is_ready`.

        The first one to start waits for the relay, if there are several nodes; raises what ended that.
        """
        if rank in self._processes:
            return False
        if self.nodes.count > 1 and self._reader is None:
            self._start_nodes()
        node = self.nodes.node(rank)
        place = Place(
            self.name,
            rank,
            self.ranks,
            self.job,
            self.directory,
            node if self.nodes.count > 1 else None,
            self.nodes.listening if node else None,
        )
        process = _Process(place, self.nodes, self._epoch(rank))
        self._processes[rank] = process
        self._selector.register(process.channel, selectors.EVENT_READ, rank)
        self.incarnations[rank] += 1
        return True

    def kill(self, rank: int) -> bool:
        """End ``rank`` as a crash would (SIGKILL); False if it does not run. `poll` reports the end."""
        process = self._processes.get(rank)
        if process is None:
            return False
        process.signal(signal.SIGKILL)
        return True

    def restart(self, rank: int) -> None:
        """Start ``rank``; one that runs is killed first, and starts when `poll` has reported its end."""
        if not self.start(rank):
            self.kill(rank)
            self._again.add(rank)

    def reader(self) -> Reader[SimulatedLoad]:
        """Return a new reader of the ring; rings of other jobs raise `LayoutMismatch` when read."""
        return Reader(self.name, schema=SimulatedLoad, job=self.job, directory=self.directory)

    def is_ready(self, rank: int) -> bool:
        """Tell whether ``rank`` runs and has published."""
        process = self._processes.get(rank)
        return process is not None and process.is_ready

    def pid(self, rank: int) -> int | None:
        """Return the process id of ``rank``; None unless it runs."""
        process = self._processes.get(rank)
        return process.pid if process else None

    def send(self, rank: int, request: Request) -> None:
        """Hand ``request`` to a running ``rank``; lost if it is ending right now, which `poll` will report."""
        self._processes[rank].channel.send(request)

    def watch(self, descriptor: int) -> None:
        """Have `poll` return early when ``descriptor`` is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, None)

    def poll(self, timeout_s: float) -> list[tuple[int, FromRank | Ended]]:
        """Wait for reports and give them in order per rank; empty after ``timeout_s`` seconds, or for a watched one.

        Raises `SnapringError` when the relay has ended.
        """
        if self._arriving:
            timeout_s = min(timeout_s, _ARRIVING_S)
        ready = {key.data for key, _ in self._selector.select(max(0.0, timeout_s))} - {None}
        self.nodes.check_relay(self.name)
        reports = [(rank, report) for rank in sorted(ready) for report in self._reports(rank)]
        return [*self._arrived(), *reports]

    def reason(self, rank: int) -> str:
        """Return what the last incarnation of ``rank`` to end said, or what ended it; empty if none has."""
        return self._reasons.get(rank, "")

    def why_ended(self, rank: int) -> SnapringError:
        """Return the same as an error that names the fix."""
        reason = self.reason(rank)
        if any(reason.startswith(f"{error.__name__}:") for error in (LayoutMismatch, WriterBusy)):
            return WriterBusy(f"ring {self.name!r} is in use by another server; choose another name")
        return SnapringError(f"rank {rank} of ring {self.name!r} ended: {reason}")

    def stop(self) -> None:
        """End every process, the willing ones in good order, and remove the ring."""
        for process in self._processes.values():
            process.channel.close()
            process.signal(signal.SIGCONT)  # a stopped one could not see the end of its channel
        deadline_s = time.monotonic() + _GRACE_S
        for rank, process in self._processes.items():
            self._reasons[rank] = process.reap(deadline_s)
        self._processes.clear()
        self._selector.close()
        if self._reader is not None:
            self._reader.close()
        self.nodes.close()
        self._remove_ring()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _reports(self, rank: int) -> list[FromRank | Ended]:
        process = self._processes[rank]
        reports: list[FromRank | Ended] = []
        for report in process.channel.reports():
            if isinstance(report, Ready) and process.is_remote:
                self._arriving.add(rank)  # its first publish is on the way
                continue
            if isinstance(report, Ready):
                self._take_ready(rank, report)
            reports.append(report)
        if process.channel.ended:
            self._selector.unregister(process.channel)
            self._reasons[rank] = process.reap(time.monotonic() + _GRACE_S)
            del self._processes[rank]
            self._arriving.discard(rank)
            reports.append(Ended())
            if rank in self._again:
                self._again.discard(rank)
                self.start(rank)
        return reports

    def _start_nodes(self) -> None:
        self.nodes.start(self.name, self.job, self.directory)
        if (fd := self.nodes.relay_fd()) is not None:
            self.watch(fd)
        self._reader = self.reader()

    def _epoch(self, rank: int) -> int:
        """Give the epoch of the newest snapshot of ``rank``; 0 without one."""
        snapshot = self._reader.read(rank) if self._reader is not None else None
        return 0 if snapshot is None else snapshot.epoch

    def _arrived(self) -> list[tuple[int, FromRank | Ended]]:
        """Report the ranks of other nodes whose first publish is in the ring by now."""
        reports: list[tuple[int, FromRank | Ended]] = []
        for rank in sorted(self._arriving):
            snapshot = self._reader.read(rank) if self._reader is not None else None
            if snapshot is not None and snapshot.epoch > self._processes[rank].epoch_before:
                self._arriving.discard(rank)
                reports.append((rank, self._take_ready(rank, Ready(snapshot.version))))
        return reports

    def _take_ready(self, rank: int, report: Ready) -> Ready:
        self._processes[rank].is_ready = True
        self.first_versions.setdefault(rank, report.version)
        return report

    def _remove_ring(self) -> None:
        """Remove the ring if it is ours: writers that were killed could not, so be the last one to close."""
        with suppress(LayoutMismatch, WriterBusy), self.reader() as reader:  # those say that it is another's by now
            if reader.ranks is not None:
                Place(self.name, 0, self.ranks, self.job, self.directory).writer().close()
