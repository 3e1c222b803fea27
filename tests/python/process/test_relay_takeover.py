"""SIGKILL of the relay's owner: a standby goes on, once, and no rank is lost.

``SNAPRING_TAKEOVERS=1000 pytest -s`` kills more of them, and prints how long their ranks had to wait.
"""

import json
import os
from pathlib import Path

import pytest

import snapring
from contract.model import Spawn, line
from etcd_server import free_ports
from relays import RELAYS

ROUNDS = int(os.environ.get("SNAPRING_TAKEOVERS", "15"))
RANKS = 3

# The parent kills the owner, and waits for the first snapshots in the ring that were published after the kill.
KILLS = (
    RELAYS
    + """
rounds, ranks, endpoint = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
options = {"insecure": True} if endpoint.startswith("tcp") else {}
reader = snapring.Reader("main", schema=bytes)
relays = [Child(relay, endpoint, ranks, options) for _ in range(4)]
writer = Child(writers, endpoint, ranks)
until(lambda: all(newest(reader, rank)[0] for rank in range(ranks)))
first, every, terms, epochs = [], [], [], []
for round in range(rounds + 1):
    states = [one.ask("state") for one in relays]
    owners = [index for index, (owns, _) in enumerate(states) if owns]
    if len(owners) != 1:
        raise SystemExit(f"round {round}: {states}")
    terms.append(states[owners[0]][1])
    epochs.append([reader.read(rank).epoch for rank in range(ranks)])
    if round == rounds:
        break
    before = [reader.read(rank) for rank in range(ranks)]
    killed_ns = time.monotonic_ns()
    relays[owners[0]].send(signal.SIGKILL)
    until(lambda: any(newest(reader, rank)[1] > killed_ns for rank in range(ranks)))
    first.append((time.monotonic_ns() - killed_ns) / 1e6)
    until(lambda: all(newest(reader, rank)[1] > killed_ns for rank in range(ranks)))
    every.append((time.monotonic_ns() - killed_ns) / 1e6)
    for rank in range(ranks):
        if reader.read(rank).version <= before[rank].version:
            raise SystemExit(f"round {round}: versions of rank {rank} went back")
        check_history(reader, rank)
    relays[owners[0]].end()
    relays[owners[0]] = Child(relay, endpoint, ranks, options)
    relays[owners[0]].ask("state")
    until(lambda: any(one.ask("state")[0] for one in relays))
states = [int(reader.check(rank)) for rank in range(ranks)]
end_all()
print(json.dumps({"first": first, "every": every, "terms": terms, "epochs": epochs, "states": states}))
"""
)


def quantile(values: list[float], share: float) -> float:
    """The value that ``share`` of all are not above."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
@pytest.mark.timeout(300 + ROUNDS)
def test_a_killed_owner_is_replaced(ring_dir: Path, spawn: Spawn, transport: str) -> None:
    """After each kill exactly one of three standbys owns, under the next term, and every rank's publishes go on.

    Versions only grow, a rank's publishes stay in order, and each owner writes under an epoch of its own.
    """
    endpoint = f"ipc://{ring_dir}/main.sock" if transport == "ipc" else f"tcp://127.0.0.1:{free_ports(1)[0]}"

    found = json.loads(line(spawn(KILLS, str(ROUNDS), str(RANKS), endpoint)))

    for name in ("first", "every"):
        times = found[name]
        print(
            f"{transport}, {name} rank fresh: p50 {quantile(times, 0.5):.1f} ms, p99 {quantile(times, 0.99):.1f} ms, "
            f"max {max(times):.1f} ms over {ROUNDS} kills"
        )
    assert found["terms"] == list(range(1, ROUNDS + 2))
    assert found["states"] == [snapring.State.LIVE] * RANKS
    for rank in range(RANKS):
        epochs = [row[rank] for row in found["epochs"]]
        assert epochs == list(range(epochs[0], epochs[0] + ROUNDS + 1))
