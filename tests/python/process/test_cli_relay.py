"""``snapring keys`` and ``snapring relay``, as a launcher starts them."""

import json
import os
import signal
import socket
import stat
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import snapring
from command import COMMAND, start
from command import snapring as command
from snapring import LoadSnapshot, _core
from snapring.rendezvous import LocalGroup, register
from support import eventually

KEY_LENGTH = 40
ANY_PORT = "tcp://127.0.0.1:0"


def event(child: "subprocess.Popen[str]") -> dict[str, Any]:
    """The next line of a command with ``--json``."""
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, child.stderr.read() if child.stderr is not None else ""
    found: dict[str, Any] = json.loads(line)
    return found


def made(path: Path) -> str:
    """A new key file's path."""
    _core.make_keys(path)
    return str(path)


def running(name: str) -> dict[int, int]:
    """What the ring says of each rank."""
    with snapring.Reader(name) as reader:
        return {snap.rank: snap.value.num_running_reqs for snap in reader.read_all()}


def test_keys_are_made_once(tmp_path: Path) -> None:
    """The secret stays in a file of mode 0600; what is printed is the public half, and nothing is overwritten."""
    path = tmp_path / "rank.key"

    first = command("keys", str(path))
    content = path.read_text()
    shown = command("keys", str(path), "--show", "--json")
    again = command("keys", str(path))

    public = first.stdout.strip()
    assert (first.returncode, len(public), public in (tmp_path / "rank.pub").read_text()) == (0, KEY_LENGTH, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(shown.stdout) == {"path": str(path), "public_key": public}
    assert (again.returncode, again.stdout, path.read_text()) == (1, "", content)
    assert "never overwritten" in again.stderr
    secret = next(line.split('"')[1] for line in content.splitlines() if line.startswith("secret"))
    assert secret not in first.stdout + first.stderr + shown.stdout + again.stderr


def test_a_relay_until_sigterm(ring_dir: Path) -> None:
    """It says where it listens, writes what ranks send, and leaves neither socket nor ring behind."""
    with start("relay", "far", "--ranks", "2", "--json") as relay:
        owner = event(relay)
        with snapring.RemoteWriter(owner["endpoint"], rank=1, ranks=2) as writer:
            writer.publish(LoadSnapshot(num_running_reqs=7))
            eventually(lambda: running("far") == {1: 7})

        relay.send_signal(signal.SIGTERM)

        assert relay.wait(timeout=60) == 0
        assert relay.stderr is not None
        assert relay.stderr.read() == ""
    assert (owner["event"], owner["name"], owner["server_key"]) == ("owner", "far", None)
    assert owner["endpoint"] == f"ipc://{ring_dir}/far.sock"
    assert {path.suffix for path in ring_dir.iterdir()} <= {".owner", ".lock"}


@pytest.mark.usefixtures("ring_dir")
def test_a_standby_takes_over_and_says_so() -> None:
    """A second relay stands by; once the first is killed it owns the ring, one term later, and counts what comes."""
    words = ("relay", "far", "--ranks", "1", "--json", "--stats", "100ms")
    with start("relay", "far", "--ranks", "1", "--json") as first, ExitStack() as stack:
        owner = event(first)
        second = stack.enter_context(start(*words))
        standby = event(second)
        writer = stack.enter_context(snapring.RemoteWriter(owner["endpoint"], rank=0, ranks=1))

        first.kill()
        found = [event(second)]
        while found[-1]["event"] != "owner":
            found.append(event(second))
        writer.publish(LoadSnapshot(num_running_reqs=3))
        eventually(lambda: running("far") == {0: 3})
        eventually(lambda: event(second).get("published", 0) >= 1)

    assert (standby["event"], standby["endpoint"]) == ("standby", None)
    assert (found[-1]["endpoint"], found[-1]["term"]) == (owner["endpoint"], owner["term"] + 1)
    assert all(each["event"] in {"stats", "owner"} for each in found)


@pytest.mark.usefixtures("ring_dir")
def test_one_command_on_three_nodes(tmp_path: Path) -> None:
    """With a store all nodes learn the free port and the key, theirs are let in, and a successor keeps the port."""
    keys = [made(tmp_path / f"node{node}.key") for node in range(3)]
    store = ("--store", f"local:{tmp_path / 'store'}", "--job", "launch-1", "--nodes", "3", "--json")

    def node(rank: int) -> tuple[str, ...]:
        return (
            *("relay", "far", "--ranks", "3", "--listen", "tcp://localhost:0", "--key", keys[rank]),
            *("--node-rank", str(rank), *store),
        )

    with ExitStack() as stack:
        nodes = [stack.enter_context(start(*node(rank))) for rank in range(3)]
        owner = event(nodes[0])
        met = [event(child) for child in nodes]
        writers = [
            stack.enter_context(
                snapring.RemoteWriter(
                    met[rank]["endpoint"],
                    rank=rank,
                    ranks=3,
                    job="launch-1",
                    key=keys[rank],
                    server_key=met[rank]["server_key"],
                )
            )
            for rank in (1, 2)
        ]
        for value, writer in enumerate(writers):
            writer.publish(LoadSnapshot(num_running_reqs=10 + value))
        eventually(lambda: running("far") == {1: 10, 2: 11})

        successor = stack.enter_context(start(*node(0)))
        standby = event(successor)
        nodes[0].kill()
        second = event(successor)
        for value, writer in enumerate(writers):
            writer.publish(LoadSnapshot(num_running_reqs=20 + value))
        eventually(lambda: running("far") == {1: 20, 2: 21})
        for child in (successor, *nodes[1:]):
            child.send_signal(signal.SIGTERM)
            assert child.wait(timeout=60) == 0

    assert [each["event"] for each in (owner, *met, standby, second)] == ["owner", *["met"] * 3, "standby", "owner"]
    assert owner["server_key"] == _core.public_key(keys[0])
    assert second["endpoint"] == owner["endpoint"]
    port = owner["endpoint"].rpartition(":")[2]
    assert {each["endpoint"] for each in met} == {f"tcp://localhost:{port}"}, "the host as given"


def test_a_restart_keeps_the_port(ring_dir: Path, tmp_path: Path) -> None:
    """A relay that was killed comes back on the port that the nodes know, though a new container's memory is empty."""
    words = ("relay", "far", "--ranks", "1", "--listen", ANY_PORT, "--insecure", "--json")
    store = ("--store", f"local:{tmp_path / 'store'}", "--job", "launch-1")
    with start(*words, *store) as relay:
        first = [event(relay), event(relay)]
        relay.kill()
        relay.wait()
    for path in ring_dir.iterdir():
        path.unlink()

    with start(*words, *store) as relay:
        second = [event(relay), event(relay)]

    assert [each["event"] for each in second] == ["owner", "met"]
    assert [each["endpoint"] for each in second] == [each["endpoint"] for each in first]


@pytest.mark.usefixtures("ring_dir")
def test_a_restart_whose_port_was_taken(tmp_path: Path) -> None:
    """Where somebody else has the port by now the relay says so, takes another, and the nodes meet there."""
    words = ("relay", "far", "--ranks", "1", "--listen", ANY_PORT, "--insecure", "--json")
    store = ("--store", f"local:{tmp_path / 'store'}", "--job", "launch-1")
    with start(*words, *store) as relay:
        before = event(relay)["endpoint"]
        event(relay)
        relay.kill()
        relay.wait()

    with socket.create_server(("127.0.0.1", int(before.rpartition(":")[2]))), start(*words, *store) as relay:
        owner, met = event(relay), event(relay)
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(timeout=60) == 0
        said = relay.stderr.read() if relay.stderr is not None else ""

    assert (owner["event"], met["event"]) == ("owner", "met")
    assert met["endpoint"] == owner["endpoint"] != before
    assert f"{before}, which the nodes know, is taken" in said


@pytest.mark.usefixtures("ring_dir")
def test_a_store_that_is_refused_for_a_while(tmp_path: Path) -> None:
    """A running relay outlives a store whose mode somebody changes: it says so, asks again, and ends in order."""
    place = tmp_path / "store"
    words = ("relay", "far", "--ranks", "1", "--listen", ANY_PORT, "--key", made(tmp_path / "relay.key"), "--json")
    with start(*words, "--store", f"local:{place}", "--job", "launch-1") as relay:
        owner = event(relay)
        event(relay)
        assert relay.stderr is not None

        place.chmod(0o750)
        assert "mode 750" in relay.stderr.readline()
        place.chmod(0o700)

        key = made(tmp_path / "rank.key")
        with (
            register({"public_key": _core.public_key(key)}, LocalGroup(place, 0, 1, job="launch-1")),
            snapring.RemoteWriter(
                owner["endpoint"], 0, 1, job="launch-1", key=key, server_key=owner["server_key"]
            ) as writer,
        ):
            writer.publish(LoadSnapshot(num_running_reqs=5))
            eventually(lambda: running("far") == {0: 5})
        place.chmod(0o750)
        relay.send_signal(signal.SIGTERM)
        assert relay.wait(timeout=60) == 0
        assert "stays in the store" in relay.stderr.read()


@pytest.mark.usefixtures("ring_dir")
def test_what_was_ignored_stays_so() -> None:
    """Under nohup a relay goes on after its terminal hung up, and SIGTERM still ends it."""
    words = ("relay", "far", "--ranks", "1", "--json", "--stats", "50ms")
    shell = ["sh", "-c", 'trap "" HUP; exec "$0" "$@"', *COMMAND, *words]
    with subprocess.Popen(shell, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as relay:
        try:
            event(relay)
            event(relay)

            relay.send_signal(signal.SIGHUP)

            assert {event(relay)["event"] for _ in range(3)} == {"stats"}
            relay.send_signal(signal.SIGTERM)
            assert relay.wait(timeout=60) == 0
        finally:
            relay.kill()


@pytest.mark.usefixtures("ring_dir")
def test_a_start_can_be_ended(tmp_path: Path) -> None:
    """While nodes are awaited a signal ends the relay in order, and a short timeout names who is missing."""
    words = ("relay", "far", "--ranks", "1", "--listen", ANY_PORT, "--insecure", "--json")
    store = ("--store", f"local:{tmp_path / 'store'}", "--job", "launch-1", "--nodes", "2")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with start(*words, *store) as relay:
            event(relay)
            relay.send_signal(number)
            assert relay.wait(timeout=60) == 0, "as when it has met"

    done = command(*words, *store, "--timeout", "300ms")

    assert done.returncode == 1
    assert "rank 1 did not answer" in done.stderr
    assert not list(Path(os.environ["SNAPRING_DIR"]).glob("*.ring"))


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--listen", ANY_PORT), 2, "snapring keys"),
        (("--listen", "udp://127.0.0.1:1"), 2, "no endpoint"),
        (("--nodes", "2"), 2, "--store"),
        (("--listen", ANY_PORT, "--key", "relay.key"), 2, "admits nobody"),
        (("--store", "redis:x", "--job", "j"), 2, "local:DIRECTORY"),
        (("--store", "local:/x"), 2, "--store needs --job"),
        (("--store", "local:/x", "--job", "j", "--nodes", "2", "--node-rank", "2"), 2, "not in 0..1"),
        (("--listen", "tcp://0.0.0.0:0", "--insecure", "--store", "local:STORE", "--job", "j"), 2, "--advertise"),
        (("--advertise", "10.0.0.1"), 2, "--advertise needs --store"),
        (("--timeout", "300s"), 2, "--timeout needs --store"),
        (("--store-ca", "ca.pem"), 2, "--store-ca needs --store"),
        (("--store", "local:/x", "--job", "j", "--store-user", "u"), 2, "--store-user needs --store etcd:URL"),
        (("--store", "etcd:http://x:1", "--job", "j", "--store-password-file", "p"), 2, "needs --store-user"),
        (("--store", "etcd:http://x:1", "--job", "j", "--store-ca", "ca.pem"), 2, "https:"),
        (("--store", "etcd:https://x:1", "--job", "j", "--store-ca", "/none.pem"), 2, "/none.pem cannot be used"),
        (("--no-standby", "--kill-hung", "5s"), 2, "not allowed with"),
        (("--kill-hung", "10ms"), 2, "1 up"),
        (("--stats", "0"), 2, "no interval"),
    ],
)
@pytest.mark.usefixtures("ring_dir")
def test_what_is_refused(words: tuple[str, ...], code: int, text: str, tmp_path: Path) -> None:
    """What cannot be meant ends before anything is opened, with the fix."""
    done = command("relay", "far", "--ranks", "1", *(word.replace("STORE", str(tmp_path / "s")) for word in words))

    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr


