"""Sends requests to the ranks of a cluster by what its ring says, and keeps the books.

What happens to the requests of a rank that ends: each one that it had not answered in full is sent again to another
rank, from the start, and its time to first token goes on counting from its arrival. So nothing is ever lost; while no
rank is live, requests wait here. A rank that is merely stopped keeps its requests until it goes on or is killed, and
gets no new ones once the ring calls it stale.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Self

import msgspec

from snapring.balance import InFlight, LeastTokens, RankLoad
from snapring.simulate.arrivals import Request
from snapring.simulate.channel import Finished, FirstToken, FromRank, Ready, Refused
from snapring.simulate.cluster import Cluster, Ended
from snapring.simulate.model import Milestone
from snapring.simulate.summary import FirstTokenTimes, RankTotals, Tally

__all__ = ["Controller", "NodeReport", "RankReport", "Report"]

_TAKEN_A_TURN: Final = 256  # requests that arrive in one turn at the most
_UNFINISHED: Final = 50_000  # requests that are unfinished at a time at the most
_RETRY_S: Final = 0.01  # pause between two looks at the ring while no rank is live


class RankReport(RankTotals):
    """What one rank finished, the snapshots in the ring that it published, its starts, and its node."""

    publishes: int = 0
    starts: int = 0
    node: int = 0


class NodeReport(msgspec.Struct, frozen=True):
    """The sums of one node's ``ranks``; ``address``: where it is, None in a server of one node."""

    node: int
    address: str | None
    ranks: list[int]
    requests: int
    prompt_tokens: int
    answer_tokens: int
    publishes: int


class Report(msgspec.Struct, frozen=True):
    """A run in numbers.

    ``seconds``: since the start of time. Requests: those answered in full, those sent again because their rank ended
    (each time counts), those that fit no rank, and those that have arrived but are not answered in full.
    ``publishes``: snapshots by all ranks. ``reads``: looks of the controller at all ranks.
    """

    seconds: float
    requests_done: int
    requests_resent: int
    requests_refused: int
    requests_unfinished: int
    first_token: FirstTokenTimes
    publishes: int
    reads: int
    ranks: list[RankReport]
    nodes: list[NodeReport]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers, with the names of the fields."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


class _Sent(msgspec.Struct):
    request: Request
    rank: int
    at_s: float


