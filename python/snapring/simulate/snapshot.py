"""From a modelled rank's state to the snapshot that it publishes."""

from typing import Annotated

from msgspec import Meta

from snapring.load import LoadSnapshot, QueuesSection
from snapring.simulate.state import RankState

__all__ = ["SimulatedLoad", "snapshot_of"]


class SimulatedLoad(LoadSnapshot, frozen=True, gc=False):
    """A `LoadSnapshot` that also acknowledges dispatches; who knows only `LoadSnapshot` reads it all the same.

    ``total_received_reqs``: requests ever handed to this incarnation of the rank, refused ones included. A dispatcher
    feeds it to `snapring.balance.InFlight.received`. ``node``: where the rank runs, from 0; None in a server of one
    node.
    """

    total_received_reqs: Annotated[int, Meta(extra={"unit": "requests"})] = 0
    node: int | None = None


def snapshot_of(state: RankState, node: int | None = None) -> SimulatedLoad:
    """Return what a rank in ``state`` on ``node`` publishes; pure. Rank and timestamp are left to the writer.

    A request whose prompt is in progress counts as running, so that running and waiting together are all requests.
    What the model does not have (prefix cache, latency goal, adapters, split roles) is not reported.
    """
    moments = state.decode_moments
    return SimulatedLoad(
        num_running_reqs=state.running,
        num_waiting_reqs=state.waiting,
        num_waiting_uncached_tokens=state.waiting_uncached_tokens,
        num_used_tokens=state.used_tokens,
        num_total_tokens=state.total_tokens,
        max_total_num_tokens=state.capacity_tokens,
        max_running_requests=state.max_running,
        token_usage=round(state.used_tokens / state.capacity_tokens, 4),
        gen_throughput=None if state.throughput_tps is None else round(state.throughput_tps, 2),
        num_active_tokens=state.total_tokens,
        total_prefill_uncached_tokens=state.prefill_tokens,
        total_prefill_busy_us=state.prefill_busy_us,
        decode_moments=None if moments is None else [float(moment) for moment in moments],
        queues=QueuesSection(waiting=state.waiting),
        total_received_reqs=state.received,
        node=node,
    )
