"""The factories with both ends of a real relay."""

import pytest

from snapring import LoadSnapshot
from snapring.config import ClusterConfig
from snapring.owner import OwningReader, open_reader, open_writer
from snapring.ownership import Role
from snapring.relay import RemoteWriter
from support import eventually

FORCED = ClusterConfig(ranks=4, force_zmq=True)


@pytest.mark.usefixtures("ring_dir")
def test_forced_values_go_round_by_the_relay() -> None:
    """Forced on one node, what a rank publishes appears in the ring for every role, without an endpoint anywhere."""
    with (
        open_reader(FORCED, Role.TOKENIZER_MANAGER, "ring") as owner,
        open_reader(FORCED, Role.DATA_PARALLEL_CONTROLLER, "ring") as other,
        open_writer(FORCED, "ring", 2) as writer,
    ):
        assert isinstance(writer, RemoteWriter)
        writer.publish(LoadSnapshot(num_running_reqs=9))

        for reader in (owner, other):
            snap = eventually(lambda reader=reader: reader.read(2))
            assert (snap.value.num_running_reqs, snap.value.dp_rank) == (9, 2)
        assert [snap.rank for snap in other.read_all()] == [2]


@pytest.mark.usefixtures("ring_dir")
def test_ranks_of_all_nodes_meet_in_one_ring() -> None:
    """Ranks of node 0 by shared memory and of other nodes by TCP stand side by side in node 0's ring."""
    nodes = [ClusterConfig(nodes=3, node_rank=rank, ranks=3, dp_attention=True, force_zmq=False) for rank in range(3)]
    with open_reader(nodes[0], "TokenizerManager", "ring", endpoint="tcp://127.0.0.1:0", insecure=True) as reader:
        assert isinstance(reader, OwningReader)
        eventually(lambda: reader.relay.is_owner)  # only then is the port known
        endpoint = reader.relay.endpoint
        writers = [open_writer(node, "ring", rank, endpoint=endpoint, insecure=True) for rank, node in enumerate(nodes)]
        for rank, writer in enumerate(writers):
            writer.publish(LoadSnapshot(num_running_reqs=rank + 1))

        eventually(lambda: len(reader.read_all()) == 3)
        assert [snap.value.num_running_reqs for snap in reader.read_all()] == [1, 2, 3]
        for writer in writers:
            writer.close()


@pytest.mark.usefixtures("ring_dir")
def test_a_closed_owner_hands_over_to_a_standby() -> None:
    """A second reader in the owning role stands by; when the first closes, ranks reach it without a restart."""
    first = open_reader(FORCED, Role.TOKENIZER_MANAGER, "ring")
    with open_reader(FORCED, Role.TOKENIZER_MANAGER, "ring") as second, open_writer(FORCED, "ring", 0) as writer:
        assert isinstance(first, OwningReader)
        assert isinstance(second, OwningReader)
        eventually(lambda: first.relay.is_owner)
        assert not second.relay.is_owner

        first.close()
        eventually(lambda: second.relay.is_owner)
        writer.publish(LoadSnapshot(num_running_reqs=5))

        eventually(lambda: (snap := second.read(0)) is not None and snap.value.num_running_reqs == 5)
