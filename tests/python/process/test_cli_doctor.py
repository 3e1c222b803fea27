import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import snapring
from command import COMMAND
from command import snapring as command


def doctor(*arguments: str, code: int | None = None) -> dict[str, list[dict[str, Any]]]:
    """What ``snapring doctor`` finds, by what it looked at."""
    done = command("doctor", "--json", *arguments)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["check"], []).append(finding)
    return found


def test_all_is_well(ring_dir: Path) -> None:
    """Where nothing is wrong nothing is a failure, each thing was looked at, and nothing is left behind."""
    found = doctor(code=0)

    assert {"versions", "directory", "file system", "space", "rehearsal", "rings", "membarrier", "futex"} <= set(found)
    assert found["rehearsal"][0]["level"] == "ok"
    assert snapring.__version__ in found["versions"][0]["text"]
    assert list(ring_dir.iterdir()) == []


def test_bytes_per_rank(ring_dir: Path) -> None:
    """The space that a rank takes is named, so that a container's can be chosen."""
    (space,) = doctor()["space"]

    assert "a rank of LoadSnapshot with 64 cells takes 32.0 KiB" in space["text"]


def test_a_directory_that_is_not_there_yet(ring_dir: Path) -> None:
    """The first writer would make it; doctor tries that, and puts it back as it was."""
    place = ring_dir / "later"

    found = doctor("--dir", str(place), code=0)

    assert "not there yet" in found["directory"][0]["text"]
    assert found["rehearsal"][0]["level"] == "ok"
    assert not place.exists()


@pytest.mark.parametrize(
    ("mode", "fix"), [(0o755, "chmod 700"), (0o777, "chmod 700"), (0o1777, "SNAPRING_DIR"), (0o500, "chmod 700")]
)
def test_loose_directory(ring_dir: Path, mode: int, fix: str) -> None:
    """A directory that others may enter is a failure with the fix; one that all users share is not to be closed."""
    place = ring_dir / "loose"
    place.mkdir()
    place.chmod(mode)

    (finding,) = doctor("--dir", str(place), code=1)["directory"]

    assert finding["level"] == "fail"
    assert fix in finding["fix"]


def test_no_directory(ring_dir: Path, tmp_path: Path) -> None:
    """A link, a file, a missing parent and a disk are failures, each with a fix; none is touched."""
    (ring_dir / "link").symlink_to(tmp_path)
    (ring_dir / "file").touch()
    on_disk = tmp_path / "rings"
    on_disk.mkdir(mode=0o700)

    for place in (ring_dir / "link", ring_dir / "file", ring_dir / "a" / "b"):
        (finding,) = doctor("--dir", str(place), code=1)["directory"]
        assert (finding["level"], bool(finding["fix"])) == ("fail", True)
    (finding,) = doctor("--dir", str(on_disk))["file system"]
    if finding["level"] == "fail":  # else temporary files live in memory here
        assert "write-back" in finding["text"]


def test_rings_that_nobody_uses(ring_dir: Path) -> None:
    """Abandoned and unreadable rings are warnings that name them and the command that removes them."""
    with snapring.Writer("old", rank=0, ranks=1, keep=True) as writer:
        writer.publish(snapring.LoadSnapshot())
    (ring_dir / "bad.ring").write_bytes(b"")
    (ring_dir / "bad.ring").chmod(0o600)

    with snapring.Writer("used", rank=0, ranks=1):
        unreadable, abandoned = doctor(code=0)["rings"]

    assert (unreadable["level"], unreadable["text"]) == ("warn", "1 unreadable: bad")
    assert "--force" in unreadable["fix"]
    assert (abandoned["level"], abandoned["text"]) == ("warn", "1 without a living writer: old")
    assert abandoned["fix"].startswith("snapring gc --yes")


def test_dead_ranks_of_a_ring_in_use(ring_dir: Path) -> None:
    """A ring in use with dead ranks is a warning that names them; one whose other ranks never came is well."""
    with snapring.Writer("used", rank=0, ranks=4), snapring.Writer("large", rank=0, ranks=20):
        for name, ranks, ended in (("used", 4, (1, 3)), ("large", 20, range(5, 18))):
            for rank in ended:
                with snapring.Writer(name, rank=rank, ranks=ranks) as writer:
                    writer.publish(snapring.LoadSnapshot())
        (dead,) = doctor(code=0)["rings"]
    with snapring.Writer("used", rank=0, ranks=4):
        (alive,) = doctor(code=0)["rings"]

    named = f"large (ranks {', '.join(map(str, range(5, 17)))} and 1 more), used (ranks 1, 3)"
    assert (dead["level"], dead["text"]) == ("warn", f"2 in use with dead ranks: {named}")
    assert dead["fix"].startswith("start")
    assert (alive["level"], alive["text"]) == ("ok", "1, all in use")


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_limits(ring_dir: Path) -> None:
    """Low limits of open files and of file size are told with the command that raises them."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *COMMAND, "doctor", "--json"], capture_output=True, text=True, check=False
    )

    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 1
    assert (found["open files"]["level"], found["open files"]["fix"]) == ("warn", "ulimit -n 1024")
    assert (found["file size"]["level"], found["file size"]["fix"]) == ("fail", "ulimit -f unlimited")
    assert resource.RLIM_INFINITY == -1  # what ulimit calls unlimited


def test_text_has_the_fixes(ring_dir: Path) -> None:
    """The table has a line per finding, its level first, and the fix below those that are not ok."""
    ring_dir.chmod(0o755)

    done = command("doctor")

    ring_dir.chmod(0o700)
    lines = done.stdout.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("fail  directory")]
    assert lines[at + 1].strip() == f"fix: chmod 700 {ring_dir}"
    assert done.returncode == 1
    assert any(line.startswith("ok ") for line in lines)
    assert os.environ["SNAPRING_DIR"] in lines[at]
