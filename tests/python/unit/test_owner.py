"""The choice between shared memory and the relay; both ends of the relay are fakes that note what they were given."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from snapring import LoadSnapshot, Reader, Writer, owner
from snapring.config import BalanceMethod, ClusterConfig
from snapring.errors import ForkedHandle, HandleClosed, InvalidValue, OwnerBusy, SystemRefused
from snapring.owner import OwningReader, open_reader, open_writer
from snapring.ownership import Role, is_relay_owner

TCP = "tcp://127.0.0.1:5555"
FORCED = ClusterConfig(ranks=4, force_zmq=True)
THREE_NODES = [
    ClusterConfig(nodes=3, node_rank=node_rank, ranks=4, dp_attention=True, force_zmq=False) for node_rank in range(3)
]


@dataclass
class FakeEnd:
    """Either end of a relay: what it was given, and how often it was closed."""

    arguments: tuple[object, ...]
    options: dict[str, object]
    closed: int = 0
    fails: Exception | None = None

    def close(self) -> None:
        self.closed += 1
        if self.fails:
            raise self.fails


@pytest.fixture(autouse=True)
def ends(monkeypatch: pytest.MonkeyPatch, ring_dir: Path) -> list[FakeEnd]:
    """Fakes in place of both ends, in the order in which they were opened."""
    made: list[FakeEnd] = []

    def end(*arguments: object, ranks: object = None, **options: object) -> FakeEnd:
        # A relay takes its ranks by keyword.
        made.append(FakeEnd(arguments if ranks is None else (*arguments, ranks), options))
        return made[-1]

    monkeypatch.setattr(owner, "RemoteWriter", end)
    monkeypatch.setattr(owner, "Relay", end)
    return made


def refusing(error: Exception) -> Callable[..., FakeEnd]:
    """An end that cannot be opened."""

    def end(*_: object, **options: object) -> FakeEnd:
        raise error

    return end


def test_one_node_needs_no_socket(ends: list[FakeEnd]) -> None:
    """On one node a rank writes shared memory and every role reads it."""
    config = ClusterConfig(ranks=2, force_zmq=False)

    with open_writer(config, "ring", 1) as writer:
        readers = [open_reader(config, role, "ring") for role in Role]
        writer.publish(LoadSnapshot(num_running_reqs=7))
        seen = [snap.value.num_running_reqs for reader in readers if (snap := reader.read(1))]

    assert type(writer) is Writer
    assert (writer.ranks, seen) == (2, [7, 7, 7])
    assert {type(reader) for reader in readers} == {Reader}
    assert ends == []


def test_ranks_of_node_0_write_where_they_are_read(ends: list[FakeEnd]) -> None:
    """With the relay on, a rank of node 0 still writes shared memory, and the owner's reader sees it there."""
    with (
        open_reader(THREE_NODES[0], Role.TOKENIZER_MANAGER, "ring", endpoint=TCP) as reader,
        open_writer(THREE_NODES[0], "ring", 3, endpoint=TCP) as writer,
    ):
        writer.publish(LoadSnapshot(num_waiting_reqs=5))
        snap = reader.read(3)

    assert type(writer) is Writer
    assert snap is not None
    assert snap.value.num_waiting_reqs == 5
    assert [end.arguments for end in ends] == [("ring", TCP, 4)]


@pytest.mark.parametrize("config", THREE_NODES[1:])
def test_ranks_of_other_nodes_send(ends: list[FakeEnd], ring_dir: Path, config: ClusterConfig) -> None:
    """A rank of another node goes to the given endpoint, with the ring's number of ranks, and makes no file."""
    writer = open_writer(config, "ring", 2, endpoint=TCP)

    assert ends == [writer]
    assert (ends[0].arguments, ends[0].options) == ((TCP, 2, 4), {"schema": LoadSnapshot})
    assert list(ring_dir.iterdir()) == []


def test_forced_both_ends_meet_at_a_socket_beside_the_ring(ends: list[FakeEnd], ring_dir: Path) -> None:
    """Forced on one node, ranks and owner find each other at the same place without being told."""
    open_writer(FORCED, "ring", 0)
    open_reader(FORCED, "TokenizerManager", "ring").close()

    sender, relay = ends
    assert sender.arguments == (f"ipc://{ring_dir}/ring.sock", 0, 4)
    assert relay.arguments == ("ring", f"ipc://{ring_dir}/ring.sock", 4)


def test_the_socket_follows_the_directory(ends: list[FakeEnd], ring_dir: Path) -> None:
    """Both ends meet in the directory that was given, not in the default one."""
    other = ring_dir / "other"
    other.mkdir(mode=0o700)

    open_writer(FORCED, "ring", 0, directory=other)
    open_reader(FORCED, "TokenizerManager", "ring", directory=str(other)).close()

    sender, relay = ends
    assert sender.arguments[0] == relay.arguments[1] == f"ipc://{other}/ring.sock"
    assert (sender.options.get("directory"), relay.options["directory"]) == (None, str(other))


