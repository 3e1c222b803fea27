import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command import snapring as command
from snapring import LoadSnapshot, Reader, Writer, _core
from snapring.errors import RingNotFound, RingUntrusted
from support import stop

Spawn = Callable[..., "subprocess.Popen[str]"]

WRITE = """
import sys, snapring
writer = snapring.Writer(sys.argv[1], rank=0, ranks=1)
writer.publish(snapring.LoadSnapshot(num_running_reqs=1))
print("ready", flush=True)
sys.stdin.read()
"""

BOOT_ID_OFFSET = 80


def gc(*arguments: str) -> list[dict[str, Any]]:
    """What ``snapring gc`` says of each file."""
    done = command("gc", "--json", *arguments)

    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def actions(*arguments: str) -> dict[str, str]:
    """What ``snapring gc`` does with each file."""
    return {each["name"]: each["action"] for each in gc(*arguments)}


def writing(spawn: Spawn, name: str) -> "subprocess.Popen[str]":
    """A process that writes rank 0 of ring ``name``."""
    child = spawn(WRITE, name)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def abandoned(name: str) -> None:
    """A ring that its writer left behind."""
    with Writer(name, rank=0, ranks=1, keep=True) as writer:
        writer.publish(LoadSnapshot())


def spoiled(ring_dir: Path, name: str) -> Path:
    """A file of this user where a ring would be."""
    path = ring_dir / f"{name}.ring"
    path.write_bytes(b"not a ring")
    path.chmod(0o600)
    return path


def test_nothing_goes_unasked(ring_dir: Path) -> None:
    """Without --yes it only says what would go, and how much memory that frees."""
    abandoned("old")

    done = command("gc")

    assert done.returncode == 0
    assert "would remove" in done.stdout
    assert "nothing was removed; --yes would remove 1" in done.stderr
    assert (ring_dir / "old.ring").exists()


def test_abandoned_rings_go(ring_dir: Path, spawn: Spawn) -> None:
    """With --yes a ring goes whose writer closed or was killed, with its bell; one that is written stays."""
    abandoned("closed")
    killed = writing(spawn, "killed")
    killed.kill()
    killed.wait()
    writing(spawn, "written")

    done = actions("--yes")

    assert done == {"closed.ring": "removed", "killed.ring": "removed", "written.ring": "keep"}
    assert sorted(path.name for path in ring_dir.iterdir()) == ["written.bell", "written.ring"]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_claimed_ring_never_goes(ring_dir: Path, spawn: Spawn, stopped: bool) -> None:
    """Neither --yes nor --force takes a ring from a living process, not even from a stopped one."""
    child = writing(spawn, "box")
    if stopped:
        stop(child.pid)

    (found,) = gc("--yes", "--force")

    assert (found["action"], found["reason"]) == ("keep", "in use")
    assert not _core.remove("box", force=True)
    with Reader("box", must_exist=True) as reader:
        assert reader.read(0) is not None


def test_a_claim_without_a_publish_counts(ring_dir: Path) -> None:
    """A writer that has not published yet keeps its ring."""
    with Writer("box", rank=0, ranks=2):
        assert actions("--yes") == {"box.ring": "keep"}


def test_young_rings_stay(ring_dir: Path) -> None:
    """--older-than spares what was written lately."""
    abandoned("box")

    assert actions("--yes", "--older-than", "1h") == {"box.ring": "keep"}
    assert actions("--yes", "--older-than", "0") == {"box.ring": "removed"}


def test_unreadable_rings_need_force(ring_dir: Path) -> None:
    """A file that is no ring goes only with --force."""
    path = spoiled(ring_dir, "bad")

    assert actions("--yes") == {"bad.ring": "keep"}
    assert path.exists()
    with pytest.raises(RingUntrusted):
        _core.remove("bad")
    assert actions("--yes", "--force") == {"bad.ring": "removed"}
    assert not path.exists()


