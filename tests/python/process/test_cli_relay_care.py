"""What ``snapring doctor`` says of relays, and what ``snapring gc`` leaves alone."""

import errno
import json
import os
import resource
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import snapring
from command import snapring as command
from snapring.cli.relay_checks import check_descriptors, check_owner
from snapring.cli.relays import Owner, dead_sockets, owners, remove_socket
from support import eventually

Spawn = Callable[..., "subprocess.Popen[str]"]

OWN = """
import resource, sys, snapring
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
relay = snapring.Relay("far", ranks=int(sys.argv[1]))
print(relay.term, flush=True)
sys.stdin.read()
"""


def owning(spawn: Spawn, ranks: int = 1, files: int = 1024) -> "subprocess.Popen[str]":
    """A process that owns the relay of ring ``far``."""
    child = spawn(OWN, str(ranks), str(files))
    assert child.stdout is not None
    assert child.stdout.readline().strip().isdigit()
    return child


def killed(child: "subprocess.Popen[str]") -> None:
    """Ends the process as a crash would."""
    child.kill()
    child.wait()


def relays() -> list[dict[str, Any]]:
    """What doctor finds of relays."""
    found = json.loads(command("doctor", "--json").stdout)
    return [finding for finding in found if finding["check"] == "relays"]


def gc(*arguments: str) -> dict[str, str]:
    """What gc does with each file."""
    done = command("gc", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {each["name"]: each["action"] for each in json.loads(done.stdout)}


def test_gc_leaves_a_living_relay_alone(ring_dir: Path, spawn: Spawn) -> None:
    """Socket and locks of an owner stay, though its ring goes that nobody claims; ranks still get in afterwards."""
    owning(spawn)
    endpoint = f"ipc://{ring_dir}/far.sock"
    before = {path.name for path in ring_dir.iterdir()} - {"far.ring", "far.bell"}

    gc("--yes", "--force", "--older-than", "0")

    assert {path.name for path in ring_dir.iterdir()} >= before
    assert not remove_socket(ring_dir / "far.sock")
    with snapring.RemoteWriter(endpoint, rank=0, ranks=1) as writer, snapring.Reader("far") as reader:
        writer.publish(snapring.LoadSnapshot(num_running_reqs=5))
        eventually(lambda: reader.read_all() != [])


def test_gc_removes_the_socket_of_a_killed_relay(ring_dir: Path, spawn: Spawn) -> None:
    """A socket where nobody listens goes with --yes; the files of the locks stay for ever."""
    killed(owning(spawn))
    locks = sorted(path.name for path in ring_dir.iterdir() if path.suffix in {".owner", ".lock"})

    assert gc()["far.sock"] == "remove"
    assert gc("--yes", "--older-than", "1h").get("far.sock") is None
    assert gc("--yes")["far.sock"] == "removed"

    assert sorted(path.name for path in ring_dir.iterdir() if path.suffix in {".owner", ".lock"}) == locks
    assert locks == ["far.owner", "far.sock.lock"]
    assert dead_sockets(ring_dir) == []


def test_gc_touches_no_planted_socket(ring_dir: Path, tmp_path: Path) -> None:
    """A link with a socket's name is not followed, and not removed."""
    (ring_dir / "far.sock").symlink_to(tmp_path)

    assert gc("--yes", "--force") == {}
    assert (ring_dir / "far.sock").is_symlink()


def test_doctor_names_the_owner(ring_dir: Path, spawn: Spawn) -> None:
    """Doctor says which process owns the relay, since when and in which term, and after its death that nobody does."""
    child = owning(spawn)

    (living,) = relays()
    killed(child)
    nobody, socket = relays()

    assert (living["level"], living["fix"]) == ("ok", "")
    assert living["text"].startswith(f"far: owned by pid {child.pid}, up ")
    assert living["text"].endswith("term 1, at work")
    assert (nobody["level"], nobody["text"]) == ("ok", f"far: no owner now; the last was pid {child.pid}, term 1")
    assert (socket["level"], socket["fix"]) == ("warn", "snapring gc --yes")
    assert "far.sock" in socket["text"]


def test_doctor_counts_descriptors(ring_dir: Path, spawn: Spawn) -> None:
    """An owner that may open fewer files than its ranks need is a warning with the command."""
    owning(spawn, ranks=500, files=200)

    (_, few) = relays()

    assert (few["level"], few["fix"]) == ("warn", "ulimit -n 628, before the owner starts")
    assert "may open 200 files, and 500 ranks" in few["text"]


@pytest.mark.usefixtures("ring_dir")
def test_doctor_without_relays() -> None:
    """Where no relay ever was there is nothing to say."""
    assert relays() == []


def test_an_owner_that_hangs() -> None:
    """An owner that holds the lock and has not worked is told with the fix; elsewhere clocks may differ."""
    hung = Owner(ring="far", held=True, pid=77, here=True, term=3, up=60.0, silent=9.0)
    elsewhere = Owner(ring="far", held=True, pid=77, here=False, term=3, up=60.0, silent=9.0)

    assert (check_owner(hung).level, "kill -CONT 77" in check_owner(hung).fix) == ("warn", True)
    assert check_owner(elsewhere).level == "ok"


def test_notes_that_are_none(ring_dir: Path) -> None:
    """Empty, short and foreign files, links and FIFOs with an owner's name are no owners, and hang nobody."""
    (ring_dir / "empty.owner").touch()
    (ring_dir / "other.owner").write_bytes(b"x" * 100)
    (ring_dir / "link.owner").symlink_to("/etc/hostname")
    os.mkfifo(ring_dir / "pipe.owner")

    assert owners(ring_dir) == []


def test_ages_of_an_owner(ring_dir: Path) -> None:
    """How long the owner is up and silent is measured on this host's clocks."""
    before = time.monotonic()
    with snapring.Relay("far", ranks=1):
        (owner,) = owners(ring_dir)

        assert (owner.ring, owner.held, owner.pid, owner.here, owner.term) == ("far", True, os.getpid(), True, 1)
        assert 0 <= owner.silent <= time.monotonic() - before
        assert owner.up > 0
    assert not owners(ring_dir)[0].held


def test_a_socket_that_goes_meanwhile(ring_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that somebody else removes first is an error of the file and no other."""
    path = ring_dir / "far.sock"
    (ring_dir / "far.sock.lock").touch(mode=0o600)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))

    def gone(_: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    monkeypatch.setattr(Path, "unlink", gone)

    with pytest.raises(FileNotFoundError):
        remove_socket(path)


def test_limits_of_another_pid_namespace() -> None:
    """The limits of an owner whose pid means nothing here are not judged; those of one that is here are."""
    here = Owner(ring="far", held=True, pid=os.getpid(), here=True, term=1, up=60.0, silent=0.0)
    elsewhere = Owner(ring="far", held=True, pid=1, here=False, term=1, up=60.0, silent=0.0)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    assert [finding.level for finding in check_descriptors(here, soft)] == ["warn"]
    assert list(check_descriptors(elsewhere, soft)) == []