def test_the_socket_has_an_absolute_path(ends: list[FakeEnd], ring_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory relative to where one process stands names the same socket for all."""
    (ring_dir / "other").mkdir(mode=0o700)
    monkeypatch.chdir(ring_dir)

    open_writer(FORCED, "ring", 0, directory="other")

    assert ends[0].arguments[0] == f"ipc://{ring_dir}/other/ring.sock"


def test_forced_every_rank_sends(ends: list[FakeEnd]) -> None:
    """Forced, the ranks of node 0 go through the relay too, on any number of nodes."""
    configs = [ClusterConfig(nodes=nodes, ranks=4, force_zmq=True) for nodes in (1, 2, 3)]

    writers = [open_writer(config, "ring", 0, endpoint=TCP) for config in configs]

    assert writers == ends


def test_exactly_the_owner_has_a_relay() -> None:
    """Over the whole grid of inputs a role's reader has a relay if, and only if, that role owns it."""
    grid = product((1, 2), (1, 3), (False, True), BalanceMethod, (1, 3), (False, True), Role)
    for nodes, ranks, dp_attention, method, workers, force_zmq, role in grid:
        for node_rank in range(nodes):
            config = ClusterConfig(
                nodes=nodes,
                node_rank=node_rank,
                ranks=ranks,
                dp_attention=dp_attention,
                balance_method=method,
                tokenizer_workers=workers,
                force_zmq=force_zmq,
            )
            with open_reader(config, role, "ring", endpoint=TCP) as reader:
                owning = isinstance(reader, OwningReader)

            assert owning is is_relay_owner(config, role), (config, role)


def test_each_transport_gets_its_options(ends: list[FakeEnd]) -> None:
    """One call with the options of both transports serves every rank: each takes its own and the common ones."""
    common: dict[str, Any] = {"schema": bytes, "codec": "bytes", "payload": 64, "job": "run-7"}
    memory: dict[str, Any] = {"cells": 8, "keep": True, "wake": False, "allow_disk": True}
    wire: dict[str, Any] = {"latency": "wake", "key": "rank.key", "server_key": "Z" * 40, "insecure": False}

    with open_writer(THREE_NODES[0], "ring", 0, endpoint=TCP, **common, **memory, **wire) as writer:
        writer.publish(b"x" * 64)
    open_writer(THREE_NODES[1], "ring", 1, endpoint=TCP, **common, **memory, **wire)

    assert type(writer) is Writer
    assert [end.options for end in ends] == [common | wire]


def test_reader_and_relay_get_their_options(ends: list[FakeEnd], ring_dir: Path) -> None:
    """One call with the options of both serves every role: reader and relay each take their own and the common ones."""
    common: dict[str, Any] = {"schema": bytes, "codec": "bytes", "job": "run-7", "allow_disk": True}
    place: dict[str, Any] = {"directory": ring_dir}
    relay: dict[str, Any] = {
        "payload": 64,
        "drain": "poll",
        "standby": False,
        "kill_hung": 5.0,
        "key": "owner.key",
        "clients": ["Z" * 40],
        "insecure": False,
        "allow": ["127.0.0.0/8"],
        "max_peers": 9,
        "keep": True,
    }

    for role in Role:
        open_reader(FORCED, role, "ring", max_age=0.5, **common, **place, **relay).close()

    assert [end.options for end in ends] == [common | place | relay]


@pytest.mark.parametrize("config", [THREE_NODES[0], FORCED, ClusterConfig(ranks=4, force_zmq=False)])
def test_unknown_options_reach_a_constructor(ends: list[FakeEnd], config: ClusterConfig) -> None:
    """An option that no transport has is not swallowed: what is opened gets it, and refuses it."""
    with pytest.raises(TypeError, match="cell_count"):
        open_reader(config, Role.TOKENIZER_MANAGER, "ring", endpoint=TCP, cell_count=8)  # type: ignore[call-overload]
    if config is FORCED:
        open_writer(config, "ring", 0, cell_count=8)  # type: ignore[call-overload]
        assert ends[0].options["cell_count"] == 8
    else:
        with pytest.raises(TypeError, match="cell_count"):
            open_writer(config, "ring", 0, cell_count=8)  # type: ignore[call-overload]


def test_several_nodes_must_say_where(ends: list[FakeEnd]) -> None:
    """Without an endpoint ranks and owner of several nodes raise, since no default reaches across; others need none."""
    for config in (THREE_NODES[1], ClusterConfig(nodes=2, ranks=4, force_zmq=True)):
        with pytest.raises(InvalidValue, match=r"endpoint='tcp://HOST:PORT'.*sync_from_leader"):
            open_writer(config, "ring", 0)
    with pytest.raises(InvalidValue, match="endpoint="):
        open_reader(THREE_NODES[0], Role.TOKENIZER_MANAGER, "ring")
    open_writer(THREE_NODES[0], "ring", 0).close()
    open_reader(THREE_NODES[0], Role.DATA_PARALLEL_CONTROLLER, "ring").close()
    open_reader(THREE_NODES[1], Role.TOKENIZER_MANAGER, "ring").close()

    assert ends == []


def test_an_empty_endpoint_is_no_default(ends: list[FakeEnd]) -> None:
    """An endpoint that was meant to be set and is empty goes to the relay, which refuses it; nothing is made up."""
    open_writer(FORCED, "ring", 0, endpoint="")
    open_reader(FORCED, Role.TOKENIZER_MANAGER, "ring", endpoint="").close()

    sender, relay = ends
    assert (sender.arguments[0], relay.arguments[1]) == ("", "")


def test_a_rank_that_nobody_would_hear_is_refused(ring_dir: Path) -> None:
    """A rank on another node without a relay raises and names both ways to turn it on; no ring is made there."""
    config = ClusterConfig(nodes=2, node_rank=1, ranks=4, force_zmq=False)

    with pytest.raises(InvalidValue, match=r"rank 3 is on node 1.*dp_attention=True.*force_zmq=True"):
        open_writer(config, "ring", 3, endpoint=TCP)
    assert list(ring_dir.iterdir()) == []


@pytest.mark.parametrize("name", ["a/b", "../ring", "", ".."])
def test_the_socket_stays_beside_the_ring(ends: list[FakeEnd], name: str) -> None:
    """A name that is no ring name makes no socket path either."""
    with pytest.raises(InvalidValue, match="is no ring name"):
        open_writer(FORCED, name, 0)
    with pytest.raises(InvalidValue, match="is no ring name"):
        open_reader(FORCED, Role.TOKENIZER_MANAGER, name)
    assert ends == []


def test_an_owner_needs_the_schema(ends: list[FakeEnd]) -> None:
    """Only the owner must know the schema, since it makes the ring; other roles take it from the ring."""
    with pytest.raises(InvalidValue, match=r"TokenizerManager owns the relay.*schema"):
        open_reader(FORCED, Role.TOKENIZER_MANAGER, "ring", schema=None)
    open_reader(FORCED, Role.DATA_PARALLEL_CONTROLLER, "ring", schema=None).close()

    assert ends == []


@pytest.mark.parametrize("config", [FORCED, ClusterConfig(force_zmq=False), THREE_NODES[1]])
def test_unknown_roles_are_refused(config: ClusterConfig) -> None:
    """A role that does not exist raises whether or not there is a relay to own."""
    with pytest.raises(InvalidValue, match="valid roles"):
        open_reader(config, "Router", "ring")


def test_closing_the_reader_closes_the_relay(ends: list[FakeEnd]) -> None:
    """One close, or the end of the ``with`` block, ends both."""
    with open_reader(FORCED, Role.TOKENIZER_MANAGER, "ring") as reader:
        assert isinstance(reader, OwningReader)
        assert reader.relay is ends[0]
        assert ends[0].closed == 0

    assert ends[0].closed == 1
    with pytest.raises(HandleClosed):
        reader.read(0)


def test_a_relay_that_fails_to_close_leaves_no_reader_open(ends: list[FakeEnd]) -> None:
    """The reader is closed even if closing the relay raises, and the error comes through."""
    reader = open_reader(FORCED, Role.TOKENIZER_MANAGER, "ring")
    ends[0].fails = SystemRefused("no")

    with pytest.raises(SystemRefused, match="no"):
        reader.close()
    with pytest.raises(HandleClosed):
        reader.read(0)


def test_in_a_child_only_the_reader_closes(ends: list[FakeEnd]) -> None:
    """In a child of a fork the relay refuses every call, and closing the reader is no error for that."""
    reader = open_reader(FORCED, Role.TOKENIZER_MANAGER, "ring")
    ends[0].fails = ForkedHandle("it is the parent's")

    reader.close()

    with pytest.raises(HandleClosed):
        reader.read(0)


def test_a_relay_that_does_not_open_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the relay raises comes through: without a standby, that another process owns it."""
    monkeypatch.setattr(owner, "Relay", refusing(OwnerBusy("process 7 owns it")))

    with pytest.raises(OwnerBusy, match="process 7"):
        open_reader(FORCED, Role.TOKENIZER_MANAGER, "ring", standby=False)


def test_an_unfit_reader_opens_no_relay(ends: list[FakeEnd]) -> None:
    """The reader's options are checked before the relay takes a socket."""
    with pytest.raises(InvalidValue, match="max_age"):
        open_reader(FORCED, Role.TOKENIZER_MANAGER, "ring", max_age=-1.0)

    assert ends == []


async def changed(reader: Reader[LoadSnapshot]) -> list[int]:
    """The first ranks of a reader's stream of changes."""
    async for ranks in reader.changes():
        return ranks
    return []


def test_following_changes_opens_no_second_relay(ends: list[FakeEnd]) -> None:
    """The stream of changes reads by a cursor of its own and leaves the relay alone."""
    with (
        open_reader(THREE_NODES[0], Role.TOKENIZER_MANAGER, "ring", endpoint=TCP) as reader,
        open_writer(THREE_NODES[0], "ring", 2) as writer,
    ):
        writer.publish(LoadSnapshot())
        ranks = asyncio.run(changed(reader))

        assert (ranks, len(ends), ends[0].closed) == ([2], 1, 0)
