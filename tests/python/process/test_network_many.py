import os
import time
from pathlib import Path

import pytest

import snapring
from network import Child, network
from network_children import Mark
from snapring._core import make_keys
from support import eventually

SENDERS = int(os.environ.get("SNAPRING_SENDERS", "120"))
A_PROCESS = 40  # senders; each has a socket and three threads of its own
ENDPOINT = "tcp://10.77.0.1:7700"


@pytest.mark.usefixtures("ring_dir")
@pytest.mark.timeout(300 + SENDERS)
def test_all_come_back_at_once_after_the_owner(tmp_path: Path) -> None:
    """When the only relay dies and another is started, every sender finds it, and all ranks are fresh again."""
    server_key, client = (make_keys(tmp_path / name) for name in ("relay", "node"))
    options = {"name": "net", "endpoint": ENDPOINT, "ranks": SENDERS}
    with network(3) as hosts, snapring.Reader("net", schema=Mark) as reader:

        def start_relay() -> Child:
            relay = hosts[0].start("relay", key=str(tmp_path / "relay"), clients=[client], **options)
            eventually(lambda: relay.ask()["endpoint"])
            return relay

        def wait_fresh() -> float:
            start_ns = time.monotonic_ns()
            eventually(
                lambda: (
                    (seen := reader.read_all())
                    and len(seen) == SENDERS
                    and min(snap.value.at_ns for snap in seen) > start_ns
                ),
                deadline=60 + SENDERS,
            )
            return (time.monotonic_ns() - start_ns) / 1e9

        owner = start_relay()
        for number, first in enumerate(range(0, SENDERS, A_PROCESS)):
            hosts[1 + number % 2].start(
                "senders",
                endpoint=ENDPOINT,
                first=first,
                count=min(A_PROCESS, SENDERS - first),
                ranks=SENDERS,
                every_s=0.5,
                key=str(tmp_path / "node"),
                server_key=server_key,
            )
        wait_fresh()
        before = {snap.rank: snap for snap in reader.read_all()}

        owner.end()
        start_s = time.monotonic()
        owner = start_relay()
        fresh_s = wait_fresh()
        after = owner.ask()

        print(
            f"{SENDERS}: relay up after {time.monotonic() - start_s - fresh_s:.2f} s, all fresh {fresh_s:.2f} s "
            f"later; its CPU {after['cpu_s']:.2f} s, {after['resident'] >> 20} MiB"
        )
        snaps = reader.read_all()
        assert all(snap.epoch > before[snap.rank].epoch for snap in snaps)
        assert all(snap.version > before[snap.rank].version for snap in snaps)
        assert (after["stats"]["failed"], after["stats"]["too_many_peers"]) == (0, 0)
