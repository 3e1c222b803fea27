import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import snapring
from conftest import Spawn
from pseudo_terminal import COMMAND, PseudoTerminal
from snapring import SystemRefused
from snapring.simulate.cluster import Cluster
from snapring.simulate.network import Network
from support import eventually, stop

DEMO = (
    "import sys; from snapring.cli import main; sys.exit(main(['demo', '--nodes', '3', '--ranks', '6', *sys.argv[1:]]))"
)
NO_IP = {"PATH": str(Path(COMMAND[0]).parent)}  # where no command of the system is found


@pytest.fixture(scope="module")
def namespaces() -> None:
    """Skip where hosts cannot be made."""
    try:
        Network(2).close()
    except SystemRefused as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def temporary(ring_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for all temporary files of the demo and its children."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def demo(*arguments: str, environment: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """A headless demo of six ranks on three nodes."""
    command = [*COMMAND, "demo", "--nodes", "3", "--ranks", "6", "--headless", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=240,
        check=False,
        env=os.environ | (environment or {}),
    )


def session(leader: int) -> list[int]:
    """Processes of a session that live."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == leader and fields[0] not in {"Z", "X"}:
                found.append(int(folder.name))
    return found


def networks(pids: list[int]) -> list[str]:
    """The network namespace of each of these processes."""
    return [str(Path(f"/proc/{pid}/ns/net").readlink()) for pid in pids]


def started(spawn: Spawn, *arguments: str) -> "subprocess.Popen[str]":
    """A demo whose ranks are all there."""
    child = spawn(DEMO, "--headless", "--json", *arguments)
    with snapring.Reader("demo") as reader:
        eventually(lambda: len(reader.view().ok) == 6 and reader.view().ok.all(), deadline=120)
    return child


@pytest.mark.usefixtures("namespaces")
def test_nodes_have_a_network_each(ring_dir: Path, temporary: Path, spawn: Spawn) -> None:
    """Every node is a host of its own, all ranks answer requests, figures per node add up, and nothing is left."""
    child = started(spawn, "--rate", "40", "--seconds", "600")
    here = str(Path("/proc/self/ns/net").readlink())
    others = {net for net in networks(session(child.pid)) if net != here}
    with snapring.Reader("demo", schema=None) as reader:
        nodes = [snap["node"] for snap in reader.read_all()]
        eventually(lambda: all(snap["total_received_reqs"] > 1 for snap in reader.read_all()))

    child.terminate()
    report = json.loads(child.communicate(timeout=60)[0])

    assert len(others) == 4  # three hosts and the switch
    assert nodes == [0, 0, 1, 1, 2, 2]
    assert report["why_loopback"] is None
    assert [(node["node"], node["address"], node["ranks"]) for node in report["nodes"]] == [
        (0, "10.77.0.1", [0, 1]),
        (1, "10.77.0.2", [2, 3]),
        (2, "10.77.0.3", [4, 5]),
    ]
    assert sum(node["requests"] for node in report["nodes"]) == report["requests_done"]
    assert sum(node["publishes"] for node in report["nodes"]) == report["publishes"] > 0
    assert session(child.pid) == []
    assert [*ring_dir.iterdir(), *temporary.iterdir()] == []


@pytest.mark.usefixtures("namespaces", "ring_dir")
def test_users_without_rights_get_hosts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root makes the hosts in a user namespace; ranks there find the ring's folder and their keys."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with Cluster("demo", 2, nodes=2) as cluster, cluster.reader() as reader:
        cluster.start(0)
        cluster.start(1)
        eventually(lambda: cluster.poll(0.1) is not None and all(map(cluster.is_ready, range(2))), deadline=120)
        assert [snap.value.node for snap in reader.read_all()] == [0, 1]
        users = {Path(f"/proc/{cluster.pid(rank)}/ns/user").readlink() for rank in range(2)}

    assert len(users) == 1
    assert Path("/proc/self/ns/user").readlink() not in users


def test_hosts_have_the_folder_of_their_maker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster settles where its ring is before it enters a namespace in which its user has another number."""
    monkeypatch.delenv("SNAPRING_DIR")

    assert Cluster("demo", 2, nodes=2).directory == f"/dev/shm/snapring-{os.geteuid()}"


def test_without_namespaces_nodes_talk_over_loopback(ring_dir: Path, temporary: Path) -> None:
    """Where the tools or rights are missing, the demo says why, and does the same over the loopback interface."""
    done = demo("--seconds", "2", "--rate", "20", environment=NO_IP)
    as_json = demo("--seconds", "2", "--rate", "20", "--json", environment=NO_IP)

    assert (done.returncode, done.stderr) == (0, "")
    assert "6 ranks on 3 nodes over loopback" in done.stdout
    assert "loopback: " in done.stdout
    assert "iproute2" in done.stdout
    assert re.search(r"\n +2 +127\.0\.0\.1 +2 ", done.stdout)
    report = json.loads(as_json.stdout)
    assert "iproute2" in report["why_loopback"]
    assert all(rank["publishes"] > 0 for rank in report["ranks"])
    assert [*ring_dir.iterdir(), *temporary.iterdir()] == []


def test_a_killed_rank_of_another_node(ring_dir: Path) -> None:
    """A key kills a rank of another node, which turns DEAD, and another brings it back; the table names the nodes."""
    with (
        PseudoTerminal("demo", "--nodes", "3", "--ranks", "3", "--rate", "12") as screen,
        snapring.Reader("demo") as reader,
    ):
        screen.expect(r"rank +node +state")
        screen.expect(r"2 +2 +LIVE")
        before = reader.read(2)
        screen.press("2k")
        screen.expect(r"2 +2 +(\x1b\[[0-9;]*m)*DEAD")
        last = reader.read(2)
        screen.press("r")
        screen.expect(r"rank 2 is back")
        screen.expect(r"2 +2 +LIVE")
        back = reader.read(2)
        screen.press("q")
        code = screen.wait()

    assert (code, last.epoch) == (0, before.epoch)
    assert back.epoch > before.epoch
    assert back.version > last.version
    assert list(ring_dir.iterdir()) == []


def test_nothing_outlives_a_killed_demo(ring_dir: Path, temporary: Path, spawn: Spawn) -> None:
    """When the demo itself is killed, ranks, relay and hosts end by themselves, and remove ring, keys and lock."""
    child = started(spawn)
    pids = session(child.pid)
    stop(next(pid for pid in pids if b"relay_process" in Path(f"/proc/{pid}/cmdline").read_bytes()))

    child.kill()
    child.wait()

    assert len(pids) >= 8
    eventually(lambda: session(child.pid) == [])
    assert [*ring_dir.iterdir(), *temporary.iterdir()] == []


def test_the_end_of_the_relay_ends_the_demo(ring_dir: Path, temporary: Path, spawn: Spawn) -> None:
    """Without its relay a demo cannot go on: it says so, and leaves nothing but the relay's lock."""
    child = started(spawn)
    relay = next(pid for pid in session(child.pid) if b"relay_process" in Path(f"/proc/{pid}/cmdline").read_bytes())

    os.kill(relay, signal.SIGKILL)

    assert child.wait(timeout=60) == 1
    assert session(child.pid) == []
    assert [path.name for path in ring_dir.iterdir()] == ["demo.owner"]
    assert list(temporary.iterdir()) == []


def test_a_relay_in_use_is_left_alone(ring_dir: Path) -> None:
    """A demo refuses the name of a ring that another server has a relay for, and takes nothing from it."""
    with snapring.Relay("demo", ranks=6) as relay:
        done = demo("--seconds", "1")

        assert done.returncode == 1
        assert done.stderr == "snapring: ring 'demo' is in use by another server; choose another name\n"
        assert relay.is_owner
        assert (ring_dir / "demo.owner").exists()


@pytest.mark.parametrize("nodes", ["0", "7", "x"])
def test_nodes_that_cannot_be(ring_dir: Path, nodes: str) -> None:
    """There is at least one node, and at least one rank for each."""
    command = [*COMMAND, "demo", "--ranks", "6", "--nodes", nodes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert nodes in done.stderr
