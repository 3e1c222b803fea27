"""Ranks on three hosts with a network between them that fails: what readers on the first host see, before and after."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import snapring
from network import Child, Host, network
from network_children import Mark
from snapring import State
from snapring._core import make_keys
from support import eventually

RANKS = 5  # rank 0 on host 0, two each on hosts 1 and 2
ON = {1: (1, 2), 2: (3, 4)}
PORT = 7700
EVERY_S = 0.01
CUTS = int(os.environ.get("SNAPRING_CUTS", "6"))

# A snapshot's time on the way is not in its age. A connection on which nothing is acknowledged
# for 2 s is given up, so no snapshot is longer on the way; the rest is for a machine that is busy.
ON_THE_WAY_S = 2.0 + 1.0


class Server:
    """A relay that owns and one that stands by on host 0, senders on the others, and a reader of the ring."""

    def __init__(self, hosts: list[Host], keys: Path | None, *, v6: bool = False) -> None:
        """Start all; ``keys`` is where to make key files, None for no keys."""
        self.hosts = hosts
        self.endpoint = f"tcp://[{hosts[0].address6}]:{PORT}" if v6 else f"tcp://{hosts[0].address}:{PORT}"
        self.for_relay: dict[str, Any] = {"insecure": True}
        self.for_sender: dict[str, Any] = {"insecure": True}
        if keys is not None:
            server, client = (make_keys(keys / name) for name in ("relay", "node"))
            self.for_relay = {"key": str(keys / "relay"), "clients": [client]}
            self.for_sender = {"key": str(keys / "node"), "server_key": server}
        self.owner = self.relay()
        eventually(lambda: self.owner.ask()["endpoint"])
        self.standby = self.relay()
        assert self.standby.ask()["endpoint"] is None
        self.reader = snapring.Reader("net", schema=Mark)
        self.senders = {node: self.sender(node) for node in ON}

    def relay(self) -> Child:
        """Start a relay on host 0."""
        return self.hosts[0].start("relay", name="net", endpoint=self.endpoint, ranks=RANKS, **self.for_relay)

    def sender(self, node: int, *, every_s: float = EVERY_S) -> Child:
        """Start the ranks of a host."""
        ranks = ON[node]
        return self.hosts[node].start(
            "senders",
            endpoint=self.endpoint,
            first=ranks[0],
            count=len(ranks),
            ranks=RANKS,
            every_s=every_s,
            **self.for_sender,
        )

    def is_fresh(self, rank: int, since_ns: int) -> bool:
        """Whether the ring has a snapshot of the rank that was published after that moment."""
        snap = self.reader.read(rank)
        return snap is not None and snap.value.at_ns > since_ns

    def wait_fresh(self, *nodes: int) -> float:
        """Wait until all ranks of the nodes have a snapshot from after now; seconds that it took."""
        start_ns = time.monotonic_ns()
        for node in nodes:
            for rank in ON[node]:
                eventually(lambda: self.is_fresh(rank, start_ns))  # noqa: B023
        return (time.monotonic_ns() - start_ns) / 1e9


@pytest.fixture
def server(ring_dir: Path, tmp_path: Path) -> Iterator[Server]:
    """A server of three hosts whose ranks are all there, with keys."""
    with network(3) as hosts:
        server = Server(hosts, tmp_path)
        server.wait_fresh(1, 2)
        yield server
        server.reader.close()


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.parametrize(("keys", "v6"), [(True, False), (True, True), (False, False), (False, True)])
def test_ranks_of_all_hosts_are_in_the_ring(tmp_path: Path, keys: bool, v6: bool) -> None:
    """With and without keys, over IPv4 and IPv6, the first host's ring shows its own and all remote ranks as LIVE."""
    with network(3) as hosts:
        server = Server(hosts, tmp_path if keys else None, v6=v6)
        with snapring.Writer("net", 0, RANKS, schema=Mark) as local:
            local.publish(Mark(1, time.monotonic_ns()))
            server.wait_fresh(1, 2)
            local.publish(Mark(2, time.monotonic_ns()))

            view = server.reader.view()

        assert view.ok.tolist() == [True] * RANKS
        stats = server.owner.ask()["stats"]
        assert (stats["held_locally"], stats["undecodable"], stats["failed"]) == (0, 0, 0)


def break_link(server: Server, kind: str) -> None:
    """Break the link of host 1: a pulled cable, silence, or silence in one direction only."""
    node, first = server.hosts[1], server.hosts[0]
    match kind:
        case "cut":
            node.cut()
        case "silent":
            node.silence()
        case "unheard":
            node.mute(first)
        case _:
            first.mute(node)


def heal(server: Server) -> None:
    """Undo it."""
    for host in server.hosts[:2]:
        host.heal()


