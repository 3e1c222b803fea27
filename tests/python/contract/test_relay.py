"""Ranks of other processes through a relay: what readers of the ring see, whoever drives, owns, dies or restarts."""

import asyncio
import os
import select
import signal
import time
from pathlib import Path

import pytest

import snapring
from snapring import LoadSnapshot, State
from support import eventually


def running(reader: snapring.Reader[LoadSnapshot], rank: int) -> int | None:
    """What the ring says of the rank."""
    snap = reader.read(rank)
    return None if snap is None else snap.value.num_running_reqs


@pytest.mark.usefixtures("ring_dir")
def test_a_remote_rank_shows_as_a_local_one() -> None:
    """What a remote writer publishes, a reader sees: value, state, an origin of its own, and no placeholder before."""
    reader = snapring.Reader("far")
    with (
        snapring.Relay("far", ranks=4) as relay,
        snapring.RemoteWriter(relay.endpoint or "", rank=2, ranks=4) as writer,
    ):
        assert relay.is_owner
        assert reader.read(2) is None

        assert writer.publish(LoadSnapshot(num_running_reqs=7)) == 1

        eventually(lambda: reader.read(2) is not None)
        snap = reader.read(2)
        assert snap is not None
        assert (snap.value.num_running_reqs, snap.value.dp_rank, snap.version, snap.state) == (7, 2, 1, State.LIVE)
        assert [snap.rank for snap in reader.read_all()] == [2]


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize("latency", ["tick", "wake"])
def test_the_last_value_of_a_burst_arrives(latency: snapring.relay.Latency) -> None:
    """However fast a rank publishes, its last snapshot is in the ring in the end."""
    reader = snapring.Reader("far")
    with (
        snapring.Relay("far", ranks=1) as relay,
        snapring.RemoteWriter(relay.endpoint or "", rank=0, ranks=1, latency=latency) as writer,
    ):
        for burst in range(1, 30):
            for step in range(burst * 7):
                writer.publish(LoadSnapshot(num_running_reqs=burst * 1000 + step))

            eventually(lambda: running(reader, 0) == burst * 1000 + step)  # noqa: B023


@pytest.mark.usefixtures("ring_dir")
def test_closing_is_death_and_coming_back_is_life() -> None:
    """A writer that closes leaves its rank DEAD; the next one makes it LIVE under a new epoch."""
    reader = snapring.Reader("far")
    with snapring.Relay("far", ranks=1) as relay:
        endpoint = relay.endpoint or ""
        with snapring.RemoteWriter(endpoint, rank=0, ranks=1) as writer:
            writer.publish(LoadSnapshot(num_running_reqs=1))
            eventually(lambda: reader.check(0) is State.LIVE)
            first = reader.read(0)
        eventually(lambda: reader.check(0) is State.DEAD)

        with snapring.RemoteWriter(endpoint, rank=0, ranks=1) as writer:
            writer.publish(LoadSnapshot(num_running_reqs=2))
            eventually(lambda: running(reader, 0) == 2)
            second = reader.read(0)

    assert first is not None
    assert second is not None
    assert second.epoch > first.epoch
    assert second.version == first.version + 1


@pytest.mark.usefixtures("ring_dir")
def test_one_owner_and_a_standby_that_takes_over() -> None:
    """A second relay waits, or raises where it may not wait; when the owner closes it goes on with the same writers."""
    reader = snapring.Reader("far")
    owner = snapring.Relay("far", ranks=1)
    standby = snapring.Relay("far", ranks=1)
    with snapring.RemoteWriter(owner.endpoint or "", rank=0, ranks=1) as writer:
        writer.publish(LoadSnapshot(num_running_reqs=1))
        eventually(lambda: running(reader, 0) == 1)
        with pytest.raises(snapring.OwnerBusy, match=f"pid {os.getpid()}.*standby=True"):
            snapring.Relay("far", ranks=1, standby=False)
        assert (owner.is_owner, standby.is_owner, standby.endpoint) == (True, False, None)

        owner.close()

        eventually(lambda: standby.is_owner)
        assert standby.term == owner.term + 1
        writer.publish(LoadSnapshot(num_running_reqs=2))
        eventually(lambda: running(reader, 0) == 2)
        snap = reader.read(0)
        assert snap is not None
        assert snap.version > 1
    standby.close()


