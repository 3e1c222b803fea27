"""One simulated rank as a process of its own: ``python -m snapring.simulate.rank_process PLACE DESCRIPTOR``.

PLACE is a `Place` in JSON, DESCRIPTOR the number of an inherited socket, the rank's end of its channel.

It does what the scheduler process of an engine does. In each pass it takes in what has arrived, runs one step of
`RankModel`, sleeps for as long as the step would have taken, reports first and last tokens, and gives its load to a
`Publisher`. A step's load is published at the step's end, when an engine would know it.

The process ends when its channel does, so it cannot outlive its controller, however that one ends. A stopped process
could not see that, so it has the kernel let it go on when its parent dies.
"""

import ctypes
import select
import signal
import socket
import sys
import time
from typing import Final

import msgspec

from snapring.errors import InvalidValue
from snapring.publisher import Publisher
from snapring.publishing import HEARTBEAT_S, Phase
from snapring.relay import RemoteWriter
from snapring.ring import Writer
from snapring.simulate.channel import Channel, Finished, FirstToken, Ready, Refused
from snapring.simulate.cost import RankConfig
from snapring.simulate.model import RankModel, StepResult
from snapring.simulate.relay_process import Listening
from snapring.simulate.snapshot import SimulatedLoad, snapshot_of

__all__ = ["Place", "RankProcess", "main"]

_CONFIG: Final = RankConfig(kv_capacity_tokens=65_536)  # less than the default, so that one can see it fill and drain
_PR_SET_PDEATHSIG: Final = 1  # <linux/prctl.h>
_IDLE_WAIT_S: Final = HEARTBEAT_S / 8  # an idle rank's heartbeat is late by at most this


class Place(msgspec.Struct, frozen=True):
    """Where a rank publishes; the arguments of a `Writer`, or of a `RemoteWriter` if there is a relay.

    ``node``: where it runs, None in a server of one node.
    """

    ring: str
    rank: int
    ranks: int
    job: str
    directory: str | None = None
    node: int | None = None
    relay: Listening | None = None

    def writer(self) -> Writer[SimulatedLoad] | RemoteWriter[SimulatedLoad]:
        """Claim the rank, or connect to its relay; raises what `Writer` and `RemoteWriter` raise."""
        if self.relay is not None:
            return RemoteWriter(
                self.relay.endpoint,
                self.rank,
                self.ranks,
                schema=SimulatedLoad,
                job=self.job,
                key=self.relay.key,
                server_key=self.relay.server_key,
            )
        return Writer(self.ring, self.rank, self.ranks, schema=SimulatedLoad, job=self.job, directory=self.directory)


class RankProcess:
    """The loop of one rank. Belongs to one thread of a process that does nothing else."""

    def __init__(self, place: Place, channel: Channel) -> None:
        """Start with an empty rank; the ring is not touched yet."""
        self._place = place
        self._channel = channel
        self._model = RankModel(_CONFIG)
        self._writer: Writer[SimulatedLoad] | RemoteWriter[SimulatedLoad] | None = None
        self._publisher = Publisher(self._open)

    def run(self) -> str | None:
        """Work until the channel ends; gives why the first publish failed, and then did nothing."""
        with self._publisher:
            self._publish(force=True, phase=Phase.IDLE)
            if self._writer is None or not self._publisher.published:
                return self._publisher.last_error
            self._channel.send(Ready(self._writer.version))
            while not self._channel.ended:
                self._pass()
        return None

    def _pass(self) -> None:
        self._take_in()
        step = self._model.step(time.monotonic())
        if step.phase == Phase.IDLE:
            self._publish(force=False, phase=Phase.IDLE)
            select.select([self._channel], [], [], _IDLE_WAIT_S)
        else:
            time.sleep(max(0.0, step.end_s - time.monotonic()))
            self._report(step)
            self._publish(force=step.prefill, phase=step.phase)

    def _take_in(self) -> None:
        for request in self._channel.requests():
            try:
                self._model.submit(request, time.monotonic())
            except InvalidValue:
                self._channel.send(Refused(request.id))

    def _report(self, step: StepResult) -> None:
        for milestone in step.first_tokens:
            self._channel.send(FirstToken(milestone.request.id, milestone.at_s))
        for milestone in step.finished:
            self._channel.send(Finished(milestone.request.id, milestone.at_s))

    def _publish(self, *, force: bool, phase: Phase) -> None:
        node = self._place.node
        self._publisher.tick(lambda: snapshot_of(self._model.state(), node), force=force, phase=phase)

    def _open(self) -> Writer[SimulatedLoad] | RemoteWriter[SimulatedLoad]:
        self._writer = self._place.writer()
        return self._writer


def main(place: str, descriptor: str) -> str | None:
    """Run the rank at ``place`` (a `Place` in JSON) over the inherited ``descriptor`` of its channel.

    Gives None when the channel has ended, else why the rank could not publish.
    """
    # When a rank ends is for its controller to say. (The kernel hangs up on stopped groups whose parent has died.)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
    channel = Channel(socket.socket(fileno=int(descriptor)))
    return RankProcess(msgspec.json.decode(place, type=Place), channel).run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