@pytest.mark.usefixtures("ring_dir")
def test_no_standby() -> None:
    """With --no-standby a second relay ends at once and names the owner."""
    with start("relay", "far", "--ranks", "1", "--json") as first:
        event(first)

        done = command("relay", "far", "--ranks", "1", "--no-standby")

    assert done.returncode == 1
    assert f"pid {first.pid}" in done.stderr


@pytest.mark.usefixtures("ring_dir")
def test_remote_ranks_are_told_from_local_ones() -> None:
    """Get, top and ls show which ranks come by a relay, and whose; where there is none they say nothing of it."""
    with snapring.Writer("far", rank=0, ranks=3) as local:
        local.publish(LoadSnapshot())
        before = [command(verb, *words).stdout for verb, *words in (("get", "far"), ("top", "far"), ("ls",))]
        with (
            snapring.Relay("far", ranks=3) as relay,
            snapring.RemoteWriter(relay.endpoint or "", rank=2, ranks=3) as writer,
        ):
            writer.publish(LoadSnapshot())
            eventually(lambda: 2 in running("far"))
            get = json.loads(command("get", "far", "--json").stdout)["ranks"]
            top = json.loads(command("top", "far", "--json").stdout)["ranks"]
            (ring,) = json.loads(command("ls", "--json").stdout)
            after = [command(verb, *words).stdout for verb, *words in (("get", "far"), ("top", "far"), ("ls",))]

    assert [each["remote"] for each in get] == [each["remote"] for each in top] == [False, None, True]
    assert ring["relay"] == os.getpid()
    assert not any("via" in text or "relay" in text for text in before)
    assert all("relay" in text for text in after)
