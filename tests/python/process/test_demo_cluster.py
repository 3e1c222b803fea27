"""The processes behind the demo: their channels, their ends, and where their requests go."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from snapring import State, WriterBusy
from snapring.simulate import Request, bursty
from snapring.simulate.channel import Channel, Finished, FirstToken
from snapring.simulate.cluster import Cluster, Ended
from snapring.simulate.controller import Controller
from support import eventually, stop


def run_until(controller: Controller, condition: Callable[[], object]) -> None:
    """Lets the controller work until ``condition`` holds."""

    def turn() -> object:
        controller.turn(0.05)
        return condition()

    eventually(turn, deadline=60.0)


def start(cluster: Cluster, controller: Controller) -> None:
    """Starts all ranks, waits for them, and lets time begin."""
    for rank in range(cluster.ranks):
        cluster.start(rank)
    run_until(controller, lambda: all(map(cluster.is_ready, range(cluster.ranks))))
    controller.begin()


def steady(rate_rps: float, answer_tokens: int) -> "list[Request]":
    """A long list of equal requests, ``rate_rps`` a second."""
    return [Request(number / rate_rps, 100, answer_tokens, number) for number in range(10_000)]


def test_what_was_said_before_the_end_is_heard() -> None:
    """A peer that ends with messages to it unread is heard to its last word; then the channel is ended."""
    ours, theirs = Channel.pair()
    ours.send(Request(0.0, 1, 1, 1))
    theirs.send(FirstToken(1, 2.0))
    theirs.send(Finished(1, 3.0))
    theirs.close()

    reports = ours.reports()
    ours.send(Request(0.0, 1, 1, 2))

    assert reports == [FirstToken(1, 2.0), Finished(1, 3.0)]
    assert ours.ended
    assert ours.reports() == []
    ours.close()


def test_a_peer_that_does_not_read_loses_nothing() -> None:
    """Sending never waits: what a stopped peer has no room for arrives later, all of it and in order."""
    ours, theirs = Channel.pair()
    sent = [Request(0.0, 1, 1, number) for number in range(5_000)]

    for request in sent:
        ours.send(request)
    got: list[Request] = []
    for _ in range(len(sent)):  # ends early unless messages are lost
        got += theirs.requests()
        ours.reports()
        if len(got) == len(sent):
            break

    assert got == sent
    ours.close()
    theirs.close()


def test_requests_of_an_ended_rank_are_answered_by_others(ring_dir: Path) -> None:
    """Requests that a killed rank had not answered are sent again, answered once, and their first tokens count once."""
    requests = steady(20, answer_tokens=60)[:40]
    with Cluster("c", 2) as cluster, Controller(cluster, requests) as controller:
        start(cluster, controller)
        run_until(controller, lambda: controller.done > 2)

        cluster.kill(0)
        run_until(controller, lambda: controller.is_served)
        report = controller.report()

    assert report.requests_resent > 0
    assert (report.requests_done, report.requests_unfinished, report.first_token.count) == (40, 0, 40)
    assert list(ring_dir.iterdir()) == []


def test_requests_wait_while_no_rank_is_live(ring_dir: Path) -> None:
    """With every rank dead, requests wait; a rank that is restarted goes on an epoch and some versions later."""
    with Cluster("c", 1) as cluster, Controller(cluster, steady(20, answer_tokens=10)[:20]) as controller:
        start(cluster, controller)
        run_until(controller, lambda: controller.done)
        cluster.kill(0)
        run_until(controller, lambda: controller.waiting > 1)
        with cluster.reader() as reader:
            before = reader.read(0)

            cluster.start(0)
            run_until(controller, lambda: controller.is_served)
            after = reader.read(0)
        report = controller.report()

    assert (after.epoch, report.requests_done, report.ranks[0].starts) == (before.epoch + 1, 20, 2)
    assert after.version > before.version
    assert report.publishes >= after.version


def test_a_stopped_rank_gets_no_requests(ring_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the ring calls a stopped rank stale, the others get all requests until it goes on; it keeps its own."""
    asked: list[int] = []
    send = Cluster.send
    monkeypatch.setattr(Cluster, "send", lambda self, rank, request: (asked.append(rank), send(self, rank, request)))
    with Cluster("c", 2) as cluster, Controller(cluster, steady(10, answer_tokens=5)) as controller:
        start(cluster, controller)
        run_until(controller, lambda: set(asked) == {0, 1})
        with cluster.reader() as reader:
            stop(cluster.pid(0) or 0)
            run_until(controller, lambda: reader.read(0).state == State.STALE)

            asked.clear()
            run_until(controller, lambda: len(asked) > 10)
            assert set(asked) == {1}

            os.kill(cluster.pid(0) or 0, signal.SIGCONT)
            run_until(controller, lambda: 0 in asked)

        assert controller.resent == 0


def test_restarting_a_running_rank_replaces_it(ring_dir: Path) -> None:
    """A restart of a rank that runs ends it first; both incarnations are counted."""
    with Cluster("c", 1) as cluster, Controller(cluster, []) as controller:
        start(cluster, controller)
        first = cluster.pid(0)

        cluster.restart(0)
        run_until(controller, lambda: cluster.pid(0) != first and cluster.is_ready(0))

        assert cluster.incarnations == [2]
        assert cluster.reason(0) == "SIGKILL"


def test_a_stopped_rank_ends_in_good_order(ring_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that stops lets its stopped ranks go on, so that they end by themselves and need not be killed."""
    monkeypatch.setattr("snapring.simulate.cluster._GRACE_S", 60.0)
    with Cluster("c", 1) as cluster, Controller(cluster, []) as controller:
        start(cluster, controller)
        pid = cluster.pid(0) or 0
        stop(pid)

    assert cluster.reason(0) == "exit code 0"


def test_a_request_that_fits_nowhere_is_refused(ring_dir: Path) -> None:
    """A request larger than a rank's memory is counted as refused and holds nothing up."""
    requests = [Request(0.0, 900_000, 1, 0), Request(0.0, 100, 1, 1)]
    with Cluster("c", 1) as cluster, Controller(cluster, requests) as controller:
        start(cluster, controller)

        run_until(controller, lambda: controller.is_served)

        assert (controller.done, controller.refused) == (1, 1)


def test_two_clusters_never_share_a_ring(ring_dir: Path) -> None:
    """A second cluster of the same name ends with an error that says so, and the first goes on."""
    with Cluster("c", 1) as cluster, Controller(cluster, []) as controller, Cluster("c", 1) as second:
        start(cluster, controller)

        second.start(0)
        reports = eventually(lambda: second.poll(0.1))

        assert reports == [(0, Ended())]
        with pytest.raises(WriterBusy, match="'c' is in use by another server"):
            raise second.why_ended(0)
        second.stop()
        assert cluster.is_ready(0)
        assert (ring_dir / "c.ring").exists()


def test_work_is_spread(ring_dir: Path) -> None:
    """Equal ranks get about equal work: the ledger keeps a burst from going to one of them."""
    burst = [Request(0.0, 100, 20, number) for number in range(40)]
    with Cluster("c", 4) as cluster, Controller(cluster, burst) as controller:
        start(cluster, controller)

        run_until(controller, lambda: controller.is_served)

        assert [totals.requests for totals in controller.report().ranks] == [10, 10, 10, 10]


def test_generated_requests_never_end(ring_dir: Path) -> None:
    """An endless source is never served."""
    with Cluster("c", 1) as cluster, Controller(cluster, bursty(1, 50.0), speed=4.0) as controller:
        start(cluster, controller)

        run_until(controller, lambda: controller.done > 3)

        assert not controller.is_served