@pytest.mark.usefixtures("ring_dir")
def test_driven_by_an_event_loop() -> None:
    """With drain="poll" the descriptor is readable while there is work, and polling does it, by asyncio or by hand."""
    reader = snapring.Reader("far")

    async def drive() -> int:
        loop = asyncio.get_running_loop()
        with snapring.Relay("far", ranks=1, drain="poll") as relay:
            loop.add_reader(relay.fileno(), relay.poll)
            with snapring.RemoteWriter(relay.endpoint or "", rank=0, ranks=1) as writer:
                for value in range(1, 200):
                    writer.publish(LoadSnapshot(num_running_reqs=value))
                    await asyncio.sleep(0)
                await asyncio.to_thread(eventually, lambda: running(reader, 0) == 199)
            loop.remove_reader(relay.fileno())
            return relay.stats()["published"]

    assert asyncio.run(drive()) >= 1


@pytest.mark.usefixtures("ring_dir")
def test_undriven_it_waits_and_then_takes_the_newest() -> None:
    """What came in while nobody polled is taken at the next polls, and the newest one wins."""
    reader = snapring.Reader("far")
    with (
        snapring.Relay("far", ranks=1, drain="poll") as relay,
        snapring.RemoteWriter(relay.endpoint or "", rank=0, ranks=1) as writer,
    ):
        eventually(lambda: relay.poll() or writer.is_connected)
        for value in range(1, 500):
            writer.publish(LoadSnapshot(num_running_reqs=value))
        time.sleep(0.02)
        assert running(reader, 0) is None

        def turn() -> bool:
            if select.select([relay], [], [], 1)[0]:
                relay.poll()
            return running(reader, 0) == 499

        eventually(turn)


def test_files_of_a_relay(ring_dir: Path) -> None:
    """The socket is private and goes with the owner, the ring with its last user; the files of the locks stay."""
    with snapring.Relay("far", ranks=1) as relay:
        socket = Path((relay.endpoint or "").removeprefix("ipc://"))
        assert socket.parent == ring_dir
        assert socket.stat().st_mode & 0o777 == 0o600
        assert (ring_dir / "far.ring").exists()

    assert sorted(path.name for path in ring_dir.iterdir()) == ["far.owner", "far.sock.lock"]


@pytest.mark.usefixtures("ring_dir")
def test_a_forked_child_has_no_relay() -> None:
    """In a child every call raises, and neither lock nor socket lives on there when the parent lets go."""
    reader = snapring.Reader("far")
    relay = snapring.Relay("far", ranks=1)
    writer = snapring.RemoteWriter(relay.endpoint or "", rank=0, ranks=1)
    writer.publish(LoadSnapshot(num_running_reqs=1))
    eventually(lambda: running(reader, 0) == 1)
    child = os.fork()
    if child == 0:
        outcome = 0
        looks = (lambda: relay.is_owner, lambda: relay.endpoint, relay.stats)
        for call in (relay.poll, relay.close, writer.close, lambda: writer.publish(LoadSnapshot()), *looks):
            try:
                call()
            except snapring.ForkedHandle:
                outcome += 1
        child_view = repr(relay)
        del relay, writer
        os.write(1, b"")
        signal.pause() if outcome == 7 and "parent" in child_view else os._exit(1)
    try:
        relay.close()
        second = snapring.Relay("far", ranks=1, standby=False)
        eventually(lambda: running(reader, 0) == 1)
        second.close()
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        writer.close()


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        ("tcp://127.0.0.1:0", "snapring keys"),
        ("udp://127.0.0.1:0", "ipc://"),
        ("tcp://127.0.0.1", "port"),
        ("ipc://relative.sock", "must begin with /"),
        ("ipc:///tmp/" + "x" * 120, "107"),
    ],
)
def test_endpoints_that_are_refused(endpoint: str, message: str) -> None:
    """An endpoint that cannot be, or would be open to anybody, is refused with the way out."""
    for opening in (
        lambda: snapring.Relay("far", endpoint, ranks=1),
        lambda: snapring.RemoteWriter(endpoint, rank=0, ranks=1),
    ):
        with pytest.raises(snapring.InvalidValue, match=message):
            opening()


