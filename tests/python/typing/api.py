"""Ordinary calls of the public interface; never run, only type-checked, so that its types cannot rot.

Each line is something a user would write. ``assert_type`` pins what their editor then knows.
"""

import asyncio
import selectors
from typing import Annotated, Any, assert_type

import msgspec
import numpy as np
from numpy.typing import NDArray

import snapring
from snapring import LoadSnapshot, Publisher, Reader, Snapshot, View, Writer
from snapring.config import BalanceMethod, ClusterConfig
from snapring.meeting import Meeting, address_in, meet, resume
from snapring.owner import OwningReader, open_reader, open_writer
from snapring.ownership import Role, is_relay_owner, relay_owner_role
from snapring.relay import Relay, RemoteWriter
from snapring.rendezvous import EtcdGroup, LocalGroup


class Queue(msgspec.Struct, frozen=True):
    """A user's own schema."""

    depth: int = 0
    model: Annotated[str, msgspec.Meta(max_length=32)] = ""
    wait: float | None = None


def write() -> None:
    """Publish the default schema and close."""
    with Writer("llama-70b", rank=3, ranks=8) as writer:
        assert_type(writer.publish(LoadSnapshot(dp_rank=3, num_running_reqs=12)), int)
        writer.publish(LoadSnapshot(num_waiting_reqs=4))
        assert_type(writer, Writer[LoadSnapshot])
        print(writer.name, writer.rank, writer.ranks, writer.epoch, writer.version)
        writer.start_heartbeat(0.5)
        writer.beat()
    writer.close()


def write_options() -> None:
    """Every option of a writer."""
    Writer("demo", rank=0, ranks=1, cells=16, job="run-7", keep=True, wake=False).close()
    with Writer("queues", rank=0, ranks=2, schema=Queue) as queues:
        queues.publish(Queue(depth=3, model="small"))
    with Writer("blobs", rank=0, ranks=2, schema=bytes, payload=1024) as blobs:
        blobs.publish(b"anything")
    with Writer("waits", rank=0, ranks=1, schema=list[float], codec="msgpack") as waits:
        waits.publish([0.5, 1.5])


def read(reader: Reader[LoadSnapshot]) -> None:
    """One rank, and what a snapshot tells."""
    snap = reader.read(3)
    assert_type(snap, Snapshot[LoadSnapshot] | None)
    if snap is None:
        return
    assert_type(snap.value, LoadSnapshot)
    assert_type(snap.value.num_running_reqs, int)
    assert_type(snap.rank, int)
    assert_type(snap.version, int)
    assert_type(snap.epoch, int)
    assert_type(snap.age, float)
    assert_type(snap.contended, bool)
    assert_type(snap.state, snapring.State)
    assert_type(snap.timestamp, float)
    assert_type(snap.beat_age, float)
    assert_type(snap.generation, str)
    assert_type(snap.origin, tuple[int, int, int])
    assert_type(snap["num_running_reqs"], Any)


def read_all(reader: Reader[LoadSnapshot]) -> int:
    """Every rank as objects."""
    assert_type(reader.read_all(), list[Snapshot[LoadSnapshot]])
    live = [snap for snap in reader.read_all() if snap.state is snapring.State.LIVE]
    return sum(snap.value.num_total_tokens for snap in live)


def view(reader: Reader[LoadSnapshot]) -> int:
    """Every rank as arrays."""
    ranks: View = reader.view()
    tokens: np.ndarray[Any, Any] = ranks.records["num_total_tokens"]
    fresh = ranks.ok & ranks.present("num_total_tokens") & (ranks.ages < 1.0)
    assert_type(len(ranks), int)
    assert_type(ranks.records, NDArray[np.void])
    assert_type(ranks.versions, NDArray[np.uint64])
    assert_type(ranks.ages, NDArray[np.float64])
    assert_type(ranks.states, NDArray[np.uint8])
    assert_type(ranks.contended, NDArray[np.bool_])
    return int(tokens[fresh].argmin())


def history(reader: Reader[LoadSnapshot], blobs: Reader[bytes]) -> float:
    """The last publishes of a rank, oldest first: records as rows, anything else as values."""
    assert_type(blobs.history(3), list[bytes])
    assert_type(reader.history(3), NDArray[np.void])
    return float(reader.history(3, last=32)["gen_throughput"].mean())


def wait(reader: Reader[LoadSnapshot]) -> None:
    """The ways to wait for a change."""
    assert_type(reader.wait(timeout=1.0), bool)
    with selectors.DefaultSelector() as selector:
        selector.register(reader.fileno(), selectors.EVENT_READ)
        selector.select(timeout=1.0)
        for rank in reader.poll():
            assert_type(rank, int)


async def follow(reader: Reader[LoadSnapshot]) -> None:
    """Changes as an asynchronous stream."""
    async for ranks in reader.changes():
        for rank in ranks:
            print(rank, reader.check(rank))


def own_schema() -> None:
    """The reader's value has the type of its schema; without one it is built from the file."""
    with Reader("queues", schema=Queue) as queues, Reader("queues", schema=None) as anything:
        assert_type(queues.ranks, int | None)
        assert_type(anything, Reader[Any])
        snap = queues.read(0)
        if snap is not None:
            assert_type(snap.value.wait, float | None)
        other = anything.read(0)
        print(other.value if other is not None else None)
    with Reader("blobs", schema=bytes) as blobs:
        blob = blobs.read(0)
        if blob is not None:
            assert_type(blob.value, bytes)


