"""One owner per ring and per socket: busy sockets and ports, what a killed owner leaves behind, forks of an owner."""

import json
import os
import socket
from pathlib import Path

import pytest

import snapring
from contract.model import Spawn, line
from etcd_server import free_ports
from relays import RELAYS
from support import eventually

OWNER = """
import sys
import snapring
relay = snapring.Relay("main", ranks=1)
print(relay.endpoint, flush=True)
sys.stdin.read()
"""


def test_one_socket_serves_one_ring(ring_dir: Path, spawn: Spawn) -> None:
    """A relay of another ring gets OwnerBusy that names the socket and its holder, and the socket stays as it was."""
    owner = spawn(OWNER)
    endpoint = line(owner)
    path = Path(endpoint.removeprefix("ipc://"))
    before = path.stat().st_ino

    for standby in (True, False):
        with pytest.raises(snapring.OwnerBusy, match=f"{path}.*pid {owner.pid}"):
            snapring.Relay("other", endpoint, ranks=1, standby=standby)

    assert path.stat().st_ino == before
    with snapring.RemoteWriter(endpoint, rank=0, ranks=1) as writer, snapring.Reader("main") as reader:
        writer.publish(snapring.LoadSnapshot(num_running_reqs=1))
        eventually(lambda: reader.read(0))


def test_a_left_over_socket_is_used_again(ring_dir: Path, spawn: Spawn) -> None:
    """The socket of an owner that was killed stands in nobody's way, be it of the same ring or of another one."""
    for name in ("main", "other"):
        owner = spawn(OWNER)
        endpoint = line(owner)
        owner.kill()
        owner.wait()
        assert Path(endpoint.removeprefix("ipc://")).is_socket()

        with snapring.Relay(name, endpoint, ranks=1, standby=False) as relay:
            assert relay.is_owner
            with snapring.RemoteWriter(endpoint, rank=0, ranks=1) as writer, snapring.Reader(name) as reader:
                writer.publish(snapring.LoadSnapshot(num_running_reqs=1))
                eventually(lambda: reader.check(0) is snapring.State.LIVE)


@pytest.mark.usefixtures("ring_dir")
def test_a_port_in_use_is_named() -> None:
    """Another program's port gives SystemRefused with the address, and lets go of the lock that was taken for it."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        endpoint = f"tcp://127.0.0.1:{stranger.getsockname()[1]}"

        with pytest.raises(snapring.SystemRefused, match=endpoint):
            snapring.Relay("main", endpoint, ranks=1, insecure=True)

    with snapring.Relay("main", endpoint, ranks=1, insecure=True, standby=False) as relay:
        assert relay.endpoint == endpoint


@pytest.mark.usefixtures("ring_dir")
def test_a_standby_waits_for_its_port() -> None:
    """A standby whose port another program has says so, keeps trying, and owns once the port is free."""
    first = snapring.Relay("main", ranks=1)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        endpoint = f"tcp://127.0.0.1:{stranger.getsockname()[1]}"
        standby = snapring.Relay("main", endpoint, ranks=1, insecure=True)

        first.close()

        eventually(lambda: standby.last_error)
        assert endpoint in (standby.last_error or "")
        assert not standby.is_owner
    eventually(lambda: standby.is_owner)
    assert standby.term == 2
    standby.close()


def give_away(path: Path) -> None:
    """Makes the path another user's."""
    if os.geteuid() != 0:
        pytest.skip("only root may give files to other users; run the tests as root")
    os.chown(path, 12345, 12345)


def test_a_foreign_socket_is_left_alone(ring_dir: Path) -> None:
    """What stands at the socket's path and is no socket of the own user is refused by name, and stays."""
    path = ring_dir / "main.sock"
    path.write_text("somebody's")
    with pytest.raises(snapring.RingUntrusted, match=str(path)):
        snapring.Relay("main", ranks=1)
    assert path.read_text() == "somebody's"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        give_away(path)

        with pytest.raises(snapring.RingUntrusted, match=str(path)):
            snapring.Relay("main", ranks=1)

        assert path.stat().st_uid == 12345


def test_a_foreign_directory_is_refused(ring_dir: Path) -> None:
    """Nobody listens where another user could replace the socket."""
    folder = ring_dir / "theirs"
    folder.mkdir(mode=0o700)
    give_away(folder)

    with pytest.raises(snapring.RingUntrusted, match=str(folder)):
        snapring.Relay("main", f"ipc://{folder}/main.sock", ranks=1)


def test_a_path_that_no_socket_can_have(ring_dir: Path) -> None:
    """A default endpoint in a deep directory is refused when it is made, with its length and the way out."""
    deep = ring_dir / ("d" * 90)
    deep.mkdir(mode=0o700)

    with pytest.raises(snapring.InvalidValue, match=r"107.*shorter directory"):
        snapring.Relay("main", ranks=1, directory=deep)

    assert list(deep.iterdir()) == []


# An owner that starts a process in the given way; that one must keep nothing of what the owner holds.
FORKING = (
    RELAYS
    + """
import multiprocessing, subprocess

def offspring(way):
    if way == "fork":
        pid = os.fork()
        if pid == 0:
            signal.pause()
        return pid
    if way == "multiprocessing":
        child = multiprocessing.get_context("fork").Process(target=signal.pause)
        child.start()
        return child.pid
    keep.append(subprocess.Popen(["sleep", "600"], close_fds=False))
    return keep[0].pid

def forking(*arguments):
    return relay(*arguments) | {"fork": offspring}

keep, way, endpoint, ranks = [], sys.argv[1], sys.argv[2], 2
reader = snapring.Reader("main", schema=bytes)
options = {"insecure": True} if endpoint.startswith("tcp") else {}
owner = Child(forking, endpoint, ranks, options)
owner.ask("state")
standby = Child(relay, endpoint, ranks, options)
writer = Child(writers, endpoint, ranks)
until(lambda: all(newest(reader, rank)[0] for rank in range(ranks)))
child = owner.ask("fork", way)
killed_ns = time.monotonic_ns()
owner.end()
until(lambda: all(newest(reader, rank)[1] > killed_ns for rank in range(ranks)))
passed_ms = (time.monotonic_ns() - killed_ns) / 1e6
state = standby.ask("state")
with open(f"/proc/{child}/stat") as stat:
    alive = stat.read().rpartition(")")[2].split()[0]
end_all()
os.kill(child, signal.SIGKILL)
print(json.dumps({"state": state, "alive": alive, "passed_ms": passed_ms}))
"""
)


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
@pytest.mark.parametrize("way", ["fork", "multiprocessing", "subprocess"])
def test_children_of_an_owner_keep_nothing(ring_dir: Path, spawn: Spawn, way: str, transport: str) -> None:
    """An owner that dies while a child of its own lives leaves lock, port and connections free for a standby."""
    endpoint = f"ipc://{ring_dir}/main.sock" if transport == "ipc" else f"tcp://127.0.0.1:{free_ports(1)[0]}"

    found = json.loads(line(spawn(FORKING, way, endpoint)))

    print(f"{way}, {transport}: ranks fresh {found['passed_ms']:.0f} ms after the kill")
    assert found["state"] == [True, 2]
    assert found["alive"] in {"S", "R"}