@pytest.mark.timeout(120 + 10 * CUTS)
def test_cuts_of_any_length(server: Server, rng: random.Random) -> None:
    """After each cut the ranks behind it come back; the others never miss it; no age is younger than the truth."""
    back_s = []
    with snapring.Writer("net", 0, RANKS, schema=Mark) as local:
        for number in range(CUTS):
            kind = rng.choice(["cut", "silent", "unheard", "deaf"])
            length_s = 0.1 * 40 ** rng.random()
            break_link(server, kind)
            broken_ns = time.monotonic_ns()
            while time.monotonic_ns() < broken_ns + length_s * 1e9:
                local.publish(Mark(number, time.monotonic_ns()))
                check_ages(server)
                time.sleep(0.01)
            took_s = server.wait_fresh(2)
            assert server.reader.check(0) is not State.DEAD
            heal(server)
            healed_ns = time.monotonic_ns()
            eventually(lambda: check_ages(server) and all(server.is_fresh(rank, healed_ns) for rank in ON[1]))  # noqa: B023
            back_s.append((time.monotonic_ns() - healed_ns) / 1e9)
            print(f"{kind} {length_s:.2f} s: back after {back_s[-1]:.3f} s, other host's next after {took_s:.3f} s")

    print(f"{CUTS} cuts: back after {max(back_s):.3f} s at most")


def check_ages(server: Server) -> bool:
    """Hold the ages that the ring gives against the moments that its snapshots carry; always true."""
    for rank in range(1, RANKS):
        now_ns = time.monotonic_ns()
        snap = server.reader.read(rank)
        if snap is not None:
            assert snap.age >= (now_ns - snap.value.at_ns) / 1e9 - ON_THE_WAY_S, (rank, snap)
    return True


@pytest.mark.parametrize("kind", ["silent", "unheard", "deaf"])
def test_a_half_open_link_is_noticed(server: Server, kind: str) -> None:
    """Where no end of a connection is told, silence tells: the ranks are DEAD, and LIVE again after the repair."""
    start_s = time.monotonic()

    break_link(server, kind)
    eventually(lambda: all(server.reader.check(rank) is State.DEAD for rank in ON[1]))
    dead_s = time.monotonic() - start_s
    assert [rank for rank in ON[2] if server.reader.check(rank) is State.DEAD] == []
    heal(server)

    print(f"{kind}: dead after {dead_s:.2f} s, back after {server.wait_fresh(1):.2f} s")
    eventually(lambda: all(server.reader.check(rank) is State.LIVE for rank in ON[1]))
    assert all(stats["reconnects"] >= 1 for stats in server.senders[1].ask()["stats"])


def test_an_old_value_is_sent_again_with_its_age(server: Server) -> None:
    """A rank that publishes no more and loses its connection shows, once it is back, how old its value is."""
    server.senders[1].end()
    server.senders[1] = server.sender(1, every_s=3600)
    server.wait_fresh(1)
    first = [server.reader.read(rank) for rank in ON[1]]

    server.hosts[1].silence()
    eventually(lambda: all(server.reader.check(rank) is State.DEAD for rank in ON[1]))
    heal(server)
    eventually(lambda: all(server.reader.check(rank) is State.STALE for rank in ON[1]))

    for before in first:
        now_ns = time.monotonic_ns()
        after = server.reader.read(before.rank)
        assert after.value == before.value
        assert after.epoch > before.epoch
        # It was not on the way when the link broke, which was longer ago than this.
        assert after.age >= (now_ns - after.value.at_ns) / 1e9 - 1.5


def test_the_owner_dies_while_a_host_is_cut_off(server: Server) -> None:
    """The standby serves the hosts that it reaches at once, and the one that was cut off when it is there again."""
    server.hosts[1].silence()
    server.owner.end()

    taken_s = server.wait_fresh(2)
    assert server.standby.ask()["term"] == 2
    eventually(lambda: all(server.reader.check(rank) is not State.LIVE for rank in ON[1]))
    heal(server)

    print(f"taken over after {taken_s:.3f} s, the other host back after {server.wait_fresh(1):.3f} s")
    assert server.standby.ask()["stats"]["failed"] == 0


@pytest.mark.parametrize("is_silent", [False, True])
def test_senders_restart(server: Server, is_silent: bool) -> None:
    """New senders of a host take over from those that died, also when the relay could not hear them die."""
    before = {rank: server.reader.read(rank) for rank in ON[1]}
    if is_silent:
        server.hosts[1].silence()
    server.senders[1].end()
    server.senders[1] = server.sender(1)
    if is_silent:
        heal(server)

    print(f"back after {server.wait_fresh(1):.3f} s")

    for rank, snap in before.items():
        after = server.reader.read(rank)
        assert after.epoch > snap.epoch
        assert after.version > snap.version
    assert server.owner.ask()["stats"]["failed"] == 0


def test_a_cut_costs_no_memory(server: Server) -> None:
    """While the relay is out of reach, senders keep the newest snapshot of a rank and nothing else."""
    server.senders[1].end()
    server.senders[1] = server.sender(1, every_s=0.0002)
    server.wait_fresh(1)
    sender = server.senders[1]

    server.hosts[1].silence()
    eventually(lambda: not any(sender.ask()["connected"]))
    first = sender.ask()
    eventually(lambda: sender.ask()["stats"][0]["published"] > first["stats"][0]["published"] + 5_000)
    last = sender.ask()
    heal(server)
    server.wait_fresh(1)
    after = sender.ask()

    assert [stats["sent"] for stats in last["stats"]] == [stats["sent"] for stats in first["stats"]]
    assert last["resident"] - first["resident"] < 2 << 20
    for stats, before in zip(after["stats"], last["stats"], strict=True):
        assert stats["replaced"] - before["replaced"] > 4_000