def host(prefill: bool) -> None:
    """The publishing rules inside an engine's loop."""

    def collect() -> LoadSnapshot:
        return LoadSnapshot(num_running_reqs=1)

    with Publisher(lambda: Writer("llama-70b", rank=0, ranks=8), interval=15) as publisher:
        assert_type(publisher.tick(collect, force=prefill, phase="busy"), bool)
        publisher.tick(collect, phase="idle")


def cluster() -> ClusterConfig:
    """The shape of a server, and who owns its relay."""
    config = ClusterConfig(nodes=2, node_rank=0, ranks=16, dp_attention=True, balance_method="TOTAL_TOKENS")
    ClusterConfig(balance_method=BalanceMethod.ROUND_ROBIN, tokenizer_workers=4, force_zmq=True)
    assert_type(config.relay, bool)
    assert_type(BalanceMethod("auto").resolved(prefill=True), BalanceMethod)
    assert_type(relay_owner_role(config), Role | None)
    assert_type(is_relay_owner(config, "TokenizerManager"), bool)
    if is_relay_owner(config, Role.DATA_PARALLEL_CONTROLLER):
        print(f"node {config.node_rank} of {config.nodes}: {Role.DATA_PARALLEL_CONTROLLER}")
    return config


def any_node(config: ClusterConfig) -> None:
    """One call for a rank or a role, on one node or many."""
    endpoint = "tcp://node-0:5555"
    with open_writer(config, "llama-70b", rank=3, endpoint=endpoint, server_key="z" * 40, key="rank.key") as writer:
        assert_type(writer, Writer[LoadSnapshot] | RemoteWriter[LoadSnapshot])
        assert_type(writer.publish(LoadSnapshot()), int)
    with Publisher(lambda: open_writer(config, "llama-70b", rank=3, endpoint=endpoint, insecure=True)) as publisher:
        publisher.tick(LoadSnapshot)
    with open_reader(config, "TokenizerManager", "llama-70b", endpoint="tcp://0.0.0.0:0", drain="poll") as reader:
        assert_type(reader, Reader[LoadSnapshot])
        if isinstance(reader, OwningReader):
            print(reader.relay.is_owner, reader.relay.endpoint, reader.relay.fileno())
    assert_type(open_writer(config, "queues", 0, schema=Queue), Writer[Queue] | RemoteWriter[Queue])
    assert_type(open_reader(config, Role.MULTI_TOKENIZER_ROUTER, "queues", schema=Queue), Reader[Queue])


def relay() -> None:
    """Ranks on other nodes: both ends, and every option of a relay."""
    with (
        Relay("llama-70b", ranks=8) as local,
        RemoteWriter(local.endpoint or "", rank=3, ranks=8, latency="wake", job="run-7") as writer,
    ):
        assert_type(local.endpoint, str | None)
        assert_type(writer, RemoteWriter[LoadSnapshot])
        assert_type(writer.publish(LoadSnapshot(num_running_reqs=12)), int)
        assert_type(writer.stats(), dict[str, int])
        assert_type(local.stats(), dict[str, int])
        print(local.is_owner, local.term, local.last_error)
    with RemoteWriter("tcp://node-0:5600", 3, 8, schema=Queue, key="rank.key", server_key="relay.pub") as queues:
        assert_type(queues, RemoteWriter[Queue])
        queues.publish(Queue(depth=1))
    remote = Relay(
        "llama-70b",
        "tcp://10.0.0.1:0",
        ranks=8,
        drain="poll",
        standby=False,
        kill_hung=5.0,
        key="relay.key",
        clients=["ranks/"],
        allow=["10.0.0.0/8"],
        max_peers=64,
    )
    remote.admit(["z" * 40])
    asyncio.get_running_loop().add_reader(remote.fileno(), remote.poll)
    remote.close()


def meeting(node: int) -> None:
    """Nodes that know a store and nothing else."""
    group = EtcdGroup("http://10.0.0.1:2379", "/snapring", rank=node, size=3, job="launch-7")
    if node == 0:
        with (
            Relay("llama-70b", "tcp://10.0.0.1:0", ranks=8, key="node.key") as owner,
            meet(group, timeout=60, relay=owner, key="node.key", host="node-0") as found,
        ):
            assert_type(found, Meeting)
            assert_type(found.admit(), int)
        return
    with meet(group, timeout=60, key="node.key") as found:
        RemoteWriter(found.endpoint, node, 8, key="node.key", server_key=found.server_key).close()
    here = LocalGroup("/run/launch", 0, 1)
    if (address := address_in(here)) is not None:
        assert_type(address.endpoint, str)
        resume(Relay("llama-70b", address.endpoint, ranks=8), here).close()


def errors() -> None:
    """One root for everything; the builtins that one would expect."""
    reader = Reader("llama-70b", max_age=2.0)
    try:
        reader.read(99)
    except IndexError as error:
        print(error)
    try:
        Reader("nowhere", must_exist=True)
    except snapring.RingNotFound:
        print(snapring.ring_name("http://host:30000/instance"))
    except snapring.SnapringError:
        raise
    finally:
        reader.close()


def main() -> None:
    """The asynchronous one is started like any other."""
    with Reader("llama-70b", max_age=2.0) as reader:
        asyncio.run(follow(reader))