@pytest.mark.usefixtures("ring_dir")
def test_a_free_port_is_kept_by_whoever_takes_over() -> None:
    """The port that the first owner got is the next one's too, because the writers know no other."""
    reader = snapring.Reader("far")
    owner = snapring.Relay("far", "tcp://127.0.0.1:0", ranks=1, insecure=True)
    endpoint = owner.endpoint or ""
    with (
        snapring.Relay("far", "tcp://127.0.0.1:0", ranks=1, insecure=True) as standby,
        snapring.RemoteWriter(endpoint, rank=0, ranks=1, insecure=True) as writer,
    ):
        writer.publish(LoadSnapshot(num_running_reqs=1))
        eventually(lambda: running(reader, 0) == 1)

        owner.close()

        eventually(lambda: standby.is_owner)
        assert standby.endpoint == endpoint
        writer.publish(LoadSnapshot(num_running_reqs=2))
        eventually(lambda: running(reader, 0) == 2)


@pytest.mark.usefixtures("ring_dir")
def test_a_list_of_clients_needs_keys() -> None:
    """Whoever lists who may connect does not get a relay that lets everybody in."""
    with pytest.raises(snapring.InvalidValue, match="key="):
        snapring.Relay("far", "tcp://127.0.0.1:0", ranks=1, clients=["x" * 40], insecure=True)


@pytest.mark.usefixtures("ring_dir")
def test_no_list_of_clients() -> None:
    """None lists nobody, as it does for addresses: options of a configuration pass through as they are."""
    with snapring.Relay("far", ranks=1, clients=None, allow=None) as relay:
        assert relay.is_owner


def test_a_name_is_checked_before_it_is_used(ring_dir: Path) -> None:
    """A name that leads out of the directory makes no file anywhere."""
    for name in ("../evil", "bad/name", ""):
        with pytest.raises(snapring.InvalidValue, match="no ring name"):
            snapring.Relay(name, ranks=1)

    assert not (ring_dir.parent / "evil.owner").exists()


def test_a_relay_that_cannot_open_leaves_no_ring(ring_dir: Path) -> None:
    """Where the port is taken, the error leaves nothing but the lock's file behind."""
    with (
        snapring.Relay("other", "tcp://127.0.0.1:0", ranks=1, insecure=True) as other,
        pytest.raises(snapring.SystemRefused, match="in use"),
    ):
        snapring.Relay("far", other.endpoint, ranks=1, insecure=True)

    assert not list(ring_dir.glob("far.ring"))


@pytest.mark.usefixtures("ring_dir")
def test_a_standby_that_could_not_go_on_is_refused() -> None:
    """A standby for other ranks or another job is an error now, not an outage at the take-over."""
    with (
        snapring.Relay("far", ranks=2, job="a") as owner,
        snapring.RemoteWriter(owner.endpoint or "", rank=0, ranks=2, job="a") as writer,
    ):
        writer.publish(LoadSnapshot())
        for wrong in ({"ranks": 3, "job": "a"}, {"ranks": 2, "job": "b"}):
            with pytest.raises(snapring.LayoutMismatch, match="does not fit"):
                snapring.Relay("far", **wrong)  # type: ignore[arg-type]