def test_unreadable_but_written_stays(ring_dir: Path, spawn: Spawn) -> None:
    """A spoiled header is no proof that nobody writes: with a living claim the file stays, also with --force."""
    writing(spawn, "box")
    with (ring_dir / "box.ring").open("r+b") as file:
        file.write(b"SPOILED!")

    assert actions("--yes", "--force") == {"box.ring": "keep"}
    assert (ring_dir / "box.ring").exists()


def test_what_others_planted_is_left_alone(ring_dir: Path, tmp_path: Path) -> None:
    """Links are not followed and not removed, whatever the options; that is an error with the reason."""
    target = tmp_path / "precious"
    target.write_text("keep me")
    (ring_dir / "link.ring").symlink_to(target)
    os.mkfifo(ring_dir / "pipe.ring", 0o600)

    done = command("gc", "--yes", "--force", "--json")

    assert done.returncode == 1
    assert [each["action"] for each in json.loads(done.stdout)] == ["failed", "failed"]
    assert target.read_text() == "keep me"
    assert (ring_dir / "link.ring").is_symlink()


def test_rings_of_earlier_boots_go(ring_dir: Path) -> None:
    """A ring made before the last boot is known as such, and its age comes from the wall clock."""
    abandoned("box")
    with (ring_dir / "box.ring").open("r+b") as file:
        file.seek(BOOT_ID_OFFSET)
        file.write(bytes(16))

    (listed,) = json.loads(command("ls", "--json").stdout)
    (found,) = gc("--yes")

    assert (listed["this_boot"], listed["dead"]) == (False, 1)
    assert 0 <= listed["age"] < 3600
    assert (found["action"], found["reason"]) == ("removed", "made before the last boot")


def test_leftovers_go(ring_dir: Path) -> None:
    """Files that a kill left half way go once they are a minute old: a file on its way, a bell without its ring."""
    for name in ("box.0123.new", "gone.bell", "fresh.0123.new"):
        (ring_dir / name).touch(mode=0o600)
    past = time.time() - 120
    for name in ("box.0123.new", "gone.bell"):
        os.utime(ring_dir / name, (past, past))
    (ring_dir / "notes.txt").touch()

    assert actions() == {"box.0123.new": "remove", "gone.bell": "remove"}
    assert actions("--yes") == {"box.0123.new": "removed", "gone.bell": "removed"}
    assert sorted(path.name for path in ring_dir.iterdir()) == ["fresh.0123.new", "notes.txt"]


def test_bells_of_rings_stay(ring_dir: Path) -> None:
    """However old, the bell of a ring that is there is no leftover."""
    with Writer("box", rank=0, ranks=1):
        os.utime(ring_dir / "box.bell", (0, 0))

        assert actions("--yes") == {"box.ring": "keep"}
        assert (ring_dir / "box.bell").exists()


def test_a_missing_ring_is_an_error(ring_dir: Path) -> None:
    """Removing what is not there says so."""
    with pytest.raises(RingNotFound):
        _core.remove("nowhere")


RACE = """
import os, sys, snapring
path = os.path.join(os.environ["SNAPRING_DIR"], "box.ring")
for number in range(1, 501):
    with snapring.Writer("box", rank=0, ranks=1, keep=True) as writer:
        before = os.stat(path).st_ino
        writer.publish(snapring.LoadSnapshot(num_running_reqs=number))
        after = os.stat(path).st_ino
        with snapring.Reader("box", must_exist=True) as reader:
            seen = reader.read(0)
        if before != after or seen is None or seen.value.num_running_reqs != number:
            sys.exit(f"round {number}: a claimed ring went, {before} {after} {seen}")
print("done")
"""


def test_race_with_a_writer(ring_dir: Path, spawn: Spawn) -> None:
    """Between a writer that opens and closes and a removal that never pauses, no claimed ring is ever lost."""
    child = spawn(RACE)
    removed = 0
    while child.poll() is None:
        try:
            removed += _core.remove("box")
        except RingNotFound:
            continue

    assert child.stdout is not None
    assert child.stdout.read() == "done\n"
    assert child.returncode == 0
    assert removed > 0