class Controller:
    """Feeds ``arrivals`` to ``cluster``: each request goes to the live rank with the least tokens, when it is due.

    Times are seconds since `begin`. ``speed`` divides the arrivals' times and nothing else: ranks work in real time.
    Belongs to one thread. Closing it closes its reader; the cluster is its maker's.

    ``done``, ``resent``, ``refused``, ``reads``: counts so far.
    """

    def __init__(
        self,
        cluster: Cluster,
        arrivals: Iterable[Request],
        *,
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wait for `begin`; ``speed`` is above 0."""
        self._cluster = cluster
        self._reader = cluster.reader()
        self._arrivals = iter(arrivals)
        self._speed = speed
        self._clock = clock
        self._zero_s = clock()
        self._next: Request | None = None
        self._backlog: deque[Request] = deque()  # due, and with no rank
        self._sent: dict[int, _Sent] = {}  # by id, in order of sending
        self._answered: set[int] = set()  # first token seen, not finished
        self._picker = LeastTokens()
        self._in_flight = InFlight()
        self._tally = Tally(cluster.ranks)
        self._versions = dict.fromkeys(range(cluster.ranks), 0)
        self.done = self.resent = self.refused = self.reads = 0

    def begin(self) -> None:
        """Let time start: the first arrivals become due."""
        self._zero_s = self._clock()
        self._next = next(self._arrivals, None)

    @property
    def seconds(self) -> float:
        """Seconds since `begin`."""
        return self._clock() - self._zero_s

    @property
    def is_served(self) -> bool:
        """Whether every arrival was answered or refused; never for an endless source."""
        return self._next is None and not self._backlog and not self._sent

    @property
    def unfinished(self) -> int:
        """Requests that have arrived and are not answered in full."""
        return len(self._backlog) + len(self._sent)

    @property
    def waiting(self) -> int:
        """Requests that have arrived and wait for a live rank."""
        return len(self._backlog)

    def first_token_times(self) -> FirstTokenTimes:
        """Return the times to first token so far; sorts them all."""
        return self._tally.summary().first_token

    def turn(self, timeout_s: float) -> list[tuple[int, FromRank | Ended]]:
        """Send what is due, wait for the next arrival or for reports, book these and give them.

        Waits ``timeout_s`` seconds at most.
        """
        self._take_due()
        self._dispatch()
        if self._next is not None:
            timeout_s = min(timeout_s, self._due_s(self._next) - self.seconds)
        if self._backlog:
            timeout_s = min(timeout_s, _RETRY_S)
        reports = self._cluster.poll(timeout_s)
        for rank, report in reports:
            self._book(rank, report)
        return reports

    def report(self) -> Report:
        """Return the numbers so far. Call it before the cluster stops, while there is a ring to look at."""
        self._look()
        summary = self._tally.summary()
        cluster = self._cluster
        publishes = Counter({rank: self._versions[rank] - first + 1 for rank, first in cluster.first_versions.items()})
        ranks = [
            RankReport(
                **msgspec.structs.asdict(totals),
                publishes=publishes[totals.rank],
                starts=cluster.incarnations[totals.rank],
                node=cluster.nodes.node(totals.rank),
            )
            for totals in summary.ranks
        ]
        return Report(
            seconds=round(self.seconds, 3),
            requests_done=self.done,
            requests_resent=self.resent,
            requests_refused=self.refused,
            requests_unfinished=self.unfinished,
            first_token=summary.first_token,
            publishes=publishes.total(),
            reads=self.reads,
            ranks=ranks,
            nodes=[self._node_report(node, ranks) for node in range(cluster.nodes.count)],
        )

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _node_report(self, node: int, ranks: list[RankReport]) -> NodeReport:
        own = [rank for rank in ranks if rank.node == node]
        return NodeReport(
            node=node,
            address=self._cluster.nodes.address(node),
            ranks=[rank.rank for rank in own],
            requests=sum(rank.requests for rank in own),
            prompt_tokens=sum(rank.prompt_tokens for rank in own),
            answer_tokens=sum(rank.answer_tokens for rank in own),
            publishes=sum(rank.publishes for rank in own),
        )

    def _due_s(self, request: Request) -> float:
        return request.arrival_s / self._speed

    def _take_due(self) -> None:
        # However fast requests come, each turn ends, and memory is bounded: what is beyond waits to arrive.
        room = min(_TAKEN_A_TURN, _UNFINISHED - self.unfinished)
        while room > 0 and self._next is not None and (due_s := self._due_s(self._next)) <= self.seconds:
            room -= 1
            self._backlog.append(msgspec.structs.replace(self._next, arrival_s=due_s))
            self._next = next(self._arrivals, None)

    def _dispatch(self) -> None:
        if not self._backlog:
            return
        loads = self._look()
        while self._backlog and (rank := self._picker.pick(loads, self._in_flight)) is not None:
            request = self._backlog.popleft()
            self._cluster.send(rank, request)
            self._in_flight.sent(rank, request.prompt_tokens)
            self._sent[request.id] = _Sent(request, rank, self.seconds)

    def _look(self) -> list[RankLoad]:
        """Read the ring: the loads of the ranks that may get requests."""
        view = self._reader.view()
        self.reads += 1
        loads = []
        for rank, (live, version, row) in enumerate(zip(view.ok, view.versions, view.records, strict=True)):
            self._versions[rank] = max(self._versions[rank], int(version))
            if live and self._cluster.is_ready(rank):
                # Its count is of this incarnation: the rank is ready only after its own first publish.
                self._in_flight.received(rank, int(row["total_received_reqs"]))
                requests = int(row["num_running_reqs"] + row["num_waiting_reqs"])
                loads.append(RankLoad(rank, int(row["num_total_tokens"]), requests))
        return loads

    def _book(self, rank: int, report: FromRank | Ended) -> None:
        match report:
            case FirstToken():
                self._first_token(report)
            case Finished():
                self._finished(rank, report)
            case Refused():
                self._sent.pop(report.id)
                self.refused += 1
            case Ended():
                self._resend(rank)
            case Ready():
                pass

    def _first_token(self, report: FirstToken) -> None:
        if report.id not in self._answered:  # a request that was sent again has a first token again
            self._answered.add(report.id)
            self._tally.first_token(self._milestone(self._sent[report.id], report.at_s))

    def _finished(self, rank: int, report: Finished) -> None:
        sent = self._sent.pop(report.id)
        self._answered.discard(report.id)
        self._tally.finished(rank, self._milestone(sent, report.at_s))
        self.done += 1

    def _milestone(self, sent: _Sent, at_s: float) -> Milestone:
        return Milestone(sent.request, sent.at_s, at_s - self._zero_s)

    def _resend(self, rank: int) -> None:
        """Put what an ended rank had not finished before what waits, in the order of the first sending."""
        self._in_flight.forget(rank)
        lost = [sent.request for sent in self._sent.values() if sent.rank == rank]
        for request in reversed(lost):
            del self._sent[request.id]
            self._backlog.appendleft(request)
        self.resent += len(lost)
